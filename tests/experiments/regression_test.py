import csv
import functools
import math

import numpy as np
import pytest

from experiments import _regression, _regression_report, datasets
from experiments.configs import _regression_defaults, uci

_REWIRING = dict(when=dict(schedule='every', n=5, stop=0.75), drop_fraction=0.3)
_SSVI = dict(name='ssvi', posterior='ssvi', sparsity=0.5, kwargs=_REWIRING)
_DENSE = dict(name='dense', transform='dense')


def _config(*methods, **changes):
  config = _regression_defaults.get_config()
  config.model = dict(features=(8,), heteroscedastic=False)
  config.num_steps, config.batch_size, config.samples = 60, 32, 4
  config.learning_rate.kwargs.init_value = 2e-2
  config.seeds, config.methods = (0, 1), methods
  config.update(changes)
  return config


@functools.cache
def _data():
  return datasets.load_regression('diabetes')


def _rows(config, splits=(0, 1), data=None):
  config = _regression.check(config)
  return _regression.rows(config, config.methods[0], data or _data(), splits)[0]


def test_a_run_has_a_row_per_split_and_goes_on_where_it_was(tmp_path):
  config = _config(
    dict(_DENSE, choose=dict(weight_decay=(1e-4, 1e-1)), members=2),
    dict(_DENSE, name='mc_dropout', draws='dropout', settings=dict(dropout=0.1)),
    dict(_SSVI, choose=dict(temperature=(0.1, 1.0))),
    dict(_SSVI, name='elsewhere', sets=('yacht',)),
  )
  _regression.run(config, tmp_path / 'run', None)
  path = tmp_path / 'run' / 'results.csv'
  with path.open(newline='') as file:
    rows = list(csv.DictReader(file))
  names = ('dense', 'mc_dropout', 'ssvi')
  assert [(r['method'], r['split']) for r in rows] == [
    (n, s) for n in names for s in '01'
  ]
  # 60 steps are few, but better than the mean of the targets (77).
  assert all(40 < float(r['rmse']) < 77 and 5 < float(r['nll']) < 7 for r in rows)
  # 10 x 8 and 8 weights, 9 biases, the noise; a mean and a deviation of the half.
  counts = [(int(r['active_weights']), int(r['stored_floats'])) for r in rows[::2]]
  assert counts == [(98, 2 * 98), (98, 98), (54, 2 * 54)]
  # Only deterministic weights have their noise fitted on validation.
  assert rows[0]['nll'] != rows[0]['nll_learned_noise']
  assert rows[4]['nll'] == rows[4]['nll_learned_noise']
  report = (tmp_path / 'run' / 'report.md').read_text()
  assert '| ssvi |' in report and (tmp_path / 'run' / 'report.html').exists()
  # Two members are twice the steps; SSVI moves half of its weights about.
  assert 'no: 120 steps of' in report and 'dynamic: diabetes ssvi' in report

  lines = path.read_text().splitlines(keepends=True)
  path.write_text(''.join(lines[:-1]))
  _regression.run(config, tmp_path / 'run', None)
  again = path.read_text().splitlines(keepends=True)
  assert again[:-1] == lines[:-1]
  old, new = (next(csv.DictReader([lines[0], x[-1]])) for x in (lines, again))
  # Alone it may be rounded otherwise than beside the other split.
  assert math.isclose(float(old['rmse']), float(new['rmse']), rel_tol=1e-3)
  assert {**old, 'rmse': 0, 'nll': 0, 'nll_learned_noise': 0} == {
    **new, 'rmse': 0, 'nll': 0, 'nll_learned_noise': 0,
  }  # fmt: skip


@pytest.mark.long
def test_units_are_those_of_the_targets_and_splits_do_not_touch():
  config, data = _config(dict(_SSVI, name='x')), _data()
  both = _rows(config)
  larger = _rows(config, (1,), data._replace(targets=1000 * data.targets))
  assert math.isclose(larger[0]['rmse'], 1000 * both[1]['rmse'], rel_tol=1e-3)
  assert math.isclose(larger[0]['nll'], both[1]['nll'] + math.log(1000), abs_tol=1e-3)


@pytest.mark.long
def test_another_estimator_and_noise_that_depends_on_the_input():
  model = dict(features=(8,), heteroscedastic=True)
  config = _config(
    dict(_SSVI, name='x'), estimator='local_reparametrization', model=model
  )
  (row,) = _rows(config, (0,))
  assert 40 < row['rmse'] < 77 and row['active_weights'] == 44 + 8 + 2 + 4


@pytest.mark.parametrize(
  ('methods', 'changes', 'message'),
  [
    ([dict(name='a', ensemble='b')], {}, "unknown keys \\['ensemble'\\]"),
    ([dict(name='a')], {}, 'wanted one of transform and posterior'),
    ([dict(_DENSE, choose=dict(rate=(1,)))], {}, 'settings of method dense'),
    ([dict(_DENSE, choose=dict(dropout=(0.1,), temperature=(1,)))], {}, 'one setting'),
    ([dict(_DENSE, members=0)], {}, 'members of method dense: got 0'),
    ([_DENSE], {'datasets': ('boat',)}, 'config.datasets'),
    ([_DENSE], {'sets': {'boat': {}}}, 'config.sets'),
    ([_DENSE], {'sets': {'yacht': {'samples': 3}}}, 'config.sets: yacht'),
    ([_DENSE], {'validation': 1.0}, 'config.validation'),
    ([_DENSE], {'num_steps': 0}, 'num_steps and samples'),
    ([_DENSE], {'seeds': (-1,)}, 'numbers of splits'),
    ([_DENSE], {'estimator': 'x'}, 'config.estimator'),
    ([_DENSE], {'epochs': 3}, "unknown key 'epochs'"),
  ],
)
def test_what_no_config_may_say(methods, changes, message):
  config = _config(*methods)
  with config.unlocked(), config.ignore_type():
    config.update(changes)
  with pytest.raises(ValueError, match=message):
    _regression.check(config)


def test_the_uci_configs_are_sound():
  for name in ('diabetes', 'yacht', 'all'):
    config = _regression.check(uci.get_config(name))
    assert set(config.datasets) <= set(datasets.REGRESSION_SETS)
  protein, yacht = (_regression.for_set(config, n) for n in ('protein', 'yacht'))
  assert protein.model['features'] == (100,) and protein.num_steps == 10000
  assert len(protein.methods) == len(yacht.methods) + 3


def test_cells_are_means_and_standard_errors():
  row = lambda dataset, method, rmse, nll: dict(
    dataset=dataset, method=method, rmse=str(rmse), nll=str(nll)
  )
  rows = [
    row('naval', 'dense', 0.0006, -6.0),
    row('naval', 'dense', 0.0008, -6.2),
    row('boston', 'ssvi_50', 31.0, 2.5),
  ]
  assert _regression_report.table(rows).splitlines() == [
    '| test RMSE | naval | boston |',
    '| --- | ---: | ---: |',
    '| dense | 0.00070 ± 0.00010 |  |',
    '| ssvi 50 |  | 31.0 |',
    '',
    '| test NLL | naval | boston |',
    '| --- | ---: | ---: |',
    '| dense | -6.10 ± 0.10 |  |',
    '| ssvi 50 |  | 2.50 |',
  ]
  assert np.isclose(np.std([0.0006, 0.0008], ddof=1) / np.sqrt(2), 0.0001)


def test_several_processes_are_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(_regression.jax, 'process_count', lambda: 2)
  with pytest.raises(ValueError, match='in one process only'):
    _regression.run(_config(_DENSE), str(tmp_path), None)

import csv
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import (
  _bayesian_report,
  _posteriors,
  _schedules,
  _settings,
  datasets,
)
from experiments.configs import _bayesian_defaults
import jaxsparse as js

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_CONFIG = """
from experiments.configs import _bayesian_defaults

def get_config():
  config = _bayesian_defaults.get_config()
  config.name = 'tiny'
  config.model = dict(name='MLP', api='linen', options=dict(features=(16,)))
  config.batch_size, config.num_steps = 32, 40
  config.optimizer = dict(name='adam', kwargs={})
  config.seeds = (0, 1)
  rewiring = dict(when=dict(schedule='every', n=5, stop=0.75), drop_fraction=0.3)
  config.methods = (
    dict(name='ssvi', posterior='ssvi', sparsity=0.5, cycles=(0.5, 0.5),
         kwargs=dict(rewiring, criterion='magnitude')),
    dict(name='dropped', transform='rigl', sparsity=0.5, kwargs=rewiring,
         settings=dict(dropout=0.2), draws='dropout'),
    dict(name='pair', ensemble='dropped', members=2),
  )
  config.samples, config.severities, config.corrupted_images = 4, (5,), 20
  config.eval_every, config.checkpoint_every, config.steps_per_call = 20, 20, 10
  return config
"""


def _run(folder, *arguments):
  environment = {
    **os.environ,
    'PYTHONPATH': os.pathsep.join([str(_ROOT), os.environ.get('PYTHONPATH', '')]),
    'JAX_PLATFORMS': 'cpu',
    'JAX_NUM_CPU_DEVICES': '1',
    'XDG_CACHE_HOME': str(folder / 'xdg'),
    'TFDS_DATA_DIR': str(folder / 'tfds'),
  }
  script = str(_ROOT / 'experiments' / 'bayesian.py')
  command = [sys.executable, script, f'--config={folder / "tiny.py"}', *arguments]
  return subprocess.run(command, env=environment, capture_output=True, text=True)


def _rows(path):
  with path.open(newline='') as file:
    return list(csv.DictReader(file))


@pytest.fixture(scope='module')
def job(tmp_path_factory):
  """A folder with the config, and the whole run of it."""
  folder = tmp_path_factory.mktemp('job')
  (folder / 'tiny.py').write_text(_CONFIG)
  run = _run(folder, f'--workdir={folder / "run"}')
  assert run.returncode == 0, run.stderr
  return folder, _rows(folder / 'run' / 'results.csv')


def test_a_run_ends_in_figures_and_goes_on_where_it_was(job):
  folder, rows = job
  workdir = folder / 'run'
  assert [(r['method'], r['seed'], r['members']) for r in rows] == [
    ('ssvi', '0', '2'), ('ssvi', '1', '2'), ('dropped', '0', '1'),
    ('dropped', '1', '1'), ('pair', '0+1', '2'),
  ]  # fmt: skip
  assert all(0 < float(r['nll']) < 2.5 for r in rows)
  # Two masks of two floats per active weight; both fields share a mask.
  weights = int(rows[0]['active_weights'])
  assert int(rows[0]['stored_floats']) == 2 * 2 * weights
  assert int(rows[4]['stored_floats']) == 2 * int(rows[2]['active_weights'])
  assert rows[2]['mean_nll'] != rows[2]['nll']
  report = (workdir / 'report.md').read_text()
  assert '| pair |' in report
  # The page has all of it, and what the masks did.
  assert 'Sparsity and cost' in (workdir / 'report.html').read_text('utf-8')
  last = [r for r in _rows(workdir / 'metrics.csv') if r['method'] == 'ssvi'][-1]
  assert 0 < float(last['density/dense1/kernel']) < 1
  for plot in ('reliability_ssvi.png', 'entropy_pair.png'):
    assert plot in report and (workdir / plot).exists()

  # A lost row is made again from the members that the run left, to the digit.
  kept = [r for r in rows if (r['method'], r['seed']) != ('ssvi', '1')]
  with (workdir / 'results.csv').open('w', newline='') as file:
    writer = csv.DictWriter(file, rows[0], lineterminator='\n')
    writer.writeheader()
    writer.writerows(kept)
  again = _run(folder, f'--workdir={workdir}')
  assert again.returncode == 0, again.stderr
  assert _rows(workdir / 'results.csv')[-1] == rows[1]


@pytest.mark.long
def test_on_nonzeros_the_same_posterior_is_trained_with_the_same_noise(job):
  folder, rows = job
  compact = folder / 'compact'
  run = _run(
    folder, f'--workdir={compact}', '--config.execution=compact',
    '--config.only=ssvi',
  )  # fmt: skip
  assert run.returncode == 0, run.stderr
  for row, wanted in zip(_rows(compact / 'results.csv'), rows[:2], strict=True):
    for column in ('active_weights', 'stored_floats'):
      assert row[column] == wanted[column]
    for column in ('nll', 'accuracy', 'mean_nll'):
      assert abs(float(row[column]) - float(wanted[column])) < 0.02


def _config(*methods, **changes):
  config = _bayesian_defaults.get_config()
  config.methods = methods
  config.update(changes)
  return config


_SSVI = dict(name='a', posterior='ssvi', sparsity=0.5, kwargs=dict(when='never'))


@pytest.mark.parametrize(
  ('methods', 'changes', 'message'),
  [
    ([dict(name='a')], {}, 'wanted one of transform, posterior and ensemble'),
    ([dict(name='a', posterior='svi')], {}, 'Did you mean ssvi'),
    ([dict(_SSVI, draw='dropout')], {}, r"unknown keys \['draw'\]"),
    ([dict(_SSVI, settings=dict(lr=1))], {}, 'settings of method a'),
    ([dict(_SSVI, draws='x')], {}, 'draws of method a'),
    ([_SSVI, dict(name='b', ensemble='c', members=2)], {}, "unknown name 'c'"),
    ([_SSVI, dict(name='b', ensemble='a', members=1)], {}, 'members=1'),
    ([_SSVI, dict(name='b', ensemble='a', members=2)], {}, 'wants as many seeds'),
    ([_SSVI], {'estimator': 'x'}, 'config.estimator'),
    ([_SSVI], {'only': 'b'}, 'config.only'),
    ([_SSVI], {'samples': 0}, 'config.samples'),
    ([_SSVI], {'severities': (0,)}, 'config.severities'),
  ],
)
def test_mistakes_in_a_config_are_named(methods, changes, message):
  with pytest.raises(ValueError, match=message):
    _posteriors.check(_config(*methods, **changes))


def test_cycles_cover_the_run_and_restart_every_schedule():
  spec = dict(name='a', cycles=(0.5, 0.25, 0.25))
  lengths, harvest = _posteriors.cycles(spec, 100, 10)
  assert (lengths, harvest) == ((50, 30, 20), (50, 80, 100))
  rate = dict(
    name='cosine_decay_schedule', kwargs=dict(init_value=1.0, decay_steps=1.0)
  )
  schedule = _schedules.learning_rate(rate, lengths)
  got = [float(schedule(step)) for step in (0, 25, 50, 65, 80, 90)]
  np.testing.assert_allclose(got, [1, 0.5, 1, 0.5, 1, 0.5], atol=1e-6)
  for cycles in ((0.5, 0.4), (1.5, -0.5)):
    with pytest.raises(ValueError, match='cycles='):
      _posteriors.cycles(dict(name='a', cycles=cycles), 100, 10)


def test_ensembles_take_each_set_of_seeds_once():
  assert _posteriors.groups((0, 1, 2), 2) == [(0, 1), (1, 2), (0, 2)]
  assert _posteriors.groups((0, 1, 2), 3) == [(0, 1, 2)]
  with pytest.raises(ValueError, match='an ensemble of 4'):
    _posteriors.groups((0, 1, 2), 4)


def test_only_brings_what_its_ensembles_are_made_of():
  pair = dict(name='b', ensemble='a', members=2)
  config = _posteriors.check(
    _config(_SSVI, dict(_SSVI, name='c'), pair, only='b', seeds=(0, 1))
  )
  assert [s['name'] for s in _posteriors.chosen(config)] == ['a', 'b']


def test_the_loss_of_a_posterior_is_its_negative_elbo():
  """With sigma of almost 0 and no KL it is the loss of the mean network."""

  class Model:
    @staticmethod
    def apply(params, model_state, images, *, train, key):
      return images @ params['kernel'], model_state

  posterior = js.bayes.mean_field(init_scale=1e-6)
  params = posterior.init(jax.random.key(0), {'kernel': jnp.eye(4, 3)})
  tx = js.bayes.optimizer(posterior, optax.sgd(0.1))
  state = js.training.init_state(tx, params, seed=0)
  config = _posteriors.settings(_posteriors.check(_config(_SSVI)), _SSVI)
  config.temperature = 0.0
  batch = {'images': jnp.eye(4), 'labels': jnp.array([0, 1, 2, 0])}
  arguments = (), batch, jax.random.key(1), state
  loss = _posteriors.loss(config, Model, posterior, 100, 10)
  plain = _posteriors.loss(config, Model, None, 100, 10)
  value, (_, metrics) = loss(params, *arguments)
  np.testing.assert_allclose(value, plain(params.mu, *arguments)[0], rtol=1e-4)
  assert metrics['kl'] > 0


@pytest.mark.long
def test_corruptions_keep_shape_and_grow_with_severity():
  images = np.random.default_rng(0).integers(0, 256, (4, 12, 12, 3), np.uint8)
  images = np.asarray(
    datasets.corrupt(jax.random.key(0), images, 'gaussian_blur', 4)
  )  # Smooth, as photographs are.
  for kind in datasets.CORRUPTIONS:
    mild, harsh = (
      np.asarray(datasets.corrupt(jax.random.key(1), images, kind, severity))
      for severity in (1, 5)
    )
    assert mild.dtype == np.uint8 and mild.shape == images.shape
    change = [np.abs(x.astype(int) - images).mean() for x in (mild, harsh)]
    assert 0 < change[0] < change[1], kind
  for arguments in (('fog', 1), ('contrast', 0)):
    with pytest.raises(ValueError, match='kind|severity'):
      datasets.corrupt(jax.random.key(0), images, *arguments)


def test_images_of_no_class_are_made_of_our_own():
  # The value of a pixel tells its image, the image its class.
  labels = np.repeat(np.arange(4), 2)
  images = np.arange(8, dtype=np.uint8)[:, None, None, None] * 10 + np.zeros(
    (1, 4, 4, 1), np.uint8
  )
  images[:, 0] += 1
  split = images, labels
  data = datasets.Data('x', split, split, split, 4, ('a',) * 4, (0.5,), (0.2,))
  shuffled = datasets.outside('pixels_shuffled', data)
  assert (shuffled != images).any()
  flat = [np.sort(x.reshape(8, 16), axis=1) for x in (shuffled, images)]
  np.testing.assert_array_equal(*flat)
  np.testing.assert_array_equal(
    datasets.outside('upside_down', data)[:, 3], images[:, 0]
  )
  corners = datasets.outside('quadrants', data)[:, 1::2, ::3, 0] // 10
  for found in corners.reshape(8, 4):
    assert sorted(labels[found]) == [0, 1, 2, 3]
  # With four classes in order, the other half of the set is two classes away.
  pairs = {
    (10 * a + 10 * b) // 2 for a in range(4) for b in (a // 2 * 2 + 4, a // 2 * 2 + 5)
  }
  assert set(datasets.outside('blended', data)[:, 1].ravel().tolist()) <= pairs
  with pytest.raises(ValueError, match='config.out_of_distribution'):
    datasets.outside('digits', data)


def test_a_table_has_a_line_per_method():
  columns = _bayesian_report.result_columns(['x'])
  row = dict.fromkeys(columns, '0.5')
  rows = [dict(row, method='rigl_95', nll=n, one_nll=n) for n in ('0.3', '0.4')]
  text = _bayesian_report.table(rows)
  assert '0.3500 ± 0.0707' in text.splitlines()[2]
  assert ' - / ' not in text.splitlines()[0] and '50.0 ± 0.0 / - / 50.0' in text


@pytest.mark.long
@pytest.mark.parametrize('estimator', ['local_reparametrization', 'flipout'])
def test_an_estimator_that_needs_the_layers_trains_an_unmodified_model(estimator):
  config = _config(_SSVI, estimator=estimator, temperature=0.0)
  config = _posteriors.check(config)
  settings = _posteriors.settings(config, config.methods[0])
  settings.model['options'] = {'features': (8,)}
  images = np.random.default_rng(0).normal(size=(16, 4, 4, 1)).astype(np.float32)
  model = _settings.model(settings, _SSVI, 3, images[:1])
  posterior, tx = _posteriors.optimizer(settings, _SSVI, 0, (4,))
  params, model_state = model.init(jax.random.key(0), images)
  gaussian = posterior.init(jax.random.key(1), params)
  start = state = js.training.init_state(tx, gaussian, model_state, seed=0)
  loss = _posteriors.loss(settings, model, posterior, 16, 4)
  batch = {'images': jnp.asarray(images), 'labels': jnp.arange(16) % 3}
  step = jax.jit(js.training.make_step(loss, tx, sees_state=True))
  for _ in range(4):
    state, metrics = step(state, batch)
  assert np.isfinite(metrics['nll'])
  # Only through the noise in the layers does the likelihood move log sigma.
  rho, before = (s.params.rho['dense1']['kernel'] for s in (state, start))
  active = js.get_masks(state.opt_state)['dense1']['kernel']
  assert active.sum() < active.size and np.abs((rho - before)[active]).min() > 0

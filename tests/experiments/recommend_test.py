"""The job on recommenders: records, resuming, baselines, bytes; errors by name."""

import csv
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import (
  _packed,
  _recommend_method,
  _recommend_report,
  _recommend_sparsity,
  datasets,
)
from experiments.configs import (
  gowalla,
  ml_1m,
  ml_100k,
  ml_100k_tuning,
  synthetic_low_rank,
)
import jaxsparse as js

_ROOT = pathlib.Path(__file__).resolve().parents[2]


def _config(**changes):
  config = synthetic_low_rank.get_config()
  config.num_steps = 40
  config.batch_size = 128
  config.eval_every = 20
  config.steps_per_call = 10
  config.model = dict(name='MF', options=dict(features=8))
  for key, value in changes.items():
    setattr(config, key, value)
  return _recommend_method.check(config)


@pytest.fixture(scope='module')
def ratings():
  return datasets.low_rank_ratings(num_users=60, num_items=80)


@pytest.fixture(scope='module')
def source(ratings):
  return _recommend_method.load(_config(), ratings, 0)


def _spec(name):
  return next(s for s in _config().methods if s['name'] == name)


_KEPT = {
  'dense': 140 * 8,
  'narrow_parameters_25': 140 * 2,
  # A packed row: 2 values of 5 bytes and a count.
  'narrow_bytes_25': 140 * 2,
  'narrow_bytes_fp16_25': 140 * 5,
  'static_25': 140 * 2,
  'dsl_25': 140 * 2,
}


@pytest.mark.parametrize('name', _KEPT)
def test_methods_keep_and_ship_what_they_say(source, name):
  config = _config()
  method = _recommend_method.build(config, _spec(name), source)
  state = method.init(0, source.train)
  shipped = _recommend_method.stored(method, state.params, state.opt_state)
  bytes_each = {'narrow_bytes_fp16_25': 2}.get(name, 5 if method.sparse else 4)
  assert _recommend_method.sizes(shipped) == {
    'kept': _KEPT[name],
    'shipped_bytes': bytes_each * _KEPT[name] + (140 if method.sparse else 0),
  }


def test_what_is_shipped_ranks_as_what_was_trained(source):
  config = _config()
  method = _recommend_method.build(config, _spec('dsl_25'), source)
  state = method.init(0, source.train)
  shipped = _recommend_method.stored(method, state.params, state.opt_state)
  assert all(isinstance(x, _packed.PackedRows) for x in shipped.values())
  wanted = method.evaluate(state.params, source.train, source.test)
  got = _recommend_method.evaluate_shipped(config, method, None, shipped, source)
  assert got == pytest.approx(wanted, abs=1e-6)


def test_halves_are_ranked_as_halves(source):
  config = _config()
  method = _recommend_method.build(config, _spec('narrow_bytes_fp16_25'), source)
  params = method.init(0, source.train).params
  # Beyond what a half can hold: all scores become NaN or infinite.
  params = jax.tree.map(lambda x: jnp.abs(x) + 1e5, params)
  whole = method.evaluate(params, source.train, source.test)
  got = _recommend_method.evaluate_shipped(config, method, params, {}, source)
  assert got != whole


def test_rows_of_hashed_tables_are_as_many_as_asked_for():
  for num, density in ((943, 0.2), (1682, 0.1), (60, 0.5), (10, 0.1)):
    m = _recommend_sparsity.remainders(num, density)
    assert 1 <= m <= num
    rows = m + -(-num // m)
    assert rows <= max(density * num, 2 * np.sqrt(num) + 1)


_LONG = [pytest.mark.long]


@pytest.mark.parametrize(
  'name',
  [
    'hashed_25',
    *(pytest.param(n, marks=_LONG) for n in ('pep_25', 'iss_p_25', 'dsl_rotated_25')),
  ],
)
def test_further_baselines_train(source, name):
  config = _config()
  spec = _spec(name) if name != 'dsl_rotated_25' else {**_spec(name), 'features': 8, 'sparsity': 0.75}  # fmt: skip
  method = _recommend_method.build(config, spec, source)
  state = js.training.replicate(method.init(0, source.train))
  batch_of = _recommend_method.batches(config, source, 0)
  losses = []
  for start in range(0, 40, 10):
    parts = [batch_of(start + i) for i in range(10)]
    batch = jax.tree.map(lambda *xs: np.stack(xs), *parts)
    state, values = method.step_fn(state, batch, source.train)
    losses.append(float(np.mean(values['loss'])))
  assert losses[-1] < losses[0]
  if method.sparse:
    kept = [
      int(m.sum()) for m in jax.tree.leaves(js.get_masks(state.opt_state)) if m.ndim
    ]
    assert sum(kept) == 140 * 2


@pytest.mark.parametrize(
  'name', ['LightGCN', *(pytest.param(n, marks=_LONG) for n in ('MultVAE', 'NeuMF'))]
)
def test_other_models_run(ratings, name):
  options = dict(hidden=(12, 4)) if name == 'MultVAE' else dict(features=8)
  config = _config(model=dict(name=name, options=options), batch_size=32)
  config.methods = ({'name': 'dense', 'transform': 'dense'},)
  own = _recommend_method.load(config, ratings, 0)
  method = _recommend_method.build(config, config.methods[0], own)
  state = js.training.replicate(method.init(0, own.train))
  batch = jax.tree.map(
    lambda *xs: np.stack(xs), *map(_recommend_method.batches(config, own, 0), range(10))
  )
  state, values = method.step_fn(state, batch, own.train)
  assert np.isfinite(values['loss']).all()
  found = method.evaluate(state.params, own.train, own.validation)
  assert 0 < found['recall@20'] < 1
  density = _recommend_method.propagated_density(method, state.params, own)
  assert (density == 1.0) if name == 'LightGCN' else np.isnan(density)


def test_propagation_fills_the_tables(ratings):
  config = _config(model=dict(name='LightGCN', options=dict(features=8)))
  own = _recommend_method.load(config, ratings, 0)
  method = _recommend_method.build(config, _spec('static_25'), own)
  state = method.init(0, own.train)
  assert _recommend_method.density_of(method, state) == pytest.approx(0.25)
  assert _recommend_method.propagated_density(method, state.params, own) > 0.95


def test_negatives_of_training_and_evaluation(ratings):
  config = _config(eval_negatives=10)
  own = _recommend_method.load(config, ratings, 0)
  others = np.asarray(own.test.others).reshape(-1, 10)
  users = np.asarray(own.test.users).reshape(-1)
  drawn = _recommend_method.batches(config, own, 0)(0)
  rows = dict(zip(users.tolist(), others.tolist()))
  assert all(
    n not in rows.get(u, ()) for u, n in zip(drawn['users'], drawn['negatives'])
  )


def test_paired_differences():
  rows = [
    dict(method=m, split=s, seed=s, x=str(v))
    for m, s, v in (('a', '0', 1.0), ('a', '1', 2.0), ('b', '0', 1.5), ('b', '1', 2.7), ('b', '2', 9))
  ]  # fmt: skip
  ((name, (mean, spread)),) = _recommend_report.paired(rows, 'a', 'x').items()
  assert name == 'b' and mean == pytest.approx(0.6) and spread == pytest.approx(0.2 / 2**0.5)  # fmt: skip


def test_of_soft_tables_is_shipped_what_their_thresholds_leave(source):
  method = _recommend_method.build(_config(), _spec('pep_25'), source)
  params = {'user': {'embedding': jnp.array([[3.0, 0.2], [-2.0, 0.0]])}}
  params['user']['threshold'] = jnp.zeros((2, 2))
  masks = jax.tree.map(lambda x: jnp.ones((), bool), params)
  masks['user']['embedding'] = jnp.array([[True, True], [True, False]])
  state = js.core.KeepSparseState(jnp.int32(0), masks, None, (), None)
  ((name, packed),) = _recommend_method.stored(method, params, state).items()
  assert name == 'user/embedding'
  assert _packed.unpack(packed).tolist() == [[2.5, 0.0], [-1.5, 0.0]]


@pytest.mark.parametrize(
  'changes, message',
  [
    (dict(select_by='ndcg@5'), "config.select_by: got 'ndcg@5'.*recall@10"),
    (dict(methods=(dict(name='x', transform='narrow'),)), "unknown name 'narrow'"),
    (
      dict(methods=(dict(name='x', transform='static'),)),
      'sparsity of method x: got 0',
    ),
    (
      dict(methods=(dict(name='x', transform='dense', table='thin'),)),
      "table of method x: unknown name 'thin'",
    ),
    (
      dict(methods=(dict(name='x', transform='dense', settings=dict(lr=1)),)),
      "settings of method x: unknown name 'lr'",
    ),
    (dict(epoch=3), "unknown key 'epoch'.*epochs"),
  ],
)
def test_bad_configs_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    _config(**changes)


def test_committed_configs_are_sound():
  for make in (gowalla, ml_1m, ml_100k):
    config = _recommend_method.check(make.get_config())
    assert len(config.methods) == 34
  wide = {s['name']: s for s in config.methods}
  assert wide['dsl_rotated_20']['features'] == 32
  assert wide['dsl_rotated_10']['sparsity'] == pytest.approx(1 - 6 / 15)
  # Settings that were tuned for matrix factorization are for that alone.
  assert wide['hashed_10']['settings'] == dict(decay=5e-3)
  graph = {s['name']: s for s in ml_100k.get_config('LightGCN').methods}
  assert not any('settings' in s for s in graph.values()) and len(graph) == 34
  tuning = _recommend_method.check(ml_100k_tuning.get_config())
  assert len({s['name'] for s in tuning.methods}) == len(tuning.methods) == 22


# --- the whole job -----------------------------------------------------------------------

_TINY = """
from experiments.configs import synthetic_low_rank

def get_config():
  config = synthetic_low_rank.get_config()
  config.name = 'tiny'
  config.num_steps = 40
  config.batch_size = 256
  config.eval_every = 10
  config.steps_per_call = 5
  config.timing_rounds = 1
  config.seeds = (0, 1)
  config.model = dict(name='MF', options=dict(features=8))
  config.methods = tuple(m for m in config.methods if m['name'] in ('dense', 'dsl_25'))
  return config
"""


def _run(folder, *arguments, kill_after=None):
  (folder / 'tiny.py').write_text(_TINY)
  environment = {
    **os.environ,
    'PYTHONPATH': os.pathsep.join([str(_ROOT), os.environ.get('PYTHONPATH', '')]),
    'JAX_PLATFORMS': 'cpu',
    'JAX_NUM_CPU_DEVICES': '1',
  }
  script = str(_ROOT / 'experiments' / 'recommend.py')
  command = [sys.executable, script, f'--config={folder}/tiny.py', *arguments]
  if kill_after is None:
    return subprocess.run(command, env=environment, capture_output=True, text=True)
  process = subprocess.Popen(
    command, env=environment, stdout=subprocess.PIPE, text=True
  )
  for line in process.stdout:
    if kill_after in line:
      process.terminate()
      break
  process.communicate()
  return process


def _rows(workdir, name='results.csv'):
  with (workdir / name).open(newline='') as file:
    rows = list(csv.DictReader(file))
  for row in rows:
    row.pop('seconds', None)
  return rows


@pytest.mark.long
def test_a_run_that_was_killed_ends_as_one_that_was_not(tmp_path):
  whole, killed = tmp_path / 'whole', tmp_path / 'killed'
  done = _run(tmp_path, f'--workdir={whole}')
  assert done.returncode == 0, done.stderr
  for text in ('| dense |', '| dsl 25 |', 'synthetic_low_rank: 300 users, 200 items'):
    assert text in done.stdout
  for name in ('learning_curves.png', 'density_over_time.png', 'report.html'):
    assert (whole / name).stat().st_size > 0
  assert set(json.loads((whole / 'timing.json').read_text())) == {'dense', 'dsl_25'}
  stopped = _run(tmp_path, f'--workdir={killed}', kill_after='dsl_25-0 step     20')
  assert stopped.returncode in (143, 0)
  again = _run(tmp_path, f'--workdir={killed}')
  assert again.returncode == 0, again.stderr
  for name in ('results.csv', 'metrics.csv'):
    assert _rows(killed, name) == _rows(whole, name)
  rows = _rows(whole)
  assert len(rows) == 4 and len({r['split'] for r in rows}) == 2
  other = _run(tmp_path, f'--workdir={whole}', '--config.decay=0.5')
  assert other.returncode == 1 and 'decay differ' in other.stderr.replace(';', '')

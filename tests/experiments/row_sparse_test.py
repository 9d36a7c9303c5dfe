"""Steps on the rows of a batch: against whole tables, and lazy Adam against NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import _recommend_method, _row_sparse, datasets
from experiments.configs import synthetic_low_rank
import jaxsparse as js

_TABLES = ('user', 'item')


def _config(**changes):
  config = synthetic_low_rank.get_config()
  config.num_steps, config.batch_size, config.execution = 40, 16, 'jit'
  config.eval_every = config.steps_per_call = 8
  config.model = dict(name='MF', options=dict(features=4))
  for key, value in changes.items():
    setattr(config, key, value)
  return _recommend_method.check(config)


@pytest.fixture(scope='module')
def source():
  ratings = datasets.low_rank_ratings(num_users=60, num_items=80)
  return _recommend_method.load(_config(), ratings, 0)


def _spec(name):
  return next(s for s in _config().methods if s['name'] == name)


def _trained(source, calls, spec, **changes):
  config = _config(**changes)
  method = _recommend_method.build(config, spec, source)
  batch_of = _recommend_method.batches(config, source, 0)
  state = js.training.replicate(method.init(0, source.train))
  for call in range(calls):
    parts = [batch_of(8 * call + i) for i in range(8)]
    batch = jax.tree.map(lambda *xs: np.stack(xs), *parts)
    state, values = method.step_fn(state, batch, source.train)
  assert np.isfinite(values['loss']).all()
  return method, state, batch_of


@pytest.mark.parametrize(
  'name', [pytest.param('dense', marks=pytest.mark.long), 'static_25']
)
def test_gradient_descent_takes_the_steps_of_whole_tables(source, name):
  sgd = dict(optimizer=dict(name='sgd', kwargs={}), learning_rate=1.0)
  train = functools.partial(_trained, source, 2, _spec(name), **sgd)
  _, whole, _ = train()
  method, rows, _ = train(row_sparse=True)
  for table in _TABLES:
    got, wanted = (s.params[table]['embedding'] for s in (rows, whole))
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-7)
  assert int(rows.step) == 16
  assert method.step_fn.compiled._cache_size() == 1
  if method.sparse:
    for mask, x in zip(
      jax.tree.leaves(js.get_masks(rows.opt_state)), jax.tree.leaves(rows.params)
    ):
      assert mask.ndim == 2 and not np.any(np.asarray(x)[~np.asarray(mask)])


def test_adam_is_lazy_as_numpy_has_it(source):
  method, state, batch_of = _trained(source, 1, _spec('dense'), row_sparse=True)
  start = method.init(0, source.train).params
  tables = {t: np.array(start[t]['embedding'], np.float64) for t in _TABLES}
  moments = {t: (np.zeros_like(x), np.zeros_like(x)) for t, x in tables.items()}
  config = _config()
  for step in range(8):
    batch = batch_of(step)
    grads, seen = _gradients(tables, batch, source.train, config.decay)
    for t in _TABLES:
      (m, v), row = moments[t], seen[t]
      m[row] = 0.9 * m[row] + 0.1 * grads[t][row]
      v[row] = 0.999 * v[row] + 0.001 * grads[t][row] ** 2
      hat = m[row] / (1 - 0.9 ** (step + 1)), v[row] / (1 - 0.999 ** (step + 1))
      tables[t][row] -= config.learning_rate * hat[0] / (np.sqrt(hat[1]) + 1e-8)
  for t in _TABLES:
    got = np.asarray(state.params[t]['embedding'])
    np.testing.assert_allclose(got, tables[t], rtol=1e-4, atol=1e-6)


def _gradients(tables, batch, data, decay):
  """Of the BPR loss with its decay, one example after another."""
  grads, seen = (
    {t: np.zeros_like(x) for t, x in tables.items()},
    {t: [] for t in tables},
  )
  count = len(batch['users'])
  for u, p, n in zip(batch['users'], batch['positives'], batch['negatives']):
    user, (good, bad) = tables['user'][u], tables['item'][[p, n]]
    slope = -1 / (1 + np.exp(user @ (good - bad)))
    grads['user'][u] += (
      slope * (good - bad) + _pull(data, 'user', u, user, decay)
    ) / count
    for i, sign, x in ((p, 1, good), (n, -1, bad)):
      grads['item'][i] += (
        sign * slope * user + _pull(data, 'item', i, x, decay)
      ) / count
    seen['user'].append(u)
    seen['item'] += [p, n]
  return grads, {t: np.unique(x) for t, x in seen.items()}


def _pull(data, table, index, row, decay):
  return decay * float(data[f'{table}_weight'][index]) * row


def test_rows_are_written_once_and_others_not_at_all():
  rows = {'t': _row_sparse.rows_of(jnp.array([3, 1, 3, 3]), 6)}
  table = {'t': jnp.arange(12.0).reshape(6, 2), 'other': jnp.zeros(6)}
  part = _row_sparse.take(table, rows, {'t': 6})
  np.testing.assert_array_equal(part['t'], np.asarray(table['t'])[[3, 1, 3, 3]])
  # All examples of a row meet in one slot; what the other slots hold is not written.
  assert len(set(np.asarray(rows['t'].place)[[0, 2, 3]].tolist())) == 1
  changed = {
    't': part['t'].at[rows['t'].place[0]].set(-1.0),
    'other': part['other'] + 1,
  }
  got = _row_sparse.put(table, changed, rows, {'t': 6})
  wanted = np.arange(12.0).reshape(6, 2)
  wanted[3] = -1
  np.testing.assert_array_equal(got['t'], wanted)
  assert got['other'].tolist() == [1.0] * 6


def test_no_arithmetic_on_whole_tables(source):
  """What has the size of a table is a state, gathered from or scattered into."""
  config = _config(row_sparse=True)
  spec = _spec('dense')
  step = _recommend_method._row_step(
    config, config, spec, source.split, optax.adam(1e-3)
  )
  params = _recommend_method.build(config, spec, source).init(0, source.train).params
  state = js.training.init_state(optax.adam(1e-3), params, (), seed=0)
  batch = _recommend_method.batches(config, source, 0)(0)
  jaxpr = jax.make_jaxpr(step)(state, batch, source.train).jaxpr
  whole = [v.aval.shape for v in jaxpr.invars]
  assert (60, 4) in whole and (80, 4) in whole
  made = {
    e.primitive.name for e in jaxpr.eqns for v in e.outvars
    if v.aval.shape in ((60, 4), (80, 4))
  }  # fmt: skip
  assert made <= {'scatter', 'jit', 'pjit'}


@pytest.mark.parametrize(
  'name, changes, message',
  [
    ('dsl_25', {}, 'row_sparse: got masks that change'),
    ('hashed_25', {}, 'row_sparse: method hashed_25 has a hashed table'),
    ('dense', dict(model=dict(name='LightGCN', options={})), 'row_sparse: got model'),
  ],
)
def test_what_looks_at_more_than_rows_is_refused(source, name, changes, message):
  with pytest.raises(ValueError, match=message):
    config = _config(row_sparse=True, **changes)
    _recommend_method.build(config, _spec(name), source)


def test_devices_with_rows_of_their_own_are_refused(source):
  with pytest.raises(ValueError, match="got 8 devices, wanted one, or execution 'jit'"):
    _trained(source, 1, _spec('dense'), row_sparse=True, execution='pmap')

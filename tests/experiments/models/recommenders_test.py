"""Recommenders: scores by hand, losses by hand, propagation against a matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import models
import jaxsparse as js

_PAIRS = np.array([[0, 1], [0, 2], [1, 0], [2, 2], [2, 3], [3, 0]])
_USERS, _ITEMS = 4, 5


def _data(**more):
  graph = models.normalized_edges(_PAIRS, _USERS, _ITEMS)
  weights = {'user_weight': jnp.arange(1.0, 5.0), 'item_weight': jnp.arange(2.0, 7.0)}
  return {'graph': graph, **weights, **more}


_BATCH = {
  'users': jnp.array([0, 2, 1]),
  'positives': jnp.array([1, 3, 0]),
  'negatives': jnp.array([4, 0, 2]),
}


def _built(name, options, **kwargs):
  model = models.recommender(name, _USERS, _ITEMS, options, **kwargs)
  # Compiled whole: step by step, each of their small arrays would be compiled for.
  vectors = None if model.vectors is None else jax.jit(model.vectors)
  compiled = model._replace(
    loss=jax.jit(model.loss), score=jax.jit(model.score), vectors=vectors
  )
  return compiled, jax.jit(model.init)(jax.random.key(0), _data())


def _numpy(params):
  return (np.asarray(params[n]['embedding'], np.float64) for n in ('user', 'item'))


def test_mf_by_hand():
  model, params = _built('MF', dict(features=3, stddev=1.0), decay=0.1)
  user, item = _numpy(params)
  scores = user @ item.T
  got = model.score(params, _data(), jnp.array([2, 0]), None)
  np.testing.assert_allclose(got, scores[[2, 0]], rtol=1e-5)
  users, positives, negatives = (np.asarray(_BATCH[k]) for k in _BATCH)
  margin = scores[users, positives] - scores[users, negatives]
  weight = np.arange(2.0, 7.0)
  squares = np.arange(1.0, 5.0)[users] * (user[users] ** 2).sum(1)
  for items in (positives, negatives):
    squares = squares + weight[items] * (item[items] ** 2).sum(1)
  wanted = np.mean(np.log1p(np.exp(-margin)) + 0.05 * squares)
  loss = model.loss(params, _BATCH, _data(), None, 0)
  assert float(loss) == pytest.approx(wanted, rel=1e-5)


def test_lightgcn_is_the_mean_of_powers_of_a_matrix():
  model, params = _built('LightGCN', dict(features=3, layers=2, stddev=1.0))
  user, item = _numpy(params)
  adjacency = np.zeros((_USERS + _ITEMS,) * 2)
  adjacency[_PAIRS[:, 0], _USERS + _PAIRS[:, 1]] = 1
  adjacency += adjacency.T
  degree = np.maximum(adjacency.sum(1), 1)  # Item 4 has no edge.
  step = adjacency / np.sqrt(np.outer(degree, degree))
  start = np.concatenate([user, item])
  final = (start + step @ start + step @ step @ start) / 3
  vectors = np.concatenate(model.vectors(params, _data()))
  np.testing.assert_allclose(vectors, final, rtol=1e-5, atol=1e-6)
  got = model.score(params, _data(), jnp.array([3]), None)
  np.testing.assert_allclose(got[0], final[3] @ final[_USERS:].T, rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(not js.native.available(), reason='no compiled kernels')
def test_compiled_products_propagate_as_segments_do():
  keys = jax.random.split(jax.random.key(0))
  tables = (jax.random.normal(k, (n, 3)) for k, n in zip(keys, (_USERS, _ITEMS)))
  user, item = tables

  def loss(user, item, backend):
    new = models.propagate(_data()['graph'], user, item, backend)
    return sum(jnp.sum(jnp.sin(x)) for x in new), new

  grad = jax.value_and_grad(loss, (0, 1), has_aux=True)
  one, other = (
    jax.jit(grad, static_argnums=2)(user, item, b) for b in ('cpu', 'segments')
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, other
  )


def test_a_rotation_of_the_tables_changes_no_score():
  model, params = _built('LightGCN', dict(features=3, stddev=1.0))
  turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
  turned = jax.tree.map(lambda x: x @ jnp.asarray(turn, x.dtype), params)
  users = jnp.arange(_USERS)
  a, b = (model.score(p, _data(), users, None) for p in (params, turned))
  np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_no_array_of_users_and_items_in_a_step():
  model, params = _built('LightGCN', dict(features=3))
  jaxpr = jax.make_jaxpr(jax.grad(model.loss))(params, _BATCH, _data(), None, 0)
  assert f'{_USERS},{_ITEMS}]' not in str(jaxpr)


def test_hashed_tables():
  table = models.Table(10, 3, kind='hashed', remainders=4, stddev=1.0)
  params = jax.jit(table.init)(jax.random.key(0))
  q, r = (params['params'][n]['embedding'] for n in ('quotient', 'remainder'))
  rows = table.apply(params, jnp.array([9, 4]))
  np.testing.assert_allclose(rows, [q[2] * r[1], q[1] * r[0]], rtol=1e-6)
  assert table.apply(params).shape == (10, 3)


def test_soft_tables():
  table = models.Table(4, 3, kind='soft', stddev=1.0, threshold=0.0)
  params = jax.jit(table.init)(jax.random.key(0))
  v = np.asarray(params['params']['embedding'])
  wanted = np.sign(v) * np.maximum(np.abs(v) - 0.5, 0)
  np.testing.assert_allclose(table.apply(params), wanted, rtol=1e-5, atol=1e-7)
  assert (wanted == 0).any() and (wanted != 0).any()


def test_neumf():
  model, params = _built('NeuMF', dict(features=4, hidden=(6, 3)))
  loss = model.loss(params, _BATCH, _data(), jax.random.key(1), 0)
  # Two cross entropies of coins at the start.
  assert float(loss) == pytest.approx(2 * np.log(2), abs=0.1)
  scores = model.score(params, _data(), jnp.array([1, 3]), None)
  assert scores.shape == (2, _ITEMS)
  tables = [n for n in params if 'embedding' in params[n]]
  assert sorted(tables) == ['gmf_item', 'gmf_user', 'item', 'user']


def test_mult_vae_by_hand():
  history = jnp.array([[1, 2], [0, 5], [2, 3], [0, 5]])
  model, params = _built('MultVAE', dict(hidden=(6, 3), dropout=0.0), anneal_steps=10)
  known = history[jnp.array([2, 1])]
  x = np.zeros((2, _ITEMS))
  x[0, [2, 3]] = 1 / np.sqrt(2)
  x[1, 0] = 1
  layer = lambda name, x: x @ np.asarray(params[name]['kernel']) + np.asarray(params[name]['bias'])  # fmt: skip
  mean = layer('code', np.tanh(layer('encoder0', x)))[:, :3]
  logits = layer('out', np.tanh(layer('decoder0', mean)))
  got = model.score(params, {}, None, known)
  np.testing.assert_allclose(got, logits, rtol=1e-4, atol=1e-5)
  data, batch = {'history': history}, {'users': jnp.array([2, 1])}
  losses = [
    model.loss(params, batch, data, jax.random.key(0), s) for s in (0, 5, 10, 99)
  ]
  # The KL divergence comes in step by step, and no further.
  steps = np.diff(np.array(losses))
  assert steps[0] == pytest.approx(steps[1], rel=1e-3) and abs(steps[2]) < 1e-6


@pytest.mark.parametrize(
  'name, options, message',
  [
    ('FM', {}, "unknown name 'FM'; wanted one of LightGCN, MF, MultVAE, NeuMF"),
    ('MF', {'width': 3}, 'MF: unknown option width; wanted one of features'),
  ],
)
def test_bad_models_are_refused(name, options, message):
  with pytest.raises(ValueError, match=message):
    models.recommender(name, 3, 4, options)


def test_bad_tables_are_refused():
  with pytest.raises(ValueError, match="got 'sparse'.*dense, hashed, hashed_sum, soft"):
    models.Table(3, 2, kind='sparse').init(jax.random.key(0))
  with pytest.raises(ValueError, match='remainders=0'):
    models.Table(3, 2, kind='hashed').init(jax.random.key(0))


def test_names():
  assert set(models.RECOMMENDERS) == {'LightGCN', 'MF', 'MultVAE', 'NeuMF'}
  assert set(models.TABLES) == {'dense', 'hashed', 'hashed_sum', 'soft'}

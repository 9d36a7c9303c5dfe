"""Each criterion against brute force."""

import jax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse as js

criteria = js.criteria


def _params(dtype=jnp.float32):
  keys = jax.random.split(jax.random.key(0), 2)
  return {
    'dense1': {'kernel': jax.random.normal(keys[0], (3, 4), dtype)},
    'dense2': {'kernel': jax.random.normal(keys[1], (4, 2), dtype)},
  }


X = jax.random.normal(jax.random.key(5), (6, 3))
Y = jax.random.normal(jax.random.key(6), (6, 2))


def _apply(params, x):
  return jnp.tanh(x @ params['dense1']['kernel']) @ params['dense2']['kernel']


def _loss(params, x, y):
  return jnp.mean((_apply(params, x) - y) ** 2)


def _evidence(params, updated=None, grads=None, masks=None, key=None):
  one = lambda tree: None if tree is None else (tree,)
  return js.core.Evidence((params,), one(updated), one(grads), masks, jnp.int32(0), key)


def _assert_close(scores, wanted, rtol):
  assert jax.tree.structure(scores) == jax.tree.structure(wanted)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol, rtol * np.abs(b).max()),
    scores,
    wanted,
  )


def test_magnitude_looks_at_the_updated_params():
  params, updated = {'w': jnp.array([-3.0, 1.0])}, {'w': jnp.array([0.5, -2.0])}
  assert criteria.magnitude(_evidence(params))['w'].tolist() == [3.0, 1.0]
  assert criteria.magnitude(_evidence(params, updated))['w'].tolist() == [0.5, 2.0]
  short = criteria.magnitude(_evidence({'w': jnp.ones(2, jnp.bfloat16)}))
  assert short['w'].dtype == jnp.bfloat16


def test_saliency():
  params, grads = {'w': jnp.array([-3.0, 1.0])}, {'w': jnp.array([2.0, -5.0])}
  assert criteria.saliency(_evidence(params, grads=grads))['w'].tolist() == [6.0, 5.0]
  updated = {'w': jnp.array([1.0, 1.0])}
  scores = criteria.saliency(_evidence(params, updated, grads))
  assert scores['w'].tolist() == [2.0, 5.0]


def test_saliency_is_the_change_of_the_loss_to_first_order():
  params = _params()
  grads = jax.grad(_loss)(params, X, Y)
  scores = criteria.saliency(_evidence(params, grads=grads))
  flat, unravel = ravel_pytree(params)
  change = [
    abs(_loss(unravel(flat.at[i].multiply(1.01)), X, Y) - _loss(params, X, Y)) / 0.01
    for i in range(flat.size)
  ]
  _assert_close(scores, unravel(jnp.stack(change)), 0.02)


def test_saliency_needs_gradients():
  with pytest.raises(ValueError, match='saliency.*snip'):
    criteria.saliency(_evidence({'w': jnp.ones(2)}))


def test_snip_equals_finite_differences_of_the_mask():
  params = _params()
  scores = criteria.snip(_loss, X, Y)(_evidence(params))
  flat, unravel = ravel_pytree(params)
  ones, step = jnp.ones_like(flat), 1e-2

  def at(mask):
    return _loss(unravel(flat * mask), X, Y)

  wanted = [
    abs(at(ones.at[i].add(step)) - at(ones.at[i].add(-step))) / (2 * step)
    for i in range(flat.size)
  ]
  _assert_close(scores, unravel(jnp.stack(wanted)), 2e-3)


def test_grasp_equals_the_dense_hessian():
  params = _params()
  scores = criteria.grasp(_loss, X, Y)(_evidence(params))
  flat, unravel = ravel_pytree(params)
  loss = lambda w: _loss(unravel(w), X, Y)
  hessian, gradient = jax.hessian(loss)(flat), jax.grad(loss)(flat)
  assert float(jnp.abs(hessian - jnp.diag(jnp.diag(hessian))).max()) > 0.1
  _assert_close(scores, unravel(flat * (hessian @ gradient)), 1e-5)


def test_grasp_keeps_what_carries_the_gradient():
  """Removing a fraction e of a weight changes the gradient's norm by 2 e score."""
  params = _params()
  scores = criteria.grasp(_loss, X, Y)(_evidence(params))
  flat, unravel = ravel_pytree(params)
  norm = lambda w: jnp.sum(jax.grad(lambda v: _loss(unravel(v), X, Y))(w) ** 2)
  lost = [
    (norm(flat.at[i].multiply(1.01)) - norm(flat.at[i].multiply(0.99))) / 0.04
    for i in range(flat.size)
  ]
  _assert_close(scores, unravel(jnp.stack(lost)), 2e-2)


def test_synflow_of_a_linear_net_by_hand():
  params = {'a': jnp.array([[1.0, -2.0], [3.0, 0.5]]), 'b': jnp.array([[-1.0], [4.0]])}
  apply_fn = lambda p, x: x @ p['a'] @ p['b']
  inputs = jnp.array([[7.0, -8.0]])
  scores = criteria.synflow(apply_fn, inputs)(_evidence(params))
  # One path each: |a_ij| |b_j|, and for b_j the sum of |a_ij| over i.
  assert scores['a'].tolist() == [[1.0, 8.0], [3.0, 2.0]]
  assert scores['b'].tolist() == [[4.0], [10.0]]
  # The flow is conserved: every layer's scores sum to that of the output.
  assert float(scores['a'].sum()) == float(scores['b'].sum())


def test_synflow_ignores_the_data():
  params = _params()
  apply_fn = lambda p, x: x @ p['dense1']['kernel'] @ p['dense2']['kernel']
  one = criteria.synflow(apply_fn, X)(_evidence(params))
  two = criteria.synflow(apply_fn, -3 * X)(_evidence(params))
  jax.tree.map(np.testing.assert_array_equal, one, two)


@pytest.mark.parametrize(
  'criterion',
  [
    criteria.snip(_loss, X, Y),
    criteria.grasp(_loss, X, Y),
    criteria.synflow(_apply, X),
  ],
)
def test_later_rounds_see_the_pruned_network(criterion):
  params = _params()
  masks = jax.tree.map(lambda p: p > jnp.median(p), params)
  pruned = js.masks.apply(masks, params)
  scores = criterion(_evidence(params, masks=masks))
  _assert_close(scores, criterion(_evidence(pruned)), 1e-6)
  jax.tree.map(lambda m, s: np.testing.assert_array_equal(s[~m], 0), masks, scores)


# --- random -------------------------------------------------------------------------------


def test_random_scores():
  params = {'a': jnp.ones((64, 64), jnp.bfloat16), 'b': jnp.ones(8)}
  scores = criteria.random(_evidence(params, key=jax.random.key(0)))
  assert scores['a'].dtype == scores['b'].dtype == jnp.uint32
  assert int(scores['a'].max()) < 2**31
  # A bfloat16 draw would have 128 values.
  assert len(np.unique(scores['a'])) == 64 * 64


def test_random_scores_depend_on_the_name_only():
  key = jax.random.key(0)
  one = criteria.random(_evidence({'b': jnp.ones(8)}, key=key))
  two = criteria.random(_evidence({'a': jnp.ones(8), 'b': jnp.ones(8)}, key=key))
  np.testing.assert_array_equal(one['b'], two['b'])
  assert not np.array_equal(two['a'], two['b'])
  other = criteria.random(_evidence({'b': jnp.ones(8)}, key=jax.random.key(1)))
  assert not np.array_equal(one['b'], other['b'])


def test_random_needs_a_seed():
  with pytest.raises(ValueError, match='random.*seed='):
    criteria.random(_evidence({'w': jnp.ones(2)}))


def test_all_sets_are_equally_likely():
  """Chi-square over the 15 ways to keep 2 of 6 weights."""
  leaf = js.Leaf('w', (6,))
  draws = 3000

  def draw(key):
    scores = criteria.random(_evidence({'w': jnp.ones(6)}, key=key))['w']
    return js.masks.Unstructured().select(leaf, scores, 2)

  masks = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), draws))
  codes = np.asarray(masks) @ (2 ** np.arange(6))
  kinds, counts = np.unique(codes, return_counts=True)
  assert len(kinds) == 15
  expected = draws / 15
  chi_square = np.sum((counts - expected) ** 2 / expected)
  # 14 degrees of freedom: mean 14, standard deviation 5.3; 99.9 % are below 36.1.
  assert chi_square < 36.1
  # Not suspiciously even either: 99.9 % are above 2.7.
  assert chi_square > 2.7

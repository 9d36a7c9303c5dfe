"""What compact training holds for each structure, and which it refuses."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse as js

_WHEN = js.schedules.every(4, stop=18)


def _transform(make, structure, sparsity, **options):
  return make(
    optax.adam(1e-2), sparsity, seed=0, structure=structure, when=_WHEN,
    distribution=js.distributions.uniform, **options,
  )  # fmt: skip


def _steps(tx, model, x):
  """Takes the same steps masked and compact; the pattern and the mask at the end."""
  params = model.init(jax.random.key(0), x)
  params, state = js.init(tx, params)
  compact_tx, values, compact_state = js.compact.convert(tx, params, state)
  apply_fn = js.compact.bind(model)

  def step(tx, apply, params, state):
    grads = jax.grad(lambda p: jnp.mean(jnp.sin(apply(p, state)) ** 2))(params)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  def compact_apply(params, state):
    return apply_fn(params, js.compact.get_patterns(state), x)

  dense_apply = lambda p, _: model.apply(p, x)
  masked = jax.jit(lambda p, s: step(tx, dense_apply, p, s))
  compact = jax.jit(lambda p, s: step(compact_tx, compact_apply, p, s))
  first = state
  for _ in range(20):
    params, state = masked(params, state)
    values, compact_state = compact(values, compact_state)
  pattern = js.compact.get_patterns(compact_state)['params']['kernel']
  js.sparse.check(pattern)
  _, dense, dense_state = js.compact.densify(compact_tx, values, compact_state)
  masks = [js.get_masks(s)['params']['kernel'] for s in (first, state, dense_state)]
  assert (masks[0] != masks[1]).any()
  np.testing.assert_array_equal(masks[1], masks[2])
  for a, b in zip(*map(jax.tree.leaves, (params, dense))):
    np.testing.assert_allclose(a, b, atol=1e-4)
  return pattern, masks[1]


@pytest.mark.long
def test_nm_is_held_as_a_byte_a_weight(monkeypatch):
  monkeypatch.setattr(js.native, 'available', lambda: False)
  tx = _transform(js.transforms.set, js.masks.NM(2, 4), 0.5)
  x = jax.random.normal(jax.random.key(1), (8, 16))
  pattern, mask = _steps(tx, nn.Dense(6), x)
  assert isinstance(pattern, js.sparse.NMPattern) and pattern.format.nm == (2, 4)
  assert (mask.reshape(4, 4, 6).sum(1) == 2).all()
  assert sum(a.nbytes for a in jax.tree.leaves(pattern)) == 48


def test_blocks_of_several_inputs_are_held_as_such():
  tx = _transform(js.transforms.set, js.masks.Block((2, 4)), 0.5)
  x = jax.random.normal(jax.random.key(1), (8, 16))
  pattern, mask = _steps(tx, nn.Dense(8), x)
  assert (pattern.format.depth, pattern.format.block) == (2, 4)
  units = mask.reshape(8, 2, 2, 4)
  assert (units.any((1, 3)) == units.all((1, 3))).all()


def _convert(make, structure, sparsity=0.5, shape=(16, 8)):
  tx = _transform(make, structure, sparsity)
  params, state = js.init(tx, {'kernel': jnp.ones(shape)})
  return js.compact.get_patterns(js.compact.convert(tx, params, state)[2])['kernel']


@pytest.mark.parametrize(
  'structure, shape, held',
  [
    (js.masks.NM(2, 4, axis=1), (16, 8), (1, 1)),  # groups of outputs
    (js.masks.Block((1, 8)), (16, 8), (1, 8)),
    (js.masks.Block((8, 1)), (16, 8), (1, 1)),  # no kernel has those
    (js.masks.Block((4, 4)), (18, 8), (1, 1)),  # smaller at the edge
    (js.masks.Block((4, 8), axes=(1, 0)), (16, 8), (8, 4)),  # outputs named first
  ],
)
def test_other_formats(structure, shape, held, monkeypatch):
  monkeypatch.setattr(js.native, 'available', lambda: False)
  fmt = _convert(js.transforms.set, structure, shape=shape).format
  assert fmt.nm is None and (fmt.depth, fmt.block) == held


def test_with_kernels_nm_is_held_as_single_weights(monkeypatch):
  monkeypatch.setattr(js.native, 'available', lambda: True)
  monkeypatch.setattr(js.native, 'stays_whole', lambda: False)
  fmt = _convert(js.transforms.set, js.masks.NM(2, 4)).format
  assert fmt.nm is None and fmt.block == 1


def test_what_does_not_grow_by_gradient_is_refused():
  rigl = js.transforms.rigl
  assert _convert(rigl, js.masks.Block((1, 4))).format.block == 4
  for structure in (
    js.masks.NM(2, 4),
    js.masks.Block((2, 4)),
    js.masks.Block((1, 2)),
    js.masks.Unstructured('output'),
    js.masks.Channel(),
  ):
    with pytest.raises(ValueError, match='kernel: .* does not grow by gradient'):
      _convert(rigl, structure)
  for structure in (js.masks.NM(2, 4), js.masks.Block((2, 4))):
    tx = _transform(js.transforms.set, structure, 0.5)
    with pytest.raises(ValueError, match='cannot be drawn on nonzeros'):
      js.compact.init(tx, lambda: {'kernel': jnp.ones((16, 8))}, seed=0)

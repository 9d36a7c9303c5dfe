"""Exact counts of weights, bytes and dead units."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse as js
from jaxsparse import core


def _true():
  return jnp.ones((), bool)


def _model():
  params = {
    'dense': {'bias': jnp.ones(4), 'kernel': jnp.zeros((6, 4))},
    'head': {'kernel': jnp.ones((4, 2), jnp.bfloat16)},
  }
  masks = {
    'dense': {'bias': _true(), 'kernel': jnp.arange(24).reshape(6, 4) < 6},
    'head': {'kernel': jnp.array([[True, False]])},
  }
  return params, masks


def _state(params, masks, inner=None):
  inner = inner or optax.adam(1e-3)
  step = jnp.zeros((), jnp.int32)
  return core.KeepSparseState(step, masks, (), inner.init(params), jax.random.key(0))


def test_stats_come_from_masks_and_not_from_zeros():
  params, masks = _model()
  found = js.summary.stats(params, masks)
  # The all-zero kernel keeps 6 of 24; a channel mask keeps 4 of 8.
  assert (found.num_weights, found.num_kept) == (4 + 24 + 8, 4 + 6 + 4)
  assert (found.num_prunable, found.num_prunable_kept) == (32, 10)
  assert found.nominal_sparsity == 1 - 10 / 32
  assert found.whole_model_sparsity == 1 - 14 / 36
  assert found.density == {'dense/kernel': 0.25, 'head/kernel': 0.5}
  assert found.density == js.summary.density_per_leaf(params, masks)


def test_bytes_are_those_held():
  params, masks = _model()
  found = js.summary.stats(params, _state(params, masks))
  assert found.param_bytes == 4 * 28 + 2 * 8
  assert found.mask_bytes == 1 + 24 + 2
  # Adam's two moments and its count, our step, and one key of two words.
  assert found.state_bytes == 2 * (4 * 28 + 2 * 8) + 4 + 4 + 8
  assert js.summary.stats(params, masks).state_bytes == 0
  assert js.summary.stats(params).mask_bytes == 0


def test_masks_are_found_deep_inside_an_optimizer_state():
  params, masks = _model()
  state = (optax.EmptyState(), {'inner': _state(params, masks, optax.sgd(0.1))})
  assert js.summary.stats(params, state).num_prunable_kept == 10


def test_counts_are_exact_above_what_float32_counts():
  size = 2**24 + 3
  params = {'kernel': jax.ShapeDtypeStruct((size, 300), jnp.float32)}
  found = js.summary.stats(params, {'kernel': np.ones((size, 1), bool)})
  assert found.num_kept == size * 300


def test_dense_empty_and_scalar_models():
  params, _ = _model()
  found = js.summary.stats(params)
  assert found == js.summary.Stats(
    num_weights=36,
    num_kept=36,
    num_prunable=0,
    num_prunable_kept=0,
    param_bytes=128,
    mask_bytes=0,
    state_bytes=0,
    density={},
  )
  assert found.nominal_sparsity == found.whole_model_sparsity == 0
  assert js.summary.stats({}).whole_model_sparsity == 0
  empty = {'a': jnp.zeros((0, 3)), 'b': jnp.zeros(())}
  found = js.summary.stats(empty, {'a': jnp.zeros((0, 3), bool), 'b': _true()})
  assert (found.num_weights, found.num_kept, found.density) == (1, 1, {})


def test_one_mask_tree_serves_all_fields():
  field, masks = _model()
  found = js.summary.stats({'mu': field, 'rho': field}, masks)
  assert found.num_kept == 2 * 14
  assert found.density['rho/dense/kernel'] == 0.25


def test_nnx_state():
  model = nnx.Linear(6, 4, rngs=nnx.Rngs(0))
  params = nnx.state(model, nnx.Param)
  masks = jax.tree.map(lambda p: p > 9 if p.ndim == 2 else _true(), params)
  assert js.summary.stats(params, masks).density == {'kernel': 0}
  assert js.summary.stats(params, _state(params, masks)).num_kept == 4


def test_a_shared_array_is_held_once():
  shared = jnp.ones((8, 8))
  assert js.summary.stats({'a': shared, 'b': shared}).param_bytes == 256
  assert js.summary.stats({'a': shared, 'b': shared}).num_weights == 128


@pytest.mark.parametrize(
  ('masks', 'message'),
  [
    ({'kernel': jnp.ones((4, 6), bool)}, r'kernel has shape \(4, 6\).*\(6, 4\)'),
    ({'kernel': jnp.ones((4,), bool)}, r'kernel has shape \(4,\)'),
    ({'kernel': jnp.ones((6, 4))}, 'kernel has .*float32'),
    ({'kernel': None}, '0 leaves for 1 parameters'),
    (optax.adam(1e-3).init({'kernel': jnp.ones((6, 4))}), '3 leaves for 1 parameters'),
  ],
)
def test_foreign_masks_are_refused(masks, message):
  params = {'kernel': jnp.ones((6, 4))}
  for function in (
    js.summary.stats,
    js.summary.table,
    js.summary.density_per_leaf,
    js.summary.dead_units,
  ):
    with pytest.raises(ValueError, match=message):
      function(params, masks)


def test_dead_units_by_hand():
  mask = np.ones((3, 3, 2, 4), bool)
  mask[..., 1] = False
  mask[..., 2] = False
  mask[2, 1, 0, 2] = True  # One weight keeps a filter alive.
  params = {'conv': {'bias': jnp.ones(4), 'kernel': jnp.ones(mask.shape)}}
  masks = {'conv': {'bias': _true(), 'kernel': jnp.array(mask)}}
  assert js.summary.dead_units(params, masks) == {'conv/kernel': (1, 4)}


def test_dead_units_of_stacked_layers_and_heads():
  stack = np.ones((3, 5, 4), bool)
  stack[1, :, :2] = False
  heads = np.ones((8, 2, 3), bool)
  heads[:, 1, 0] = False
  # The bias per head tells the projection from a convolution.
  query = {'kernel': jnp.ones((8, 2, 3)), 'bias': jnp.ones((2, 3))}
  params = {'blocks': jnp.ones((3, 5, 4)), 'query': query}
  query_masks = {'kernel': jnp.array(heads), 'bias': jnp.array(True)}
  masks = {'blocks': jnp.array(stack), 'query': query_masks}
  found = js.summary.dead_units(params, masks, {'blocks': js.stacked()})
  assert found == {'blocks': (2, 12), 'query/kernel': (1, 6)}


def test_dead_units_of_channel_masks():
  params = {'kernel': jnp.ones((5, 4))}
  by_output = {'kernel': jnp.array([[True, False, False, True]])}
  assert js.summary.dead_units(params, by_output) == {'kernel': (2, 4)}
  by_input = {'kernel': jnp.array([[True], [False], [False], [False], [False]])}
  assert js.summary.dead_units(params, by_input) == {'kernel': (0, 4)}


def test_the_boxed_state_of_an_nnx_optimizer():
  model = nnx.Linear(6, 4, rngs=nnx.Rngs(0))
  kept = jnp.arange(24).reshape(6, 4) < 6
  rule = js.MaskRule(
    init=lambda evidence: (
      jax.tree.map(lambda p: kept if p.ndim == 2 else _true(), evidence.params[0]),
      (),
    )
  )
  tx = js.keep_sparse(optax.adam(1e-3), rule)
  optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
  params = nnx.state(model, nnx.Param)
  found = js.summary.stats(params, optimizer.opt_state)
  plain = js.summary.stats(params, tx.init(params))
  assert found == plain
  assert found.density == {'kernel': 0.25} and found.mask_bytes == 25

"""The defaults of a rule."""

import jax.numpy as jnp
import numpy as np

import jaxsparse as js


def test_mask_grads_loses_a_nan_off_the_mask():
  grads = {'kernel': jnp.array([1.0, jnp.nan, 3.0])}
  masks = {'kernel': jnp.array([True, False, True])}
  masked = js.core.mask_grads(grads, grads, masks, None)
  np.testing.assert_array_equal(masked['kernel'], [1.0, 0.0, 3.0])


def test_zeros_grown_keeps_shape_and_dtype():
  params = {'kernel': jnp.ones((2, 3), jnp.bfloat16)}
  grown = js.core.zeros_grown(params, None)
  assert grown['kernel'].dtype == jnp.bfloat16 and not grown['kernel'].any()


def test_a_rule_needs_nothing_but_init():
  rule = js.core.MaskRule(init=lambda evidence: (None, None))
  params = {'kernel': jnp.ones(2)}
  assert rule.update is None and not rule.decides_on_update
  assert rule.fields(params) == (params,)
  assert rule.inner_params(params, None) is params
  assert rule.edit_updates(params, None, None, 'memory') == (params, 'memory')


def test_sparse_states_are_found_wherever_they_are():
  inner = js.core.KeepSparseState(jnp.int32(0), None, None, (), None)
  outer = inner._replace(step=jnp.int32(1), inner_state={'a': inner})
  assert js.core.sparse_states({'x': [inner, jnp.ones(2)]}) == [inner]
  # What a sparse state wraps is its own affair.
  (found,) = js.core.sparse_states((outer,))
  assert found is outer
  assert js.core.sparse_states({'x': jnp.ones(2)}) == []

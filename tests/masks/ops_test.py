"""Operations on trees of masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse as js


def test_apply_clears_nan_and_keeps_dtypes():
  tree = {
    'a': jnp.array([jnp.nan, 1.0], jnp.bfloat16),
    'b': jnp.array([[jnp.inf, 2.0], [3.0, -jnp.inf]]),
    'c': jnp.array([3, 4]),
  }
  masks = {
    'a': jnp.array([False, True]),
    'b': jnp.array([[False, True]]),
    'c': jnp.ones((), bool),
  }
  out = js.masks.apply(masks, tree)
  assert out['a'].dtype == jnp.bfloat16 and out['a'].tolist() == [0.0, 1.0]
  assert out['b'].tolist() == [[0.0, 2.0], [0.0, -jnp.inf]]
  assert out['c'].dtype == tree['c'].dtype and out['c'].tolist() == [3, 4]


def test_density_looks_at_pruned_leaves_only():
  params = {'bias': jnp.ones(1000), 'kernel': jnp.ones((4, 5)), 'other': jnp.ones(10)}
  masks = {
    'bias': jnp.ones((), bool),
    'kernel': jnp.array([[True, False, False, False, True]]),
    'other': jnp.arange(10) < 7,
  }
  assert js.masks.density(masks, params) == np.float32((8 + 7) / 30)


def test_density_without_a_pruned_leaf():
  assert js.masks.density({}, {}) == 1
  assert js.masks.density({'bias': jnp.ones((), bool)}, {'bias': jnp.ones(3)}) == 1


def test_density_takes_shapes_instead_of_arrays():
  shapes = {'kernel': jax.ShapeDtypeStruct((2, 2), jnp.float32)}
  assert js.masks.density({'kernel': jnp.eye(2, dtype=bool)}, shapes) == 0.5


def test_from_nonzeros():
  params = {
    'dense': {'kernel': jnp.array([[0.0, -2.0], [jnp.nan, -0.0]]), 'bias': jnp.zeros(2)}
  }
  masks = js.masks.from_nonzeros(params)
  assert masks['dense']['kernel'].tolist() == [[False, True], [True, False]]
  assert masks['dense']['bias'].shape == () and bool(masks['dense']['bias'])


def test_from_nonzeros_takes_prunable_and_leaves():
  params = {'a': jnp.zeros((2, 2)), 'b': jnp.zeros((2, 2))}
  masks = js.masks.from_nonzeros(params, prunable='b')
  assert masks['a'].shape == () and masks['b'].shape == (2, 2)
  flat = lambda leaf: js.Leaf(leaf.name, leaf.shape)
  masks = js.masks.from_nonzeros(params, leaves={'a': flat})
  assert masks['a'].shape == () and masks['b'].shape == (2, 2)


def test_from_nonzeros_under_jit():
  params = {'kernel': jnp.eye(3)}
  masks = jax.jit(js.masks.from_nonzeros)(params)
  np.testing.assert_array_equal(masks['kernel'], np.eye(3, dtype=bool))


def test_from_named_makes_arrays_that_can_be_donated():
  params = {'a': jnp.ones(2), 'b': jnp.ones(3), 'c': jnp.ones(4)}
  masks = js.masks.from_named(params, {'b': jnp.array([True, False, True])})
  assert jax.tree.structure(masks) == jax.tree.structure(params)
  pointers = [m.unsafe_buffer_pointer() for m in jax.tree.leaves(masks)]
  assert len(set(pointers)) == 3
  # A buffer that is in the tree twice would make this call raise.
  flipped = jax.jit(lambda t: jax.tree.map(jnp.logical_not, t), donate_argnums=0)(masks)
  assert flipped['b'].tolist() == [False, True, False]
  assert not flipped['a'] and not flipped['c']


@pytest.mark.parametrize('tree', [jnp.ones((2, 2)), (jnp.ones((2, 2)),), {}])
def test_from_named_keeps_the_container(tree):
  masks = js.masks.from_named(tree, {})
  assert jax.tree.structure(masks) == jax.tree.structure(tree)
  assert all(m.shape == () and m.dtype == bool for m in jax.tree.leaves(masks))


def test_density_refuses_masks_that_are_not_bool():
  masks, params = {'w': jnp.ones(2, bool)}, {'w': jnp.ones(2)}
  with pytest.raises(ValueError, match='masks: a leaf is float32; wanted bool'):
    js.masks.density(params, masks)

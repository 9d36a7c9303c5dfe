"""Standard normal numbers that belong to the places of weights."""

import jax
import jax.numpy as jnp

from jaxsparse import native, sparse


def normal(
  key: jax.Array,
  shape,
  dtype,
  pattern: sparse.Pattern | None = None,
  feature_major: bool = False,
):
  """The numbers of `jax.random.normal`, of a leaf on nonzeros where it has weights.

  A number depends on the key and on the flat index of its weight, and on nothing else:
  so masked and compact execution see the same noise, and no array of the size of the
  dense leaf is made. Where jax draws otherwise (a key that is not threefry2x32,
  `jax_threefry_partitionable=False`, half precision) the numbers on nonzeros are as
  good, but not the same.

  Args:
    key: typed key.
    shape: of the values.
    dtype: of the values.
    pattern: where they stand in a dense leaf; None for a dense leaf.
    feature_major: see `js.native.normal`.

  Returns:
    Array of that shape and dtype.
  """
  if dtype != jnp.float32 or not native.can_index(key):
    return jax.random.normal(key, shape, dtype)
  index = None if pattern is None else sparse.flat_indices(pattern)
  return native.normal(key, shape, index, feature_major)

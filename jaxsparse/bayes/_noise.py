"""Standard normal numbers that belong to the places of weights."""

import math

import jax
from jax.extend import random as extend_random
import jax.numpy as jnp
import numpy as np

from jaxsparse import sparse


def normal(key: jax.Array, shape, dtype, pattern: sparse.Pattern | None = None):
  """Noise of a leaf, drawn where it has weights.

  A number depends on the key and on the flat index of its weight, and on nothing else:
  on nonzeros the numbers are those of `jax.random.normal` on the dense leaf, and no
  array of its size is made. Where jax draws otherwise (a key that is not
  threefry2x32, `jax_threefry_partitionable=False`, half precision) they are as good,
  but not the same.

  Args:
    key: typed key.
    shape: of the values.
    dtype: of the values.
    pattern: where they stand in a dense leaf; None for a dense leaf.

  Returns:
    Array of that shape and dtype.
  """
  if pattern is None or not _is_indexed(key, dtype):
    return jax.random.normal(key, shape, dtype)
  index = sparse.flat_indices(pattern)
  first, second = jax.random.key_data(key)
  high, low = extend_random.threefry2x32_p.bind(
    *jnp.broadcast_arrays(first, second, jnp.zeros_like(index), index)
  )
  return _from_bits(high ^ low).reshape(shape)


def _is_indexed(key, dtype):
  return (
    dtype == jnp.float32
    and str(jax.random.key_impl(key)) == 'threefry2x32'
    and jax.config.jax_threefry_partitionable
  )


def _from_bits(bits):
  """What `jax.random.normal` makes of 32 random bits, operation by operation."""
  ones = jax.lax.bitcast_convert_type(jnp.float32(1.0), jnp.uint32)
  unit = jax.lax.bitcast_convert_type((bits >> 9) | ones, jnp.float32) - 1
  low, high = np.nextafter(np.float32(-1), np.float32(0)), np.float32(1)
  uniform = jnp.maximum(low, unit * (high - low) + low)
  return np.float32(math.sqrt(2)) * jax.lax.erf_inv(uniform)

"""Standard normal numbers that belong to indices, in C++ where that is at hand."""

import math

import jax
from jax.extend import random as extend_random
import jax.numpy as jnp
import numpy as np

from jaxsparse.native import _library


def can_index(key: jax.Array) -> bool:
  """Whether `normal` can be used: whether jax gives each place bits of its own.

  Args:
    key: typed key.

  Returns:
    True for threefry2x32, jax's default, unless `jax_threefry_partitionable` is off.

  Example:
    >>> import jax, jaxsparse as js
    >>> js.native.can_index(jax.random.key(0, impl='rbg'))
    False
  """
  is_threefry = str(jax.random.key_impl(key)) == 'threefry2x32'
  return is_threefry and getattr(jax.config, 'jax_threefry_partitionable', True)


def normal(
  key: jax.Array, shape: tuple[int, ...], index=None, feature_major: bool = False
) -> jax.Array:
  r"""The numbers of `jax.random.normal`, at some of the places of an array.

  .. math:: z_i = \sqrt2 \, \text{erf}^{-1}(u_i), \quad u_i = \text{threefry}(key, i)

  A number depends on the key and on its flat index alone, so that nobody has to draw a
  dense array for a few of its places. The kernel has the bits of jax, and an inverse
  that is closer to the truth (3e-7) than that of XLA (6e-6); with AVX-512 a whole
  step of dense VI takes two thirds of its time (benchmarks/compact_bayes_step.py). Without vector instructions it would be slower, and is not used.

  Args:
    key: typed key for which `can_index` is True.
    shape: of the result.
    index: uint32 array of this shape, flat indices of a larger array; None for all
      places of an array of this shape.
    feature_major: whether the numbers lie in memory with the last axis first, as what
      the products of `js.sparse` return does; their values are the same.

  Returns:
    float32 array.

  Raises:
    ValueError: another key; an index of another dtype or shape.

  Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3 (threefry).

  Example:
    >>> import jax, jax.numpy as jnp, jaxsparse as js
    >>> key, dense = jax.random.key(0), jax.random.normal(jax.random.key(0), (4, 5))
    >>> few = js.native.normal(key, (2,), jnp.array([7, 19], jnp.uint32))
    >>> bool(jnp.allclose(few, dense.ravel()[jnp.array([7, 19])]))
    True
  """
  if not can_index(key):
    raise ValueError(
      f'key: {jax.random.key_impl(key)}; wanted threefry2x32, and'
      ' jax_threefry_partitionable as it is by default.'
    )
  if index is not None and (index.dtype != jnp.uint32 or index.shape != shape):
    raise ValueError(
      f'index: {index.dtype} of shape {index.shape}; wanted uint32 of {shape}.'
    )
  fits = math.prod(shape) < 2**32
  if fits and _is_fast() and _library.stays_whole():
    return _call(jax.random.key_data(key), shape, index, feature_major)
  if index is None:
    return jax.random.normal(key, shape, jnp.float32)
  # As jax draws place i: both words of threefry at the counter (0, i), xored.
  first, second = jax.random.key_data(key)
  high, low = extend_random.threefry2x32_p.bind(
    *jnp.broadcast_arrays(first, second, jnp.zeros_like(index), index)
  )
  return _from_bits(high ^ low)


def _call(words, shape, index, feature_major):
  turned = feature_major and index is None and len(shape) > 1 and shape[-1] > 0
  # Drawn with the last axis first, so that the transposition is another view.
  memory = (shape[-1], math.prod(shape[:-1])) if turned else shape
  call = jax.ffi.ffi_call(
    'jaxsparse_normal',
    jax.ShapeDtypeStruct(memory, jnp.float32),
    vmap_method='sequential',
  )
  # To the kernel, no index means all places.
  index = jnp.zeros((0,), jnp.uint32) if index is None else index
  drawn = call(words, index, columns=np.int64(shape[-1] if turned else 0))
  return drawn.T.reshape(shape) if turned else drawn


def _is_fast():
  return _library.available() and _library.instruction_set() != 'portable'


def _from_bits(bits):
  """What `jax.random.normal` makes of 32 random bits, operation by operation."""
  ones = jax.lax.bitcast_convert_type(jnp.float32(1.0), jnp.uint32)
  # 23 bits become the mantissa of a number in [1, 2).
  bits = (bits >> np.uint32(9)) | ones
  unit = jax.lax.bitcast_convert_type(bits, jnp.float32) - np.float32(1)
  # Just above -1, where erf_inv would be -inf.
  low, high = np.nextafter(np.float32(-1), np.float32(0)), np.float32(1)
  uniform = jnp.maximum(low, unit * (high - low) + low)
  return np.float32(math.sqrt(2)) * jax.lax.erf_inv(uniform)

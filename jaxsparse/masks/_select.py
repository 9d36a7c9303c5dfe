"""Exact top-k selection by counting: no sort, no host sync, reductions only.

A threshold is searched such that exactly k keys are at or above it. Every step of
the search is one compare-and-count over the array, so a sharded leaf is never
gathered: only counts cross devices. On one CPU device, the kernel of `native` gives
the same mask faster.
"""

from collections.abc import Mapping
import functools
import math

import jax
from jax import lax
import jax.numpy as jnp

from jaxsparse import core, native
from jaxsparse.masks import _search

_SIGN = 0x80000000
# Low bits that are the same in all keys of these dtypes (of one sign).
_SPARE_BITS = {jnp.dtype(jnp.bfloat16): 16, jnp.dtype(jnp.float16): 13}


def ordered_keys(scores: jax.Array) -> jax.Array:
  """Maps scores to uint32 such that larger scores have larger keys.

  Args:
    scores: float array (float32, bfloat16 and float16 exactly, float64 rounded to
      float32), uint32 (returned as it is) or int32.

  Returns:
    uint32 array of the same shape. NaN is 0, below -inf; -0.0 and 0.0 are equal.

  Raises:
    ValueError: another dtype.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> keys = js.masks.ordered_keys(jnp.array([jnp.nan, -jnp.inf, -0.0, 0.0, 1.0]))
    >>> [hex(int(k)) for k in keys]
    ['0x0', '0x7fffff', '0x80000000', '0x80000000', '0xbf800000']
  """
  scores = jnp.asarray(scores)
  if scores.dtype == jnp.uint32:
    return scores
  if scores.dtype == jnp.int32:
    return lax.bitcast_convert_type(scores, jnp.uint32) ^ jnp.uint32(_SIGN)
  if not jnp.issubdtype(scores.dtype, jnp.floating):
    raise ValueError(
      f'scores: dtype {scores.dtype}; wanted a float dtype, uint32 or int32.'
    )
  bits = lax.bitcast_convert_type(scores.astype(jnp.float32), jnp.uint32)
  sign = jnp.uint32(_SIGN)
  # Bits order positive floats as integers do, and negative ones the other way round.
  keys = jnp.where(bits >= sign, ~bits, bits | sign)
  # Only bits are looked at: a float comparison would flush denormals on a CPU.
  keys = jnp.where(bits == sign, sign, keys)
  is_nan = (bits & ~sign) > jnp.uint32(0x7F800000)
  return jnp.where(is_nan, jnp.uint32(0), keys)


def hash_index(shape: tuple[int, ...]) -> jax.Array:
  """The hash that breaks ties: a bijection of the flat index (larger wins).

  `h = i; h ^= h >> 16; h *= 0x7feb352d; h ^= h >> 15; h *= 0x846ca68b;
  h ^= h >> 16` modulo 2**32, where i is the index in C order (lowbias32).

  Args:
    shape: the shape of the array.

  Returns:
    uint32 array of that shape, no value twice.

  Example:
    >>> import jaxsparse as js
    >>> [hex(int(h)) for h in js.masks.hash_index((3,))]
    ['0x0', '0x688990c0', '0xd1132181']
  """
  index = jnp.zeros(shape, jnp.uint32)
  stride = 1
  # Built axis by axis: reshaping a flat iota would gather a sharded leaf.
  for axis in reversed(range(len(shape))):
    iota = lax.broadcasted_iota(jnp.uint32, shape, axis)
    index += iota * jnp.uint32(stride % 2**32)
    stride *= shape[axis]
  return hash_flat(index)


def hash_flat(index: jax.Array) -> jax.Array:
  """The hash of `hash_index` for flat indices that are given.

  Args:
    index: uint32 array of indices in C order.

  Returns:
    uint32 array of the same shape; two indices never have one hash.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> hex(int(js.masks.hash_flat(jnp.array([2], 'uint32'))[0]))
    '0xd1132181'
  """
  h = index ^ (index >> jnp.uint32(16))
  h *= jnp.uint32(0x7FEB352D)
  h ^= h >> jnp.uint32(15)
  h *= jnp.uint32(0x846CA68B)
  return h ^ (h >> jnp.uint32(16))


def top_k_mask(scores: jax.Array, num_kept, unit_axes: tuple[int, ...]) -> jax.Array:
  """Keeps exactly the `num_kept` largest scores of every slice.

  A slice is an index of the axes that are not in `unit_axes`. NaN ranks last; ties
  go to the larger `hash_index`.

  Args:
    scores: float, uint32 or int32 array.
    num_kept: int, or int32 array (may be traced) that is a scalar or broadcastable
      to the shape of `scores` with length 1 along `unit_axes`; clipped to the number
      of scores in a slice.
    unit_axes: the axes within which scores compete.

  Returns:
    bool array of the shape of `scores`.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> scores = jnp.array([[1., 4., 2.], [9., 7., 8.]])
    >>> js.masks.top_k_mask(scores, 2, (0, 1)).astype(int).tolist()
    [[0, 0, 0], [1, 0, 1]]
    >>> js.masks.top_k_mask(scores, 2, (1,)).astype(int).tolist()
    [[0, 1, 1], [1, 0, 1]]
  """
  scores = jnp.asarray(scores)
  axes = tuple(sorted(a % scores.ndim for a in unit_axes))
  if not scores.size:
    return jnp.zeros(scores.shape, bool)
  if native.can_select(scores.shape, axes):
    return _select_natively(scores, num_kept, axes)
  keys = ordered_keys(scores)
  if scores.dtype in _SPARE_BITS:
    # Fewer levels, fewer passes: the ties of short floats defeat interpolation.
    keys = keys >> jnp.uint32(_SPARE_BITS[scores.dtype])
  return _select_keys(keys, num_kept, axes)


def _per_slice(num_kept, shape, axes):
  """`num_kept` clipped and broadcast: int32, of length 1 along `axes`."""
  slices = tuple(1 if a in axes else n for a, n in enumerate(shape))
  num_kept = jnp.asarray(num_kept).astype(jnp.int32)
  if num_kept.ndim and num_kept.ndim != len(shape):
    raise ValueError(
      f'num_kept: shape {num_kept.shape}; wanted a scalar, or {len(shape)} axes that'
      f' broadcast to {slices}.'
    )
  size = math.prod(shape[a] for a in axes)
  return jnp.clip(jnp.broadcast_to(num_kept, slices), 0, size)


# Compiled once per shape also when nothing around it is: `tx.init` of many layers.
@functools.partial(jax.jit, static_argnums=2, inline=True)
def _select_natively(scores, num_kept, axes):
  if scores.dtype in (jnp.float16, jnp.float64):
    scores = ordered_keys(scores)  # The kernel has no conversion of these.
  num_kept = _per_slice(num_kept, scores.shape, axes)
  # The axes of a slice are the last ones: `can_select` has made sure of it.
  slices = num_kept.shape[: num_kept.ndim - len(axes)]
  return native.select(scores, num_kept.reshape(slices), len(axes))


@functools.partial(jax.jit, static_argnums=2, inline=True)
def _select_keys(keys, num_kept, axes):
  num_kept = _per_slice(num_kept, keys.shape, axes)
  size = math.prod(keys.shape[a] for a in axes)
  total = jnp.full(num_kept.shape, size, jnp.int32)
  level, at_least, above = _search.find_level((keys,), num_kept, total, axes)

  def exact(_):
    return keys >= level

  def with_ties(_):
    tied = keys == level
    # An untied 0 is harmless: thresholds above the lowest key are at least 1.
    hashes = jnp.where(tied, hash_index(keys.shape), jnp.uint32(0))
    # A slice without a tie wants all of its total, and its search is over at once.
    wanted = num_kept - above
    last, _, _ = _search.find_level((hashes,), wanted, at_least - above, axes)
    return (keys > level) | (tied & (hashes >= last))

  # Ties at the threshold cost a second search, which the cond spares all others.
  unmet = (at_least != num_kept) & (num_kept > 0)
  mask = lax.cond(jnp.any(unmet), with_ties, exact, None)
  # Where nothing is kept no search begins, and the level is that of the lowest key.
  return mask & (num_kept > 0)


def threshold_counts(scores: Mapping[str, jax.Array], num_kept) -> dict:
  """How many weights of each array are among the `num_kept` largest of all.

  The arrays are neither concatenated nor sorted. Ties at the threshold go to the
  arrays in their order.

  Args:
    scores: `{name: array}`, all of the same kind (float, or uint32, or int32), fewer
      than 2**31 scores together.
    num_kept: int or int32 scalar, may be traced; clipped to the number of scores.

  Returns:
    `{name: int32 scalar}`, with the sum `num_kept`.

  Raises:
    ValueError: 2**31 scores or more.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> scores = {'a': jnp.array([1., 5., 6.]), 'b': jnp.array([[7., 2.]])}
    >>> counts = js.masks.threshold_counts(scores, 3)
    >>> {name: int(count) for name, count in counts.items()}
    {'a': 2, 'b': 1}
  """
  total = sum(x.size for x in scores.values())
  if total >= 2**31:
    raise ValueError(f'scores: {total} values together; wanted fewer than 2**31.')
  num_kept = jnp.clip(jnp.asarray(num_kept).astype(jnp.int32), 0, total)
  keys = {name: ordered_keys(x) for name, x in scores.items() if x.size}
  counts = dict.fromkeys(scores, jnp.zeros((), jnp.int32))
  if not keys:
    return counts
  level, _, _ = _search.find_level(
    tuple(keys.values()), num_kept, jnp.asarray(total, jnp.int32), None
  )
  # Where nothing is kept no search begins; no key is above this level.
  level = jnp.where(num_kept > 0, level, jnp.uint32(2**32 - 1))
  above = {n: core.count_true(x > level) for n, x in keys.items()}
  left = num_kept - sum(above.values())
  for name, x in keys.items():
    ties = jnp.minimum(core.count_true(x == level), jnp.maximum(left, 0))
    counts[name] = above[name] + ties
    left -= ties
  return counts

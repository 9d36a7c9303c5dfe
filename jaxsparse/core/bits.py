"""Random integers without a state: hashes, draws below a bound, keyed permutations.

All is arithmetic on uint32 that NumPy and jax do alike, so both give the same bits.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Arrays even for a single key: NumPy warns of a uint32 scalar that wraps around.
Key = tuple[Any, Any]  # Two uint32 arrays, (1,) or (n,).

_GOLD = np.uint32(0x9E3779B9)
_ODD = np.uint32(0x85EBCA6B)
_HALF = np.uint32(2**31)
_LOW = np.uint32(0xFFFF)
_SIXTEEN = np.uint32(16)


def namespace(*values):
  """NumPy if every value lies on the host, else jax.numpy."""
  host = all(isinstance(v, (int, np.ndarray, np.generic)) for v in values)
  return np if host else jnp


def words_of(seed):
  """Two uint32 words from an int below 2**63, an integer scalar or a typed key.

  Raises:
    ValueError: a negative int, or anything else.
  """
  if isinstance(seed, (int, np.integer)) and not isinstance(seed, bool):
    if not 0 <= seed < 2**63:
      raise ValueError(f'seed={seed}: wanted 0 <= seed < 2**63.')
    return np.array([int(seed) % 2**32, int(seed) >> 32], np.uint32)
  dtype = getattr(seed, 'dtype', None)
  if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
    # Keys of threefry have two words, those of rbg four.
    words = jax.random.key_data(seed).reshape(-1)
    return words[:2] ^ words[-2:] if words.size > 2 else words
  if dtype is None or not jnp.issubdtype(dtype, jnp.integer) or jnp.ndim(seed):
    raise ValueError(
      f'seed={seed!r}: wanted an int, an integer scalar, or a typed key as from'
      ' jax.random.key.'
    )
  # The words of the same int on the host.
  return jnp.stack([seed.astype(jnp.uint32), jnp.zeros((), jnp.uint32)])


def mix(x):
  """A bijection of uint32 in which every bit of the result depends on all of `x`."""
  # The multipliers and shifts are those of lowbias32, found by Chris Wellons's search.
  x = x ^ (x >> _SIXTEEN)
  x = x * np.uint32(0x7FEB352D)
  x = x ^ (x >> np.uint32(15))
  x = x * np.uint32(0x846CA68B)
  return x ^ (x >> _SIXTEEN)


def fold(key: Key, value) -> Key:
  """The key of one of the streams of a key; for one key, each value has its own."""
  a, b = key
  a = mix(a ^ value)
  # Each line is a bijection of the 64 bits, so that no two values meet.
  b = mix(b + a + _GOLD)
  return mix(a ^ b), b


def below(key: Key, size):
  """Uniform in [0, size): the upper half of a 64-bit word times `size`."""
  # No draw is rejected, as that takes a loop: each value is off by 2**-64 at most.
  high, low = key
  carry = _upper(low, size)
  part = high * size + carry
  # A sum that has wrapped around is less than what was added.
  return _upper(high, size) + (part < carry).astype(np.uint32)


def _upper(x, y):
  """The upper 32 bits of a product of uint32, without any 64-bit integer."""
  x0, x1, y0, y1 = x & _LOW, x >> _SIXTEEN, y & _LOW, y >> _SIXTEEN
  # No sum below overflows: (2**16 - 1)**2 + 2 (2**16 - 1) is 2**32 - 1.
  first = x1 * y0 + ((x0 * y0) >> _SIXTEEN)
  second = x0 * y1 + (first & _LOW)
  return x1 * y1 + (first >> _SIXTEEN) + (second >> _SIXTEEN)


def permute(position, size, key: Key, largest: int):
  """Where a keyed permutation of `range(size)` sends each position.

  The swap-or-not shuffle: in each of its rounds, x and `k_r - x mod size` change places
  if a keyed bit of the larger of the two says so. Each round is its own inverse, so all
  of them are a permutation for any size, and no element waits for another.

  Source: Hoang, Morris, Rogaway 2012, An Enciphering Scheme Based on a Card Shuffle.

  Args:
    position: uint32 (n,), each below its size.
    size: int, or uint32 (n,).
    key: of the permutation, (1,) or (n,) each.
    largest: int, the greatest size; more rounds mix a larger range.

  Returns:
    uint32 (n,).
  """
  xp = namespace(position, size, *key)
  size = xp.asarray(size, np.uint32)
  # One or two positions are random after the first 32 rounds, up to one in 2**32; a
  # whole range takes some multiple of its bits.
  num_rounds = 32 + 2 * int(largest).bit_length()
  one_round = functools.partial(_swap_or_not, xp, size, key)
  if xp is jnp:
    step = lambda r, x: one_round(r.astype(jnp.uint32) * _GOLD, x)
    # Unrolled, because an iteration costs as much as a few hundred positions.
    return jax.lax.fori_loop(0, num_rounds, step, position, unroll=8)
  for r in range(num_rounds):
    # In Python's integers, as NumPy warns of a uint32 that wraps around.
    position = one_round(np.uint32(r * int(_GOLD) % 2**32), position)
  return position


def _swap_or_not(xp, size, key, number, x):
  a, b = key
  word = mix(a ^ mix(b + number))
  other = word % size + (size - x)
  other = xp.where(other >= size, other - size, other)
  bits = mix(xp.maximum(x, other) + mix(word ^ _ODD))
  return xp.where(bits >= _HALF, other, x)

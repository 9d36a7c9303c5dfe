"""Hashes and keyed permutations, against integers without a limit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsparse.core import bits as _bits

_MASK = 2**32 - 1


def _mix(x):
  for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
    x = (x ^ x >> shift) * factor & _MASK
  return x ^ x >> 16


def _permute(x, size, key, num_rounds):
  """The swap-or-not shuffle of one position, in Python's integers."""
  for r in range(num_rounds):
    word = _mix(key[0] ^ _mix((key[1] + r * 0x9E3779B9) & _MASK))
    other = (word % size - x) % size
    bits = _mix((max(x, other) + _mix(word ^ 0x85EBCA6B)) & _MASK)
    x = other if bits >> 31 else x
  return x


def _key(a, b):
  return np.array([a], np.uint32), np.array([b], np.uint32)


@pytest.mark.parametrize('size', [*range(1, 12), 37, 256, 1297])
def test_any_size_is_permuted_as_the_reference_does(size):
  key = (123456789 * size & _MASK, 987654321)
  positions = np.arange(size, dtype=np.uint32)
  found = _bits.permute(positions, size, _key(*key), size)
  assert sorted(found.tolist()) == list(range(size))
  rounds = 32 + 2 * size.bit_length()
  some = range(0, size, 1 + size // 40)
  assert found[list(some)].tolist() == [_permute(x, size, key, rounds) for x in some]


def test_sizes_and_keys_may_differ_by_position():
  sizes = np.array([1, 3, 5, 1000], np.uint32)
  keys = (np.array([1, 2, 3, 4], np.uint32), np.array([9, 8, 7, 6], np.uint32))
  x = np.array([0, 2, 4, 77], np.uint32)
  found = _bits.permute(x, sizes, keys, 1000)
  rounds = 32 + 2 * (1000).bit_length()
  wanted = [
    _permute(int(p), int(n), (int(a), int(b)), rounds)
    for p, n, a, b in zip(x, sizes, *keys)
  ]
  assert found.tolist() == wanted
  traced = jax.jit(_bits.permute, static_argnums=3)(x, sizes, keys, 1000)
  assert traced.tolist() == wanted


def test_draws_below_a_bound_are_a_product_of_64_bits():
  words = np.random.default_rng(0).integers(0, 2**32, (2, 200), np.uint32)
  words[:, :2] = [[0, _MASK], [0, _MASK]]
  for size in (1, 2, 10, 60000, 2**31 - 1):
    found = _bits.below(tuple(words), np.uint32(size))
    wanted = [((int(high) << 32 | int(low)) * size) >> 64 for high, low in words.T]
    assert found.tolist() == wanted
    assert jax.jit(_bits.below)(tuple(words), np.uint32(size)).tolist() == wanted


def test_folding_never_sends_two_values_to_one_key():
  a, b = _bits.fold(_key(3, 4), np.arange(2**16, dtype=np.uint32))
  assert len(set(zip(a.tolist(), b.tolist()))) == 2**16


def test_pairs_of_places_are_uniform():
  # 42 ordered pairs of 7; key words next to each other, as seeds and passes are.
  draws = 42 * 200
  keys = _bits.fold(_key(0, 0), np.arange(draws, dtype=np.uint32))
  first, second = (
    _bits.permute(np.full(draws, x, np.uint32), 7, keys, 7).astype(int) for x in (0, 1)
  )
  counts = np.bincount(first * 7 + second, minlength=49).reshape(7, 7)
  assert not counts.diagonal().any()
  off = counts[~np.eye(7, dtype=bool)]
  chi_square = ((off - 200) ** 2 / 200).sum()
  # 41 degrees of freedom: mean 41, standard deviation 9.1.
  assert 41 - 4 * 9.1 < chi_square < 41 + 4 * 9.1


def test_subsets_overlap_as_much_as_chance_would_have_it():
  size, taken, draws = 500, 50, 400
  keys = _bits.fold(_key(1, 0), np.repeat(np.arange(draws), taken).astype(np.uint32))
  places = np.tile(np.arange(taken, dtype=np.uint32), draws)
  found = _bits.permute(places, size, keys, size).reshape(draws, taken)
  inside = np.zeros((draws, size))
  np.put_along_axis(inside, found.astype(int), 1, axis=1)
  overlaps = (inside @ inside.T)[np.triu_indices(draws, 1)]
  # Hypergeometric: mean n^2 / N, variance n^2/N (1 - n/N)^2 N/(N-1); the pairs of 400
  # sets are correlated little, so that the error of the mean is about that of 400.
  variance = 50**2 / 500 * 0.9**2 * 500 / 499
  assert abs(overlaps.mean() - 5) < 4 * np.sqrt(variance / 400)
  assert abs(overlaps.var() / variance - 1) < 0.05
  # How often each element is taken: binomial.
  counts = inside.sum(0)
  assert abs(counts.var() / (draws * 0.1 * 0.9) - 1) < 4 * np.sqrt(2 / size)


def test_seeds_are_ints_integer_scalars_or_typed_keys():
  assert _bits.words_of(2**32 + 5).tolist() == [5, 1]
  assert jax.jit(_bits.words_of)(jnp.int32(5)).tolist() == [5, 0]
  key = jax.random.key(7)
  assert _bits.words_of(key).tolist() == jax.random.key_data(key).tolist()
  for wrong in (-1, 2**63, 0.5, True, np.zeros(2), 'a'):
    with pytest.raises(ValueError, match='seed='):
      _bits.words_of(wrong)

"""Where the largest keys are, against NumPy's sort."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse as js
from jaxsparse.native import _library


def _expected(keys, ties, num):
  # The last key of lexsort comes first; of equal pairs the first stand first.
  order = np.lexsort((np.arange(keys.size), ~ties, ~keys))
  return np.sort(order[:num])


@pytest.mark.parametrize('kernel', [True, False])
@pytest.mark.parametrize('size', [0, 1, 7, 3001])
def test_the_largest_are_numpys(size, kernel, monkeypatch):
  if not kernel:
    monkeypatch.setattr(_library, '_load', lambda: (None, 'not wanted'))
  elif not js.native.available():
    pytest.skip(f'no kernels: {js.native.why_not()}')
  rng = np.random.default_rng(size)
  wide = rng.integers(0, 2**32, size, np.uint32)
  floats = np.abs(rng.normal(size=size)).astype(np.float32).view(np.uint32)
  few = rng.integers(0, 3, size, np.uint32) << np.uint32(30)
  # What was the largest until now stands first, and few others are as large.
  first = np.sort(floats)[::-1].copy()
  first[size // 5 :: 3] = floats[: len(first[size // 5 :: 3])]
  # Near one another, so that more than the first bits must decide.
  near = (rng.integers(0, 2**12, size, np.uint32) << np.uint32(6)) + np.uint32(2**30)
  pairs = [
    (wide, few),
    (floats, wide),
    (few, wide),
    (few, few),
    (first, wide),
    (near, few),
  ]
  for keys, ties in pairs:
    for num in (0, size // 5, size):
      # A fresh function: jit must not remember the other path.
      found = jax.jit(lambda k, t, n=num: js.native.top_indices(k, t, n))(keys, ties)
      np.testing.assert_array_equal(found, _expected(keys, ties, num))
  if size:
    both = jax.vmap(lambda k: js.native.top_indices(k, wide, 1))(jnp.stack([wide, few]))
    np.testing.assert_array_equal(both[1], _expected(few, wide, 1))


@pytest.mark.parametrize(
  'keys, ties, num, match',
  [
    (jnp.zeros(3), jnp.zeros(3, jnp.uint32), 1, 'keys='),
    (jnp.zeros(3, jnp.uint32), jnp.zeros(2, jnp.uint32), 1, 'ties='),
    (jnp.zeros(3, jnp.uint32), jnp.zeros(3, jnp.uint32), 4, 'num=4'),
  ],
)
def test_arguments_are_checked(keys, ties, num, match):
  with pytest.raises(ValueError, match=match):
    js.native.top_indices(keys, ties, num)

"""The order of integers, against NumPy's lexicographic sort."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse as js
from jaxsparse.native import _library


@pytest.mark.parametrize('kernel', [True, False])
@pytest.mark.parametrize('size', [0, 1, 5, 3001])
def test_the_order_is_numpys(size, kernel, monkeypatch):
  if not kernel:
    monkeypatch.setattr(_library, '_load', lambda: (None, 'not wanted'))
  elif not js.native.available():
    pytest.skip(f'no kernels: {js.native.why_not()}')
  rng = np.random.default_rng(size)
  wide = rng.integers(0, 2**32, size, np.uint32)
  keys = [rng.integers(0, 7, size, np.uint32), wide, np.full(size, 9, np.uint32)]
  # A fresh function: jit must not remember the other path.
  found = jax.jit(lambda *k: js.native.argsort(*k))(*map(jnp.asarray, keys))
  # NumPy's last key is the first; both sorts are stable.
  np.testing.assert_array_equal(found, np.lexsort(keys[::-1]))
  both = jax.vmap(js.native.argsort)(jnp.stack([keys[0], keys[1]]))
  np.testing.assert_array_equal(both[1], np.argsort(wide, kind='stable'))


def test_keys_are_checked():
  for keys in (
    (),
    (jnp.zeros(3),),
    (jnp.zeros(3, jnp.uint32), jnp.zeros(2, jnp.uint32)),
  ):
    with pytest.raises(ValueError, match='keys='):
      js.native.argsort(*keys)

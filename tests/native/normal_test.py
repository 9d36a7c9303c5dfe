"""Normal numbers by index: jax's own, and what a stream of numbers must be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

import jaxsparse as js
from jaxsparse.native import _library

_KEY = jax.random.key(7)
_N = 200_001


@pytest.fixture(params=['kernel', 'jnp'])
def normal(request, monkeypatch):
  if request.param == 'jnp':
    monkeypatch.setattr(_library, '_load', lambda: (None, 'not wanted'))
  elif js.native.instruction_set() in (None, 'portable'):
    pytest.skip(f'no fast kernel: {js.native.why_not()}')
  monkeypatch.setattr(_library, 'stays_whole', lambda: True)
  # A fresh function: jit must not remember the other path.
  return lambda *args, **kwargs: js.native.normal(*args, **kwargs)


def _close(found, wanted):
  # What XLA's inverse of the error function is off by itself.
  np.testing.assert_allclose(found, wanted, rtol=8e-6)


def test_the_numbers_are_those_of_jax(normal):
  dense = jax.random.normal(_KEY, (_N,))
  found = jax.jit(lambda key: normal(key, (_N,)))(_KEY)
  _close(found, dense)
  for size in (0, 1, 7, 33):
    index = np.random.default_rng(size).integers(0, _N, size).astype(np.uint32)
    some = jax.jit(lambda key, i: normal(key, i.shape, i))(_KEY, index)
    _close(some, np.asarray(dense)[index])
  square = jax.jit(lambda key: normal(key, (3, 5, 37), feature_major=True))(_KEY)
  _close(square, jax.random.normal(_KEY, (3, 5, 37)))
  keys = jax.random.split(_KEY, 3)
  each = jax.jit(jax.vmap(lambda key: normal(key, (50,))))(keys)
  _close(each, jnp.stack([jax.random.normal(key, (50,)) for key in keys]))


def test_the_inverse_is_right_to_the_last_digits(normal):
  """Against double precision, tails included."""
  low = np.nextafter(np.float32(-1), np.float32(0))
  uniform = jax.random.uniform(_KEY, (_N,), jnp.float32, low, 1.0)
  wanted = np.sqrt(2) * special.erfinv(np.asarray(uniform, np.float64))
  found = np.asarray(jax.jit(lambda key: normal(key, (_N,)))(_KEY), np.float64)
  assert np.abs(wanted).max() > 4
  np.testing.assert_allclose(found, wanted, rtol=8e-6)


@pytest.mark.parametrize('seed', [0, 1])
def test_statistics(normal, seed):
  """Moments, Kolmogorov-Smirnov, neighbours, and keys that differ in one bit."""
  draw = jax.jit(lambda key: normal(key, (_N,)))
  key, other = jax.random.key(2 * seed), jax.random.key(2 * seed + 1)
  z, w = np.asarray(draw(key), float), np.asarray(draw(other), float)
  # E z^k and its variance, in standard errors.
  for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
    assert abs((z**power).mean() - mean) < 4 * np.sqrt(variance / _N)
  assert stats.kstest(z, 'norm').pvalue > 1e-3
  for a, b in ((z[1:], z[:-1]), (z[2:], z[:-2]), (z[64:], z[:-64]), (z, w)):
    for f in (lambda x: x, np.square, np.abs):
      assert abs(np.corrcoef(f(a), f(b))[0, 1]) < 4 / np.sqrt(_N)
  signs = np.bincount((z[:200_000] > 0).reshape(-1, 4) @ [1, 2, 4, 8], minlength=16)
  assert stats.chisquare(signs).pvalue > 1e-3


def test_what_has_no_index_is_refused():
  assert js.native.can_index(_KEY)
  assert not js.native.can_index(jax.random.key(0, impl='rbg'))
  with pytest.raises(ValueError, match='key: rbg'):
    js.native.normal(jax.random.key(0, impl='rbg'), (3,))
  with pytest.raises(ValueError, match='index: int32'):
    js.native.normal(_KEY, (3,), jnp.zeros(3, jnp.int32))

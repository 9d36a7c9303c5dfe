"""The Pallas kernels, interpreted, against NumPy; and whom they are chosen for."""

import dataclasses
import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse as js
from jaxsparse.sparse import _backends, _pallas

pytestmark = pytest.mark.skipif(
  _pallas.why_not(js.sparse.Format((1, 1))) is not None, reason='no Triton in this jax'
)


def make(shape, density, *, depth=1, block=1, nm=None, dtype=jnp.float32, spare=2):
  """A `SparseArray` with rows and inputs without any weight; padding is NaN."""
  rng = np.random.default_rng(0)
  fmt = js.sparse.Format(shape, block=block, depth=depth, nm=nm)
  if nm is not None:
    grouped = rng.random((fmt.groups, nm[1], fmt.outputs))
    kept = (grouped.argsort(1).argsort(1) < nm[0]).reshape(shape)
    kept[: nm[1], 0] = False
  else:
    kept = rng.random((shape[0] // depth, shape[1] // block)) < density
    kept[:, 1:2] = kept[1:2] = density >= 1
    kept = np.repeat(np.repeat(kept, depth, 0), block, 1)
  dense = jnp.asarray(np.where(kept, rng.normal(size=shape), 0), dtype)
  if nm is not None:
    return js.sparse.from_mask(dense, kept, format=fmt)
  capacity = int(kept.sum()) // block + spare
  array = js.sparse.from_mask(dense, kept, format=fmt, capacity=capacity)
  values = array.values.at[array.values.size - spare * block :].set(jnp.nan)
  return dataclasses.replace(array, values=values)


@functools.partial(jax.jit, static_argnames='backend')
def run(array, x, dy, backend='pallas'):
  def product(values, x):
    given = dataclasses.replace(array, values=values)
    return js.sparse.matmul(x, given, backend=backend)

  y, pull = jax.vjp(product, array.values, x)
  return y, *pull(dy)


def compare(array, batch):
  rng, fmt, dtype = np.random.default_rng(1), array.pattern.format, array.dtype
  x, dy = (jnp.asarray(rng.normal(size=(batch, n)), dtype) for n in fmt.shape)
  found = run(array, x, dy)
  dense = np.asarray(js.sparse.to_dense(array), np.float64)
  x, dy = np.asarray(x, np.float64), np.asarray(dy, np.float64)
  dw = js.sparse.gather(jnp.asarray(x.T @ dy, jnp.float32), array.pattern)
  # On a GPU products of float32 have the 11 bits of TF32.
  exact = dtype == jnp.float32 and jax.default_backend() == 'cpu'
  tolerance = 2e-6 if exact else 2**-7
  for got, wanted in zip(found, (x @ dense, np.float64(dw), dy @ dense.T)):
    assert got.dtype == dtype and got.shape == wanted.shape
    scale = tolerance * max(np.abs(wanted).max(initial=0), 1)
    np.testing.assert_allclose(np.float64(got), wanted, atol=scale)


@pytest.mark.parametrize(
  'options, batch',
  [
    # In bfloat16, with a batch that no tile divides.
    (dict(shape=(64, 48), density=0.5, depth=16, block=16, dtype=jnp.bfloat16), 129),
    # Slices of one input, sizes that are no powers of two, rows longer than a chunk.
    (dict(shape=(70, 24), density=0.9, block=12), 7),
    pytest.param(dict(shape=(33, 9), density=1.0), 1, marks=pytest.mark.long),
    (dict(shape=(32, 24), density=0.5, nm=(2, 4)), 7),
  ],
)
def test_products_and_gradients(options, batch):
  compare(make(**options), batch)


@pytest.mark.parametrize('capacity, batch', [(0, 7), (2, 7), (2, 0)])
def test_nothing_kept_or_nothing_given(capacity, batch):
  array = make((33, 9), 0.0, spare=capacity)
  y, dvalues, dx = run(array, jnp.ones((batch, 33)), jnp.ones((batch, 9)))
  assert y.shape == (batch, 9) and dx.shape == (batch, 33)
  assert not y.any() and not dx.any() and not dvalues.any()


def test_vmap_of_stacked_layers():
  array = make((32, 24), 0.5, nm=(2, 4))
  two = jax.tree.map(lambda a: jnp.stack([a, a]), array)
  two = dataclasses.replace(two, values=two.values.at[1].multiply(2))
  x = jnp.asarray(np.random.default_rng(3).normal(size=(2, 3, 32)), jnp.float32)
  y = jax.jit(jax.vmap(lambda a, x: js.sparse.matmul(x, a, backend='pallas')))(two, x)
  dense = js.sparse.to_dense(array)
  np.testing.assert_allclose(y, x @ jnp.stack([dense, 2 * dense]), atol=2e-2)


def test_a_wrong_pattern_reads_nothing_outside():
  # Values may be anything then, but the arrays are not left.
  array = make((33, 9), 0.5)
  for field, value in (('inputs', 60_000), ('starts', 10**6), ('order', -5)):
    wrong = getattr(array.pattern, field).at[3].set(value)
    pattern = dataclasses.replace(array.pattern, **{field: wrong})
    given = dataclasses.replace(array, pattern=pattern)
    y, _, _ = run(given, jnp.ones((1, 33)), jnp.ones((1, 9)))
    assert y.shape == (1, 9)


def test_the_program_for_a_gpu_is_made_without_one():
  array = make((64, 48), 0.5, depth=16, block=16)
  traced = run.trace(array, jnp.ones((7, 64)), jnp.ones((7, 48)))
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore', DeprecationWarning)
      lowered = traced.lower(lowering_platforms=('cuda',))
  except RuntimeError as error:
    pytest.skip(f'this jax wants to see a GPU: {error}')
  # One kernel for the product, two for the gradients, nothing interpreted.
  text = lowered.as_text()
  assert text.count('xla.gpu.triton') == 3 and 'stablehlo.while' not in text


def test_whom_a_gpu_chooses_them_for(monkeypatch):
  monkeypatch.setattr(js.native, 'stays_whole', lambda: True)
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  choose = lambda array: js.sparse.choose_backend(array.pattern, 512)
  deep = make((256, 256), 0.03, depth=32, block=32)
  assert choose(deep) == 'reference' and int(deep.pattern.count) > 0
  # It is the size of the product that was too small.
  monkeypatch.setattr(_backends, '_PALLAS_WORK', 512 * 256 * 256)
  assert choose(deep) == 'pallas'
  monkeypatch.setattr(_backends, '_PALLAS_WORK', 0)
  for array in (
    make((64, 64), 1.0, depth=32, block=32),
    make((64, 48), 0.02, depth=16, block=16),
    make((64, 64), 0.02, block=32),
    make((64, 48), 0.005),
    make((32, 24), 0.5, nm=(2, 4)),
  ):
    assert choose(array) == 'reference'
  assert not js.native.available() and 'computes on a gpu' in js.native.why_not()
  with pytest.raises(ValueError, match="backend='cpu': jax computes on a gpu"):
    js.sparse.matmul(jnp.ones((1, 256)), deep, backend='cpu')
  # What was chosen for the GPU and runs on a CPU all the same is not interpreted.
  x = jnp.ones((3, 256))
  product = jax.jit(lambda x: js.sparse.matmul(x, deep))
  assert 'pallas_call' in str(jax.make_jaxpr(product)(x))
  wanted = jnp.sum(js.sparse.to_dense(deep), 0)[None]
  np.testing.assert_allclose(product(x), jnp.tile(wanted, (3, 1)), atol=2e-4)
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  assert choose(deep) == 'reference'
  with pytest.raises(ValueError, match='there are no kernels for a tpu'):
    js.sparse.matmul(x, deep, backend='pallas')


def test_mistakes():
  for options, message in (
    (dict(block=256), 'blocks of 1x256; the kernels have up to 128'),
    (dict(nm=(4, 16)), r'nm=\(4, 16\); the kernels have groups of up to 8'),
    (dict(input_tile=16), 'a format with tiles'),
  ):
    fmt = js.sparse.Format((64, 256), **options)
    mask = np.zeros(fmt.shape, bool)
    array = js.sparse.from_mask(np.zeros(fmt.shape, np.float32), mask, format=fmt)
    with pytest.raises(ValueError, match=f"backend='pallas': {message}"):
      js.sparse.matmul(jnp.ones((1, 64)), array, backend='pallas')
  kernel = np.ones((3, 3, 4, 4), np.float32)
  with pytest.raises(ValueError, match='no kernels for convolutions'):
    weight = js.sparse.from_mask(kernel, kernel > 0)
    js.sparse.conv(weight, jnp.ones((1, 5, 5, 4)), backend='pallas')

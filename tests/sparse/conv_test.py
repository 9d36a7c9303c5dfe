"""Convolutions and their gradients by each backend against NumPy, in float64."""

import dataclasses
import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse as js

NATIVE = js.native.available()
BACKENDS = ['reference', *(['cpu'] if NATIVE else [])]
needs_native = pytest.mark.skipif(
  not NATIVE, reason=f'no kernels: {js.native.why_not()}'
)
MARGIN = 8


def make(shape, density, block=1, *, seed=0, spare=3, **tiles):
  """`(SparseArray, dense kernel in NumPy)`."""
  rng = np.random.default_rng(seed)
  kept = rng.random((*shape[:3], shape[3] // block)) < density
  # An output and an input feature without any weight.
  kept[..., 1:2] = kept[:, :, 2:3] = density >= 1
  mask = np.repeat(kept, block, axis=-1)
  dense = np.where(mask, rng.normal(size=shape), 0).astype(np.float32)
  fmt = js.sparse.Format(shape, 3, block, **tiles)
  capacity = int(kept.sum()) + spare
  return js.sparse.from_mask(dense, mask, format=fmt, capacity=capacity), dense


@functools.partial(jax.jit, static_argnames=('strides', 'padding', 'backend'))
def run(array, x, dy, **options):
  """`(y, dvalues, dx)`."""

  def product(values, x):
    given = dataclasses.replace(array, values=values)
    return js.sparse.conv(given, x, **options)

  y, pull = jax.vjp(product, array.values, x)
  return y, *pull(dy)


def expected(dense, x, dy, strides, before):
  """`(y, dw, dx)`, tap by tap."""
  w, x, dy = (np.asarray(a, np.float64) for a in (dense, x, dy))
  edge = ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0))
  x = np.pad(x, edge)
  y, dw, dx = np.zeros_like(dy), np.zeros_like(w), np.zeros_like(x)
  for tap in np.ndindex(w.shape[:2]):
    h, w_ = (
      MARGIN - b + t + s * np.arange(n)
      for b, t, s, n in zip(before, tap, strides, dy.shape[1:3])
    )
    seen = np.s_[:, h[:, None], w_[None, :]]
    y += x[seen] @ w[tap]
    dw[tap] = np.einsum('nhwc,nhwo->co', x[seen], dy)
    dx[seen] += dy @ w[tap].T
  return y, dw, dx[:, MARGIN:-MARGIN, MARGIN:-MARGIN]


def images(array, batch, size, out_size, dtype='float32'):
  rng = np.random.default_rng(1)
  shape = array.shape
  x = jnp.asarray(rng.normal(size=(batch, *size, shape[2])), dtype)
  return x, jnp.asarray(rng.normal(size=(batch, *out_size, shape[3])), dtype)


def compare(
  array, dense, batch, size, backend, strides=(1, 1), padding='SAME', dtype=jnp.float32
):
  """`padding` is 'SAME', 'VALID' or two pairs."""
  pads = padding
  if isinstance(padding, str):
    pads = jax.lax.padtype_to_pads(size, dense.shape[:2], strides, padding)
  out_size = [
    (n + sum(p) - k) // s + 1 for n, p, k, s in zip(size, pads, dense.shape, strides)
  ]
  x, dy = images(array, batch, size, out_size, dtype)
  got = run(array, x, dy, strides=strides, padding=padding, backend=backend)
  y, dw, dx = expected(dense, x, dy, strides, [before for before, _ in pads])
  inputs, outputs, valid = (np.asarray(a) for a in places(array.pattern))
  block = array.pattern.format.block
  dvalues = np.zeros(array.values.size)
  for i in range(block):
    dw2 = dw.reshape(array.pattern.format.inputs, -1)
    dvalues[i::block] = np.where(valid, dw2[inputs, outputs * block + i], 0)
  tolerance = 2e-6 if dtype == jnp.float32 else 2**-7
  for a, b in zip(got, (y, dvalues, dx)):
    assert a.dtype == dtype
    scale = max(1, np.abs(b).max(initial=0))
    np.testing.assert_allclose(
      np.float64(a) / scale, b / scale, rtol=tolerance, atol=10 * tolerance
    )


@jax.jit
def places(pattern):
  return js.sparse.coordinates(pattern)


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('batch', [1, 7, 17])
def test_any_batch(batch, backend):
  compare(*make((3, 3, 5, 6), 0.3), batch, (6, 5), backend)


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize(
  'shape, density, size, strides, padding',
  [
    ((3, 3, 4, 20), 0.0, (4, 4), (1, 1), 'SAME'),  # nothing kept
    ((3, 3, 20, 4), 1.0, (4, 3), (1, 1), 'VALID'),  # everything kept
    ((3, 3, 4, 5), 0.5, (9, 10), (2, 2), 'SAME'),
    ((1, 1, 18, 19), 0.3, (5, 4), (1, 1), 'SAME'),
    ((1, 1, 4, 5), 0.5, (5, 4), (2, 2), 'SAME'),  # places that nothing sees
    ((2, 4, 3, 5), 0.5, (7, 9), (3, 2), ((1, 0), (3, 1))),
    ((3, 3, 3, 4), 0.5, (1, 1), (1, 1), 'SAME'),  # most taps see only padding
    ((5, 5, 3, 4), 0.3, (8, 7), (1, 2), ((-1, 2), (0, -2))),  # cropped
  ],
)
def test_odd_shapes(shape, density, size, strides, padding, backend):
  compare(*make(shape, density), 5, size, backend, strides, padding)


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('block', [1, 2])
def test_blocks_and_tiles(block, backend):
  tiles = dict(input_tile=16, output_tile=4)
  compare(*make((3, 3, 5, 8), 0.3, block, **tiles), 3, (4, 4), backend)


@needs_native
def test_every_tile_of_the_kernels():
  # One to four vectors in a row, windows that slide, several bands of columns.
  array, dense = make((3, 3, 33, 17), 0.1)
  for batch, size in ((16, (3, 7)), (16, (2, 2)), (64, (1, 3))):
    compare(array, dense, batch, size, 'cpu')
  compare(*make((3, 3, 130, 4), 0.05), 16, (9, 40), 'cpu')


@pytest.mark.parametrize('backend', BACKENDS)
def test_half_precision_and_padding_that_is_never_read(backend):
  array, dense = make((3, 3, 5, 6), 0.3)
  halved = array.values.astype(jnp.bfloat16).at[-3:].set(jnp.nan)
  rounded = np.asarray(jnp.asarray(dense, jnp.bfloat16))
  halved = dataclasses.replace(array, values=halved)
  compare(halved, rounded, 3, (4, 4), backend, dtype=jnp.bfloat16)


@pytest.mark.parametrize('backend', BACKENDS)
def test_an_empty_batch(backend):
  array, _ = make((3, 3, 5, 6), 0.3)
  x, dy = images(array, 0, (4, 4), (4, 4))
  y, dvalues, dx = run(array, x, dy, backend=backend)
  assert y.shape == dy.shape and dx.shape == x.shape and not dvalues.any()


@pytest.mark.parametrize('backend', BACKENDS)
def test_vmap_and_gradients_of_a_masked_dense_kernel(backend):
  array, dense = make((3, 3, 5, 6), 0.3)
  rng = np.random.default_rng(3)
  x = jnp.asarray(rng.normal(size=(2, 3, 4, 4, 5)), jnp.float32)
  values = jnp.stack([array.values, array.values * 2])

  @jax.jit
  @functools.partial(jax.vmap, in_axes=(0, 0))
  def grads(values, x):
    def loss(values, x):
      given = dataclasses.replace(array, values=values)
      return jnp.sum(jnp.sin(js.sparse.conv(given, x, backend=backend)))

    return jax.grad(loss, (0, 1))(values, x)

  @jax.jit
  def masked(scale, x):
    def loss(w, x):
      y = jax.lax.conv_general_dilated(
        x, w, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
      )
      return jnp.sum(jnp.sin(y))

    dw, dx = jax.grad(loss, (0, 1))(dense * scale, x)
    return js.sparse.gather(dw, array.pattern), dx

  got = grads(values, x)
  for i in range(2):
    wanted = masked(jnp.float32(i + 1), x[i])
    for a, b in zip(got, wanted):
      np.testing.assert_allclose(a[i], b, atol=5e-5)


@needs_native
def test_what_nobody_differentiates_is_not_computed():
  array, _ = make((3, 3, 5, 6), 0.3)
  x = jnp.ones((3, 4, 4, 5))

  def loss(values, x):
    given = dataclasses.replace(array, values=values)
    return js.sparse.conv(given, x, backend='cpu').sum()

  def calls(argnums):
    text = str(jax.make_jaxpr(jax.grad(loss, argnums))(array.values, x))
    return [n for n in ('values', 'x') if f'jaxsparse_conv_backward_{n}' in text]

  assert calls(0) == ['values'] and calls(1) == ['x'] and calls((0, 1)) == []
  # Each half alone is what it is together with the other.
  both = jax.jit(jax.grad(loss, (0, 1)))(array.values, x)
  for i in range(2):
    np.testing.assert_array_equal(jax.grad(loss, i)(array.values, x), both[i])


_ON_ONE_CORE = """
import os, sys
os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])
sys.path.insert(0, sys.argv[1])
import numpy as np
import conv_test
array, _ = conv_test.make((3, 3, 20, 24), 0.2)
given = conv_test.images(array, 40, (12, 12), (12, 12))
np.savez(sys.argv[2], *conv_test.run(array, *given, backend='cpu'))
"""


@needs_native
@pytest.mark.skipif(not hasattr(os, 'sched_setaffinity'), reason='cannot choose cores')
def test_the_same_bits_from_run_to_run_and_the_same_sums_on_one_core(tmp_path):
  array, _ = make((3, 3, 20, 24), 0.2)
  given = images(array, 40, (12, 12), (12, 12))
  first, second = (run(array, *given, backend='cpu') for _ in range(2))
  for a, b in zip(first, second):
    np.testing.assert_array_equal(a, b)
  path = tmp_path / 'one.npz'
  here = os.path.dirname(__file__)
  subprocess.run([sys.executable, '-c', _ON_ONE_CORE, here, str(path)], check=True)
  with np.load(path) as one:
    for a, b in zip(first, one.values()):
      np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())


@needs_native
@pytest.mark.parametrize('field', ['inputs', 'back_rows', 'order'])
def test_the_kernels_never_read_out_of_bounds(field):
  array, _ = make((3, 3, 5, 6), 0.3)
  changed = getattr(array.pattern, field).at[0].set(10**4)
  pattern = dataclasses.replace(array.pattern, **{field: changed})
  wrong = dataclasses.replace(array, pattern=pattern)
  x, dy = images(array, 7, (6, 5), (6, 5))
  with pytest.raises((ValueError, jax.errors.JaxRuntimeError), match='out of range'):
    jax.block_until_ready(run(wrong, x, dy, backend='cpu'))


def test_the_backend_is_chosen(monkeypatch):
  sparse, _ = make((3, 3, 5, 6), 0.1)
  full, _ = make((3, 3, 5, 6), 1.0)
  choose = lambda a, n: js.sparse.choose_backend(a.pattern, n, 'conv')
  monkeypatch.setattr(js.native, 'stays_whole', lambda: True)
  monkeypatch.setattr(js.native, 'available', lambda: True)
  assert choose(sparse, 128) == 'cpu' and choose(full, 128) == 'reference'
  assert choose(sparse, 7) == 'reference'  # narrower than a vector
  monkeypatch.setattr(js.native, 'stays_whole', lambda: False)
  assert choose(sparse, 128) == 'reference'
  monkeypatch.setattr(js.native, 'available', lambda: False)
  with pytest.raises(ValueError, match="backend='cpu': "):
    js.sparse.conv(sparse, jnp.ones((1, 4, 4, 5)), backend='cpu')
  with pytest.raises(ValueError, match="product='pool'"):
    js.sparse.choose_backend(sparse.pattern, 1, 'pool')


@pytest.mark.parametrize(
  'x, options, message',
  [
    (jnp.ones((1, 4, 4, 10)), {}, r'wanted floats \(batch, height, width, 5\)'),
    (jnp.ones((4, 4, 5)), {}, r'x: float32 of shape \(4, 4, 5\)'),
    (jnp.ones((1, 4, 4, 5), jnp.int32), {}, 'x: int32'),
    (jnp.ones((1, 4, 4, 5)), dict(strides=0), r'strides=\(0, 0\)'),
    (jnp.ones((1, 4, 4, 5)), dict(strides=(1, 1, 1)), r'strides=\(1, 1, 1\)'),
    (jnp.ones((1, 4, 4, 5)), dict(padding='CIRCULAR'), "padding='CIRCULAR'"),
    (jnp.ones((1, 4, 4, 5)), dict(padding=((1, 1),)), r'padding=\(\(1, 1\),\)'),
    (jnp.ones((1, 4, 4, 5)), dict(backend='gpu'), "backend='gpu': wanted one of"),
  ],
)
def test_mistakes(x, options, message):
  array, _ = make((3, 3, 5, 6), 0.3)
  with pytest.raises(ValueError, match=message):
    js.sparse.conv(array, x, **options)


def test_other_weights_are_refused():
  matrix = js.sparse.from_mask(jnp.ones((4, 5)), jnp.ones((4, 5), bool))
  with pytest.raises(ValueError, match=r'weight: shape \(4, 5\) with 1 input axes'):
    js.sparse.conv(matrix, jnp.ones((1, 4, 4, 4)))

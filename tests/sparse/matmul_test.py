"""Products and gradients of each backend against NumPy, in float64."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse as js
from jaxsparse.sparse import _reference

NATIVE = js.native.available()
BACKENDS = ['reference', *(['cpu'] if NATIVE else [])]
needs_native = pytest.mark.skipif(
  not NATIVE, reason=f'no kernels: {js.native.why_not()}'
)

# One way to make an array of every shape: one function to compile per shape.
TILED = dict(input_tile=16, output_tile=16)


def make(shape, density, block=1, *, in_axes=None, seed=0, spare=3, tiles=None):
  """`(SparseArray, dense weight in NumPy)`."""
  rng = np.random.default_rng(seed)
  fmt = js.sparse.Format(shape, in_axes, block, **(TILED if tiles is None else tiles))
  kept = rng.random((fmt.inputs, fmt.rows)) < density
  # Rows and inputs without any weight.
  kept[:, 1:2] = kept[2:3] = density >= 1
  mask = np.repeat(kept, block, axis=1).reshape(shape)
  dense = np.where(mask, rng.normal(size=shape), 0).astype(np.float32)
  capacity = int(kept.sum()) + spare
  return js.sparse.from_mask(dense, mask, format=fmt, capacity=capacity), dense


@jax.jit
def gathered(dense, pattern):
  return js.sparse.gather(dense, pattern)


@functools.partial(jax.jit, static_argnums=3)
def run(array, x, dy, backend):
  """`(y, dvalues, dx)`."""

  def product(values, x):
    given = dataclasses.replace(array, values=values)
    return js.sparse.matmul(x, given, backend=backend)

  y, pull = jax.vjp(product, array.values, x)
  return y, *pull(dy)


def compare(array, dense, batch, backend, tolerance=2e-6):
  rng = np.random.default_rng(1)
  dtype = array.dtype
  fmt = array.pattern.format
  x = jnp.asarray(rng.normal(size=(batch, *fmt.in_shape)), dtype)
  dy = jnp.asarray(rng.normal(size=(batch, *fmt.out_shape)), dtype)
  y, dvalues, dx = map(np.asarray, run(array, x, dy, backend))
  w, x64, dy64 = (
    np.asarray(a, np.float64).reshape(-1, n)
    for a, n in ((dense, fmt.outputs), (x, fmt.inputs), (dy, fmt.outputs))
  )
  dw = np.float32(x64.T @ dy64).reshape(fmt.shape)
  for got, wanted in (
    (y, x64 @ w),
    (dx, dy64 @ w.T),
    (dvalues, np.asarray(gathered(dw, array.pattern))),
  ):
    assert got.dtype == dtype
    got, wanted = got.astype(np.float64).ravel(), wanted.ravel()
    scale = np.sqrt(max(fmt.inputs, fmt.outputs, batch))
    np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('batch', [1, 7, 129])
@pytest.mark.parametrize('block', [1, 4])
def test_any_batch(block, batch, backend):
  compare(*make((40, 48), 0.2, block), batch, backend)


@needs_native
@pytest.mark.parametrize(
  'block, tiles, batch',
  [
    *((1, {}, batch) for batch in (2, 16, 33, 64, 100, 128, 257)),
    *((1, TILED, batch) for batch in (33, 257)),
    *((8, {}, batch) for batch in (33, 100, 257)),
  ],
)
def test_every_tile_of_the_kernels(block, tiles, batch):
  compare(*make((19, 24), 0.3, block, tiles=tiles), batch, 'cpu')


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize(
  'shape, density, block',
  [
    ((40, 48), 0.0, 1),  # nothing kept
    ((40, 48), 1.0, 1),  # everything kept
    ((40, 48), 0.02, 1),  # so sparse that the reference gathers
    ((1, 1), 1.0, 1),
    ((1, 48), 0.5, 16),
    ((70_000, 4), 0.001, 1),  # wide indices of inputs
    ((3, 262_148), 0.001, 4),  # 65 537 rows: wide too
  ],
)
def test_odd_shapes(shape, density, block, backend):
  compare(*make(shape, density, block, tiles={}), 5, backend)


@pytest.mark.parametrize('backend', BACKENDS)
def test_several_axes(backend):
  # As of a DenseGeneral: (2, 5) inputs, (4, 6) outputs.
  compare(*make((2, 5, 4, 6), 0.4, in_axes=2), 3, backend)


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('density', [0.05, 0.4])
def test_transposed(density, backend):
  array, dense = make((40, 48), density, 4)
  rng = np.random.default_rng(5)
  x = jnp.asarray(rng.normal(size=(7, 48)), jnp.float32)
  dy = jnp.asarray(rng.normal(size=(7, 40)), jnp.float32)

  @jax.jit
  def both(array, x, dy):
    def product(values, x):
      given = dataclasses.replace(array, values=values)
      return js.sparse.matmul(x, given, transpose=True, backend=backend)

    y, pull = jax.vjp(product, array.values, x)
    return y, *pull(dy)

  y, dvalues, dx = both(array, x, dy)
  np.testing.assert_allclose(y, x @ dense.T, atol=2e-5)
  np.testing.assert_allclose(dx, dy @ dense, atol=2e-5)
  np.testing.assert_allclose(dvalues, gathered(dy.T @ x, array.pattern), atol=2e-5)


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('block', [1, 4])
def test_take(block, backend):
  array, dense = make((40, 48), 0.2, block)
  # A repeated id, one from the end, two that do not exist.
  ids = jnp.array([[3, 0, 3], [-1, 40, -41]], jnp.int32)
  dy = jnp.asarray(np.random.default_rng(6).normal(size=(2, 3, 48)), jnp.float32)

  @jax.jit
  def both(array, dy):
    def rows(values):
      given = dataclasses.replace(array, values=values)
      return js.sparse.take(given, ids, backend=backend)

    y, pull = jax.vjp(rows, array.values)
    return y, *pull(dy)

  y, dvalues = both(array, dy)
  wanted = dense[np.array([[3, 0, 3], [-1, 0, 0]])]
  wanted[1, 1:] = np.nan
  np.testing.assert_array_equal(y, wanted)
  dw = np.zeros_like(dense)
  np.add.at(dw, [3, 0, 3, 39], np.asarray(dy).reshape(6, 48)[:4])
  np.testing.assert_allclose(dvalues, gathered(dw, array.pattern), atol=1e-6)
  with pytest.raises(ValueError, match='ids: dtype float32'):
    js.sparse.take(array, dy)
  with pytest.raises(ValueError, match='2 input axes'):
    js.sparse.take(make((2, 3, 4), 1.0)[0], ids)


@pytest.mark.skipif(jax.device_count() < 2, reason='needs fake devices')
def test_per_device(monkeypatch):
  # Under pmap the kernels are chosen although there are several devices.
  array, dense = make((40, 48), 0.1)
  x = jnp.asarray(np.random.default_rng(7).normal(size=(2, 7, 40)), jnp.float32)

  def grad(array, x):
    def loss(values):
      given = dataclasses.replace(array, values=values)
      return jnp.sum(jnp.sin(js.sparse.matmul(x, given)))

    return jax.lax.pmean(jax.grad(loss)(array.values), 'd')

  run = jax.pmap(grad, 'd', in_axes=(None, 0), out_axes=None)
  assert ('jaxsparse_forward' in str(jax.make_jaxpr(run)(array, x))) == NATIVE
  dw = jnp.mean(jnp.einsum('dbi,dbo->dio', x, jnp.cos(x @ dense)), 0)
  np.testing.assert_allclose(run(array, x), gathered(dw, array.pattern), atol=2e-5)


@pytest.mark.parametrize('backend', BACKENDS)
def test_half_precision(backend):
  array, dense = make((40, 48), 0.2)
  halved = dataclasses.replace(array, values=array.values.astype(jnp.bfloat16))
  rounded = np.asarray(jnp.asarray(dense, jnp.bfloat16))
  # The sums are in float32, only the result is rounded: 8 bits.
  compare(halved, rounded, 7, backend, tolerance=2**-8)


def test_halves_are_summed_in_float32():
  # In bfloat16 a sum of ones stops at 256.
  fmt = js.sparse.Format((1000, 20))
  mask = np.zeros((1000, 20), bool)
  mask[:, 0] = True
  array = js.sparse.from_mask(jnp.ones((1000, 20), jnp.bfloat16), mask, format=fmt)
  x = jnp.ones((2, 1000), jnp.bfloat16)
  y = _reference.forward(array.values, array.pattern, x)
  assert y.dtype == jnp.bfloat16 and (y[:, 0] == 1000).all()


@pytest.mark.parametrize('backend', BACKENDS)
def test_an_empty_batch(backend):
  array, _ = make((40, 48), 0.2)
  y, dvalues, dx = run(array, jnp.zeros((0, 40)), jnp.zeros((0, 48)), backend)
  assert y.shape == (0, 48) and dx.shape == (0, 40) and not dvalues.any()


@pytest.mark.parametrize('backend', BACKENDS)
def test_padding_is_never_read(backend):
  array, dense = make((40, 48), 0.2, spare=9)
  poisoned = dataclasses.replace(array, values=array.values.at[-9:].set(jnp.nan))
  compare(poisoned, dense, 7, backend)


@pytest.mark.parametrize('backend', BACKENDS)
def test_gradients_equal_those_of_a_masked_dense_layer(backend):
  array, dense = make((40, 48), 0.2)
  x = jnp.asarray(np.random.default_rng(2).normal(size=(7, 40)), jnp.float32)

  def loss(y):
    return jnp.sum(jnp.sin(y))

  def sparse(values, x):
    given = dataclasses.replace(array, values=values)
    return loss(js.sparse.matmul(x, given, backend=backend))

  got = jax.jit(jax.grad(sparse, (0, 1)))(array.values, x)
  dw, dx = jax.grad(lambda w, x: loss(x @ w), (0, 1))(jnp.asarray(dense), x)
  np.testing.assert_allclose(got[0], gathered(dw, array.pattern), atol=2e-5)
  np.testing.assert_allclose(got[1], dx, atol=2e-5)


@needs_native
def test_what_nobody_differentiates_is_not_computed():
  array, _ = make((40, 48), 0.2)
  x = jnp.ones((7, 40))

  def loss(values, x):
    given = dataclasses.replace(array, values=values)
    return js.sparse.matmul(x, given, backend='cpu').sum()

  def calls(argnums):
    text = str(jax.make_jaxpr(jax.grad(loss, argnums))(array.values, x))
    names = ('jaxsparse_backward_values', 'jaxsparse_backward_x', 'jaxsparse_backward]')
    return [name for name in names if name in text.replace('\n', ']')]

  assert calls(0) == ['jaxsparse_backward_values']
  assert calls(1) == ['jaxsparse_backward_x']
  # Each half alone is what it is together with the other.
  both = jax.jit(jax.grad(loss, (0, 1)))(array.values, x)
  np.testing.assert_array_equal(jax.grad(loss, 0)(array.values, x), both[0])
  np.testing.assert_array_equal(jax.grad(loss, 1)(array.values, x), both[1])


@pytest.mark.parametrize('backend', BACKENDS)
def test_vmap(backend):
  array, dense = make((40, 48), 0.2)
  rng = np.random.default_rng(3)
  x = jnp.asarray(rng.normal(size=(2, 7, 40)), jnp.float32)
  values = jnp.stack([array.values, array.values * 2])

  def grad(values, x):
    def loss(values, x):
      given = dataclasses.replace(array, values=values)
      return jnp.sum(jnp.sin(js.sparse.matmul(x, given, backend=backend)))

    return jax.grad(loss, (0, 1))(values, x)

  got = jax.jit(jax.vmap(grad))(values, x)
  for i in range(2):
    alone = jax.jit(grad)(values[i], x[i])
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a[i], b, atol=2e-5),  # noqa: B023
      got,
      alone,
    )
  # Stacked layers: patterns are batched too.
  two = jax.tree.map(lambda a: jnp.stack([a, a]), array)
  product = jax.vmap(lambda a, x: js.sparse.matmul(x, a, backend=backend))
  np.testing.assert_allclose(jax.jit(product)(two, x), x @ dense, atol=2e-5)


@pytest.mark.parametrize('backend', BACKENDS)
def test_a_rewired_step_is_not_traced_again(backend):
  traces = []

  @jax.jit
  def step(array, x):
    traces.append(1)
    return js.sparse.matmul(x, array, backend=backend)

  x = jnp.ones((7, 40))
  for seed in range(2):
    array, dense = make((40, 48), 0.2, seed=seed)
    # One capacity for both counts.
    fmt = array.pattern.format
    array = js.sparse.from_mask(dense, dense != 0, format=fmt, capacity=500)
    np.testing.assert_allclose(step(array, x), x @ dense, atol=2e-5)
  assert len(traces) == 1


@needs_native
def test_the_same_bits_from_run_to_run():
  array, _ = make((257, 96), 0.3)
  x = jnp.asarray(np.random.default_rng(4).normal(size=(257, 257)), jnp.float32)
  dy = jnp.ones((257, 96))
  first, second = run(array, x, dy, 'cpu'), run(array, x, dy, 'cpu')
  for a, b in zip(first, second):
    np.testing.assert_array_equal(a, b)


@needs_native
@pytest.mark.parametrize(
  'field, place, value, message',
  [
    ('inputs', 0, 40, 'forward indices are out of range'),
    ('starts', 1, 10**6, 'forward starts do not rise'),
    ('back_rows', 0, 48, 'backward indices are out of range'),
    ('order', 0, 10**6, 'backward order is out of range'),
    ('order', 0, -1, 'backward order is out of range'),
  ],
)
def test_the_kernels_never_read_out_of_bounds(field, place, value, message):
  array, _ = make((40, 48), 0.2)
  changed = getattr(array.pattern, field).at[place].set(value)
  pattern = dataclasses.replace(array.pattern, **{field: changed})
  wrong = dataclasses.replace(array, pattern=pattern)
  with pytest.raises((ValueError, jax.errors.JaxRuntimeError), match=message):
    jax.block_until_ready(run(wrong, jnp.ones((7, 40)), jnp.ones((7, 48)), 'cpu'))


@needs_native
def test_activations_stay_feature_major_between_layers():
  array, _ = make((64, 64), 0.1)

  def forward(layers, x):
    for array, bias in layers:
      x = jax.nn.relu(js.sparse.matmul(x, array, backend='cpu') + bias[None])
    return x

  layers = [(array, jnp.ones(64))] * 4
  text = jax.jit(forward).lower(layers, jnp.ones((32, 64))).compile().as_text()
  entry = text[text.index('ENTRY') :]
  moved = [
    line
    for line in entry.splitlines()
    if ('transpose' in line.split('=')[0] or 'copy' in line.split('=')[0])
    and ('[32,64]' in line or '[64,32]' in line)
  ]
  # Once on the way in, once on the way out, whatever the number of layers.
  assert len(moved) <= 2, moved


def test_the_backend_is_chosen_and_reported(monkeypatch):
  sparse, _ = make((40, 48), 0.1)
  half, _ = make((40, 48), 0.5)
  full, _ = make((40, 48), 1.0, spare=0)
  choose = lambda array, batch: js.sparse.choose_backend(array.pattern, batch)
  monkeypatch.setattr(js.native, 'stays_whole', lambda: True)
  monkeypatch.setattr(js.native, 'available', lambda: True)
  assert choose(sparse, 1) == choose(sparse, 128) == choose(half, 128) == 'cpu'
  # Where sparse loses, it is not taken.
  assert choose(half, 1) == choose(full, 128) == 'reference'
  odd, _ = make((40, 48), 0.1, block=2)
  assert choose(odd, 128) == 'reference'
  monkeypatch.setattr(js.native, 'stays_whole', lambda: False)
  assert choose(sparse, 128) == 'reference'
  monkeypatch.setattr(js.native, 'available', lambda: False)
  with pytest.raises(ValueError, match="backend='cpu': "):
    js.sparse.matmul(jnp.ones((1, 40)), sparse, backend='cpu')


def test_mistakes():
  array, _ = make((40, 48), 0.2)
  with pytest.raises(ValueError, match=r'x: float32 of shape \(7, 41\); wanted floats'):
    js.sparse.matmul(jnp.ones((7, 41)), array)
  with pytest.raises(ValueError, match='x: int32 of shape'):
    js.sparse.matmul(jnp.ones((7, 40), jnp.int32), array)
  with pytest.raises(ValueError, match="backend='gpu': wanted one of"):
    js.sparse.matmul(jnp.ones((7, 40)), array, backend='gpu')
  odd, _ = make((40, 48), 0.2, block=2)
  if NATIVE:
    with pytest.raises(ValueError, match="backend='cpu': block=2"):
      js.sparse.matmul(jnp.ones((7, 40)), odd, backend='cpu')
  compare(*make((40, 48), 0.2, block=2), 3, 'reference')


@pytest.mark.long
def test_the_reference_gathers_in_chunks(monkeypatch):
  monkeypatch.setattr(_reference, '_CHUNK', 64)
  jax.clear_caches()
  compare(*make((40, 48), 0.05), 7, 'reference')

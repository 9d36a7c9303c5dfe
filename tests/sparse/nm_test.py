"""N:M weights: to and from masks, products against NumPy, what is refused."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse as js


def make(shape, n, m, *, in_axes=None, seed=0):
  """`(SparseArray, dense weight, mask)`; some groups hold fewer than n, or nothing."""
  rng = np.random.default_rng(seed)
  fmt = js.sparse.Format(shape, in_axes, nm=(n, m))
  grouped = rng.random((fmt.groups, m, fmt.outputs))
  kept = grouped.argsort(1).argsort(1) < n
  kept[:1, :, :2] = False
  kept[-1:, :-1, -1:] = False
  mask = kept.reshape(shape)
  dense = np.where(mask, rng.normal(size=shape), 0).astype(np.float32)
  return js.sparse.from_mask(dense, mask, format=fmt), dense, mask


def test_golden():
  mask = np.array(
    [[1, 0], [0, 1], [0, 1], [1, 0], [0, 0], [0, 1], [0, 0], [0, 0]], bool
  )
  dense = np.where(mask, np.arange(1, 17).reshape(8, 2), 0).astype(np.float32)
  array = js.sparse.from_mask(dense, mask, format=js.sparse.Format((8, 2), nm=(2, 4)))
  assert isinstance(array.pattern, js.sparse.NMPattern)
  assert js.sparse.is_pattern(array.pattern) and not js.sparse.is_pattern(array)
  # Output 0: inputs 0 and 3, nothing. Output 1: inputs 1 and 2, then input 5.
  assert array.pattern.positions.tolist() == [0, 3, 255, 255, 1, 2, 1, 255]
  assert array.values.tolist() == [1, 7, 0, 0, 4, 6, 12, 0]
  assert array.pattern.capacity == 8 and int(array.pattern.count) == 5
  assert array.pattern.positions.dtype == jnp.uint8


@pytest.mark.parametrize(
  'shape, in_axes, n, m',
  [
    ((16, 5), 1, 2, 4),
    ((3, 3, 8, 6), 3, 1, 4),
    ((2, 6, 2, 3), 2, 2, 3),
    ((4, 1), 1, 4, 4),
  ],
)
def test_round_trip(shape, in_axes, n, m):
  array, dense, mask = make(shape, n, m, in_axes=in_axes)
  js.sparse.check(array, 'leaf')

  @jax.jit
  def back(array, mask):
    pattern = array.pattern
    again = js.sparse.pattern_of(mask, pattern.format)
    places = js.sparse.coordinates(pattern)
    return js.sparse.to_dense(array), js.sparse.to_mask(pattern), places, again

  got, got_mask, places, again = back(array, mask)
  np.testing.assert_array_equal(got, dense)
  np.testing.assert_array_equal(got_mask, mask)
  inputs, outputs, valid = map(np.asarray, places)
  matrix = dense.reshape(array.pattern.format.inputs, -1)
  np.testing.assert_array_equal(matrix[inputs, outputs][valid], array.values[valid])
  assert valid.sum() == mask.sum() == array.pattern.count
  np.testing.assert_array_equal(again.positions, array.pattern.positions)


@functools.partial(jax.jit, static_argnums=3)
def run(array, x, dy, backend):

  def product(values, x):
    given = dataclasses.replace(array, values=values)
    return js.sparse.matmul(x, given, backend=backend)

  y, pull = jax.vjp(product, array.values, x)
  return y, *pull(dy)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
  'backend', ['reference', *(['cpu'] if js.native.available() else [])]
)
def test_products(backend, dtype):
  array, dense, _ = make((16, 5), 2, 4)
  # What is held where there is no weight is never read.
  nowhere = np.asarray(array.pattern.positions) == 255
  values = jnp.where(nowhere, jnp.nan, array.values).astype(dtype)
  array = dataclasses.replace(array, values=values)
  rng = np.random.default_rng(1)
  x, dy = (jnp.asarray(rng.normal(size=(7, n)), dtype) for n in (16, 5))
  y, dvalues, dx = run(array, x, dy, backend)
  dense, x, dy = (np.asarray(jnp.asarray(a, dtype), np.float64) for a in (dense, x, dy))
  tolerance = 2e-6 if dtype == jnp.float32 else 2**-7
  close = functools.partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance)
  dw = js.sparse.gather(jnp.asarray(x.T @ dy, jnp.float32), array.pattern)
  close(np.float64(y), x @ dense)
  close(np.float64(dx), dy @ dense.T)
  close(np.float64(dvalues), np.float64(dw))
  assert not np.asarray(dvalues)[nowhere].any()


@pytest.mark.parametrize(
  'backend', ['reference', *(['cpu'] if js.native.available() else [])]
)
def test_conv_and_take(backend):
  array, dense, _ = make((3, 3, 4, 6), 1, 4)
  x = jnp.asarray(np.random.default_rng(2).normal(size=(2, 5, 5, 4)), jnp.float32)
  wanted = jax.lax.conv_general_dilated(
    x, dense, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )
  np.testing.assert_allclose(
    js.sparse.conv(array, x, backend=backend), wanted, atol=1e-5
  )
  table, rows, _ = make((8, 3), 2, 4)
  found = js.sparse.take(table, jnp.array([5, -1]), backend=backend)
  np.testing.assert_array_equal(found, rows[[5, 7]])


def test_the_backend_is_chosen_where_it_pays(monkeypatch):
  choose = lambda n, batch: js.sparse.choose_backend(
    make((16, 5), n, 4)[0].pattern, batch
  )
  monkeypatch.setattr(js.native, 'stays_whole', lambda: True)
  monkeypatch.setattr(js.native, 'available', lambda: True)
  assert choose(1, 128) == 'cpu'
  assert choose(2, 128) == choose(1, 1) == 'reference'


def test_stacked_layers_and_no_retrace():
  traces = []

  @jax.jit
  def product(arrays, x):
    traces.append(1)
    return jax.vmap(lambda a, x: js.sparse.matmul(x, a))(arrays, x)

  x = jnp.asarray(np.random.default_rng(3).normal(size=(2, 7, 16)), jnp.float32)
  for seed in (0, 2):
    made = [make((16, 5), 2, 4, seed=seed + i) for i in range(2)]
    arrays = jax.tree.map(lambda *a: jnp.stack(a), *(array for array, _, _ in made))
    assert arrays.pattern.stack == (2,) and arrays.pattern.count.shape == (2,)
    wanted = x @ jnp.stack([dense for _, dense, _ in made])
    np.testing.assert_allclose(product(arrays, x), wanted, atol=2e-5)
  assert len(traces) == 1


@pytest.mark.parametrize(
  'changed, message',
  [
    ([9, 3], 'leaf: positions: 9 is out of range; a group has 4'),
    ([3, 0], 'leaf: positions: unsorted in a group'),
    ([2, 2], 'leaf: positions: unsorted in a group, or a place comes twice'),
    ([255, 1], 'leaf: positions: unsorted in a group'),
  ],
)
def test_corrupted_patterns(changed, message):
  array, _, _ = make((16, 5), 2, 4)
  positions = array.pattern.positions.at[-2:].set(jnp.array(changed, jnp.uint8))
  pattern = dataclasses.replace(array.pattern, positions=positions)
  with pytest.raises(ValueError, match=message):
    js.sparse.check(pattern, 'leaf')
  short = dataclasses.replace(array.pattern, positions=positions[1:])
  with pytest.raises(ValueError, match=r'positions: uint8 of shape \(39,\); wanted'):
    js.sparse.check(short)
  wrong = dataclasses.replace(array, values=array.values[1:])
  with pytest.raises(ValueError, match=r'leaf: values: shape \(39,\)'):
    js.sparse.check(wrong, 'leaf')


def test_mistakes():
  full = np.ones((8, 2), bool)
  fmt = js.sparse.Format((8, 2), nm=(2, 4))
  with pytest.raises(ValueError, match=r'mask: it keeps 4 of some 4 .*NM\(2, 4\)'):
    js.sparse.from_mask(np.float32(full), full, format=fmt)
  with pytest.raises(ValueError, match='capacity=3: a weight of nm'):
    js.sparse.from_mask(np.float32(full), ~full, format=fmt, capacity=3)
  for options, message in (
    (dict(nm=(2, 3)), 'Format: nm'),
    (dict(nm=(5, 4)), 'Format: nm'),
    (dict(nm=(2, 4), block=2), 'neither blocks nor tiles'),
    (dict(depth=3), 'Format: depth=3 does not divide'),
  ):
    with pytest.raises(ValueError, match=message):
      js.sparse.Format((8, 2), **options)

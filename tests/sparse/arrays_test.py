"""Patterns and sparse arrays: exact to and from masks, checked, friendly to trees."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse as js


def make(shape, density, block=1, seed=0, dtype=np.float32):
  """`(param, mask)` in NumPy; the mask is made of blocks of outputs."""
  rng = np.random.default_rng(seed)
  param = rng.normal(size=shape).astype(dtype)
  kept = rng.random((*shape[:-1], shape[-1] // block)) < density
  return param, np.repeat(kept, block, axis=-1)


TILED = dict(input_tile=5, output_tile=8)
CASES = [
  # shape, in_axes, block, density, tiles, room to spare
  ((9, 16), 1, 1, 0.3, TILED, 3),
  ((9, 16), 1, 4, 0.4, TILED, 0),
  ((9, 16), 1, 1, 0.0, TILED, 0),
  ((9, 16), 1, 1, 1.0, {}, 2),
  ((1, 1), 1, 1, 1.0, {}, 0),
  ((3, 2, 8), 2, 8, 0.5, {}, 3),
  ((3, 3, 4, 8), 3, 1, 0.2, TILED, 0),
]


@pytest.mark.parametrize('shape, in_axes, block, density, tiles, spare', CASES)
def test_round_trip_and_order(shape, in_axes, block, density, tiles, spare):
  param, mask = make(shape, density, block)
  fmt = js.sparse.Format(shape, in_axes, block, **tiles)
  count = np.count_nonzero(mask) // block
  array = js.sparse.from_mask(param, mask, format=fmt, capacity=count + spare)
  js.sparse.check(array, 'leaf')
  assert array.pattern.capacity == count + spare and array.pattern.count == count
  assert array.shape == shape and array.dtype == np.float32
  dense, kept, again, places = look(array, param)
  np.testing.assert_array_equal(dense, np.where(mask, param, 0))
  np.testing.assert_array_equal(kept, mask)
  np.testing.assert_array_equal(again, array.values)
  # The order of the values: by tile of inputs, output, input.
  inputs, rows, valid = map(np.asarray, places)
  assert valid.tolist() == [True] * count + [False] * spare
  keys = np.lexsort((inputs, rows, inputs // (fmt.input_tile or fmt.inputs)))
  np.testing.assert_array_equal(keys[keys < count], np.arange(count))


@jax.jit
def look(array, param):
  """All that can be read from an array, compiled together."""
  pattern = array.pattern
  return (
    js.sparse.to_dense(array),
    js.sparse.to_mask(pattern),
    js.sparse.gather(param, pattern),
    js.sparse.coordinates(pattern),
  )


def test_values_hold_what_no_product_could():
  # NaN under the mask does not leak; NaN and -0.0 that are kept stay.
  param = np.array([[np.nan, np.nan], [-0.0, 3]], np.float32)
  mask = np.array([[False, True], [True, True]])
  dense = np.asarray(js.sparse.to_dense(js.sparse.from_mask(param, mask)))
  wanted = np.where(mask, param, 0)
  np.testing.assert_array_equal(dense.view(np.uint32), wanted.view(np.uint32))


def test_a_mask_may_broadcast():
  array = js.sparse.from_mask(jnp.ones((3, 4)), jnp.array([[True, False, True, False]]))
  assert array.pattern.count == 6
  assert js.sparse.to_dense(array).sum(0).tolist() == [3, 0, 3, 0]


def test_indices_are_as_narrow_as_they_can_be():
  narrow = js.sparse.Format((2**16, 2**16))
  assert narrow.input_dtype == narrow.row_dtype == np.uint16
  wide = js.sparse.Format((2**16 + 1, 2**19), block=4)
  assert wide.input_dtype == wide.row_dtype == np.int32
  assert js.sparse.Format((2, 2**18), block=4).row_dtype == np.uint16


def test_tiles_follow_the_density():
  formats = [js.sparse.choose_format((512, 512), d) for d in (0.5, 0.2, 0.05, 0.01)]
  assert [f.input_tiles for f in formats] == [4, 4, 4, 1]
  assert [f.row_tiles for f in formats] == [4, 2, 1, 1]
  assert js.sparse.choose_format((512, 512), 0.2, block=4).input_tiles == 1


def test_the_format_of_a_leaf_has_no_stacked_axes():
  query = js.Leaf('query/kernel', (3, 8, 2, 4), 'float32', (0,), (1,), (2, 3))
  fmt = js.sparse.format_of(query, 0.5, block=4)
  assert (fmt.shape, fmt.in_axes, fmt.rows) == ((8, 2, 4), 1, 2)
  turned = js.Leaf('kernel', (8, 4), 'float32', (), (1,), (0,))
  with pytest.raises(ValueError, match=r'kernel: shape \(8, 4\) .* cannot be compact'):
    js.sparse.format_of(turned, 0.5)


def test_any_order_of_coordinates():
  param, mask = make((9, 16), 0.3)
  fmt = js.sparse.Format((9, 16), **TILED)
  wanted = js.sparse.pattern_of(jnp.asarray(mask), fmt, 60)
  places = js.sparse.coordinates(wanted)
  shuffle = np.random.default_rng(1).permutation(60)
  given = [np.asarray(x)[shuffle] for x in places]
  pattern, order = js.sparse.from_coordinates(*given, format=fmt)
  js.sparse.check(pattern)
  count = int(wanted.count)
  same = jax.tree.map(np.array_equal, pattern.starts, wanted.starts)
  assert same and np.array_equal(pattern.inputs[:count], wanted.inputs[:count])
  inputs, rows, _ = map(np.asarray, places)
  np.testing.assert_array_equal(given[0][np.asarray(order)][:count], inputs[:count])
  np.testing.assert_array_equal(given[1][np.asarray(order)][:count], rows[:count])


def test_a_new_pattern_does_not_compile_anew():
  fmt = js.sparse.Format((9, 16))
  traces = []

  @jax.jit
  def densify(array):
    traces.append(1)
    return js.sparse.to_dense(array)

  for seed in range(2):
    param, mask = make((9, 16), 0.3, seed=seed)
    array = js.sparse.from_mask(param, mask, format=fmt, capacity=60)
    np.testing.assert_array_equal(densify(array), np.where(mask, param, 0))
  assert len(traces) == 1


def test_stacked_layers_and_trees():
  param, mask = make((3, 9, 16), 0.3)
  fmt = js.sparse.Format((9, 16), **TILED)
  pack = lambda p, m: js.sparse.from_mask(p, m, format=fmt, capacity=60)
  stacked = jax.jit(jax.vmap(pack))(param, mask)
  assert stacked.pattern.starts.shape == (3, fmt.input_tiles * 16 + 1)
  np.testing.assert_array_equal(
    jax.vmap(js.sparse.to_dense)(stacked), np.where(mask, param, 0)
  )
  one = jax.tree.map(lambda x: x[1], stacked)
  js.sparse.check(one)
  doubled = jax.tree.map(lambda x: x + x, one)
  assert (doubled.values == one.values * 2).all()
  # Donated buffers are not shared between the arrays.
  take = jax.jit(
    lambda a: jax.tree.map(lambda x: x + x.dtype.type(1), a), donate_argnums=0
  )
  assert take(one).values.shape == (60,) and one.values.is_deleted()


@pytest.mark.parametrize(
  'make_it, message',
  [
    (lambda: js.sparse.Format((4,)), 'in_axes=0 of shape'),
    (lambda: js.sparse.Format((4, 4), in_axes=2), 'in_axes=2 of shape'),
    (lambda: js.sparse.Format((4, 6), block=4), 'block=4 does not divide the 6'),
    (lambda: js.sparse.Format((4, 8), block=4, output_tile=6), 'output_tile=6'),
    (lambda: js.sparse.Format((2**31, 1)), 'more than int32'),
    (lambda: js.sparse.from_mask(jnp.ones((2, 2)), True, capacity=3), 'capacity=3'),
    (
      lambda: js.sparse.from_mask(jnp.ones((1, 4)), jnp.arange(4) > 2, block=4),
      r'not made of blocks of 4 outputs.*Block\(\(1, 4\)\)',
    ),
    (
      lambda: js.sparse.from_mask(
        jnp.ones((2, 2)), True, format=js.sparse.Format((2, 3))
      ),
      r'format: shape \(2, 3\)',
    ),
    (
      lambda: jax.jit(js.sparse.from_mask)(jnp.ones((2, 2)), jnp.ones((2, 2), bool)),
      'capacity: None with a traced mask',
    ),
  ],
)
def test_mistakes(make_it, message):
  with pytest.raises(ValueError, match=message):
    make_it()


def corrupted():
  """`(what is changed, how, message)`; the pattern has 4 x 6 places, 9 blocks."""

  def at(place, value):
    return lambda x: x.at[place].set(value)

  swap = lambda x: x.at[jnp.array([0, 1])].set(x[jnp.array([1, 0])])
  return [
    ('inputs', at(0, 9), 'inputs: 9 is out of range; there are 4'),
    ('inputs', swap, 'inputs: unsorted'),
    ('inputs', lambda x: x[:-1], 'back_rows: shape'),
    ('starts', at(0, 1), 'starts: it does not rise from 0'),
    ('starts', at(3, 0), 'starts: it does not rise'),
    ('starts', lambda x: x[:-1], 'starts: int32 of shape'),
    ('starts', at(-1, 99), 'starts: 99 blocks; the capacity is 10'),
    ('starts', at(-1, 8), 'back_starts: 9 blocks; starts has 8'),
    ('back_rows', at(0, 77), 'back_rows: 77 is out of range; there are 6'),
    ('back_starts', at(1, 0), 'back_rows: |unsorted'),
    ('order', at(0, 5), 'order: it is no order'),
    ('order', swap, 'other places than the forward one'),
    ('order', lambda x: x[:-1], 'order: shape'),
  ]


@pytest.mark.parametrize('field, change, message', corrupted())
def test_corrupted_patterns_are_refused_by_name(field, change, message):
  mask = np.zeros((4, 6), bool)
  mask[[0, 1, 0, 2, 3, 1, 3, 0, 2], [0, 0, 1, 1, 1, 3, 3, 5, 5]] = True
  fmt = js.sparse.Format((4, 6))
  pattern = js.sparse.pattern_of(jnp.asarray(mask), fmt, 10)
  js.sparse.check(pattern, 'dense/kernel')
  wrong = dataclasses.replace(pattern, **{field: change(getattr(pattern, field))})
  with pytest.raises(ValueError, match=f'dense/kernel: .*{message}'):
    js.sparse.check(wrong, 'dense/kernel')


def test_values_of_another_length_are_refused():
  array = js.sparse.from_mask(jnp.ones((2, 2)), jnp.eye(2, dtype=bool))
  wrong = dataclasses.replace(array, values=jnp.ones(3))
  with pytest.raises(ValueError, match=r'leaf: values: shape \(3,\); wanted \(2,\)'):
    js.sparse.check(wrong, 'leaf')
  assert isinstance(array, js.sparse.SparseArray)
  assert isinstance(array.pattern, js.sparse.Pattern)


@pytest.mark.parametrize(
  'inputs,block,tile,stack',
  [(37, 1, 16, ()), (37, 4, None, ()), (37, 1, None, (3,)), (70_000, 1, None, ())],
)
def test_flat_indices_are_those_of_numpy(inputs, block, tile, stack, monkeypatch):
  """Rows without weights, full ones, tiles, wide indices and padding included."""
  rng = np.random.default_rng(0)
  fmt = js.sparse.Format((inputs, 6 * block), block=block, input_tile=tile)
  room = 5 * inputs + 3
  make = functools.partial(js.sparse.pattern_of, format=fmt, capacity=room)
  make = jax.jit(jax.vmap(make) if stack else make)
  # A fresh function for each: jit must not remember the other path.
  by_kernel, by_jnp = (jax.jit(lambda p: js.sparse.flat_indices(p)) for _ in range(2))
  for density in (0.0, 0.4, 1.0):
    mask = np.repeat(rng.random((*stack, inputs, 6)) < density, block, -1)
    mask[..., block : 2 * block] = False
    pattern = make(jnp.asarray(mask))
    slow = by_jnp(pattern)
    with monkeypatch.context() as patch:
      # As in a process with one device.
      patch.setattr(js.native, 'stays_whole', lambda: True)
      fast = by_kernel(pattern)
    counts = np.asarray(pattern.count).reshape(-1, 1) * block
    valid = np.arange(room * block) < counts
    found = []
    for flat in (slow, fast):
      assert flat.dtype == jnp.uint32 and flat.shape == (*stack, room * block)
      found.append(np.asarray(flat).reshape(-1, room * block)[valid])
    np.testing.assert_array_equal(np.sort(found[0]), np.flatnonzero(mask))
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize('stack', [(), (3,)])
def test_the_dense_view_of_what_is_held(stack):
  """The shapes that leaves have when they are dense."""
  mask = np.repeat(np.random.default_rng(0).random((*stack, 6, 2)) < 0.5, 4, -1)
  fmt = js.sparse.Format((6, 8), block=4)
  make = lambda m: js.sparse.pattern_of(m, fmt, 12)
  pattern = (jax.vmap(make) if stack else make)(jnp.asarray(mask))
  assert js.sparse.is_pattern(pattern) and not js.sparse.is_pattern(mask)
  values = jnp.ones((*stack, 48))
  struct = js.sparse.dense_structs(
    {'w': values, 'b': jnp.ones(2)}, {'w': pattern, 'b': jnp.ones((), bool)}
  )
  assert (struct['w'].shape, struct['b'].shape) == ((*stack, 6, 8), (2,))

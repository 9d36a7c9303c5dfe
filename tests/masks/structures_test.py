"""Structures: golden masks, NumPy references and properties."""

import functools
import math

import hypothesis as hp
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse as js

MATRIX = js.Leaf('kernel', (4, 6), in_axes=(0,), out_axes=(1,))
STACK = js.Leaf('blocks/kernel', (3, 4, 6), None, (0,), (1,), (2,))
CONV = js.Leaf('conv/kernel', (3, 3, 4, 5), in_axes=(2,), out_axes=(3,))

STRUCTURES = [
  js.masks.Unstructured(),
  js.masks.Unstructured('output'),
  js.masks.NM(2, 4),
  js.masks.Block((2, 4)),
  js.masks.Channel(),
  js.masks.Channel(0),
]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _select(structure, leaf, scores, num_kept):
  return structure.select(leaf, scores, num_kept)


def _leaf(shape, num_stacked=0):
  first = len(shape) - 2
  return js.Leaf(
    'kernel', shape, None, tuple(range(num_stacked)), (first,), (first + 1,)
  )


def _bits(mask):
  return np.asarray(mask).astype(int).tolist()


def _scores(shape, seed=0):
  """Distinct, so that no reference has to know how ties go."""
  order = np.random.RandomState(seed).permutation(math.prod(shape))
  return jnp.asarray(order.reshape(shape), jnp.float32)


# --- golden masks -------------------------------------------------------------------


GOLDEN = jnp.array(
  [
    [9.0, 1.0, 8.0, 2.0, 7.0, 3.0],
    [0.0, 5.0, 0.1, 6.0, 0.2, 4.0],
    [1.1, 1.2, 1.3, 1.4, 1.5, 1.6],
    [9.9, 0.5, 0.6, 0.7, 0.8, 8.8],
  ]
)


@pytest.mark.parametrize(
  'structure, num_kept, wanted',
  [
    (
      js.masks.Unstructured(),
      5,
      [[1, 0, 1, 0, 1, 0], [0] * 6, [0] * 6, [1, 0, 0, 0, 0, 1]],
    ),
    (
      # Eight over six outputs: one each, and one more for the first two.
      js.masks.Unstructured('output'),
      8,
      [[1, 0, 1, 0, 1, 0], [0, 1, 0, 1, 0, 0], [0, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 1]],
    ),
    (
      js.masks.NM(1, 2),
      12,
      [[1, 0, 1, 0, 1, 0], [0, 1, 0, 1, 0, 1], [0, 1, 1, 1, 1, 0], [1, 0, 0, 0, 0, 1]],
    ),
    (
      js.masks.NM(1, 3, axis=1),
      8,
      [[1, 0, 0, 0, 1, 0], [0, 1, 0, 1, 0, 0], [0, 0, 1, 0, 0, 1], [1, 0, 0, 0, 0, 1]],
    ),
    (
      # Means: 3.85 and 3.7 above, 2.53 and 3.5 below.
      js.masks.Block((2, 3)),
      2,
      [[1] * 6, [1] * 6, [0] * 6, [0] * 6],
    ),
    (
      # Blocks of 4 do not divide 6: the edge block's mean is over its own weights,
      # 3.8875 and 3.55 above, 2.0875 and 3.175 below.
      js.masks.Block((2, 4)),
      3,
      [[1] * 6, [1] * 6, [0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 1, 1]],
    ),
    (js.masks.Channel(), 2, [[1, 0, 0, 0, 0, 1]]),
    (js.masks.Channel(0), 1, [[1], [0], [0], [0]]),
  ],
  ids=str,
)
def test_golden(structure, num_kept, wanted):
  mask = _select(structure, MATRIX, GOLDEN, num_kept)
  assert mask.dtype == jnp.bool_
  assert _bits(mask) == wanted


def test_golden_channel_of_a_stack():
  scores = jnp.arange(12.0).reshape(2, 2, 3) % 5
  leaf = _leaf((2, 2, 3), 1)
  # Sums over inputs: [3, 5, 2] after 0 1 2 / 3 4 0, and [1+4, 2+0, 3+1].
  mask = js.masks.Channel().select(leaf, scores, 3)
  assert _bits(mask) == [[[1, 1, 0]], [[1, 0, 0]]]


def test_golden_conv_block_stays_within_a_tap():
  leaf = js.Leaf('conv', (2, 1, 2, 2), in_axes=(2,), out_axes=(3,))
  scores = jnp.array([[[[1.0, 1.0], [1.0, 1.0]]], [[[2.0, 2.0], [2.0, 2.0]]]])
  mask = js.masks.Block((2, 2)).select(leaf, scores, 1)
  assert _bits(mask) == [[[[0, 0], [0, 0]]], [[[1, 1], [1, 1]]]]


def test_a_gradual_nm_goes_through_m_of_m():
  structure = js.masks.NM(1, 4)
  leaf = _leaf((4, 2))
  counts = [
    int(_select(structure, leaf, _scores((4, 2)), k).sum()) for k in (8, 7, 6, 4, 3, 2)
  ]
  assert counts == [8, 8, 6, 4, 4, 2]


# --- NumPy references ----------------------------------------------------------------


def _np_top(scores, k):
  """The `k` largest of a flat array of distinct numbers, NaN last."""
  keys = np.where(np.isnan(scores), -np.inf, scores)
  mask = np.zeros(scores.shape, bool)
  mask[np.argsort(-keys, kind='stable')[:k]] = True
  return mask


def _np_shares(k, count):
  return [k // count + (i < k % count) for i in range(count)]


def _np_rows(rows, num_kept):
  shares = _np_shares(num_kept, len(rows))
  return np.stack([_np_top(row, k) for row, k in zip(rows, shares)])


def _np_unstructured(scores, num_kept, num_stacked):
  rows = scores.reshape(math.prod(scores.shape[:num_stacked]), -1)
  return _np_rows(rows, num_kept).reshape(scores.shape)


def _np_output(scores, num_kept, num_stacked):
  stacks = math.prod(scores.shape[:num_stacked])
  outputs = scores.shape[-1]
  rows = scores.reshape(stacks, -1, outputs).swapaxes(1, 2)
  mask = _np_rows(rows.reshape(stacks * outputs, -1), num_kept)
  return mask.reshape(rows.shape).swapaxes(1, 2).reshape(scores.shape)


def _np_nm(scores, num_kept, m):
  moved = np.moveaxis(scores, -2, -1)
  rows = moved.reshape(-1, m)
  per_group = math.ceil(num_kept / len(rows))
  mask = np.stack([_np_top(row, per_group) for row in rows])
  return np.moveaxis(mask.reshape(moved.shape), -1, -2)


def _np_block(scores, num_kept, num_stacked, rows, cols):
  lead, (height, width) = scores.shape[:-2], scores.shape[-2:]
  flat = scores.reshape(-1, height, width)
  high, wide = math.ceil(height / rows), math.ceil(width / cols)
  means = np.zeros((len(flat), high, wide))
  for i, j in np.ndindex(high, wide):
    part = flat[:, i * rows : (i + 1) * rows, j * cols : (j + 1) * cols]
    means[:, i, j] = part.mean(axis=(1, 2))
  units = _np_unstructured(means.reshape(*lead, high, wide), num_kept, num_stacked)
  mask = np.kron(units.reshape(-1, high, wide), np.ones((1, rows, cols))).astype(bool)
  return mask[:, :height, :width].reshape(scores.shape)


def _np_channel(scores, num_kept, num_stacked):
  stacks = math.prod(scores.shape[:num_stacked])
  means = scores.reshape(stacks, -1, scores.shape[-1]).mean(axis=1)
  rows = _np_rows(means, num_kept)
  middle = (1,) * (scores.ndim - num_stacked - 1)
  return rows.reshape(*scores.shape[:num_stacked], *middle, scores.shape[-1])


@pytest.mark.parametrize('shape, num_stacked', [((2, 3, 8, 5), 0), ((2, 2, 4, 3), 2)])
@pytest.mark.parametrize('share', [0.0, 0.1, 0.5, 0.77, 1.0])
def test_select_equals_numpy(shape, num_stacked, share):
  leaf = _leaf(shape, num_stacked)
  scores = _scores(shape)
  values = np.asarray(scores)
  cases = [
    (js.masks.Unstructured(), lambda k: _np_unstructured(values, k, num_stacked)),
    (js.masks.Unstructured('output'), lambda k: _np_output(values, k, num_stacked)),
    (js.masks.NM(1, 4), lambda k: _np_nm(values, k, 4)),
    (js.masks.Block((3, 2)), lambda k: _np_block(values, k, num_stacked, 3, 2)),
    (js.masks.Block((4, 4)), lambda k: _np_block(values, k, num_stacked, 4, 4)),
    (js.masks.Channel(), lambda k: _np_channel(values, k, num_stacked)),
  ]
  for structure, reference in cases:
    num_kept = round(share * structure.num_units(leaf))
    mask = _select(structure, leaf, scores, num_kept)
    np.testing.assert_array_equal(mask, reference(num_kept), err_msg=str(structure))


# --- properties ------------------------------------------------------------------------


@st.composite
def _cases(draw):
  """A leaf, scores with ties, NaN and infinities, and a count."""
  # Few leaves: each new one is compiled anew.
  structure = draw(st.sampled_from(STRUCTURES))
  leaf = draw(st.sampled_from([_leaf((4, 6)), _leaf((2, 4, 3), 1)]))
  hp.assume(structure != js.masks.Channel(0) or not leaf.stack_axes)
  shape, dtype = leaf.shape, draw(st.sampled_from(['float32', 'bfloat16']))
  values = st.sampled_from([0.0, -0.0, 0.5, 1.0, 2.0, -3.0, math.inf, math.nan])
  size = math.prod(shape)
  scores = draw(st.lists(values, min_size=size, max_size=size))
  scores = jnp.asarray(scores, dtype).reshape(shape)
  return structure, leaf, scores, draw(st.integers(0, structure.num_units(leaf)))


@hp.settings(max_examples=40)
@hp.given(_cases())
def test_count_is_exact(case):
  structure, leaf, scores, num_kept = case
  mask = _select(structure, leaf, scores, num_kept)
  wanted = num_kept
  if isinstance(structure, js.masks.NM):
    groups = leaf.size // structure.m
    wanted = math.ceil(num_kept / groups) * groups
  assert int(structure.count(leaf, mask)) == wanted
  assert jnp.broadcast_shapes(mask.shape, leaf.shape) == leaf.shape


def _groups(structure, leaf, scores):
  """The arrays of units that are compared with each other, groups first."""
  scores = np.asarray(scores).astype(np.float32)
  if isinstance(structure, js.masks.NM):
    return np.moveaxis(scores, -2, -1).reshape(-1, structure.m)
  first = (*leaf.stack_axes, *(leaf.out_axes if structure.group == 'output' else ()))
  rest = [a for a in range(scores.ndim) if a not in first]
  count = math.prod(leaf.shape[a] for a in first)
  return scores.transpose(*first, *rest).reshape(count, -1)


@hp.settings(max_examples=40)
@hp.given(_cases())
def test_kept_scores_are_not_below_dropped_ones(case):
  structure, leaf, scores, num_kept = case
  hp.assume(isinstance(structure, (js.masks.Unstructured, js.masks.NM)))
  mask = _select(structure, leaf, scores, num_kept)
  for row, kept in zip(
    _groups(structure, leaf, scores), _groups(structure, leaf, mask)
  ):
    row = np.where(np.isnan(row), -np.inf, row)
    kept = kept.astype(bool)
    if kept.any() and not kept.all():
      assert row[kept].min() >= row[~kept].max()


@pytest.mark.parametrize('structure', STRUCTURES, ids=str)
def test_traced_num_kept_gives_the_mask_of_the_static_one(structure):
  scores = _scores(MATRIX.shape)
  select = jax.jit(lambda s, k: structure.select(MATRIX, s, k))
  units = structure.num_units(MATRIX)
  for num_kept in (0, 1, units // 2, units):
    wanted = structure.select(MATRIX, scores, num_kept)
    np.testing.assert_array_equal(select(scores, jnp.int32(num_kept)), wanted)
  assert select._cache_size() == 1


# --- dtypes, ties, NaN -------------------------------------------------------------------


@pytest.mark.parametrize('structure', STRUCTURES, ids=str)
@pytest.mark.parametrize('dtype', ['bfloat16', 'float16', 'uint32'])
def test_other_dtypes_give_the_mask_of_float32(structure, dtype):
  # Up to 23, exact in every dtype; so are their ranks by mean.
  scores = _scores(MATRIX.shape)
  num_kept = structure.num_units(MATRIX) // 2
  wanted = _select(structure, MATRIX, scores, num_kept)
  mask = _select(structure, MATRIX, scores.astype(dtype), num_kept)
  np.testing.assert_array_equal(mask, wanted)


def test_uint32_scores_are_ranked_by_all_their_bits():
  top = jnp.uint32(2**32 - 1)
  scores = jnp.stack([top, top - 1, jnp.uint32(2**31), jnp.uint32(0)]).reshape(2, 2)
  leaf = _leaf((2, 2))
  for num_kept in range(5):
    mask = _select(js.masks.Unstructured(), leaf, scores, num_kept)
    assert np.asarray(mask).ravel().tolist() == [i < num_kept for i in range(4)]


def test_negative_zero_ties_with_zero_and_denormals_do_not():
  leaf = _leaf((1, 3))
  scores = jnp.array([[-0.0, 1e-38, -1e-38]])
  mask = _select(js.masks.Unstructured(), leaf, scores, 1)
  assert _bits(mask) == [[0, 1, 0]]
  zeros = js.masks.Unstructured().select(leaf, jnp.array([[-0.0, 0.0, -0.0]]), 2)
  same = js.masks.Unstructured().select(leaf, jnp.zeros((1, 3)), 2)
  np.testing.assert_array_equal(zeros, same)


@pytest.mark.parametrize('structure', STRUCTURES, ids=str)
def test_nan_ranks_last(structure):
  scores = jnp.full(MATRIX.shape, -jnp.inf).at[0, 0].set(jnp.nan)
  if isinstance(structure, js.masks.NM):
    num_kept = 18
  elif structure == js.masks.Unstructured('output'):
    num_kept = MATRIX.size - 6
  else:
    num_kept = structure.num_units(MATRIX) - 1
  mask = _select(structure, MATRIX, scores, num_kept)
  assert not bool(jnp.broadcast_to(mask, MATRIX.shape)[0, 0])


@pytest.mark.parametrize('structure', STRUCTURES, ids=str)
def test_ties_are_resolved_alike_in_every_dtype_and_count_is_exact(structure):
  num_kept = structure.num_units(MATRIX) // 2
  masks = [
    np.asarray(_select(structure, MATRIX, jnp.full(MATRIX.shape, 1, dtype), num_kept))
    for dtype in ('float32', 'bfloat16', 'uint32')
  ]
  np.testing.assert_array_equal(masks[0], masks[1])
  np.testing.assert_array_equal(masks[0], masks[2])


def test_ties_do_not_favour_low_indices():
  # Rows without a gradient would always grow first, if ties went by the index.
  leaf = _leaf((64, 64))
  mask = _select(js.masks.Unstructured(), leaf, jnp.zeros(leaf.shape), 64 * 32)
  halves = np.asarray(mask).reshape(2, -1).sum(axis=1)
  # A fair draw of 2048 of 4096 has a standard deviation of 16 in each half.
  assert abs(int(halves[0]) - 1024) < 5 * 16
  assert int(np.asarray(mask).any(axis=1).sum()) == 64


def test_ties_within_nm_groups_do_not_favour_a_position():
  leaf = _leaf((4, 1024))
  mask = js.masks.NM(1, 4).select(leaf, jnp.zeros(leaf.shape), 1024)
  # Standard deviation of a binomial(1024, 1/4): 13.9.
  assert np.abs(np.asarray(mask).sum(axis=1) - 256).max() < 5 * 13.9


# --- odd leaves ----------------------------------------------------------------------------


@pytest.mark.parametrize(
  'structure',
  [s for s in STRUCTURES if not isinstance(s, js.masks.NM)],
  ids=str,
)
@pytest.mark.parametrize('shape', [(0, 3), (3, 0)])
def test_zero_size(structure, shape):
  leaf = _leaf(shape)
  mask = _select(structure, leaf, jnp.zeros(shape), 0)
  assert jnp.broadcast_shapes(mask.shape, shape) == shape
  assert int(jnp.broadcast_to(mask, shape).sum()) == 0


def test_scalar_leaf():
  leaf = js.Leaf('temperature', ())
  structure = js.masks.Unstructured()
  assert structure.num_units(leaf) == 1
  assert not bool(_select(structure, leaf, jnp.float32(1), 0))
  assert bool(_select(structure, leaf, jnp.float32(-1), 1))


@pytest.mark.parametrize(
  'structure, leaf, units, unit_size',
  [
    (js.masks.Unstructured(), CONV, 180, 1),
    (js.masks.NM(2, 4), CONV, 180, 1),
    (js.masks.Block((2, 2)), CONV, 9 * 2 * 3, 4),
    (js.masks.Block((3, 3), axes=(0, 1)), CONV, 20, 9),
    (js.masks.Block((4,), axes=(-1,)), MATRIX, 8, 4),
    (js.masks.Channel(), CONV, 5, 36),
    (js.masks.Channel(-2), CONV, 4, 45),
    (js.masks.Channel(), STACK, 18, 4),
    (js.masks.Block((2, 3)), STACK, 12, 6),
  ],
  ids=str,
)
def test_units(structure, leaf, units, unit_size):
  assert structure.num_units(leaf) == units
  assert structure.unit_size(leaf) == unit_size
  assert int(structure.count(leaf, jnp.ones(leaf.shape, bool))) in (units, leaf.size)
  mask = _select(structure, leaf, _scores(leaf.shape), units)
  assert int(structure.count(leaf, mask)) == units


def test_block_count_sees_ragged_blocks():
  structure = js.masks.Block((3, 4))
  mask = _select(structure, MATRIX, -_scores(MATRIX.shape), 3)
  assert int(structure.count(MATRIX, mask)) == 3


# --- growing and dropping ----------------------------------------------------------------------


def test_survivors_may_empty_an_nm_group_and_keep_to_the_stack():
  structure = js.masks.NM(2, 4)
  leaf = _leaf((4, 2))
  scores = jnp.array([[9.0, 1.0], [8.0, 2.0], [7.0, 3.0], [6.0, 4.0]])
  assert _bits(structure.survivors(leaf, scores, 3)) == [[1, 0], [1, 0], [1, 0], [0, 0]]
  stack = structure.survivors(STACK, _scores(STACK.shape), 6)
  assert np.asarray(stack).sum(axis=(1, 2)).tolist() == [2, 2, 2]


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16', 'uint32'])
def test_lift_and_exclude(dtype):
  scores = jnp.array([[3, 1], [2, 4]], dtype)
  low = jnp.array([[False, True], [False, False]])
  leaf, structure = _leaf((2, 2)), js.masks.Unstructured()
  lifted, excluded = js.masks.lift(low, scores), js.masks.exclude(low, scores)
  assert lifted.dtype == excluded.dtype == scores.dtype
  assert _bits(_select(structure, leaf, lifted, 2)) == [[0, 1], [0, 1]]
  assert _bits(_select(structure, leaf, excluded, 3)) == [[1, 0], [1, 1]]


@pytest.mark.parametrize('structure', STRUCTURES, ids=str)
def test_lifted_weights_stay_beside_infinite_scores(structure):
  # An overflown gradient must not push out a survivor.
  units = structure.num_units(MATRIX)
  some = _select(structure, MATRIX, _scores(MATRIX.shape), units // 4)
  if isinstance(structure, js.masks.NM):
    some = js.masks.NM(1, 4).select(MATRIX, _scores(MATRIX.shape), 6)
  lifted = js.masks.lift(some, jnp.full(MATRIX.shape, jnp.inf))
  mask = _select(structure, MATRIX, lifted, units // 2)
  assert bool(jnp.all(mask | ~some))


# --- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  'build, message',
  [
    (lambda: js.masks.Unstructured('input'), "group='input'.*'layer' or 'output'"),
    (lambda: js.masks.NM(0, 4), r'NM\(n=0, m=4\): wanted 0 < n <= m'),
    (lambda: js.masks.NM(5, 4), r'NM\(n=5, m=4\): wanted 0 < n <= m'),
    (lambda: js.masks.Block((2, 0)), r'shape=\(2, 0\).*1 or more'),
    (lambda: js.masks.Block(()), r'shape=\(\).*1 or more'),
    (lambda: js.masks.Block(4), r'shape=4\).*a tuple'),
    (lambda: js.masks.Block((2.5, 2)), r'shape=\(2.5, 2\).*ints'),
    (lambda: js.masks.Block((2, 2), axes=(0,)), r'axes=\(0,\) differ'),
  ],
)
def test_bad_structures_are_refused(build, message):
  with pytest.raises(ValueError, match=message):
    build()


BIAS = js.Leaf('dense/bias', (6,))


@pytest.mark.parametrize(
  'structure, leaf, sparsity, message',
  [
    (js.masks.Unstructured('output'), BIAS, 0.5, 'dense/bias.*out_axes'),
    (js.masks.NM(2, 4), BIAS, 0.5, 'dense/bias.*in_axes.*axis='),
    (
      js.masks.NM(2, 4),
      _leaf((6, 4)),
      0.5,
      r'kernel: axis 0 of shape \(6, 4\).*6.*m=4',
    ),
    (js.masks.NM(2, 4), MATRIX, 0.9, r'kernel: NM\(2, 4\) has sparsity 0.5.*0.9'),
    (js.masks.Block((2, 2)), BIAS, 0.5, 'dense/bias.*axes='),
    (js.masks.Block((2,)), MATRIX, 0.5, 'kernel.*axes='),
    (js.masks.Block((2,), axes=(2,)), MATRIX, 0.5, r'kernel: Block axis 2.*\(4, 6\)'),
    (js.masks.Channel(), BIAS, 0.5, 'dense/bias.*out_axes.*axis='),
    (js.masks.Channel(2), MATRIX, 0.5, r'kernel: Channel axis 2.*\(4, 6\)'),
    (js.masks.Channel(0), STACK, 0.5, 'blocks/kernel: Channel axis 0'),
    (js.masks.NM(2, 4, axis=5), MATRIX, 0.5, 'kernel: NM axis 5'),
    (js.masks.NM(3, 3, axis=0), STACK, 0.0, 'blocks/kernel: NM axis 0'),
    (js.masks.Block((3,), axes=(0,)), STACK, 0.5, 'blocks/kernel: Block axis 0'),
    (js.masks.Block((2, 2), axes=(0, -2)), MATRIX, 0.5, 'kernel: Block.*twice'),
  ],
)
def test_check_names_the_leaf_and_what_was_wanted(structure, leaf, sparsity, message):
  with pytest.raises(ValueError, match=message):
    structure.check(leaf, sparsity)


@pytest.mark.parametrize('structure', STRUCTURES, ids=str)
def test_check_passes_what_works(structure):
  structure.check(MATRIX, 0.5)

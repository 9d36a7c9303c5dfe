"""Exact top-k selection against a NumPy sort with the same ties."""

import hypothesis
from hypothesis import strategies as st
import jax
from jax.experimental import mesh_utils
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse as js

SHAPE = (23, 31)


def numpy_keys(scores):
  """Order-preserving float64 ranks: NaN below -inf, -0.0 equal to 0.0."""
  x = np.asarray(scores).astype(np.float64)
  return np.where(np.isnan(x), -np.inf, np.clip(x, -1e300, 1e300))


def numpy_hash(shape):
  size = int(np.prod(shape))
  h = np.arange(size, dtype=np.uint64)
  mask = np.uint64(2**32 - 1)
  h ^= h >> np.uint64(16)
  h = h * np.uint64(0x7FEB352D) & mask
  h ^= h >> np.uint64(15)
  h = h * np.uint64(0x846CA68B) & mask
  h ^= h >> np.uint64(16)
  return h.reshape(shape)


def numpy_mask(scores, num_kept):
  """The reference: one lexicographic sort by (score, hash)."""
  keys, ties = numpy_keys(scores), numpy_hash(np.shape(scores))
  order = np.lexsort((ties.ravel(), keys.ravel()))
  mask = np.zeros(keys.size, bool)
  mask[order[keys.size - num_kept :]] = True
  return mask.reshape(keys.shape)


def make_scores(kind):
  rng = np.random.default_rng(0)
  normal = rng.normal(size=SHAPE)
  few = rng.random(SHAPE) < 0.3
  with np.errstate(over='ignore'):
    return {
      'normal': normal.astype(np.float32),
      'heavy': (normal * np.exp(5 * normal[::-1])).astype(np.float32),
      'denormal': (normal * 1e-42).astype(np.float32),
      'levels': rng.integers(-3, 4, SHAPE).astype(np.float32),
      'constant': np.ones(SHAPE, np.float32),
      'signed_zeros': np.where(few, -0.0, 0.0).astype(np.float32),
      'nan': np.where(few, np.nan, normal).astype(np.float32),
      'all_nan': np.full(SHAPE, np.nan, np.float32),
      'infinite': np.where(few, -np.inf, np.inf).astype(np.float32),
      'lifted': np.where(few, np.inf, np.abs(normal)).astype(np.float32),
      'excluded': np.where(few, np.abs(normal), -np.inf).astype(np.float32),
      'bfloat16': np.asarray(jnp.asarray(normal, jnp.bfloat16)),
      'float16': normal.astype(np.float16),
      'float16_denormal': (normal * 1e-6).astype(np.float16),
      'uint32': rng.integers(0, 2**32, SHAPE).astype(np.uint32),
      'uint32_ends': np.where(few, 2**32 - 1, 0).astype(np.uint32),
      'int32': rng.integers(-(2**31), 2**31, SHAPE).astype(np.int32),
    }[kind]


KINDS = (
  'normal heavy denormal levels constant signed_zeros nan all_nan infinite lifted'
  ' excluded bfloat16 float16 float16_denormal uint32 uint32_ends int32'
).split()

select = jax.jit(js.masks.top_k_mask, static_argnums=2)


@pytest.mark.parametrize('kind', KINDS)
def test_matches_a_sort(kind):
  scores = make_scores(kind)
  size = scores.size
  for num_kept in (0, 1, 2, size // 10, size // 3, size // 2, size - 1, size):
    mask = np.asarray(select(scores, num_kept, (0, 1)))
    np.testing.assert_array_equal(mask, numpy_mask(scores, num_kept))


@pytest.mark.parametrize('kind', KINDS)
def test_keys_keep_the_order(kind):
  scores = make_scores(kind).ravel()
  keys = np.asarray(js.masks.ordered_keys(jnp.asarray(scores))).astype(np.int64)
  ranks = numpy_keys(scores)
  # NaN and -inf share a rank in the reference only.
  nan = np.isnan(scores.astype(np.float64))
  assert (keys[nan] == 0).all() and (keys[~nan & np.isinf(ranks)] > 0).all()
  order = np.argsort(ranks[~nan], kind='stable')
  steps, key_steps = np.diff(ranks[~nan][order]), np.diff(keys[~nan][order])
  np.testing.assert_array_equal(steps > 0, key_steps > 0)
  assert (key_steps >= 0).all()


def test_keys_refuse_other_dtypes():
  with pytest.raises(ValueError, match='scores: dtype bool'):
    js.masks.ordered_keys(jnp.ones(3, bool))


def test_golden_mask():
  scores = jnp.array([[3.0, -1.0, 0.0], [jnp.nan, 5.0, 3.5]])
  mask = js.masks.top_k_mask(scores, 3, (0, 1))
  assert mask.astype(int).tolist() == [[1, 0, 0], [0, 1, 1]]
  mask = js.masks.top_k_mask(scores, jnp.array([[1, 0, 2]]), (0,))
  assert mask.astype(int).tolist() == [[1, 0, 1], [0, 0, 1]]


def test_golden_ties():
  # Hashes of 0..5: the three largest are those of 4, 2 and 3.
  hashes = np.asarray(js.masks.hash_index((6,)))
  np.testing.assert_array_equal(hashes, numpy_hash((6,)))
  mask = js.masks.top_k_mask(jnp.zeros(6), 3, (0,))
  kept = sorted(np.argsort(hashes)[-3:].tolist())
  assert np.flatnonzero(mask).tolist() == kept


@pytest.mark.parametrize('shape', [(), (7,), (3, 4, 5), (2, 1, 3), (0, 4), (64, 64)])
def test_hash_is_of_the_flat_index(shape):
  hashes = np.asarray(js.masks.hash_index(shape))
  np.testing.assert_array_equal(hashes, numpy_hash(shape))
  assert len(np.unique(hashes)) == hashes.size


@pytest.mark.parametrize('unit_axes', [(0,), (1,), (2,), (0, 2), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize('kind', ['normal', 'ties'])
def test_slices(unit_axes, kind):
  rng = np.random.default_rng(1)
  scores = rng.normal(size=(4, 6, 5)).astype(np.float32)
  scores = np.round(scores) if kind == 'ties' else scores
  slices = tuple(1 if a in unit_axes else n for a, n in enumerate(scores.shape))
  size = scores.size // int(np.prod(slices))
  num_kept = rng.integers(0, size + 1, slices).astype(np.int32)
  mask = np.asarray(select(scores, num_kept, unit_axes))
  ties = numpy_hash(scores.shape)
  for index in np.ndindex(slices):
    where = tuple(slice(None) if a in unit_axes else i for a, i in enumerate(index))
    order = np.lexsort((ties[where].ravel(), scores[where].ravel()))
    expected = np.zeros(size, bool)
    expected[order[size - num_kept[index] :]] = True
    np.testing.assert_array_equal(mask[where].ravel(), expected)


def test_scalars_and_empty_arrays():
  assert bool(js.masks.top_k_mask(jnp.float32(2.0), 1, ()))
  assert not bool(js.masks.top_k_mask(jnp.float32(2.0), 0, ()))
  assert js.masks.top_k_mask(jnp.ones((0, 3)), 0, (0, 1)).shape == (0, 3)


def test_wrong_shape_of_num_kept():
  with pytest.raises(ValueError, match='num_kept: shape'):
    js.masks.top_k_mask(jnp.ones((3, 4)), jnp.ones(3, jnp.int32), (1,))


def test_num_kept_is_clipped():
  assert bool(js.masks.top_k_mask(jnp.ones(5), 9, (0,)).all())
  assert not bool(js.masks.top_k_mask(jnp.ones(5), -1, (0,)).any())


def test_vmap_over_scores_and_counts():
  scores = np.stack([make_scores('normal'), make_scores('levels')])
  num_kept = jnp.array([50, 300], jnp.int32)
  masks = jax.vmap(lambda s, k: js.masks.top_k_mask(s, k, (0, 1)))(scores, num_kept)
  for i in range(2):
    np.testing.assert_array_equal(masks[i], numpy_mask(scores[i], int(num_kept[i])))


def test_traced_count_does_not_retrace():
  traces = []

  @jax.jit
  def run(scores, num_kept):
    traces.append(1)
    return js.masks.top_k_mask(scores, num_kept, (0, 1))

  scores = make_scores('normal')
  for num_kept in (3, 400):
    assert int(run(scores, jnp.int32(num_kept)).sum()) == num_kept
  assert len(traces) == 1


@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
@hypothesis.given(
  bits=st.lists(st.integers(0, 2**32 - 1), min_size=24, max_size=24),
  repeat=st.integers(1, 12),
  num_kept=st.integers(0, 24),
)
def test_any_float_bits(bits, repeat, num_kept):
  bits = np.array(bits, np.uint32)
  bits[: 2 * repeat] = bits[0]
  scores = bits.view(np.float32).reshape(4, 6)
  mask = np.asarray(select(scores, num_kept, (0, 1)))
  assert mask.sum() == num_kept
  np.testing.assert_array_equal(mask, numpy_mask(scores, num_kept))
  keys = np.asarray(js.masks.ordered_keys(jnp.asarray(scores)))
  if 0 < num_kept < 24:
    assert keys[mask].min() >= keys[~mask].max()


def test_is_exact_above_the_float32_integers():
  size = 2**24 + 5  # Where float32 counts stop.
  scores = jnp.ones((size,), jnp.bfloat16)
  mask = select(scores, 2**24 + 1, (0,))
  assert int(mask.sum(dtype=jnp.int32)) == 2**24 + 1


def numpy_counts(scores, num_kept):
  """Joint sort; ties at the threshold go to the arrays in order."""
  keys = np.concatenate([numpy_keys(x).ravel() for x in scores.values()])
  owner = np.concatenate([np.full(x.size, i) for i, x in enumerate(scores.values())])
  order = np.lexsort((owner, -keys))[:num_kept]
  return {n: int((owner[order] == i).sum()) for i, n in enumerate(scores)}


@pytest.mark.parametrize('kind', ['normal', 'levels', 'constant', 'lifted', 'uint32'])
def test_joint_counts(kind):
  x = make_scores(kind)
  scores = {'b': x[:3], 'a': x[3:4, :, None], 'empty': x[:0], 'c': x[4:]}
  run = jax.jit(js.masks.threshold_counts)
  for num_kept in (0, 1, 77, 400, x.size - 1, x.size):
    counts = {n: int(c) for n, c in run(scores, jnp.int32(num_kept)).items()}
    # jit returns dicts in the order of their names, so that is the leaf order.
    ordered = {n: scores[n] for n in sorted(scores)}
    assert counts == numpy_counts(ordered, num_kept)
    assert sum(counts.values()) == num_kept


def test_joint_counts_of_nothing():
  assert js.masks.threshold_counts({}, 0) == {}


def test_joint_counts_refuse_too_many():
  huge = {'a': jax.ShapeDtypeStruct((2**16, 2**15), jnp.float32)}
  with pytest.raises(ValueError, match='fewer than 2'):
    js.masks.threshold_counts(huge, 1)


def sharded(scores, spec):
  devices = mesh_utils.create_device_mesh((4,), jax.devices()[:4])
  mesh = jax.sharding.Mesh(devices, ('d',))
  return jax.device_put(scores, jax.sharding.NamedSharding(mesh, spec))


@pytest.mark.skipif(jax.device_count() < 4, reason='needs fake devices')
@pytest.mark.parametrize('kind', ['normal', 'levels'])
@pytest.mark.parametrize('axis', [0, 1])
def test_a_sharded_leaf_is_never_gathered(axis, kind):
  rng = np.random.default_rng(2)
  scores = rng.normal(size=(16, 24)).astype(np.float32)
  scores = np.round(scores) if kind == 'levels' else scores
  spec = jax.sharding.PartitionSpec(*(('d', None) if axis == 0 else (None, 'd')))
  given = sharded(scores, spec)
  for unit_axes in ((0, 1), (1 - axis,)) if kind == 'normal' else ((0, 1),):
    run = jax.jit(lambda s, k, a=unit_axes: js.masks.top_k_mask(s, k, a))
    compiled = run.lower(given, jnp.int32(7)).compile()
    text = compiled.as_text()
    assert 'all-gather' not in text and 'all-to-all' not in text
    mask = compiled(given, jnp.int32(7))
    assert mask.sharding.is_equivalent_to(given.sharding, 2)
    alone = js.masks.top_k_mask(jnp.asarray(scores), 7, unit_axes)
    np.testing.assert_array_equal(mask, alone)


@pytest.mark.skipif(jax.device_count() < 4, reason='needs fake devices')
@pytest.mark.parametrize('check_vma', [False, True])
def test_inside_shard_map(check_vma):
  # Each device selects within its own rows.
  scores = np.round(np.random.default_rng(3).normal(size=(4, 40)), 1)
  spec = jax.sharding.PartitionSpec('d')
  given = sharded(scores.astype(np.float32), spec)
  run = jax.shard_map(
    lambda s: js.masks.top_k_mask(s, 11, (0, 1)),
    mesh=given.sharding.mesh,
    in_specs=spec,
    out_specs=spec,
    check_vma=check_vma,
  )
  mask = np.asarray(jax.jit(run)(given))
  assert (mask.sum(1) == 11).all()


def test_the_hash_of_given_indices_is_that_of_all():
  index = jnp.array([[5, 0], [23, 7]], jnp.uint32)
  whole = js.masks.hash_index((2, 3, 4)).reshape(-1)
  assert js.masks.hash_flat(index).tolist() == whole[index.astype(int)].tolist()

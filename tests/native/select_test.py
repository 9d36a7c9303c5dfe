"""The selection kernel against a NumPy sort, and against the path in jnp."""

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse as js

pytestmark = pytest.mark.skipif(
  not js.native.available(), reason=f'no kernels: {js.native.why_not()}'
)

# Above two chunks of the kernel, so that it samples, and no multiple of anything.
LARGE = 100_003

select = jax.jit(js.native.select, static_argnums=2)
ordered_keys = jax.jit(js.masks.ordered_keys)


def numpy_mask(scores, num_kept):
  """One lexicographic sort by (key, hash)."""
  keys = np.asarray(ordered_keys(scores)).ravel()
  ties = numpy_hash(keys.size)
  order = np.lexsort((ties, keys))
  mask = np.zeros(keys.size, bool)
  mask[order[keys.size - num_kept :]] = True
  return mask.reshape(scores.shape)


def numpy_hash(size):
  h = np.arange(size, dtype=np.uint32)
  h ^= h >> np.uint32(16)
  h *= np.uint32(0x7FEB352D)
  h ^= h >> np.uint32(15)
  h *= np.uint32(0x846CA68B)
  return h ^ (h >> np.uint32(16))


def make_scores(kind, size):
  rng = np.random.default_rng(0)
  normal, few = rng.normal(size=size), rng.random(size) < 0.3
  scores = {
    'normal': normal,
    'magnitude': np.abs(normal),
    'denormal': normal * 1e-42,
    'levels': np.round(normal, 1),
    'mostly_zero': np.where(few, np.abs(normal), 0.0),
    'constant': np.ones(size),
    'signed_zeros': np.where(few, -0.0, 0.0),
    'nan': np.where(few, np.nan, normal),
    'lifted': np.where(few, np.inf, np.abs(normal)),
    'excluded': np.where(few, np.abs(normal), -np.inf),
    # Half of all scores are between two neighbours of the sample: the bracket overflows.
    'dense': np.where(few, normal, 1 + 1e-6 * normal),
  }
  return scores[kind].astype(np.float32)


KINDS = (
  'normal magnitude denormal levels mostly_zero constant signed_zeros nan lifted'
  ' excluded dense'
).split()


@pytest.mark.parametrize('size', [1, 331, LARGE])
@pytest.mark.parametrize('kind', KINDS)
def test_matches_a_sort(kind, size):
  scores = make_scores(kind, size)
  for num_kept in {0, 1, size // 20, size // 3, size - 1, size}:
    mask = np.asarray(select(scores, np.int32(num_kept), 1))
    np.testing.assert_array_equal(mask, numpy_mask(scores, num_kept))


@pytest.mark.parametrize('dtype', ['bfloat16', 'int32', 'uint32'])
@pytest.mark.parametrize('size', [331, LARGE])
def test_other_dtypes(dtype, size):
  scores = make_scores('normal', size)
  if dtype == 'bfloat16':
    scores = np.asarray(jnp.asarray(scores, jnp.bfloat16))
  else:
    scores = np.random.default_rng(1).integers(0, 2**32, size).astype(dtype)
  for num_kept in (size // 20, size // 2):
    mask = np.asarray(select(scores, np.int32(num_kept), 1))
    np.testing.assert_array_equal(mask, numpy_mask(scores, num_kept))


def test_refuses_other_dtypes():
  with pytest.raises(ValueError, match='scores: dtype float16'):
    js.native.select(jnp.ones(3, jnp.float16), jnp.int32(1), 1)


def test_counts_are_clipped_and_empty_arrays_pass():
  scores = jnp.arange(5.0)
  assert not select(scores, jnp.int32(-3), 1).any()
  assert select(scores, jnp.int32(9), 1).all()
  assert select(jnp.zeros((2, 0)), jnp.ones(2, jnp.int32), 1).shape == (2, 0)


_SIZE = 97


@hypothesis.settings(max_examples=60)
@hypothesis.given(
  bits=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=_SIZE),
  num_kept=st.integers(0, _SIZE),
)
def test_any_float_bits_as_in_jnp(bits, num_kept):
  # Few different bits, repeated: ties, NaN of both signs, infinities, denormals.
  scores = np.resize(np.array(bits, np.uint32), _SIZE).view(np.float32)
  mask = np.asarray(select(scores, np.int32(num_kept), 1))
  np.testing.assert_array_equal(mask, numpy_mask(scores, num_kept))
  np.testing.assert_array_equal(mask, by_jnp(scores, num_kept))


@jax.jit
def by_jnp(scores, num_kept):
  return js.masks.top_k_mask(scores, num_kept, (0,))


def test_slices_and_vmap():
  # The hash goes on from slice to slice, and begins anew for every vmapped array.
  scores = np.round(np.random.default_rng(2).normal(size=(2, 3, 5, 40)), 1)
  scores = scores.astype(np.float32)
  kept = np.array([[0, 7, 200], [1, 50, 199]], np.int32)
  over = jax.jit(jax.vmap(lambda s, k: js.native.select(s, k, 2)))
  in_jnp = jax.vmap(lambda s, k: js.masks.top_k_mask(s, k[:, None, None], (1, 2)))
  mask = np.asarray(over(scores, kept))
  np.testing.assert_array_equal(mask, np.asarray(in_jnp(scores, kept)))
  assert (mask.sum((2, 3)) == kept).all()
  # An unbatched count is broadcast.
  alike = jax.vmap(lambda s: js.native.select(s, jnp.int32(9), 3))(scores)
  assert (np.asarray(alike).sum((1, 2, 3)) == 9).all()


def test_where_the_kernel_is_chosen(monkeypatch):
  # The tests run on eight fake devices, where a call would gather a sharded leaf.
  large, axes = (80, 80), (0, 1)
  monkeypatch.setattr(jax, 'device_count', lambda: 1)
  assert js.native.can_select(large, axes)
  assert js.native.can_select((3, *large), (1, 2))
  assert not js.native.can_select((3, *large), (0, 1))
  assert not js.native.can_select((8, 8), axes)
  monkeypatch.undo()
  assert not js.native.can_select(large, axes) or jax.device_count() == 1


def test_masks_use_it_on_one_device(monkeypatch):
  scores = np.round(np.random.default_rng(3).normal(size=(80, 80)), 2)
  wanted = {}
  for dtype in ('float32', 'float16', 'bfloat16'):
    given = jnp.asarray(scores, dtype)
    wanted[dtype] = js.masks.top_k_mask(given, 700, (0, 1))
  monkeypatch.setattr(jax, 'device_count', lambda: 1)
  for dtype, mask in wanted.items():
    given = jnp.asarray(scores, dtype)
    select = lambda s: js.masks.top_k_mask(s, 700, (0, 1))
    assert 'jaxsparse_select' in str(jax.make_jaxpr(select)(given))
    np.testing.assert_array_equal(np.asarray(select(given)), np.asarray(mask))


@pytest.mark.skipif(jax.device_count() < 2, reason='needs fake devices')
@pytest.mark.parametrize('check_vma', [False, True])
def test_inside_shard_map(check_vma):
  scores = np.random.default_rng(4).normal(size=(2, 80, 80)).astype(np.float32)
  spec = jax.sharding.PartitionSpec('d')
  run = jax.shard_map(
    lambda s: js.masks.top_k_mask(s, 11, (1, 2)),
    mesh=jax.sharding.Mesh(np.array(jax.devices()[:2]), ('d',)),
    in_specs=spec,
    out_specs=spec,
    check_vma=check_vma,
  )
  assert 'jaxsparse_select' in str(jax.make_jaxpr(run)(scores))
  mask = np.asarray(jax.jit(run)(scores))
  for one, alone in zip(mask, scores):
    np.testing.assert_array_equal(one, numpy_mask(alone, 11))

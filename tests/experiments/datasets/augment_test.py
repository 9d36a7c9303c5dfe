"""Augmentation: every result is one of the crops that NumPy would make."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import datasets

_IMAGES = np.random.RandomState(0).randint(1, 256, (6, 8, 7, 3)).astype(np.uint8)


def _crops(image, pad, mode, flips):
  """All images that the augmentation may give, as bytes."""
  height, width, _ = image.shape
  padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode=mode)
  crops = [
    padded[top : top + height, left : left + width]
    for top in range(2 * pad + 1)
    for left in range(2 * pad + 1)
  ]
  if flips:
    crops += [crop[:, ::-1] for crop in crops]
  return {np.ascontiguousarray(crop).tobytes() for crop in crops}


@pytest.mark.parametrize(
  'kind, mode, dtype',
  [
    ('shift', 'constant', np.uint8),
    ('crop_flip', 'constant', np.float32),
    ('crop_flip', 'reflect', np.uint8),
  ],
)
def test_results_are_crops_of_the_padded_image(kind, mode, dtype):
  images = _IMAGES.astype(dtype)
  augment = jax.jit(
    lambda key: datasets.augment(key, images, kind, pad=2, padding=mode)
  )
  for seed in range(5):
    out = np.asarray(augment(jax.random.key(seed)))
    assert out.dtype == dtype and out.shape == images.shape
    for before, after in zip(images, out):
      assert after.tobytes() in _crops(before, 2, mode, kind == 'crop_flip')


def test_all_places_and_mirrors_occur():
  images = np.repeat(_IMAGES[:1], 600, axis=0)
  augment = jax.jit(lambda key: datasets.augment(key, images, 'crop_flip', pad=1))
  out = np.asarray(augment(jax.random.key(0)))
  # 18 outcomes, 600 draws: one is missed with probability 18 * (17/18)**600 < 1e-13.
  assert {image.tobytes() for image in out} == _crops(_IMAGES[0], 1, 'constant', True)


def test_none_changes_nothing():
  assert datasets.augment(jax.random.key(0), _IMAGES, 'none') is _IMAGES


def test_keys_per_image_do_not_depend_on_how_the_batch_is_split():
  keys = jax.random.split(jax.random.key(3), 6)
  augment = jax.jit(lambda k, x: datasets.augment(k, x, 'crop_flip', pad=2, cutout=3))
  halves = [augment(keys[:3], _IMAGES[:3]), augment(keys[3:], _IMAGES[3:])]
  np.testing.assert_array_equal(augment(keys, _IMAGES), np.concatenate(halves))
  whole = augment(jax.random.key(3), _IMAGES)
  np.testing.assert_array_equal(augment(keys, _IMAGES), whole)


def test_cutout_blanks_one_square_that_may_hang_over():
  images = np.ones((400, 8, 8, 1), np.float32)
  augment = jax.jit(lambda key: datasets.augment(key, images, 'none', cutout=3))
  out = np.asarray(augment(jax.random.key(0)))
  sizes = set()
  for image in out[..., 0]:
    rows, columns = np.nonzero(image == 0)
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert rows.size == height * width
    sizes.add((int(height), int(width)))
  assert sizes == {(a, b) for a in (2, 3) for b in (2, 3)}


def test_normalize_matches_numpy():
  mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
  out = datasets.normalize(_IMAGES, mean, std)
  expected = (_IMAGES / 255 - np.array(mean)) / np.array(std)
  np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)
  assert datasets.normalize(_IMAGES, mean, std, jnp.bfloat16).dtype == jnp.bfloat16


def test_normalize_takes_floats_as_they_are():
  signals = np.float32([[1.0], [3.0]])[..., None, None]
  assert datasets.normalize(signals, (1.0,), (4.0,)).ravel().tolist() == [0.0, 0.5]


def test_normalize_refuses_what_is_not_bytes_of_these_channels():
  with pytest.raises(ValueError, match='images: got int32'):
    datasets.normalize(_IMAGES.astype(np.int32), (0, 0, 0), (1, 1, 1))
  with pytest.raises(ValueError, match='mean has 1.*images 3 channels'):
    datasets.normalize(_IMAGES, (0,), (1,))


@pytest.mark.parametrize(
  'arguments, message',
  [
    ({'kind': 'flip'}, "'flip'.*none, shift, crop_flip"),
    ({'kind': 'shift', 'padding': 'edge'}, "'edge'.*constant, reflect"),
    ({'kind': 'shift', 'pad': 7}, 'pad=7'),
    ({'kind': 'none', 'cutout': 8}, 'cutout=8'),
  ],
)
def test_bad_arguments_are_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    datasets.augment(jax.random.key(0), _IMAGES, **arguments)

"""Augmentation and normalisation on the device."""

import functools

import jax
import jax.numpy as jnp

_KINDS = ('none', 'shift', 'crop_flip')
_PADDINGS = ('constant', 'reflect')


def normalize(images, mean, std, dtype=jnp.float32) -> jax.Array:
  """Maps bytes, or signals, to zero mean and unit variance per channel.

  `(images / 255 - mean) / std`, computed in float32; floats are not divided by 255.

  Args:
    images: uint8 or float32 (N, H, W, C).
    mean: C floats, of bytes in units of the full range (1 = 255), as in `Data.mean`.
    std: C floats in the same units, as in `Data.std`.
    dtype: of the result.

  Returns:
    `dtype` (N, H, W, C).

  Raises:
    ValueError: images of another dtype, or `mean` and `std` of another length.

  Example:
    >>> import numpy as np
    >>> from experiments import datasets
    >>> images = np.full((1, 1, 1, 1), 255, np.uint8)
    >>> datasets.normalize(images, (0.5,), (0.25,)).item()
    2.0
  """
  if images.dtype not in (jnp.uint8, jnp.float32):
    raise ValueError(f'images: got {images.dtype}, want uint8 in 0..255 or float32.')
  channels = images.shape[-1]
  if len(mean) != channels or len(std) != channels:
    raise ValueError(
      f'mean has {len(mean)} and std {len(std)} values, but images {channels} channels.'
    )
  shape = (1,) * (images.ndim - 1) + (channels,)
  mean = jnp.asarray(mean, jnp.float32).reshape(shape)
  scale = (1 / jnp.asarray(std, jnp.float32)).reshape(shape)
  if images.dtype == jnp.uint8:
    images = images.astype(jnp.float32) / 255
  return ((images - mean) * scale).astype(dtype)


def augment(
  key, images, kind: str, *, pad: int = 4, padding: str = 'constant', cutout: int = 0
) -> jax.Array:
  """Moves, mirrors and cuts each image at random, keeping shape and dtype.

  Every image has its own key, so that its fate does not depend on how a batch is
  split over devices when keys are given per image.

  Args:
    key: one typed key, or (N,) of them, one per image.
    images: (N, H, W, C), bytes or floats; padding and cutout fill with 0.
    kind: `'none'`; `'shift'`: pads by `pad` and crops back at a random place;
      `'crop_flip'`: the same and a mirror image half of the time (CIFAR's standard).
    pad: pixels added on each side before the crop.
    padding: `'constant'` (0) or `'reflect'`.
    cutout: side in pixels of the square that is blanked around a random centre; it
      may hang over the border (DeVries & Taylor, arXiv 1708.04552); 0 for none.

  Returns:
    An array like `images`.

  Raises:
    ValueError: an unknown `kind` or `padding`, or sizes that do not fit the images.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from experiments import datasets
    >>> images = jnp.zeros((2, 8, 8, 1), jnp.uint8)
    >>> datasets.augment(jax.random.key(0), images, 'shift', pad=1).shape
    (2, 8, 8, 1)
  """
  if kind not in _KINDS:
    raise ValueError(f'kind: got {kind!r}, want one of {", ".join(_KINDS)}.')
  if padding not in _PADDINGS:
    raise ValueError(f'padding: got {padding!r}, want one of {", ".join(_PADDINGS)}.')
  smallest = min(images.shape[1:3])
  pads = kind != 'none'  # Signals are one pixel wide: 'none' takes any pad.
  if (pads and not 0 <= pad < smallest) or not 0 <= cutout <= smallest:
    raise ValueError(
      f'pad={pad}, cutout={cutout}: want 0 <= pad < {smallest} and 0 <= cutout <='
      f' {smallest} for images of {images.shape[1:3]} pixels.'
    )
  moves = kind != 'none' and pad > 0
  if kind == 'none' and not cutout:
    return images
  keys = jax.random.split(key, images.shape[0]) if key.ndim == 0 else key
  if moves:
    sides = ((0, 0), (pad, pad), (pad, pad), (0, 0))
    padded = jnp.pad(images, sides, mode=padding)
  else:
    padded = images
  place = functools.partial(
    _place, shape=images.shape[1:], moves=moves, flips=kind == 'crop_flip', side=cutout
  )
  return jax.vmap(place)(keys, padded)


def _place(key, image, *, shape, moves: bool, flips: bool, side: int):
  """Crops, mirrors and cuts one (padded) image to `shape`."""
  height, width, _ = shape
  crop_key, flip_key, cut_key = jax.random.split(key, 3)
  if moves:
    limits = jnp.array([image.shape[0] - height + 1, image.shape[1] - width + 1])
    top, left = jax.random.randint(crop_key, (2,), 0, limits)
    image = jax.lax.dynamic_slice(image, (top, left, jnp.int32(0)), shape)
  if flips:
    image = jnp.where(jax.random.bernoulli(flip_key), image[:, ::-1], image)
  if side:
    row, column = jax.random.randint(cut_key, (2,), 0, jnp.array([height, width]))
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)[None, :]
    top, left = row - side // 2, column - side // 2
    inside = (rows >= top) & (rows < top + side)
    inside &= (columns >= left) & (columns < left + side)
    image = jnp.where(inside[:, :, None], jnp.zeros((), image.dtype), image)
  return image

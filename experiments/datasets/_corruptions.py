"""Test images as a careless world would deliver them: nine corruptions, five grades."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy import ndimage
import numpy as np


def _gaussian_noise(key, images, sd):
  return images + sd * jax.random.normal(key, images.shape)


def _shot_noise(key, images, photons):
  return jax.random.poisson(key, images * photons).astype(jnp.float32) / photons


def _impulse_noise(key, images, share):
  hit_key, value_key = jax.random.split(key)
  hit = jax.random.bernoulli(hit_key, share, images.shape)
  value = jax.random.bernoulli(value_key, 0.5, images.shape)
  return jnp.where(hit, value.astype(jnp.float32), images)


def _gaussian_blur(key, images, sigma):
  del key
  # Weights beyond the largest sigma's reach are negligible at every grade.
  radius = 6
  weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
  weights = jnp.asarray(weights / weights.sum(), jnp.float32)
  for axis in (1, 2):
    sides = [(radius, radius) if a == axis else (0, 0) for a in range(4)]
    padded = jnp.pad(images, sides, mode='edge')
    size = images.shape[axis]
    images = sum(
      weight * jax.lax.slice_in_dim(padded, i, i + size, axis=axis)
      for i, weight in enumerate(weights)
    )
  return images


def _contrast(key, images, factor):
  del key
  mean = images.mean((1, 2), keepdims=True)
  return mean + factor * (images - mean)


def _brightness(key, images, shift):
  del key
  return images + shift


def _pixelate(key, images, share):
  del key
  count, height, width, channels = images.shape
  small = (count, max(1, round(share * height)), max(1, round(share * width)), channels)
  return jax.image.resize(
    jax.image.resize(images, small, 'linear'), images.shape, 'nearest'
  )


def _rotation(key, images, degrees):
  signs = jax.random.rademacher(key, (images.shape[0],), jnp.float32)
  return jax.vmap(_turned)(images, signs * np.deg2rad(degrees))


def _translation(key, images, share):
  """Moves by that share of the side along each axis, in a random direction."""
  height, width = images.shape[1:3]
  signs = jax.random.rademacher(key, (images.shape[0], 2), jnp.float32)
  shifts = signs * jnp.array([[round(share * height), round(share * width)]])
  return jax.vmap(_moved)(images, shifts.astype(jnp.int32))


def _turned(image, angle):
  height, width, _ = image.shape
  rows, columns = jnp.meshgrid(
    jnp.arange(height) - (height - 1) / 2,
    jnp.arange(width) - (width - 1) / 2,
    indexing='ij',
  )
  sine, cosine = jnp.sin(angle), jnp.cos(angle)
  place = [
    cosine * rows - sine * columns + (height - 1) / 2,
    sine * rows + cosine * columns + (width - 1) / 2,
  ]
  one = lambda plane: ndimage.map_coordinates(plane, place, order=1, mode='constant')
  return jax.vmap(one, in_axes=2, out_axes=2)(image)


def _moved(image, shift):
  height, width, _ = image.shape
  padded = jnp.pad(image, ((height, height), (width, width), (0, 0)))
  start = (height + shift[0], width + shift[1], jnp.int32(0))
  return jax.lax.dynamic_slice(padded, start, image.shape)


# Each with its severity at the grades 1 to 5. They are chosen for small images, as
# those of CIFAR-10-C are, whose exact values they are not.
_KINDS: dict[str, tuple[Callable, tuple[float, ...]]] = {
  'gaussian_noise': (_gaussian_noise, (0.05, 0.1, 0.15, 0.2, 0.3)),
  'shot_noise': (_shot_noise, (100, 50, 25, 12, 6)),
  'impulse_noise': (_impulse_noise, (0.02, 0.05, 0.1, 0.15, 0.25)),
  'gaussian_blur': (_gaussian_blur, (0.5, 0.75, 1.0, 1.5, 2.0)),
  'contrast': (_contrast, (0.7, 0.5, 0.35, 0.2, 0.1)),
  'brightness': (_brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
  'pixelate': (_pixelate, (0.8, 0.65, 0.5, 0.4, 0.3)),
  'rotation': (_rotation, (10, 20, 30, 45, 60)),
  'translation': (_translation, (0.05, 0.1, 0.15, 0.2, 0.25)),
}
CORRUPTIONS = tuple(_KINDS)


def corrupt(key, images, kind: str, severity: int) -> jax.Array:
  """Corrupts images as noise, optics, processing or a careless hand would.

  Noise (`gaussian_noise`, `shot_noise`, `impulse_noise`), `gaussian_blur`, `contrast`,
  `brightness`, `pixelate`, `rotation` and `translation`, after Hendrycks & Dietterich
  2019 (arXiv 1903.12261, section 4) with severities of our own for small images: a
  figure on them compares methods here, not with CIFAR-10-C.

  Args:
    key: typed key, for noise and directions.
    images: uint8 (N, H, W, C).
    kind: one of `datasets.CORRUPTIONS`.
    severity: 1 (mild) to 5.

  Returns:
    uint8 images of the same shape.

  Raises:
    ValueError: an unknown kind, a severity out of range, images that are no bytes.

  Example:
    >>> import jax, numpy as np
    >>> from experiments import datasets
    >>> images = np.full((2, 8, 8, 1), 100, np.uint8)
    >>> bright = datasets.corrupt(jax.random.key(0), images, 'brightness', 2)
    >>> int(bright[0, 0, 0, 0])
    151
  """
  if kind not in _KINDS:
    raise ValueError(f'kind: got {kind!r}, wanted one of {", ".join(_KINDS)}.')
  if severity not in range(1, 6):
    raise ValueError(f'severity: got {severity!r}, wanted 1 to 5.')
  if images.dtype != jnp.uint8:
    raise ValueError(f'images: got {images.dtype}, wanted uint8 in 0..255.')
  change, grades = _KINDS[kind]
  # Only threefry draws Poisson numbers, whatever the user's default generator is.
  bits = jax.random.bits(key, (2,), jnp.uint32)
  key = jax.random.wrap_key_data(bits, impl='threefry2x32')
  whole = jnp.asarray(images, jnp.float32) / 255
  changed = change(key, whole, grades[severity - 1])
  return jnp.round(jnp.clip(changed, 0, 1) * 255).astype(jnp.uint8)

"""What the networks of super-resolution share: convolutions and pixel shuffles."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

# Uniform in +-1 / sqrt(fan_in), from which the field's published networks start.
uniform_fan_in = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


def conv(features: int, size: int, dtype: Any, name: str) -> nn.Conv:
  """A convolution that keeps the size of the image, with a bias."""
  return nn.Conv(
    features,
    (size, size),
    padding='SAME',
    kernel_init=uniform_fan_in,
    dtype=dtype,
    name=name,
  )


def pixel_shuffle(x: jax.Array, scale: int) -> jax.Array:
  """Rearranges channels into pixels: `y[sh + i, sw + j, c] = x[h, w, c s^2 + i s + j]`.

  Args:
    x: (N, H, W, C scale^2).
    scale: how much larger the image becomes.

  Returns:
    (N, H scale, W scale, C).
  """
  batch, height, width, channels = x.shape
  x = x.reshape(batch, height, width, channels // scale**2, scale, scale)
  x = x.transpose(0, 1, 4, 2, 5, 3)
  return x.reshape(batch, height * scale, width * scale, channels // scale**2)


def check_scale(scale: int) -> None:
  """Raises ValueError for a scale that no network here has."""
  if scale not in (2, 3, 4, 8):
    raise ValueError(f'scale: got {scale!r}, want 2, 3, 4 or 8.')


def mean_of(mean: tuple[float, ...], channels: int, dtype: Any) -> jax.Array:
  """The mean colour, one number per channel; their average for a grey network."""
  if len(mean) != channels:
    mean = (sum(mean) / len(mean),) * channels
  return jnp.asarray(mean, dtype).reshape(1, 1, 1, channels)

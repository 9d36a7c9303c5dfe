"""ESPCN (Shi et al. 2016, arXiv 1609.05158)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from experiments.models import _upscale, _width


class ESPCN(nn.Module):
  """Convolutions at low resolution with tanh, then one pixel shuffle.

  Attributes:
    scale: how much larger the image becomes: 2, 3, 4 or 8.
    channels: of the images; the paper's network sees luma only, so 1.
    features: channels of the first layer (5x5), then of each further one (3x3).
    width: multiplies `features`.
    dtype: of the computation; parameters and images are float32.

  Raises:
    ValueError: a scale that there is not.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from experiments import models
    >>> model, images = models.ESPCN(scale=3), jnp.ones((1, 8, 6, 1))
    >>> jax.eval_shape(model.init_with_output, jax.random.key(0), images)[0].shape
    (1, 24, 18, 1)
  """

  scale: int
  channels: int = 1
  features: tuple[int, ...] = (64, 32)
  width: float = 1.0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, images):
    _upscale.check_scale(self.scale)
    x = images.astype(self.dtype)
    for index, features in enumerate(self.features, 1):
      count = _width.scaled(features, self.width)
      size = 5 if index == 1 else 3
      x = nn.tanh(_upscale.conv(count, size, self.dtype, f'conv{index}')(x))
    x = _upscale.conv(self.channels * self.scale**2, 3, self.dtype, 'upscale')(x)
    return _upscale.pixel_shuffle(x, self.scale).astype(jnp.float32)

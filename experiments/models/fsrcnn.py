"""FSRCNN (Dong et al. 2016, arXiv 1608.00367)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from experiments.models import _upscale, _width


class _PReLU(nn.Module):
  """Leaky where negative, with a slope for each channel."""

  @nn.compact
  def __call__(self, x):
    init = nn.initializers.constant(0.25)
    slope = self.param('slope', init, (x.shape[-1],)).astype(x.dtype)
    return jnp.where(x >= 0, x, slope.reshape(1, 1, 1, -1) * x)


class FSRCNN(nn.Module):
  """Features, shrinking, mapping, expanding, and a deconvolution.

  The default is FSRCNN (56, 12, 4): 12,464 weights on luma.

  Attributes:
    scale: how much larger the image becomes: 2, 3, 4 or 8.
    channels: of the images; the paper's network sees luma only, so 1.
    features: channels of the first layer (5x5) and of the last hidden one (1x1).
    shrunk: channels in between.
    mappings: 3x3 convolutions of these.
    width: multiplies `features` and `shrunk`.
    dtype: of the computation; parameters and images are float32.

  Raises:
    ValueError: a scale that there is not.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from experiments import models
    >>> model, images = models.FSRCNN(scale=4), jnp.ones((1, 8, 6, 1))
    >>> jax.eval_shape(model.init_with_output, jax.random.key(0), images)[0].shape
    (1, 32, 24, 1)
  """

  scale: int
  channels: int = 1
  features: int = 56
  shrunk: int = 12
  mappings: int = 4
  width: float = 1.0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, images):
    _upscale.check_scale(self.scale)
    wide = _width.scaled(self.features, self.width)
    narrow = _width.scaled(self.shrunk, self.width)
    layers = [('features', wide, 5), ('shrink', narrow, 1)]
    layers += [(f'map{i}', narrow, 3) for i in range(1, self.mappings + 1)]
    x = images.astype(self.dtype)
    for name, count, size in [*layers, ('expand', wide, 1)]:
      x = nn.Conv(
        count,
        (size, size),
        padding='SAME',
        kernel_init=nn.initializers.he_normal(),
        dtype=self.dtype,
        name=name,
      )(x)
      x = _PReLU(name=f'{name}_prelu')(x)
    x = nn.ConvTranspose(
      self.channels,
      (9, 9),
      strides=(self.scale, self.scale),
      padding='SAME',
      kernel_init=nn.initializers.normal(0.001),
      dtype=self.dtype,
      name='deconv',
    )(x)
    return x.astype(jnp.float32)

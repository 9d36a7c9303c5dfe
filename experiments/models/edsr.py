"""EDSR (Lim et al. 2017, arXiv 1707.02921), from the baseline to a tiny one."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from experiments.models import _upscale, _width


class _Block(nn.Module):
  features: int
  residual_scale: float
  dtype: Any

  @nn.compact
  def __call__(self, x):
    y = nn.relu(_upscale.conv(self.features, 3, self.dtype, 'conv1')(x))
    y = _upscale.conv(self.features, 3, self.dtype, 'conv2')(y)
    return x + y * self.residual_scale


class EDSR(nn.Module):
  """Residual blocks without norms, then convolutions that shuffle pixels.

  The default is the paper's baseline: 1.37, 1.55 and 1.52 million weights for scales
  2, 3 and 4. `features=16, blocks=4` is one that two CPU cores can train;
  `features=256, blocks=32, residual_scale=0.1` is the large one.

  Attributes:
    scale: how much larger the image becomes: 2, 3, 4 or 8.
    channels: of the images.
    features: channels of the hidden layers.
    blocks: number of residual blocks.
    residual_scale: what a block's branch is multiplied by.
    mean: the mean colour that is taken away before and added after, that of DIV2K.
    width: multiplies `features`.
    dtype: of the computation; parameters and images are float32.

  Raises:
    ValueError: a scale that there is not.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from experiments import models
    >>> model = models.EDSR(scale=2, features=16, blocks=4)
    >>> images = jnp.ones((1, 8, 6, 3))
    >>> jax.eval_shape(model.init_with_output, jax.random.key(0), images)[0].shape
    (1, 16, 12, 3)
  """

  scale: int
  channels: int = 3
  features: int = 64
  blocks: int = 16
  residual_scale: float = 1.0
  mean: tuple[float, ...] = (0.4488, 0.4371, 0.4040)
  width: float = 1.0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, images):
    _upscale.check_scale(self.scale)
    features = _width.scaled(self.features, self.width)
    conv = lambda count, name: _upscale.conv(count, 3, self.dtype, name)
    mean = _upscale.mean_of(self.mean, self.channels, jnp.float32)
    x = conv(features, 'head')((images - mean).astype(self.dtype))
    y = x
    for index in range(1, self.blocks + 1):
      block = _Block(features, self.residual_scale, self.dtype, name=f'block{index}')
      y = block(y)
    x = x + conv(features, 'body')(y)
    # By 4 and by 8 in steps of 2, as published.
    steps = (3,) if self.scale == 3 else (2,) * (self.scale.bit_length() - 1)
    for index, step in enumerate(steps, 1):
      x = conv(features * step**2, f'upscale{index}')(x)
      x = _upscale.pixel_shuffle(x, step)
    return conv(self.channels, 'tail')(x).astype(jnp.float32) + mean

"""Wide residual networks (Zagoruyko & Komodakis, arXiv 1605.07146)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from experiments.models import _layers, _width


class _Block(nn.Module):
  features: int
  stride: int
  norm: str
  dropout: float
  dtype: Any

  @nn.compact
  def __call__(self, x, train: bool):
    def norm_relu(x, name):
      layer = _layers.norm(self.norm, x.shape[-1], train, self.dtype, name)
      return nn.relu(layer(x))

    def conv(x, size, stride, name):
      return _layers.conv(self.features, size, stride, self.dtype, name)(x)

    y = norm_relu(x, 'norm1')
    # The shortcut starts after the first activation where the shape changes.
    if self.stride > 1 or x.shape[-1] != self.features:
      x = conv(y, 1, self.stride, 'shortcut')
    y = norm_relu(conv(y, 3, self.stride, 'conv1'), 'norm2')
    y = nn.Dropout(self.dropout, deterministic=not train)(y)
    return x + conv(y, 3, 1, 'conv2')


class WideResNet(nn.Module):
  """WRN-d-k: pre-activation blocks with `k` times the channels of a CIFAR ResNet.

  Attributes:
    num_classes: number of logits.
    depth: 6n + 4: 10, 16, 22, 28, 40.
    widen: `k`, on the 16, 32 and 64 channels of the stages, not on the stem.
    width: multiplies all channels, the stem's too.
    norm: `'batch'` (statistics in `batch_stats`) or `'group'`.
    dropout: rate between the convolutions of a block.
    dtype: of the computation; parameters, statistics and logits are float32.

  Raises:
    ValueError: another depth or norm.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from experiments import models
    >>> model = models.WideResNet(num_classes=10, depth=10, widen=1)
    >>> images = jnp.ones((2, 32, 32, 3))
    >>> jax.eval_shape(model.init_with_output, jax.random.key(0), images)[0].shape
    (2, 10)
  """

  num_classes: int
  depth: int = 16
  widen: int = 4
  width: float = 1.0
  norm: str = 'batch'
  dropout: float = 0.0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, images, train: bool = False):
    if self.depth < 10 or (self.depth - 4) % 6:
      raise ValueError(f'depth: got {self.depth}, want 6n + 4: 10, 16, 22, 28, 40.')
    _layers.check_norm(self.norm)
    x = images.astype(self.dtype)
    x = _layers.conv(_width.scaled(16, self.width), 3, 1, self.dtype, 'stem')(x)
    for stage in range(1, 4):
      features = _width.scaled(16 * 2 ** (stage - 1) * self.widen, self.width)
      for block in range(1, (self.depth - 4) // 6 + 1):
        stride = 2 if stage > 1 and block == 1 else 1
        name = f'stage{stage}_block{block}'
        layer = _Block(features, stride, self.norm, self.dropout, self.dtype, name=name)
        x = layer(x, train)
    x = _layers.norm(self.norm, x.shape[-1], train, self.dtype, 'head_norm')(x)
    x = jnp.mean(nn.relu(x), axis=(1, 2))
    x = nn.Dense(self.num_classes, dtype=self.dtype, name='head')(x)
    return x.astype(jnp.float32)

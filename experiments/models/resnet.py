"""Residual networks for small images (He et al., 2016, section 4.2)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from experiments.models import _layers, _width


def blocks_per_stage(depth: int, norm: str, shortcut: str) -> int:
  """`n` of a depth `6n + 2`; raises ValueError for what does not exist."""
  if depth < 8 or (depth - 2) % 6:
    raise ValueError(f'depth: got {depth}, want 6n + 2: 8, 14, 20, 32, 44, 56, 110.')
  _layers.check_norm(norm)
  if shortcut not in ('conv', 'pad'):
    raise ValueError(f"shortcut: got {shortcut!r}, want 'conv' or 'pad'.")
  return (depth - 2) // 6


def pad_shortcut(x, features: int, stride: int):
  """The shortcut without parameters: every other pixel, new channels are 0."""
  x = x[:, ::stride, ::stride]
  return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, features - x.shape[-1])))


class _Block(nn.Module):
  features: int
  stride: int
  norm: str
  shortcut: str
  dtype: Any

  @nn.compact
  def __call__(self, x, train: bool):
    def conv_norm(x, size, stride, conv_name, norm_name):
      y = _layers.conv(self.features, size, stride, self.dtype, conv_name)(x)
      return _layers.norm(self.norm, self.features, train, self.dtype, norm_name)(y)

    y = nn.relu(conv_norm(x, 3, self.stride, 'conv1', 'norm1'))
    y = conv_norm(y, 3, 1, 'conv2', 'norm2')
    if self.stride > 1 or x.shape[-1] != self.features:
      if self.shortcut == 'pad':
        x = pad_shortcut(x, self.features, self.stride)
      else:
        x = conv_norm(x, 1, self.stride, 'shortcut', 'shortcut_norm')
    return nn.relu(x + y)


class ResNet(nn.Module):
  """A CIFAR ResNet of `6n + 2` layers: three stages of `n` blocks.

  With 1x1 convolutions in the shortcuts, ResNet-20 has 270,896 weights in its kernels
  on RGB images with 10 classes.

  Attributes:
    num_classes: number of logits.
    depth: 8, 14, 20, 32, 44, 56, 110 or another 6n + 2.
    width: multiplies the 16, 32 and 64 channels of the stages.
    norm: `'batch'` (statistics in `batch_stats`) or `'group'`.
    shortcut: `'conv'` (1x1 where the shape changes) or `'pad'` (zeros; the paper's
      option A).
    dtype: of the computation; parameters, statistics and logits are float32.

  Raises:
    ValueError: another depth, norm or shortcut.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from experiments import models
    >>> model = models.ResNet(num_classes=10, depth=8)
    >>> images = jnp.ones((2, 32, 32, 3))
    >>> jax.eval_shape(model.init_with_output, jax.random.key(0), images)[0].shape
    (2, 10)
  """

  num_classes: int
  depth: int = 20
  width: float = 1.0
  norm: str = 'batch'
  shortcut: str = 'conv'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, images, train: bool = False):
    num_blocks = blocks_per_stage(self.depth, self.norm, self.shortcut)
    stages = [_width.scaled(16 * 2**s, self.width) for s in range(3)]
    x = images.astype(self.dtype)
    x = _layers.conv(stages[0], 3, 1, self.dtype, 'stem')(x)
    x = _layers.norm(self.norm, stages[0], train, self.dtype, 'stem_norm')(x)
    x = nn.relu(x)
    for stage, features in enumerate(stages, start=1):
      for block in range(1, num_blocks + 1):
        stride = 2 if stage > 1 and block == 1 else 1
        name = f'stage{stage}_block{block}'
        x = _Block(features, stride, self.norm, self.shortcut, self.dtype, name=name)(
          x, train
        )
    x = jnp.mean(x, axis=(1, 2))
    x = nn.Dense(self.num_classes, dtype=self.dtype, name='head')(x)
    return x.astype(jnp.float32)

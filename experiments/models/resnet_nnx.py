"""The residual networks of `resnet.py` in NNX, with the same leaf names and shapes."""

from collections.abc import Sequence
from typing import Any

from flax import nnx
import jax.numpy as jnp

from experiments.models import _layers, _width, resnet


def _conv(inputs, features, size, stride, dtype, rngs):
  return nnx.Conv(
    inputs,
    features,
    (size, size),
    strides=stride,
    padding=size // 2,
    use_bias=False,
    kernel_init=nnx.initializers.he_normal(),
    dtype=dtype,
    rngs=rngs,
  )


def _norm(kind, channels, dtype, rngs):
  if kind == 'group':
    groups = _layers.num_groups(channels)
    return nnx.GroupNorm(channels, groups, epsilon=1e-5, dtype=dtype, rngs=rngs)
  return nnx.BatchNorm(channels, momentum=0.9, dtype=dtype, rngs=rngs)


class _Block(nnx.Module):
  def __init__(self, inputs, features, stride, norm, shortcut, dtype, *, rngs):
    self.features, self.stride = features, stride
    self.changes_shape = stride > 1 or inputs != features
    self.has_conv_shortcut = self.changes_shape and shortcut == 'conv'
    self.conv1 = _conv(inputs, features, 3, stride, dtype, rngs)
    self.norm1 = _norm(norm, features, dtype, rngs)
    self.conv2 = _conv(features, features, 3, 1, dtype, rngs)
    self.norm2 = _norm(norm, features, dtype, rngs)
    if self.has_conv_shortcut:
      self.shortcut = _conv(inputs, features, 1, stride, dtype, rngs)
      self.shortcut_norm = _norm(norm, features, dtype, rngs)

  def __call__(self, x):
    y = nnx.relu(self.norm1(self.conv1(x)))
    y = self.norm2(self.conv2(y))
    if self.has_conv_shortcut:
      x = self.shortcut_norm(self.shortcut(x))
    elif self.changes_shape:
      x = resnet.pad_shortcut(x, self.features, self.stride)
    return nnx.relu(x + y)


class NnxResNet(nnx.Module):
  """A CIFAR ResNet of `6n + 2` layers: three stages of `n` blocks.

  Args:
    image_shape: (H, W, C); only C matters.
    num_classes: number of logits.
    depth: 8, 14, 20, 32, 44, 56, 110 or another 6n + 2.
    width: multiplies the 16, 32 and 64 channels of the stages.
    norm: `'batch'` or `'group'`.
    shortcut: `'conv'` (1x1 where the shape changes) or `'pad'` (zeros).
    dtype: of the computation; parameters, statistics and logits are float32.
    rngs: the stream that initialises the parameters.

  Raises:
    ValueError: another depth, norm or shortcut.

  Example:
    >>> from flax import nnx
    >>> from experiments import models
    >>> make = lambda: models.NnxResNet((32, 32, 3), 10, depth=8, rngs=nnx.Rngs(0))
    >>> nnx.eval_shape(make).stage3_block1.shortcut.kernel.shape
    (1, 1, 32, 64)
  """

  def __init__(
    self,
    image_shape: Sequence[int],
    num_classes: int,
    depth: int = 20,
    width: float = 1.0,
    norm: str = 'batch',
    shortcut: str = 'conv',
    dtype: Any = jnp.float32,
    *,
    rngs: nnx.Rngs,
  ):
    num_blocks = resnet.blocks_per_stage(depth, norm, shortcut)
    stages = [_width.scaled(16 * 2**s, width) for s in range(3)]
    self.dtype = dtype
    self.stem = _conv(image_shape[-1], stages[0], 3, 1, dtype, rngs)
    self.stem_norm = _norm(norm, stages[0], dtype, rngs)
    names, inputs = [], stages[0]
    for stage, features in enumerate(stages, start=1):
      for block in range(1, num_blocks + 1):
        stride = 2 if stage > 1 and block == 1 else 1
        # Attributes rather than a list: the names must be those of the Linen model.
        names.append(f'stage{stage}_block{block}')
        layer = _Block(inputs, features, stride, norm, shortcut, dtype, rngs=rngs)
        setattr(self, names[-1], layer)
        inputs = features
    self.block_names = tuple(names)
    self.head = nnx.Linear(inputs, num_classes, dtype=dtype, rngs=rngs)

  def __call__(self, images):
    x = nnx.relu(self.stem_norm(self.stem(images.astype(self.dtype))))
    for name in self.block_names:
      x = getattr(self, name)(x)
    return self.head(jnp.mean(x, axis=(1, 2))).astype(jnp.float32)

"""The Linen layers that both families of residual networks use."""

import math
from typing import Any

import flax.linen as nn


def check_norm(norm: str):
  """Raises ValueError for a norm that does not exist."""
  if norm not in ('batch', 'group'):
    raise ValueError(f"norm: got {norm!r}, want 'batch' or 'group'.")


def num_groups(channels: int) -> int:
  """Groups of a GroupNorm: they divide the channels that any width gives."""
  return math.gcd(channels, 8)


def conv(features: int, size: int, stride: int, dtype: Any, name: str) -> nn.Conv:
  """A convolution without bias, padded by `size // 2` on each side."""
  return nn.Conv(
    features,
    (size, size),
    strides=stride,
    padding=size // 2,
    use_bias=False,
    kernel_init=nn.initializers.he_normal(),
    dtype=dtype,
    name=name,
  )


def norm(kind: str, channels: int, train: bool, dtype: Any, name: str) -> nn.Module:
  """A BatchNorm or a GroupNorm."""
  if kind == 'group':
    return nn.GroupNorm(num_groups(channels), epsilon=1e-5, dtype=dtype, name=name)
  return nn.BatchNorm(
    use_running_average=not train, momentum=0.9, dtype=dtype, name=name
  )

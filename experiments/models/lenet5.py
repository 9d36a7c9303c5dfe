"""LeNet-5, as the sparse literature means it."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from experiments.models import _width


def _as_product(images, kernel, window_strides, padding, **unused):
  """A convolution as one matrix product over shifted images.

  Twice as fast as XLA's on a CPU with few channels, and eight times in a loop. The
  batch comes last, so that every shift copies long rows.
  """
  del window_strides, padding, unused  # 1 and VALID.
  rows, columns, channels, features = kernel.shape
  images = images.transpose(3, 1, 2, 0)
  _, height, width, batch = images.shape
  height, width = height - rows + 1, width - columns + 1
  shifted = [
    images[:, i : i + height, j : j + width]
    for i in range(rows)
    for j in range(columns)
  ]
  patches = jnp.concatenate(shifted).reshape(rows * columns * channels, -1)
  outputs = kernel.reshape(-1, features).T @ patches
  return outputs.reshape(features, height, width, batch).transpose(3, 1, 2, 0)


def _halved(x):
  """The maximum over 2x2 windows; an odd last row or column is dropped."""
  # Not `nn.max_pool`: its gradient is a slow scatter on a CPU.
  batch, height, width, channels = x.shape
  x = x[:, : height // 2 * 2, : width // 2 * 2]
  return x.reshape(batch, height // 2, 2, width // 2, 2, channels).max((2, 4))


class LeNet5(nn.Module):
  """Two 5x5 convolutions with max pooling, then dense layers.

  The default is Caffe's variant (20-50-500, ReLU), which pruning papers call
  LeNet-5: 431,080 parameters on 28x28 grey images. `features=(6, 16, 120, 84)` has
  the sizes of LeCun et al. (1998).

  Attributes:
    num_classes: number of logits.
    features: channels of the two convolutions, then units of each dense layer.
    width: multiplies `features`.
    dropout: rate after each hidden dense layer.
    dtype: of the computation; parameters and logits are float32.

  Raises:
    ValueError: images of less than 16x16 pixels, or fewer than two `features`.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from experiments import models
    >>> model = models.LeNet5(num_classes=10)
    >>> images = jnp.ones((2, 28, 28, 1))
    >>> jax.eval_shape(model.init_with_output, jax.random.key(0), images)[0].shape
    (2, 10)
  """

  num_classes: int
  features: Sequence[int] = (20, 50, 500)
  width: float = 1.0
  dropout: float = 0.0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, images, train: bool = False):
    if min(images.shape[1:3]) < 16:
      raise ValueError(f'LeNet5: images {images.shape}, want 16x16 pixels or more.')
    if len(self.features) < 2:
      raise ValueError(f'LeNet5: features={self.features}, want two or more.')
    x = images.astype(self.dtype)
    units = [_width.scaled(f, self.width) for f in self.features]
    for index, channels in enumerate(units[:2], start=1):
      conv = nn.Conv(
        channels,
        (5, 5),
        padding='VALID',
        dtype=self.dtype,
        conv_general_dilated=_as_product,
        name=f'conv{index}',
      )
      x = _halved(nn.relu(conv(x)))
    x = x.reshape(x.shape[0], -1)
    for index, hidden in enumerate(units[2:], start=1):
      x = nn.relu(nn.Dense(hidden, dtype=self.dtype, name=f'dense{index}')(x))
      x = nn.Dropout(self.dropout, deterministic=not train)(x)
    x = nn.Dense(self.num_classes, dtype=self.dtype, name='head')(x)
    return x.astype(jnp.float32)

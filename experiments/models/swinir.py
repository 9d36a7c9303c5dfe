"""SwinIR (Liang et al. 2021, arXiv 2108.10257), the lightweight one by default."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from experiments.models import _upscale, _width


def _offsets(window: int) -> np.ndarray:
  """Which row of the position table a pair of tokens reads, (window^2, window^2)."""
  places = np.stack(np.meshgrid(*[np.arange(window)] * 2, indexing='ij'), -1)
  flat = places.reshape(-1, 2)
  apart = flat[:, None] - flat[None] + window - 1
  return apart[..., 0] * (2 * window - 1) + apart[..., 1]


def _regions(height: int, width: int, window: int, shift: int) -> np.ndarray:
  """Tokens that may attend to each other have one number, (windows, window^2)."""

  def bands(length):
    numbers = np.zeros(length, np.int32)
    numbers[length - window : length - shift] = 1
    numbers[length - shift :] = 2
    return numbers

  numbers = 3 * bands(height)[:, None] + bands(width)[None]
  shape = (height // window, window, width // window, window)
  return numbers.reshape(shape).transpose(0, 2, 1, 3).reshape(-1, window**2)


class _Attention(nn.Module):
  """Attention within windows, every other time shifted by half of one."""

  heads: int
  window: int
  shift: int
  dtype: Any

  @nn.compact
  def __call__(self, x):
    batch, height, width, features = x.shape
    side, shift = self.window, self.shift
    if shift:
      x = jnp.roll(x, (-shift, -shift), (1, 2))
    grid = (batch, height // side, side, width // side, side, features)
    x = x.reshape(grid).transpose(0, 1, 3, 2, 4, 5).reshape(-1, side**2, features)
    init = nn.initializers.truncated_normal(0.02)
    dense = lambda count, name: nn.Dense(
      count, kernel_init=init, dtype=self.dtype, name=name
    )
    qkv = dense(3 * features, 'qkv')(x)
    qkv = qkv.reshape(*x.shape[:2], 3, self.heads, features // self.heads)
    query, key, value = jnp.moveaxis(qkv, 2, 0)
    scores = jnp.einsum('bqhd,bkhd->bhqk', query, key) * query.shape[-1] ** -0.5
    # An embedding by name, so that nobody takes the table for a kernel.
    table = nn.Embed(
      (2 * side - 1) ** 2, self.heads, embedding_init=init, name='positions'
    )
    bias = table(jnp.asarray(_offsets(side))).transpose(2, 0, 1).astype(self.dtype)
    scores = scores + bias[None]
    if shift:
      regions = _regions(height, width, side, shift)
      apart = regions[:, :, None] != regions[:, None]
      scores = scores.reshape(batch, -1, *scores.shape[1:])
      scores = jnp.where(apart[None, :, None], scores - 100.0, scores)
      scores = scores.reshape(-1, *scores.shape[2:])
    weights = nn.softmax(scores, -1)
    x = jnp.einsum('bhqk,bkhd->bqhd', weights, value).reshape(x.shape)
    x = dense(features, 'out')(x)
    x = x.reshape(batch, height // side, width // side, side, side, features)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height, width, features)
    return jnp.roll(x, (shift, shift), (1, 2)) if shift else x


class _SwinBlock(nn.Module):
  heads: int
  window: int
  shift: int
  mlp_ratio: float
  drop_path: float
  dtype: Any

  @nn.compact
  def __call__(self, x, train: bool):
    # A whole branch of an image is dropped, or none of it.
    drop = nn.Dropout(self.drop_path, broadcast_dims=(1, 2, 3), deterministic=not train)
    norm = lambda name: nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name=name)
    attention = _Attention(
      self.heads, self.window, self.shift, self.dtype, name='attention'
    )
    x = x + drop(attention(norm('norm1')(x)))
    init = nn.initializers.truncated_normal(0.02)
    hidden = round(x.shape[-1] * self.mlp_ratio)
    dense = lambda count, name: nn.Dense(
      count, kernel_init=init, dtype=self.dtype, name=name
    )
    y = nn.gelu(dense(hidden, 'dense1')(norm('norm2')(x)), approximate=False)
    return x + drop(dense(x.shape[-1], 'dense2')(y))


class SwinIR(nn.Module):
  """Residual groups of shifted-window attention, then one pixel shuffle.

  The default is SwinIR-light: 861,300 weights and 48,852 other parameters for scale 2,
  32,400 of which are position tables.

  Attributes:
    scale: how much larger the image becomes: 2, 3, 4 or 8.
    channels: of the images.
    features: size of a token.
    depths: blocks of each group.
    heads: attention heads; `features * width` is rounded to a multiple of them.
    window: side of a window in pixels; images are mirrored up to whole windows.
    mlp_ratio: hidden units of a block's perceptron per token feature.
    drop_path: rate at which the last branch is dropped in training, rising from 0.
    mean: as in `EDSR`.
    width: multiplies `features`.
    dtype: of the computation; parameters and images are float32.

  Raises:
    ValueError: a scale that there is not.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from experiments import models
    >>> model = models.SwinIR(scale=2, depths=(2,))
    >>> images = jnp.ones((1, 9, 16, 3))
    >>> jax.eval_shape(model.init_with_output, jax.random.key(0), images)[0].shape
    (1, 18, 32, 3)
  """

  scale: int
  channels: int = 3
  features: int = 60
  depths: tuple[int, ...] = (6, 6, 6, 6)
  heads: int = 6
  window: int = 8
  mlp_ratio: float = 2.0
  drop_path: float = 0.1
  mean: tuple[float, ...] = (0.4488, 0.4371, 0.4040)
  width: float = 1.0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, images, train: bool = False):
    _upscale.check_scale(self.scale)
    height, width = images.shape[1:3]
    features = self.heads * _width.scaled(self.features // self.heads, self.width)
    conv = lambda count, name: _upscale.conv(count, 3, self.dtype, name)
    norm = lambda name: nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name=name)
    mean = _upscale.mean_of(self.mean, self.channels, jnp.float32)
    x = _mirrored(images - mean, self.window)
    shallow = conv(features, 'head')(x.astype(self.dtype))
    x = norm('norm_in')(shallow)
    rates = np.linspace(0, self.drop_path, sum(self.depths))
    for group, depth in enumerate(self.depths, 1):
      start = x
      for index in range(depth):
        rate = float(rates[sum(self.depths[: group - 1]) + index])
        # One window has no neighbour to shift to.
        single = min(x.shape[1:3]) <= self.window
        shift = self.window // 2 if index % 2 and not single else 0
        x = _SwinBlock(
          self.heads,
          self.window,
          shift,
          self.mlp_ratio,
          rate,
          self.dtype,
          name=f'group{group}_block{index + 1}',
        )(x, train)
      x = start + conv(features, f'group{group}_conv')(x)
    x = shallow + conv(features, 'body')(norm('norm_out')(x))
    x = conv(self.channels * self.scale**2, 'upscale')(x)
    x = _upscale.pixel_shuffle(x, self.scale).astype(jnp.float32) + mean
    return x[:, : height * self.scale, : width * self.scale]


def _mirrored(x: jax.Array, window: int) -> jax.Array:
  """Whole windows: what is missing at the right and below is mirrored."""
  extra = [-length % window for length in x.shape[1:3]]
  if not any(extra):
    return x
  return jnp.pad(x, ((0, 0), (0, extra[0]), (0, extra[1]), (0, 0)), 'symmetric')

"""A small vision transformer (Dosovitskiy et al., arXiv 2010.11929)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from experiments.models import _width


class _Block(nn.Module):
  heads: int
  hidden: int
  dropout: float
  dtype: Any

  @nn.compact
  def __call__(self, x, train: bool):
    drop = nn.Dropout(self.dropout, deterministic=not train)
    y = nn.LayerNorm(dtype=self.dtype, name='norm1')(x)
    y = nn.MultiHeadDotProductAttention(
      self.heads,
      dtype=self.dtype,
      dropout_rate=self.dropout,
      deterministic=not train,
      name='attention',
    )(y, y)
    x = x + drop(y)
    y = nn.LayerNorm(dtype=self.dtype, name='norm2')(x)
    y = nn.gelu(nn.Dense(self.hidden, dtype=self.dtype, name='dense1')(y))
    y = nn.Dense(x.shape[-1], dtype=self.dtype, name='dense2')(drop(y))
    return x + drop(y)


class ViT(nn.Module):
  """A vision transformer with learned positions and mean pooling, no class token.

  Attributes:
    num_classes: number of logits.
    patch: side of a patch in pixels; it divides the sides of the image.
    features: size of a token.
    depth: number of blocks.
    heads: attention heads; `features * width` is rounded to a multiple of them.
    mlp_ratio: hidden units of a block's perceptron per token feature.
    width: multiplies `features`, and the hidden units with them.
    dropout: rate of attention, of the perceptron and of both branches.
    dtype: of the computation; parameters and logits are float32.

  Raises:
    ValueError: a patch that does not divide the image.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from experiments import models
    >>> model = models.ViT(num_classes=10, depth=2)
    >>> images = jnp.ones((2, 32, 32, 3))
    >>> jax.eval_shape(model.init_with_output, jax.random.key(0), images)[0].shape
    (2, 10)
  """

  num_classes: int
  patch: int = 4
  features: int = 96
  depth: int = 6
  heads: int = 3
  mlp_ratio: int = 4
  width: float = 1.0
  dropout: float = 0.0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, images, train: bool = False):
    if images.shape[1] % self.patch or images.shape[2] % self.patch:
      raise ValueError(
        f'patch: {self.patch} does not divide the {images.shape[1:3]} pixels.'
      )
    features = self.heads * _width.scaled(self.features // self.heads, self.width)
    x = nn.Conv(
      features,
      (self.patch, self.patch),
      strides=self.patch,
      padding='VALID',
      dtype=self.dtype,
      name='patches',
    )(images.astype(self.dtype))
    x = x.reshape(x.shape[0], -1, features)
    positions = self.param(
      'pos_embedding', nn.initializers.normal(0.02), (1, x.shape[1], features)
    )
    x = x + positions.astype(self.dtype)
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    for index in range(1, self.depth + 1):
      hidden = self.mlp_ratio * features
      name = f'block{index}'
      x = _Block(self.heads, hidden, self.dropout, self.dtype, name=name)(x, train)
    x = jnp.mean(nn.LayerNorm(dtype=self.dtype, name='norm')(x), axis=1)
    x = nn.Dense(self.num_classes, dtype=self.dtype, name='head')(x)
    return x.astype(jnp.float32)

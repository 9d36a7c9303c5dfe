"""Multilayer perceptrons; the default is LeNet-300-100."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from experiments.models import _width


class MLP(nn.Module):
  """A perceptron with ReLU layers `dense1`, `dense2`, ... and a linear `head`.

  LeNet-300-100 (LeCun et al., 1998) on 28x28 images has 266,610 parameters.

  Attributes:
    num_classes: number of logits.
    features: units of each hidden layer.
    width: multiplies `features`.
    dropout: rate after each hidden layer.
    dtype: of the computation; parameters and logits are float32.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from experiments import models
    >>> model = models.MLP(num_classes=10)
    >>> images = jnp.ones((2, 28, 28, 1))
    >>> jax.eval_shape(model.init_with_output, jax.random.key(0), images)[0].shape
    (2, 10)
  """

  num_classes: int
  features: Sequence[int] = (300, 100)
  width: float = 1.0
  dropout: float = 0.0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, images, train: bool = False):
    x = images.reshape(images.shape[0], -1).astype(self.dtype)
    for index, features in enumerate(self.features, start=1):
      units = _width.scaled(features, self.width)
      x = nn.relu(nn.Dense(units, dtype=self.dtype, name=f'dense{index}')(x))
      x = nn.Dropout(self.dropout, deterministic=not train)(x)
    x = nn.Dense(self.num_classes, dtype=self.dtype, name='head')(x)
    return x.astype(jnp.float32)

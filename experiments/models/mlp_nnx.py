"""The perceptron of `mlp.py` in NNX, with the same leaf names and shapes."""

from collections.abc import Sequence
import math
from typing import Any

from flax import nnx
import jax.numpy as jnp

from experiments.models import _width


class NnxMLP(nnx.Module):
  """A perceptron with ReLU layers `dense1`, `dense2`, ... and a linear `head`.

  Args:
    image_shape: (H, W, C).
    num_classes: number of logits.
    features: units of each hidden layer.
    width: multiplies `features`.
    dropout: rate after each hidden layer.
    dtype: of the computation; parameters and logits are float32.
    rngs: the streams that initialise the parameters and drop units.

  Example:
    >>> from flax import nnx
    >>> import jax.numpy as jnp
    >>> from experiments import models
    >>> model = models.NnxMLP((28, 28, 1), 10, rngs=nnx.Rngs(0))
    >>> model(jnp.ones((2, 28, 28, 1))).shape
    (2, 10)
  """

  def __init__(
    self,
    image_shape: Sequence[int],
    num_classes: int,
    features: Sequence[int] = (300, 100),
    width: float = 1.0,
    dropout: float = 0.0,
    dtype: Any = jnp.float32,
    *,
    rngs: nnx.Rngs,
  ):
    self.dtype = dtype
    self.num_hidden = len(features)
    inputs = math.prod(image_shape)
    for index, hidden in enumerate(features, start=1):
      units = _width.scaled(hidden, width)
      setattr(self, f'dense{index}', nnx.Linear(inputs, units, dtype=dtype, rngs=rngs))
      inputs = units
    self.dropout = nnx.Dropout(dropout, rngs=rngs if dropout else None)
    self.head = nnx.Linear(inputs, num_classes, dtype=dtype, rngs=rngs)

  def __call__(self, images):
    x = images.reshape(images.shape[0], -1).astype(self.dtype)
    for index in range(1, self.num_hidden + 1):
      x = self.dropout(nnx.relu(getattr(self, f'dense{index}')(x)))
    return self.head(x).astype(jnp.float32)

"""The small dense network that a sparse one is compared with."""

from collections.abc import Callable
import math

import jax

from experiments.models import _adapters

# Widths are multiples of this; it moves a layer of 1,024 units by one quarter unit.
_RESOLUTION = 4096
_WIDEST = 64


def num_params(model: _adapters.Model, images) -> int:
  """The number of parameters of a model, found without computing any.

  Args:
    model: a `Model`.
    images: a batch, or a `jax.ShapeDtypeStruct` of one, (N, H, W, C).

  Returns:
    Biases and norms included, statistics not.
  """
  params, _ = jax.eval_shape(model.init, jax.random.key(0), images)
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def matched_width(
  make_model: Callable[[float], _adapters.Model], target_params: int, sample
) -> float:
  """The largest width whose whole model has at most `target_params` parameters.

  Args:
    make_model: `width -> Model`; the count must not fall as the width grows.
    target_params: the budget: all parameters of the sparse model that are kept.
    sample: a batch of images, or a `jax.ShapeDtypeStruct` of one.

  Returns:
    A width multiplier, at most 64, to 1/4096.

  Raises:
    ValueError: one unit per layer is too large already.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from experiments import models
    >>> make = lambda width: models.from_linen(models.MLP(num_classes=10, width=width))
    >>> sample = jax.ShapeDtypeStruct((1, 28, 28, 1), jnp.float32)
    >>> width = models.matched_width(make, 26661, sample)
    >>> models.num_params(make(width), sample) <= 26661
    True
  """

  def count(steps: int) -> int:
    return num_params(make_model(steps / _RESOLUTION), sample)

  low, high = 1, _WIDEST * _RESOLUTION
  smallest = count(low)
  if smallest > target_params:
    raise ValueError(
      f'target_params: got {target_params}, but one unit per layer has {smallest}.'
    )
  if count(high) <= target_params:
    return float(_WIDEST)
  while high - low > 1:
    middle = (low + high) // 2
    low, high = (middle, high) if count(middle) <= target_params else (low, middle)
  return low / _RESOLUTION

"""A perceptron that predicts a number and the variance of its noise."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp


class Regressor(nn.Module):
  """ReLU layers `dense1`, ..., a linear `head`, and the noise of the targets.

  One layer of 50 units is the network of the UCI protocol (Hernandez-Lobato and Adams
  2015). The noise is one number for all inputs, a parameter of the model that stays
  deterministic in a posterior, or a second output.

  Attributes:
    features: units of each hidden layer.
    heteroscedastic: whether the noise depends on the input.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from experiments import models
    >>> model, x = models.Regressor(), jnp.ones((3, 8))
    >>> variables = model.init(jax.random.key(0), x)
    >>> mean, variance = model.apply(variables, x)
    >>> mean.shape, variance.shape, float(variance)
    ((3,), (), 1.0)
  """

  features: Sequence[int] = (50,)
  heteroscedastic: bool = False

  @nn.compact
  def __call__(self, x, dropout=0.0, key=None):
    """Mean (B,) and variance, (B,) or a scalar, in units of the standardised targets.

    Args:
      x: features (B, D).
      dropout: rate before each layer, the first included, as Gal and Ghahramani 2016
        have it; may be traced.
      key: for dropout; None for none.
    """
    for index, features in enumerate(self.features, start=1):
      x = nn.Dense(features, name=f'dense{index}')(_dropped(x, dropout, key, index))
      x = nn.relu(x)
    x = _dropped(x, dropout, key, 0)
    outputs = nn.Dense(2 if self.heteroscedastic else 1, name='head')(x)
    if self.heteroscedastic:
      log_noise = outputs[:, 1]
    else:
      log_noise = self.param('log_noise', nn.initializers.zeros, ())
    return outputs[:, 0], jnp.exp(2 * log_noise)


def _dropped(x, rate, key, index):
  if key is None:
    return x
  # 16 random bits do, at half the cost of `bernoulli`.
  bits = jax.random.bits(jax.random.fold_in(key, index), x.shape, jnp.uint16)
  kept = bits.astype(jnp.float32) >= rate * 2**16
  return jnp.where(kept, x / (1 - rate), jnp.zeros_like(x))

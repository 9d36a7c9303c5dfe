"""Mult-VAE: a variational autoencoder of whole histories."""

from collections.abc import Sequence

from flax import linen as nn
import jax
import jax.numpy as jnp


class MultVAE(nn.Module):
  """A multinomial over items, decoded from a Gaussian that encodes a history.

  Attributes:
    num_users: not looked at: users are what they have seen.
    num_items: items.
    hidden: sizes from the input to the code, (..., latent).
    dropout: share of the history dropped in training.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from experiments import models
    >>> model = models.MultVAE(num_users=5, num_items=7, hidden=(6, 3))
    >>> (logits, mean, log_variance), _ = jax.eval_shape(
    ...     model.init_with_output, jax.random.key(0), jnp.ones((2, 7)))
    >>> logits.shape, mean.shape
    ((2, 7), (2, 3))

  Liang et al. 2018, Variational Autoencoders for Collaborative Filtering (arXiv
  1802.05814), section 2.
  """

  num_users: int
  num_items: int
  hidden: Sequence[int] = (600, 200)
  dropout: float = 0.5

  @nn.compact
  def __call__(self, histories, train: bool = False):
    """`(logits, mean, log variance)` of histories (batch, items) of 0 and 1."""
    norm = jnp.sqrt(jnp.sum(histories**2, axis=-1, keepdims=True))
    x = histories / jnp.maximum(norm, 1e-12)
    x = nn.Dropout(self.dropout)(x, deterministic=not train)
    for i, size in enumerate(self.hidden[:-1]):
      x = jnp.tanh(nn.Dense(size, name=f'encoder{i}')(x))
    code = nn.Dense(2 * self.hidden[-1], name='code')(x)
    mean, log_variance = jnp.split(code, 2, axis=-1)
    x = mean
    if train:
      noise = jax.random.normal(self.make_rng('dropout'), mean.shape)
      x = mean + jnp.exp(0.5 * log_variance) * noise
    for i, size in enumerate(reversed(self.hidden[:-1])):
      x = jnp.tanh(nn.Dense(size, name=f'decoder{i}')(x))
    return nn.Dense(self.num_items, name='out')(x), mean, log_variance

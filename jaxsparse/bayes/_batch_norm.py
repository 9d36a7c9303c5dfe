"""BatchNorm statistics of weights that were never trained."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def refit_batch_norm(
  train_fn: Callable[[Any, Any, Any], Any], batch_stats, batches
) -> Callable[[Any], Any]:
  r"""Makes `theta -> batch_stats`: BatchNorm's statistics under these weights.

  .. math:: \bar b = \frac{1}{K (1 - m)} \sum_k \text{new}(0; x_k), \quad
     m = \frac{\text{new}(s; x_1) - \text{new}(0; x_1)}{s}

  Statistics gathered while training belong to other weights than a draw's. A train
  step updates them as `new(s; x) = m s + (1 - m) b`, so two starts give the momentum m
  of every leaf, and then the mean of the statistics b of the batches, whatever m is.
  It costs K + 2 training passes per draw.

  Args:
    train_fn: `(theta, batch_stats, batch) -> new batch_stats`, the model in train mode.
    batch_stats: the collection, for its shapes; nothing but running averages.
    batches: inputs with a leading axis of K batches, K >= 1; they run one by one.

  Returns:
    A function for the draw of `predict_draws`: `draw = lambda key: (theta := sample(key),
    refit(theta))`, in which case `apply_fn` receives the pair.

  Raises:
    ValueError: no batch.

  Example:
    >>> import flax.linen as nn, jax, jax.numpy as jnp, jaxsparse as js
    >>> model = nn.BatchNorm(use_running_average=False, momentum=0.9)
    >>> batches = jnp.arange(12.0).reshape(2, 3, 2)
    >>> variables = model.init(jax.random.key(0), batches[0])
    >>> def train_fn(theta, stats, x):
    ...   variables = {'params': theta, 'batch_stats': stats}
    ...   return model.apply(variables, x, mutable='batch_stats')[1]['batch_stats']
    >>> refit = js.bayes.refit_batch_norm(train_fn, variables['batch_stats'], batches)
    >>> refit(variables['params'])['mean'].round(4).tolist()
    [5.0, 6.0]
  """
  if not jax.tree.leaves(batches) or not len(jax.tree.leaves(batches)[0]):
    raise ValueError('batches: got none; wanted a leading axis of batches.')
  zeros = jax.tree.map(jnp.zeros_like, batch_stats)

  def refit(theta):
    first = jax.tree.map(lambda a: a[0], batches)
    number = len(jax.tree.leaves(batches)[0])

    def add(sums, batch):
      # From zeros a step gives (1 - m) b: the batch's own statistics but for a factor.
      return jax.tree.map(jnp.add, sums, train_fn(theta, zeros, batch)), None

    sums, _ = jax.lax.scan(add, zeros, batches)
    at_zero = train_fn(theta, zeros, first)
    # A large start: beside a small one the batch's own statistics would cancel m.
    starts = jax.tree.map(lambda z: 1 + 100 * jnp.abs(z), at_zero)
    at_start = train_fn(theta, starts, first)
    # 1 - m leaf by leaf, since layers may differ in their momentum.
    rest = jax.tree.map(lambda a, z, s: 1 - (a - z) / s, at_start, at_zero, starts)
    return jax.tree.map(lambda s, r: s / number / r, sums, rest)

  return refit

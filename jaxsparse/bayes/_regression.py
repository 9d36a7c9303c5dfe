"""Regression with learned noise, averaged over weights."""

from collections.abc import Callable
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxsparse.bayes import _draws


class Regression(NamedTuple):
  """A regression, averaged over weights.

  Attributes:
    mean: mean of the predicted means, of their shape.
    epistemic: variance of the predicted means: of the weights.
    aleatoric: mean of the predicted variances: of the data.
    log_prob: log density of the targets under the mixture of Gaussians, of the same
      shape, in nats; None without targets.
  """

  mean: jax.Array
  epistemic: jax.Array
  aleatoric: jax.Array
  log_prob: jax.Array | None = None


def predict_regression(
  posterior,
  params,
  masks,
  apply_fn: Callable[[Any, Any], tuple[jax.Array, jax.Array]],
  x,
  *,
  key,
  samples: int = 32,
  mode: str = 'sample',
  chunk: int = 1,
  targets=None,
) -> Regression:
  r"""Predicts numbers with the weights integrated out, and two variances.

  .. math:: \bar\mu = \frac1S \sum_s \mu_s, \quad
     \text{Var}[y] = \underbrace{\frac1S \sum_s (\mu_s - \bar\mu)^2}_\text{epistemic}
     + \underbrace{\frac1S \sum_s \sigma_s^2}_\text{aleatoric}, \quad
     \log p(y) = \log \frac1S \sum_s N(y; \mu_s, \sigma_s^2)

  Args:
    posterior: as in `predict`.
    params: as in `predict`.
    masks: as in `predict`.
    apply_fn: `(theta, x) -> (mean, variance)`, two arrays that broadcast; the variance
      is that of the noise, learned as a parameter or predicted from x.
    x: a batch, any pytree.
    key: typed key.
    samples: S.
    mode: as in `predict`.
    chunk: draws that run together, a divisor of `samples`.
    targets: of the shape of the mean, for `log_prob`; undo a standardisation of the
      targets before quoting it.

  Returns:
    `Regression`, float32.

  Raises:
    ValueError: as `predict`, or targets of another shape than the means.

  Example:
    >>> import jax, jax.numpy as jnp, jaxsparse as js
    >>> posterior, x = js.bayes.mean_field(), jnp.ones((3, 4))
    >>> start = {'kernel': jnp.zeros(4), 'log_noise': jnp.log(0.5)}
    >>> params = posterior.init(jax.random.key(0), start)
    >>> apply_fn = lambda theta, x: (x @ theta['kernel'], jnp.exp(theta['log_noise']))
    >>> masks = jax.tree.map(lambda _: jnp.array(True), start)
    >>> found = js.bayes.predict_regression(
    ...   posterior, params, masks, apply_fn, x, key=jax.random.key(1))
    >>> found.epistemic.shape, found.aleatoric.round(3).tolist()
    ((3,), [0.5, 0.5, 0.5])
  """
  draw = _draws.of_posterior(posterior, params, masks, mode)
  samples, chunk = (1, 1) if mode == 'mean' else (samples, chunk)

  def run(theta, x):
    mean, variance = apply_fn(theta, x)
    mean, variance = jnp.asarray(mean), jnp.asarray(variance)
    shape = jnp.broadcast_shapes(mean.shape, variance.shape)
    if targets is not None and jnp.shape(targets) != shape:
      raise ValueError(f'targets: shape {jnp.shape(targets)}; wanted {shape}.')
    both = [jnp.broadcast_to(a.astype(jnp.float32), shape) for a in (mean, variance)]
    return jnp.stack(both)

  start, add = _moments(targets)
  sums = _draws.over_draws(draw, run, x, key, samples, chunk, start, add)
  _, mean, squares, variance, log_sum = sums
  log_prob = None if targets is None else log_sum - math.log(samples)
  return Regression(mean, squares / samples, variance / samples, log_prob)


def _moments(targets):
  """`(start, add)` for sums of moments, and of the targets' densities."""

  def start(both):
    zeros = jnp.zeros(both.shape[1:])
    return jnp.float32(0), zeros, zeros, zeros, zeros - jnp.inf

  def add(sums, both):
    number, mean, squares, variance, log_sum = sums
    # both: (draws, 2, *shape of the mean).
    means, variances = both[:, 0], both[:, 1]
    # Chan's update: sums of squares would cancel where the means are large.
    added = len(means)
    middle = jnp.mean(means, axis=0, keepdims=True)
    shift = middle[0] - mean
    total = number + added
    squares += jnp.sum((means - middle) ** 2, axis=0)
    squares += shift**2 * number * added / total
    mean += shift * added / total
    variance += jnp.sum(variances, axis=0)
    if targets is not None:
      errors = jnp.asarray(targets, jnp.float32)[None] - means
      logs = -0.5 * (errors**2 / variances + jnp.log(2 * math.pi * variances))
      log_sum = jnp.logaddexp(log_sum, jax.nn.logsumexp(logs, axis=0))
    return total, mean, squares, variance, log_sum

  return start, add

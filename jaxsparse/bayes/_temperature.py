"""One temperature for all logits, fitted on validation data."""

import math

import jax
import jax.numpy as jnp

from jaxsparse.bayes import _inputs

_LOG_LIMIT = math.log(1000.0)
# The interval of log T is halved so often that float32 cannot tell its ends apart.
_NUM_HALVINGS = 32


def temperature_scaling(logits, labels) -> jax.Array:
  r"""Fits the temperature of a softmax: divide the logits of the test data by it.

  .. math:: T = \arg\min_{T > 0} \frac1N \sum_i \Big(\log \sum_c e^{z_{ic} / T}
     - z_{i, y_i} / T\Big)

  The loss is convex in 1/T, so the sign of its derivative decides a bisection on log
  T: no step size, no seed, the same result in every run. It changes no prediction,
  only confidences.

  Args:
    logits: (N, C) of *validation* examples; log probabilities will do.
    labels: (N,) integers in [0, C).

  Returns:
    T, a float32 scalar in [0.001, 1000]. An end of this interval says that no finite
    temperature is best: 0.001 where every prediction is right. NaN where a logit is
    inf, or that of a label -inf.

  Raises:
    ValueError: other shapes; outside `jit` also NaN, or labels out of range.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> logits = jnp.array([[8.0, 0.0]] * 4)  # Right three times of four: odds of 3.
    >>> temperature = js.bayes.temperature_scaling(logits, jnp.array([0, 0, 0, 1]))
    >>> print(f'{temperature:.3f} {8 / jnp.log(3):.3f}')
    7.282 7.282

  Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 4.2.
  """
  logits, labels = _inputs.as_rows('logits', logits, labels)
  # Of finite logits the largest is subtracted, so that a sum over classes keeps its
  # digits; a class of logit -inf has probability 0 at every temperature.
  logits = logits - jnp.max(logits, axis=1, keepdims=True)
  possible = jnp.isfinite(logits)
  finite = jnp.where(possible, logits, 0)
  label = _inputs.of_label(jnp.where(possible, logits, jnp.nan), labels)

  def slope(log_temperature):
    probs = jax.nn.softmax(logits * jnp.exp(-log_temperature), axis=1)
    return jnp.mean(jnp.sum(probs * finite, axis=1) - label)

  def halve(_, ends):
    low, high = ends
    middle = (low + high) / 2
    # Falling in 1/T: the optimum has a larger 1/T, a smaller T.
    colder = slope(middle) <= 0
    return jnp.where(colder, low, middle), jnp.where(colder, middle, high)

  ends = jnp.float32(-_LOG_LIMIT), jnp.float32(_LOG_LIMIT)
  low, high = jax.lax.fori_loop(0, _NUM_HALVINGS, halve, ends)
  return jnp.where(jnp.isnan(slope(low)), jnp.nan, jnp.exp((low + high) / 2))

"""How well a score tells what to trust: ranking metrics and selective prediction."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxsparse.bayes import _inputs


def auroc(inside, outside) -> jax.Array:
  r"""The area under the ROC curve of a score that should be larger outside.

  .. math:: P(s_\text{out} > s_\text{in}) + \tfrac12 P(s_\text{out} = s_\text{in})

  Args:
    inside: (N,) scores of examples in distribution, for example entropies.
    outside: (M,) scores of examples out of distribution: the positive class.

  Returns:
    A float32 scalar in [0, 1]; 0.5 for a score that says nothing. Ties count half.

  Raises:
    ValueError: other shapes, nothing in one of them, or, outside `jit`, NaN. Infinite
      scores are ranked. Under `jit` a NaN gives NaN.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> print(js.bayes.auroc(jnp.array([0.0, 1.0]), jnp.array([1.0, 2.0])))
    0.875

  Hanley and McNeil, The meaning and use of the area under a ROC curve, 1982.
  """
  inside, outside = _inputs.as_scores(inside=inside, outside=outside)
  # Counted once without and once with equal scores, so that ties count half.
  below = _count_below(inside, outside) + _count_below(inside, outside, 'right')
  return _nan_if_nan(jnp.mean(below / (2 * inside.size)), inside, outside)


def aupr(inside, outside) -> jax.Array:
  r"""The average precision of a score that should be larger outside.

  .. math:: \frac1M \sum_{j=1}^M \frac{\#\{s_\text{out} \ge s_j\}}
     {\#\{s_\text{out} \ge s_j\} + \#\{s_\text{in} \ge s_j\}}

  It depends on the ratio of the two sizes. With the examples in distribution as the
  positive class it is `aupr(-outside, -inside)`.

  Args:
    inside: (N,) scores of examples in distribution.
    outside: (M,) scores of examples out of distribution: the positive class.

  Returns:
    A float32 scalar in (0, 1].

  Raises:
    ValueError: as `auroc`.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> print(f'{js.bayes.aupr(jnp.array([0.0, 2.0]), jnp.array([1.0, 3.0])):.4f}')
    0.8333

  Davis and Goadrich, The relationship between precision-recall and ROC curves, ICML
  2006; the same number as scikit-learn's `average_precision_score`.
  """
  inside, outside = _inputs.as_scores(inside=inside, outside=outside)
  # At the threshold of each positive score, which its equals pass with it.
  hits = outside.size - _count_below(outside, outside)
  alarms = inside.size - _count_below(inside, outside)
  return _nan_if_nan(jnp.mean(hits / (hits + alarms)), inside, outside)


def fpr95(inside, outside) -> jax.Array:
  r"""The share outside that passes at the threshold that 95 % inside pass.

  .. math:: \frac1M \#\{s_\text{out} \le t\}, \quad
     t = \min\{t : \#\{s_\text{in} \le t\} \ge 0.95 N\}

  Args:
    inside: (N,) scores of examples in distribution; small scores pass.
    outside: (M,) scores of examples out of distribution.

  Returns:
    A float32 scalar in [0, 1]; smaller is better.

  Raises:
    ValueError: as `auroc`.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> print(js.bayes.fpr95(jnp.arange(20.0), jnp.array([3.0, 18.0, 19.0, 40.0])))
    0.5

  Liang et al., Enhancing the reliability of out-of-distribution image detection, ICLR
  2018, section 4.2.
  """
  inside, outside = _inputs.as_scores(inside=inside, outside=outside)
  # In integers: 0.95 N is not exact.
  threshold = jnp.sort(inside)[-(-95 * inside.size // 100) - 1]
  passed = (outside <= threshold).astype(jnp.float32)
  return _nan_if_nan(jnp.mean(passed), inside, outside)


class RiskCoverage(NamedTuple):
  """The risk-coverage curve of a selective predictor.

  Attributes:
    coverage: (N,) shares k / N of the examples that are answered, rising.
    risk: (N,) mean loss of the k most certain examples.
    area: float32 scalar, the mean of `risk`.
  """

  coverage: jax.Array
  risk: jax.Array
  area: jax.Array


def risk_coverage(uncertainty, losses) -> RiskCoverage:
  r"""The mean loss of the most certain examples, for every share of them.

  .. math:: r(k/N) = \frac1k \sum_{i \le k} \ell_{(i)}, \quad
     u_{(1)} \le u_{(2)} \le \dots, \quad \text{area} = \frac1N \sum_k r(k/N)

  Equally certain examples are answered in random order, and the expectation over
  the orders is given: a constant uncertainty has the mean loss everywhere.

  Args:
    uncertainty: (N,) scores; the largest are refused first.
    losses: (N,) losses, for example 1 where the prediction is wrong.

  Returns:
    `RiskCoverage`.

  Raises:
    ValueError: other shapes, or, outside `jit`, NaN.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> wrong = jnp.array([0.0, 1.0, 0.0, 1.0])
    >>> curve = js.bayes.risk_coverage(jnp.array([1.0, 3.0, 2.0, 4.0]), wrong)
    >>> [round(r, 3) for r in curve.risk.tolist()], round(curve.area.item(), 3)
    ([0.0, 0.0, 0.333, 0.5], 0.208)

  Geifman, Uziel and El-Yaniv, Bias-Reduced Uncertainty Estimation for Deep Neural
  Classifiers, ICLR 2019, section 2.
  """
  uncertainty, losses = _inputs.as_scores(uncertainty=uncertainty, losses=losses)
  if uncertainty.shape != losses.shape:
    raise ValueError(f'losses: {losses.size}; wanted {uncertainty.size}, as scores.')
  order = jnp.argsort(uncertainty)
  ordered, number = uncertainty[order], jnp.arange(1, losses.size + 1)
  sums = jnp.concatenate([jnp.zeros(1), jnp.cumsum(losses[order])])
  # Each example of a tie has the mean loss of its tie.
  first = jnp.searchsorted(ordered, ordered, side='left')
  last = jnp.searchsorted(ordered, ordered, side='right')
  mean = (sums[last] - sums[first]) / (last - first)
  risk = (sums[first] + mean * (number - first)) / number
  risk = _nan_if_nan(risk, uncertainty, losses)
  return RiskCoverage(number / losses.size, risk, jnp.mean(risk))


def _count_below(scores, values, side='left'):
  """How many of `scores` are below each value; `side='right'` counts equal ones too."""
  return jnp.searchsorted(jnp.sort(scores), values, side=side)


def _nan_if_nan(result, *scores):
  # A NaN sorts as the largest score: without this it would look like a rank.
  bad = jnp.any(jnp.stack([jnp.any(jnp.isnan(x)) for x in scores]))
  return jnp.where(bad, jnp.nan, result)

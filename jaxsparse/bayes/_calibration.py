"""How good probabilities are: likelihood, Brier score, three calibration errors."""

import jax
import jax.numpy as jnp

from jaxsparse.bayes import _inputs


def negative_log_likelihood(probs, labels) -> jax.Array:
  r"""The mean negative log probability of the labels, in nats per example.

  .. math:: -\frac1N \sum_i \log p_{i, y_i}

  Args:
    probs: (N, C) probabilities.
    labels: (N,) integers in [0, C).

  Returns:
    A float32 scalar; inf if some label has probability exactly 0. Probabilities below
    1e-38 underflow: `negative_log_likelihood_of_logits` does not.

  Raises:
    ValueError: other shapes; outside `jit` also rows that are no probabilities, NaN,
      or labels out of range. Under `jit` these give NaN or a number without meaning.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> probs = jnp.array([[0.5, 0.5], [0.25, 0.75]])
    >>> print(f'{js.bayes.negative_log_likelihood(probs, jnp.array([0, 1])):.4f}')
    0.4904

  Gneiting and Raftery, Strictly Proper Scoring Rules, JASA 2007, section 4.
  """
  probs, labels = _inputs.as_probs(probs, labels)
  return -jnp.mean(jnp.log(_inputs.of_label(probs, labels)))


def negative_log_likelihood_of_logits(logits, labels) -> jax.Array:
  r"""The same from logits, or from log probabilities: no probability underflows.

  .. math:: \frac1N \sum_i \Big(\log \sum_c e^{z_{ic}} - z_{i, y_i}\Big)

  Args:
    logits: (N, C), for example `Prediction.logits`.
    labels: (N,) integers in [0, C).

  Returns:
    A float32 scalar, in nats per example.

  Raises:
    ValueError: other shapes; outside `jit` also NaN, or labels out of range.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> logits, labels = jnp.array([[0.0, 200.0]]), jnp.array([0])
    >>> print(js.bayes.negative_log_likelihood_of_logits(logits, labels))
    200.0
  """
  logits, labels = _inputs.as_rows('logits', logits, labels)
  return -jnp.mean(_inputs.of_label(jax.nn.log_softmax(logits), labels))


def brier(probs, labels) -> jax.Array:
  r"""The Brier score: the mean squared distance to the one-hot labels, in [0, 2].

  .. math:: \frac1N \sum_i \sum_c (p_{ic} - [c = y_i])^2

  Args:
    probs: (N, C) probabilities.
    labels: (N,) integers in [0, C).

  Returns:
    A float32 scalar.

  Raises:
    ValueError: as `negative_log_likelihood`.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> print(js.bayes.brier(jnp.array([[0.5, 0.5], [0.0, 1.0]]), jnp.array([0, 1])))
    0.25

  Brier, Verification of forecasts expressed in terms of probability, 1950.
  """
  probs, labels = _inputs.as_probs(probs, labels)
  errors = probs - jax.nn.one_hot(labels, probs.shape[1])
  return jnp.mean(jnp.sum(errors**2, axis=1))


def ece_top_label_l1(probs, labels, bins: int = 15) -> jax.Array:
  r"""The usual expected calibration error: top label, L1, bins of equal width.

  .. math:: \sum_b \frac{|B_b|}{N} \Big|\frac1{|B_b|} \sum_{i \in B_b}
     \big(\max_c p_{ic} - [\arg\max_c p_{ic} = y_i]\big)\Big|,
     \quad B_b = \{i : \max_c p_{ic} \in (b/M, (b+1)/M]\}

  Empty bins count nothing. Of tied classes the first is predicted.

  Args:
    probs: (N, C) probabilities.
    labels: (N,) integers in [0, C).
    bins: M.

  Returns:
    A float32 scalar in [0, 1].

  Raises:
    ValueError: as `negative_log_likelihood`, or `bins` below 1.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> probs = jnp.array([[0.8, 0.2]] * 4)
    >>> labels = jnp.array([0, 0, 0, 1])
    >>> print(f'{js.bayes.ece_top_label_l1(probs, labels):.3f}')
    0.050

  Guo et al., On Calibration of Modern Neural Networks, ICML 2017, equation 3.
  """
  confidence, correct = _top_label(probs, labels)
  # Inner edges only: a confidence that rounds to above 1 is in the last bin too.
  edges = jnp.arange(1, _inputs.as_bins(bins)) / bins
  return _l1_error(confidence, correct, edges)


def ece_adaptive(probs, labels, bins: int = 15) -> jax.Array:
  r"""The top-label, L1 calibration error over bins of equal mass.

  .. math:: \sum_b \frac{|B_b|}{N} \Big|\frac1{|B_b|} \sum_{i \in B_b}
     \big(\max_c p_{ic} - [\arg\max_c p_{ic} = y_i]\big)\Big|

  The bins are those of `calibration_error_marginal_l2_debiased`: equal confidences
  share a bin, so the order of the examples changes nothing.

  Args:
    probs: (N, C) probabilities.
    labels: (N,) integers in [0, C).
    bins: how many, at most; each holds ceil(N / bins) examples but for ties.

  Returns:
    A float32 scalar in [0, 1].

  Raises:
    ValueError: as `negative_log_likelihood`, or `bins` below 1.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> probs = jnp.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.3, 0.7]])
    >>> labels = jnp.array([0, 0, 1, 0])
    >>> print(f'{js.bayes.ece_adaptive(probs, labels, bins=2):.3f}')
    0.125

  Nguyen and O'Connor, Posterior calibration and exploratory analysis for natural
  language processing models, EMNLP 2015, section 4.2.
  """
  confidence, correct = _top_label(probs, labels)
  edges = _equal_mass_edges(confidence, _inputs.as_bins(bins))
  return _l1_error(confidence, correct, edges)


def calibration_error_marginal_l2_debiased(probs, labels, bins: int = 15) -> jax.Array:
  r"""What SSVI's released code calls ECE: L2, debiased, averaged over the classes.

  .. math:: \sqrt{\frac1C \sum_c \max\Big(0, \sum_b \frac{|B_{cb}|}{N}
     \Big((\bar p_{cb} - \bar y_{cb})^2
     - \frac{\bar y_{cb} (1 - \bar y_{cb})}{|B_{cb}| - 1}\Big)\Big)}

  where for class c the examples are sorted by `p_c` and cut into parts of ceil(N/M);
  the edge between two parts is halfway between its neighbours, equal probabilities
  share a bin, and a bin of one example counts 0. It is smaller than a top-label error,
  the more so with many classes: compare it with itself only.

  This is `get_calibration_error(probs, labels)` of the package
  uncertainty-calibration with its defaults, for continuous probabilities. (It takes a
  bin per value where, for every class, fewer than a quarter of the values differ.)

  Args:
    probs: (N, C) probabilities.
    labels: (N,) integers in [0, C).
    bins: M.

  Returns:
    A float32 scalar in [0, 1].

  Raises:
    ValueError: as `negative_log_likelihood`, or `bins` below 1.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> probs = jnp.array([[0.9, 0.1], [0.8, 0.2], [0.9, 0.1], [0.8, 0.2]])
    >>> labels = jnp.array([1, 1, 1, 1])
    >>> error = js.bayes.calibration_error_marginal_l2_debiased(probs, labels, bins=1)
    >>> print(f'{error:.3f}')
    0.850

  Kumar et al., Verified Uncertainty Calibration, NeurIPS 2019, definitions 2.3 and 5.1.
  """
  probs, labels = _inputs.as_probs(probs, labels)
  bins = _inputs.as_bins(bins)

  def squared_error(p, y):
    edges = _equal_mass_edges(p, bins)
    count, gap, positive = _bin_sums(p, edges, jnp.ones_like(p), p - y, y)
    mean = positive / jnp.maximum(count, 1)
    # The square of a noisy gap is too large by its variance, which is taken off.
    variance = mean * (1 - mean) / jnp.maximum(count - 1, 1)
    debiased = (gap / jnp.maximum(count, 1)) ** 2 - variance
    # A single label has no variance to take off.
    total = jnp.sum(jnp.where(count > 1, debiased, 0) * count) / p.size
    # Without its bias a small error may be below 0, where it has no root.
    return jnp.maximum(total, 0)

  one_hot = jax.nn.one_hot(labels, probs.shape[1])
  squares = jax.vmap(squared_error, in_axes=1)(probs, one_hot)
  return jnp.sqrt(jnp.mean(squares))


def _top_label(probs, labels):
  """Confidence and correctness of each prediction, float32."""
  probs, labels = _inputs.as_probs(probs, labels)
  correct = jnp.argmax(probs, axis=1) == labels
  return jnp.max(probs, axis=1), correct.astype(jnp.float32)


def _equal_mass_edges(values, bins: int):
  size = -(-values.size // bins)
  ordered = jnp.sort(values)
  cuts = jnp.arange(size, values.size, size)
  # Between equal neighbours the edge is their value: they share the lower bin.
  return (ordered[cuts - 1] + ordered[cuts]) / 2


def _bin_sums(values, edges, *terms):
  """The sum of each term over each bin; a value on an edge is in the lower bin."""
  place = jnp.searchsorted(edges, values, side='left')
  add = lambda term: jax.ops.segment_sum(term, place, edges.size + 1)
  return [add(term) for term in terms]


def _l1_error(confidence, correct, edges):
  (gaps,) = _bin_sums(confidence, edges, confidence - correct)
  # The size of a bin cancels, so that no empty bin is divided by.
  return jnp.sum(jnp.abs(gaps)) / confidence.size

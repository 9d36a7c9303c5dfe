"""Scores from class probabilities: least confidence, entropy, margin, EL2N."""

import jax
import jax.numpy as jnp

from jaxsparse.data import _record_inputs


def least_confidence(probs) -> jax.Array:
  r"""One minus the probability of the predicted class.

  .. math:: s_i = 1 - \max_c p_{ic}

  The largest *probability*: the largest logit ranks records otherwise. Costs O(N C).

  Args:
    probs: (N, C) probabilities.

  Returns:
    (N,) float32 in [0, 1 - 1/C], larger for what the model is less sure of.

  Raises:
    ValueError: another shape; outside `jit` also rows that are no probabilities.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> js.data.least_confidence(jnp.array([[1.0, 0.0], [0.25, 0.75]])).tolist()
    [0.0, 0.25]

  Lewis and Gale, A Sequential Algorithm for Training Text Classifiers, 1994.
  """
  return _least_confidence(_record_inputs.as_probs(probs))


@jax.jit
def _least_confidence(probs):
  return 1.0 - jnp.max(probs, axis=1)


def entropy(probs) -> jax.Array:
  r"""The entropy of the predicted probabilities, in nats.

  .. math:: s_i = -\sum_c p_{ic} \log p_{ic}

  Costs O(N C).

  Args:
    probs: (N, C) probabilities.

  Returns:
    (N,) float32 in [0, log C], larger for what the model is less sure of.

  Raises:
    ValueError: another shape; outside `jit` also rows that are no probabilities.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> scores = js.data.entropy(jnp.array([[1.0, 0.0], [0.5, 0.5]]))
    >>> [f'{s:.3f}' for s in scores]
    ['0.000', '0.693']

  Settles, Active Learning Literature Survey, 2009, section 3.1.
  """
  return _entropy(_record_inputs.as_probs(probs))


@jax.jit
def _entropy(probs):
  # `entr` is 0 at 0, where p log p would be NaN.
  return jnp.sum(jax.scipy.special.entr(probs), axis=1)


def margin(probs) -> jax.Array:
  r"""One minus the gap between the two most probable classes.

  .. math:: s_i = 1 - (p_{i(1)} - p_{i(2)})

  The literature keeps the smallest gap; taken from one it is, like every score of
  this room, largest for what is kept first. Costs O(N C).

  Args:
    probs: (N, C) probabilities of at least two classes.

  Returns:
    (N,) float32 in [0, 1], larger for what is closer to a tie.

  Raises:
    ValueError: another shape, a single class; outside `jit` also rows that are no
      probabilities.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> js.data.margin(jnp.array([[1.0, 0.0], [0.25, 0.75]])).tolist()
    [0.0, 0.5]

  Scheffer et al., Active Hidden Markov Models for Information Extraction, 2001.
  """
  probs = _record_inputs.as_probs(probs)
  if probs.shape[1] < 2:
    raise ValueError(f'probs: shape {probs.shape}; wanted at least two classes.')
  return _margin(probs)


@jax.jit
def _margin(probs):
  first = jnp.argmax(probs, axis=1)
  # Only one of tied classes is taken out, which leaves a gap of 0.
  rest = jnp.where(jax.nn.one_hot(first, probs.shape[1], dtype=bool), -1.0, probs)
  return 1.0 - (jnp.max(probs, axis=1) - jnp.max(rest, axis=1))


def el2n(probs, labels) -> jax.Array:
  r"""EL2N: the L2 norm of the error vector.

  .. math:: s_i = \lVert p_i - y_i \rVert_2

  The paper's score is the mean over about ten networks early in training: average the
  results of one call each. Costs O(N C).

  Args:
    probs: (N, C) probabilities, or (M, N, C) of M networks, over which the mean is
      taken.
    labels: (N,) integers in [0, C).

  Returns:
    (N,) float32 in [0, sqrt(2)], larger for harder records.

  Raises:
    ValueError: another shape; outside `jit` also rows that are no probabilities, or
      labels out of range.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> scores = js.data.el2n(jnp.array([[1., 0.], [1., 0.]]), jnp.array([0, 1]))
    >>> [f'{s:.3f}' for s in scores]
    ['0.000', '1.414']

  Paul et al., Deep Learning on a Data Diet, NeurIPS 2021, definition 2.2.
  """
  probs = jnp.asarray(probs)
  if probs.ndim == 3 and probs.shape[0]:
    return jnp.mean(jnp.stack([el2n(p, labels) for p in probs]), axis=0)
  return _norms(errors_of(probs, labels))


@jax.jit
def _norms(errors):
  return jnp.linalg.norm(errors, axis=1)


def errors_of(probs, labels):
  """`p - y`, the gradient of softmax cross-entropy by the logits: (N, C) float32."""
  probs = _record_inputs.as_probs(probs)
  labels, _ = _record_inputs.as_labels(labels, *probs.shape)
  return _errors(probs, labels)


@jax.jit
def _errors(probs, labels):
  return probs - jax.nn.one_hot(labels, probs.shape[1], dtype=probs.dtype)

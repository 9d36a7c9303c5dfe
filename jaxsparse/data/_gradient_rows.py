"""Rows of numbers, one a record: an array, or last-layer gradients by their factors.

The greedy methods ask for products between rows and nothing else, so gradients of the
last layer need not be written out: C + H numbers a record instead of C (H + 1).
"""

from typing import NamedTuple, TypeAlias

import jax
from jax import lax
import jax.numpy as jnp

from jaxsparse.data import _record_inputs, _scores


class LastLayerGradients(NamedTuple):
  """Per-record gradients of softmax cross-entropy by the last dense layer, factored.

  Row i stands for the vector of C (H + 1) numbers `concat(e, e outer h)`, with which
  `<g_i, g_j> = <e_i, e_j> (1 + <h_i, h_j>)`.

  Attributes:
    errors: (N, C) float32, `e = p - y`: the gradient by the bias.
    features: (N, H) float32, `h`: the inputs of the last layer.
  """

  errors: jax.Array
  features: jax.Array


Rows: TypeAlias = jax.Array | LastLayerGradients


def last_layer_gradients(probs, labels, features) -> LastLayerGradients:
  r"""The gradients by the last dense layer, one a record, without writing them out.

  .. math:: g_i = \big(p_i - y_i,\; (p_i - y_i) \otimes h_i\big)

  Costs O(N C) time and no memory but its inputs.

  Args:
    probs: (N, C) probabilities: the softmax of the logits, taken once.
    labels: (N,) integers in [0, C).
    features: (N, H) inputs of the last layer, with the model in inference mode and on
      records without augmentation.

  Returns:
    What `craig`, `gradmatch`, `glister`, `facility_location`, `graph_cut`, `herding`
    and `k_center_greedy` take.

  Raises:
    ValueError: other shapes; outside `jit` also rows that are no probabilities, or
      labels out of range.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> rows = js.data.last_layer_gradients(
    ...     jnp.array([[0.5, 0.5]]), jnp.array([1]), jnp.array([[3.0]]))
    >>> rows.errors.tolist()
    [[0.5, -0.5]]

  Ash et al., Deep Batch Active Learning by Diverse, Uncertain Gradient Lower Bounds,
  ICLR 2020, section 3.
  """
  errors = _scores.errors_of(probs, labels)
  return LastLayerGradients(
    errors, _record_inputs.as_matrix('features', features, errors.shape[0])
  )


def as_rows(name: str, rows) -> Rows:
  """Rows as float32; see `_record_inputs.as_matrix` for what is refused."""
  if not isinstance(rows, LastLayerGradients):
    return _record_inputs.as_matrix(name, rows)
  errors = _record_inputs.as_matrix(f'{name}.errors', rows.errors)
  features = _record_inputs.as_matrix(
    f'{name}.features', rows.features, errors.shape[0]
  )
  return LastLayerGradients(errors, features)


def num_rows(rows: Rows) -> int:
  """N."""
  return jax.tree.leaves(rows)[0].shape[0]


def take(rows: Rows, index) -> Rows:
  """The rows of these (M,) indices."""
  return jax.tree.map(lambda x: x[index], rows)


def products(rows: Rows, others: Rows) -> jax.Array:
  """`<a_i, b_j>` of all pairs: (N, M), of two trees of one kind."""
  if isinstance(rows, LastLayerGradients):
    assert isinstance(others, LastLayerGradients)
    errors = _dot(rows.errors, others.errors.T)
    return errors * (1.0 + _dot(rows.features, others.features.T))
  assert not isinstance(others, LastLayerGradients)
  return _dot(rows, others.T)


def squares(rows: Rows) -> jax.Array:
  """`|a_i|^2`: (N,)."""
  if isinstance(rows, LastLayerGradients):
    wide = 1.0 + jnp.sum(rows.features**2, axis=1)
    return jnp.sum(rows.errors**2, axis=1) * wide
  return jnp.sum(rows**2, axis=1)


def scale(rows: Rows, factors: jax.Array) -> Rows:
  """`f_i a_i`."""
  if isinstance(rows, LastLayerGradients):
    return LastLayerGradients(rows.errors * factors[:, None], rows.features)
  return rows * factors[:, None]


def normalize(rows: Rows) -> Rows:
  """Rows of length 1; a row of zeros stays one."""
  square = squares(rows)
  return scale(rows, jnp.where(square > 0, lax.rsqrt(square), 0.0))


def center(rows: Rows) -> Rows:
  """Moves an array's mean to 0, where differences of products lose least.

  Factored gradients stay where they are: their mean has no factors. What is computed
  from the result must not depend on the origin.
  """
  if isinstance(rows, LastLayerGradients):
    return rows
  return rows - jnp.mean(rows, axis=0, keepdims=True)


def total(rows: Rows) -> jax.Array:
  """`sum_i a_i` written out: (D,), for last-layer gradients D = C (H + 1)."""
  if isinstance(rows, LastLayerGradients):
    # (C, H): a sum of outer products is one product of matrices.
    weights = _dot(rows.errors.T, rows.features)
    return jnp.concatenate([jnp.sum(rows.errors, axis=0), weights.ravel()])
  return jnp.sum(rows, axis=0)


def along(rows: Rows, vector: jax.Array) -> jax.Array:
  """`<a_i, v>` for a vector as `total` gives: (N,)."""
  if isinstance(rows, LastLayerGradients):
    classes = rows.errors.shape[1]
    # As `total` has them: the C biases first, then C rows of H weights.
    weights = vector[classes:].reshape(classes, -1)
    by_weights = jnp.sum(rows.errors * _dot(rows.features, weights.T), axis=1)
    return _dot(rows.errors, vector[:classes]) + by_weights
  return _dot(rows, vector)


def square_distances(rows: Rows, square: jax.Array, index) -> jax.Array:
  """`|a_i - a_j|^2` to the row j = `index`: (N,)."""
  if isinstance(rows, LastLayerGradients):
    dots = products(rows, take(rows, index[None]))[:, 0]
    return jnp.maximum(square + square[index] - 2 * dots, 0.0)
  # By differences, which lose nothing where two rows are close.
  return jnp.sum((rows - rows[index][None]) ** 2, axis=1)


def _dot(a, b):
  # Distances are differences of products: short floats would leave nothing of them.
  return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)

"""MIG: maximum information gain over labels that are near each other."""

import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from jaxsparse.data import _record_inputs, _selection


def label_propagation(
  embeddings, *, threshold: float = 0.9, weight: float = 1.0
) -> jax.Array:
  r"""How much of a record's information each label passes on to similar labels.

  .. math:: P_{ab} = \frac{A_{ab}}{\sum_c A_{cb}}, \quad
     A_{ab} = \begin{cases} 1 & a = b \\
     \alpha \cos(l_a, l_b) [\cos(l_a, l_b) \ge T] & a \ne b \end{cases}

  Costs O(L^2 D) time and O(L^2) memory: L counts labels, not records.

  Args:
    embeddings: (L, D) of the labels: of tags, or centroids of clusters.
    threshold: T above 0; labels that are less similar pass nothing on.
    weight: alpha, not negative.

  Returns:
    (L, L) float32 whose columns sum to 1.

  Raises:
    ValueError: another shape, NaN, a row of zeros, a threshold or a weight outside its
      range.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> labels = jnp.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    >>> js.data.label_propagation(labels).tolist()
    [[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]

  Chen et al., MIG, Findings of ACL 2025, section 3.
  """
  embeddings = _record_inputs.as_matrix('embeddings', embeddings)
  threshold = _record_inputs.as_positive('threshold', threshold)
  if not 0 <= weight < float('inf'):
    raise ValueError(f'weight={weight!r}: wanted a finite number, not below 0.')
  if _record_inputs.known(embeddings):
    some = np.asarray(embeddings).any(axis=1)
    if not some.all():
      raise ValueError(f'embeddings: row {int(np.argmin(some))} is all zeros.')
  return _propagation(embeddings, jnp.float32(threshold), jnp.float32(weight))


@jax.jit
def _propagation(embeddings, threshold, weight):
  unit = embeddings / jnp.linalg.norm(embeddings, axis=1, keepdims=True)
  cosines = jnp.matmul(unit, unit.T, precision=lax.Precision.HIGHEST)
  linked = weight * jnp.where(cosines >= threshold, cosines, 0.0)
  # The diagonal is set: neither the weight nor a rounded cosine applies to it.
  same = jnp.eye(unit.shape[0], dtype=bool)
  adjacency = jnp.where(same, 1.0, linked)
  return adjacency / jnp.sum(adjacency, axis=0, keepdims=True)


def mig(
  values,
  size,
  *,
  propagation=None,
  power: float = 0.8,
  offset: float = 1e-6,
  rate: float | None = None,
) -> _selection.Selection:
  r"""MIG: the subset with the most information, of which a label has ever less to give.

  .. math:: \max_{|S| = k} \sum_l \phi\Big(\sum_{i \in S} (v_i P)_l\Big), \quad
     \phi(x) = (x + a)^b

  Greedy by the derivative, as in the paper: the choice is
  `argmax_i <v_i P, phi'(x)>` with `x` the sum of the chosen rows; of equal gains the
  lower index. Costs O(N L^2 + k N L) time and N L memory; L counts labels. For image
  features take clusters, or classes and clusters, as labels.

  Args:
    values: (N, L), not negative: a record's quality at its labels, 0 elsewhere.
    size: records to keep, an int; or a float in (0, 1], a share of N.
    propagation: (L, L), P, as `label_propagation` gives; by default none.
    power: b in (0, 1).
    offset: a above 0.
    rate: where given, `phi(x) = 1 - exp(-rate x)` is used instead.

  Returns:
    The indices in the order of choice; no weights.

  Raises:
    ValueError: other shapes, values below 0, a number outside its range.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> values = jnp.array([[3.0, 0.0], [2.9, 0.0], [0.0, 1.0]])
    >>> js.data.mig(values, 2).indices.tolist()
    [0, 2]

  Chen et al., MIG: Automatic Data Selection for Instruction Tuning by Maximizing
  Information Gain in Semantic Space, Findings of ACL 2025, section 3.
  """
  values = _record_inputs.as_matrix('values', values)
  total, num_labels = values.shape
  size = _record_inputs.as_size(size, total)
  if _record_inputs.known(values) and np.min(values) < 0:
    raise ValueError(f'values: smallest {np.min(values):g}; wanted none below 0.')
  if not 0 < power < 1:
    raise ValueError(f'power={power!r}: wanted a number in (0, 1).')
  offset = _record_inputs.as_positive('offset', offset)
  numbers = [jnp.float32(power), jnp.float32(offset)]
  if rate is not None:
    numbers = [jnp.float32(_record_inputs.as_positive('rate', rate))]
  if propagation is not None:
    propagation = _record_inputs.as_matrix('propagation', propagation, num_labels)
    if propagation.shape[1] != num_labels:
      raise ValueError(
        f'propagation: shape {propagation.shape}; wanted ({num_labels}, {num_labels}).'
      )
  return _mig(size, values, propagation, numbers)


@functools.partial(jax.jit, static_argnums=0)
def _mig(size, values, propagation, numbers):
  product = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)
  if propagation is not None:
    values = product(values, propagation)

  def slope(x):
    # The length is static and chooses the function, while the numbers are traced.
    if len(numbers) == 1:
      return numbers[0] * jnp.exp(-numbers[0] * x)
    power, offset = numbers
    # power - 1 is negative: without the offset the slope at 0 would be infinite.
    return power * (x + offset) ** (power - 1)

  def choose(state, _):
    held, taken = state
    gains = product(values, slope(held))
    best = jnp.argmax(jnp.where(taken, -jnp.inf, gains))
    return (held + values[best], taken.at[best].set(True)), best

  start = jnp.zeros(values.shape[1]), jnp.zeros(values.shape[0], bool)
  return _selection.unweighted(lax.scan(choose, start, None, length=size)[1])

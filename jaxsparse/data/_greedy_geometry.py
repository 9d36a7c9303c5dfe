"""Greedy selections by geometry: herding and k-center."""

import functools

import jax
from jax import lax
import jax.numpy as jnp

from jaxsparse.data import _gradient_rows, _record_inputs, _selection


def herding(features, size) -> _selection.Selection:
  r"""Herding: each choice brings the running sum closest to that of the mean.

  .. math:: x_{t+1} = \arg\min_{x \notin S_t}
     \Big\lVert (t + 1) \mu - \sum_{j \in S_t} x_j - x \Big\rVert_2

  The nearest, not the farthest. Of equal distances the lower index. The first choices
  of a larger size are those of a smaller one. Costs O(k N D) time and O(N) memory
  beside the rows.

  Args:
    features: (N, D), or LastLayerGradients.
    size: records to keep, an int; or a float in (0, 1], a share of N.

  Returns:
    The indices in the order of choice; no weights.

  Raises:
    ValueError: a size outside its range, another shape, NaN.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> features = jnp.array([[0.0], [2.0], [3.0], [7.0]])
    >>> js.data.herding(features, 2).indices.tolist()
    [2, 1]

  Welling, Herding Dynamical Weights to Learn, ICML 2009; Chen et al., Super-samples
  from Kernel Herding, UAI 2010, section 4.
  """
  rows = _gradient_rows.as_rows('features', features)
  return _herding(_record_inputs.as_size(size, _gradient_rows.num_rows(rows)), rows)


@functools.partial(jax.jit, static_argnums=0)
def _herding(size, rows):
  rows = _gradient_rows.center(rows)
  square, total = _gradient_rows.squares(rows), _gradient_rows.num_rows(rows)
  mean = _gradient_rows.total(rows) / total

  def choose(state, _):
    missing, taken = state
    missing = missing + mean
    # |missing - x|^2 without what all candidates share.
    error = square - 2 * _gradient_rows.along(rows, missing)
    best = jnp.argmin(jnp.where(taken, jnp.inf, error))
    # The total of one row is that row, written out.
    row = _gradient_rows.total(_gradient_rows.take(rows, best[None]))
    return (missing - row, taken.at[best].set(True)), best

  start = jnp.zeros_like(mean), jnp.zeros(total, bool)
  return _selection.unweighted(lax.scan(choose, start, None, length=size)[1])


def k_center_greedy(
  features, size, *, start: int | None = None
) -> _selection.Selection:
  r"""k-center greedy: always the record farthest from all that are chosen.

  .. math:: x_{t+1} = \arg\max_x \min_{j \in S_t} \lVert x - x_j \rVert_2

  The largest distance that is left is at most twice the best possible. Of equal
  distances the lower index. Costs O(k N D) time and O(N) memory beside the rows.

  Args:
    features: (N, D), or LastLayerGradients.
    size: records to keep, an int; or a float in (0, 1], a share of N.
    start: index of the first center; by default the record nearest to the mean.

  Returns:
    The indices in the order of choice; no weights.

  Raises:
    ValueError: a size or a start outside its range, another shape, NaN.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> features = jnp.array([[0.0], [4.0], [5.0], [9.0]])
    >>> js.data.k_center_greedy(features, 3, start=1).indices.tolist()
    [1, 3, 0]

  Sener and Savarese, Active Learning for Convolutional Neural Networks: A Core-Set
  Approach, ICLR 2018, algorithm 1.
  """
  rows = _gradient_rows.as_rows('features', features)
  total = _gradient_rows.num_rows(rows)
  size = _record_inputs.as_size(size, total)
  if start is not None and not 0 <= _record_inputs.as_count('start', start, 0) < total:
    raise ValueError(f'start={start}: wanted an index in [0, {total}).')
  # -1 stands for the default, so that another start compiles nothing anew.
  return _k_center(size, rows, jnp.int32(-1 if start is None else start))


@functools.partial(jax.jit, static_argnums=0)
def _k_center(size, rows, start):
  rows = _gradient_rows.center(rows)
  square, total = _gradient_rows.squares(rows), _gradient_rows.num_rows(rows)
  mean = _gradient_rows.total(rows) / total
  # |x - mean|^2 without what all records share.
  central = jnp.argmin(square - 2 * _gradient_rows.along(rows, mean))
  first = jnp.where(start < 0, central.astype(jnp.int32), start)

  def choose(state, _):
    nearest, best = state
    # Squares order records as distances do.
    distance = _gradient_rows.square_distances(rows, square, best)
    # A chosen record is below all others, also below their copies.
    nearest = jnp.minimum(nearest, distance).at[best].set(-1.0)
    return (nearest, jnp.argmax(nearest).astype(jnp.int32)), best

  begin = jnp.full(total, jnp.inf), first
  return _selection.unweighted(lax.scan(choose, begin, None, length=size)[1])

"""GradMatch: a weighted subset whose gradients add up to those of all records."""

import functools

import jax
from jax import lax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve, solve_triangular

from jaxsparse.data import _gradient_rows, _record_inputs, _selection


def gradmatch(
  gradients, size, *, ridge: float = 1.0, target=None
) -> _selection.Selection:
  r"""GradMatch: orthogonal matching pursuit, then weights that are not negative.

  .. math:: \min_{S, w \ge 0} \Big\lVert \bar g - \sum_{j \in S} w_j g_j \Big\rVert_2^2
     + \lambda \lVert w \rVert_2^2, \quad \bar g = \frac1N \sum_i g_i

  Each choice has the largest product with what is left of the mean gradient; the
  weights of all choices are then fitted anew by ridge regression, whose Cholesky
  factor grows by a row. At the end the problem above is solved exactly for the choices
  with `w >= 0`. Of equal products the lower index. The paper runs it class by class:
  `per_class(gradmatch, ...)`. Costs O(k N D + k^2 D + k^3) time; memory is N + k^2 + k D
  beside the rows.

  Args:
    gradients: (N, D), or LastLayerGradients.
    size: records to keep, an int; or a float in (0, 1], a share of N.
    ridge: lambda above 0; it is on the scale of squared gradients, so that small
      gradients are shrunk more.
    target: rows of the same kind, of validation records for example, whose mean is
      matched; by default the gradients.

  Returns:
    The indices in the order of choice, and as weights N w; 0 for what would only do
    harm. Their sum need not be N: a few gradients along the mean do for many, and ridge
    shrinks them. A weighted mean of losses divides by it.

  Raises:
    ValueError: a size or a ridge outside its range, other shapes, NaN.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> gradients = jnp.array([[2.0, 0.0], [0.0, 1.0], [0.0, 2.0], [-1.0, 0.0]])
    >>> indices, weights = js.data.gradmatch(gradients, 2, ridge=1e-6)
    >>> indices.tolist(), [f'{w:.2f}' for w in weights]
    ([2, 0], ['1.50', '0.50'])

  Killamsetty et al., GRAD-MATCH, ICML 2021, algorithm 2.
  """
  rows = _gradient_rows.as_rows('gradients', gradients)
  size = _record_inputs.as_size(size, _gradient_rows.num_rows(rows))
  ridge = _record_inputs.as_positive('ridge', ridge)
  wanted = rows if target is None else _gradient_rows.as_rows('target', target)
  shape = lambda tree: jax.tree.map(lambda x: x.shape[1:], tree)
  if shape(wanted) != shape(rows):
    raise ValueError(
      f'target: rows of {shape(wanted)} numbers; wanted {shape(rows)}, as gradients.'
    )
  return _gradmatch(size, rows, wanted, jnp.float32(ridge))


@functools.partial(jax.jit, static_argnums=0)
def _gradmatch(size, rows, wanted, ridge):
  total = _gradient_rows.num_rows(rows)
  target = _gradient_rows.total(wanted) / _gradient_rows.num_rows(wanted)
  square = _gradient_rows.squares(rows)
  by_target = _gradient_rows.along(rows, target)

  def choose(state, step):
    indices, factor, right, residual, taken = state
    fit = _gradient_rows.along(rows, residual)
    # Not the largest size: an opposite gradient would need a weight below 0.
    best = jnp.argmax(jnp.where(taken, -jnp.inf, fit)).astype(jnp.int32)
    chosen = _gradient_rows.take(rows, indices)
    dots = _gradient_rows.products(chosen, _gradient_rows.take(rows, best[None]))[:, 0]
    # Places from `step` on are empty; their index 0 stands for no record.
    dots = jnp.where(jnp.arange(size) < step, dots, 0.0)
    factor = _grow_cholesky(factor, dots, square[best] + ridge, step)
    indices, right = indices.at[step].set(best), right.at[step].set(by_target[best])
    # What is not chosen yet has a right side of 0, and so a weight of 0.
    weights = cho_solve((factor, True), right)
    chosen = _gradient_rows.take(rows, indices)
    # Each choice changes all weights, so no running difference would do.
    residual = target - _gradient_rows.total(_gradient_rows.scale(chosen, weights))
    return indices, factor, right, residual, taken.at[best].set(True)

  start = (
    jnp.zeros(size, jnp.int32),
    # Empty places are rows of the identity, which keep the system solvable.
    jnp.eye(size),
    jnp.zeros(size),
    target,
    jnp.zeros(total, bool),
  )
  indices, _, right, _, _ = lax.fori_loop(
    0, size, lambda step, state: choose(state, step), start
  )
  chosen = _gradient_rows.take(rows, indices)
  gram = _gradient_rows.products(chosen, chosen) + ridge * jnp.eye(size)
  return _selection.Selection(indices, total * solve_nonnegative(gram, right))


def _grow_cholesky(factor, dots, corner, step):
  """The factor with one more row: of a matrix bordered by `dots` and `corner`."""
  row = solve_triangular(factor, dots, lower=True)
  # Rounding may leave less than nothing where rows nearly repeat.
  corner = jnp.sqrt(jnp.maximum(corner - jnp.sum(row**2), 1e-6 * corner))
  return factor.at[step].set(row.at[step].set(corner))


def solve_nonnegative(matrix: jax.Array, right: jax.Array) -> jax.Array:
  r"""`argmin_{x >= 0} x' A x - 2 b' x`, exactly, by block principal pivoting.

  Variables with a negative value leave the free set, and those with a negative
  derivative enter it, all at once; when that makes no progress, one at a time, which
  ends for every positive definite matrix. O(k^3) a step, usually a few steps.

  Args:
    matrix: (k, k), positive definite.
    right: (k,).

  Returns:
    (k,), not negative.

  Kim and Park, Fast Nonnegative Matrix Factorization: An Active-Set-Like Method, 2011.
  """
  size = right.shape[0]
  # A derivative of 0 that rounds to below 0 must not free its variable.
  slack = 1e-6 * jnp.max(jnp.abs(right))

  def solve(free):
    keep = free[:, None] & free[None, :]
    # The identity off the free set: one shape for all sets, still positive definite.
    reduced = jnp.where(keep, matrix, jnp.eye(size))
    x = cho_solve((jnp.linalg.cholesky(reduced), True), jnp.where(free, right, 0.0))
    derivative = jnp.matmul(matrix, x, precision=lax.Precision.HIGHEST) - right
    return x, jnp.where(free, x < 0, derivative < -slack)

  def exchange(state):
    step, free, _, wrong, fewest, tries = state
    num_wrong = jnp.sum(wrong)
    better = num_wrong < fewest
    # Three full exchanges may fail; after them only the last wrong variable moves.
    tries = jnp.where(better, 3, tries - 1)
    last = size - 1 - jnp.argmax(wrong[::-1])
    one = jnp.arange(size) == last
    free = free ^ jnp.where(tries >= 0, wrong, one & wrong)
    x, wrong = solve(free)
    return step + 1, free, x, wrong, jnp.minimum(fewest, num_wrong), tries

  def goes_on(state):
    # The limit is for rounding only: a degenerate problem could swap for ever.
    return jnp.any(state[3]) & (state[0] < 10 * size + 50)

  free = jnp.ones(size, bool)
  x, wrong = solve(free)
  start = (jnp.int32(0), free, x, wrong, jnp.int32(size + 1), jnp.int32(3))
  return jnp.maximum(lax.while_loop(goes_on, exchange, start)[2], 0.0)

"""Criteria for embedding tables: what is known of their rows before training."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxsparse import core
from jaxsparse.criteria import _weights


def popularity(
  frequencies: Mapping[str, jax.Array], power: float = 0.5
) -> core.Criterion:
  """Draws at random, more often from rows that are seen more often.

      score_ij = log(u_ij) / f_i^power,   u_ij uniform in (0, 1)

  The k largest scores are a weighted draw of k weights without replacement. Leaves
  without frequencies, and rows that were never seen, draw as a row seen once.

  Args:
    frequencies: path pattern -> how often each row is seen, (rows,), 0 or more.
    power: 0 draws uniformly.

  Returns:
    A criterion; the transform needs a seed.

  Raises:
    ValueError: a negative frequency; in use, frequencies that do not fit a table.

  Example:
    >>> import jax, jax.numpy as jnp, jaxsparse as js
    >>> criterion = js.criteria.popularity({'embedding': jnp.array([1, 1000])}, 1.0)
    >>> e = js.core.Evidence(
    ...     ({'embedding': jnp.ones((2, 8))},), None, None, None, 0, jax.random.key(0))
    >>> scores = criterion(e)['embedding']
    >>> bool(scores[1].min() > scores[0].max())
    True

  Efraimidis & Spirakis 2006, Weighted random sampling with a reservoir, section 2.
  """
  for pattern, frequency in frequencies.items():
    if np.ndim(frequency) != 1 or np.any(np.asarray(frequency) < 0):
      raise ValueError(
        f'frequencies: {pattern!r} got shape {np.shape(frequency)}; wanted one number of'
        ' 0 or more for each row.'
      )

  def criterion(evidence):
    drawn = _weights.random(evidence)
    weights = row_weights(evidence.params[0], frequencies, -power, 'frequencies')
    names, leaves, treedef = core.named_leaves(drawn)
    scores = []
    for name, bits in zip(names, leaves):
      # In (0, 1): a score of 0 would win over every weight. The largest numbers become
      # 2**31 in float32, so the divisor is the float32 that follows it.
      uniform = (bits.astype(jnp.float32) + 0.5) / jnp.float32(2**31 + 256)
      log = jnp.log(uniform)
      scores.append(log * weights[name] if name in weights else log)
    return treedef.unflatten(scores)

  return criterion


def row_weights(params, frequencies, power: float, what: str) -> dict[str, jax.Array]:
  """`{name: max(f, 1)^power}`, (rows, 1), of the leaves that have frequencies.

  Args:
    params: one field of the parameters.
    frequencies: path pattern -> (rows,).
    power: of the frequencies.
    what: the name of the argument, for the error.

  Returns:
    float32 arrays.

  Raises:
    ValueError: a pattern that matches nothing, another number of rows.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> params = {'embedding': jnp.ones((2, 8))}
    >>> weights = js.criteria.row_weights(
    ...     params, {'embedding': jnp.array([4, 0])}, 0.5, 'frequencies')
    >>> weights['embedding'].tolist()
    [[2.0], [1.0]]
  """
  leaves = dict(zip(*core.named_leaves(params)[:2]))
  found = core.match(frequencies, tuple(leaves), what) if frequencies else {}
  weights = {}
  for name, frequency in found.items():
    shape = jnp.shape(leaves[name])
    if len(shape) != 2 or jnp.shape(frequency) != shape[:1]:
      raise ValueError(
        f'{what}: {name} of shape {shape} got {jnp.shape(frequency)}; wanted one number'
        ' for each row of a table.'
      )
    seen = jnp.maximum(jnp.asarray(frequency).astype(jnp.float32), jnp.float32(1))
    weights[name] = (seen ** jnp.float32(power))[:, None]
  return weights


def factorization(matrix, rows: str, columns: str) -> core.Criterion:
  """|U S^1/2| and |V S^1/2| of a truncated SVD: where two tables should be active.

  The matrix is approximated as U S V' with as many singular values as the tables have
  columns. Column j of both tables stands for the same factor, so that supports of rows
  that interact overlap. Leaves that are neither table score at random.

  Args:
    matrix: interactions, (row table's rows, column table's rows): an array or a SciPy
      sparse matrix.
    rows: name of the leaf with a row for each row of the matrix.
    columns: name of the leaf with a row for each column of the matrix.

  Returns:
    A criterion; the transform needs a seed for its other leaves.

  Raises:
    ValueError: in use, no such leaf, another shape, or fewer than one factor per
      column of the tables.

  Example:
    >>> import jax, jax.numpy as jnp, jaxsparse as js
    >>> matrix = jnp.outer(jnp.arange(4.0), jnp.ones(5))
    >>> criterion = js.criteria.factorization(matrix, 'users', 'items')
    >>> params = {'users': jnp.ones((4, 2)), 'items': jnp.ones((5, 2))}
    >>> e = js.core.Evidence((params,), None, None, None, 0, jax.random.key(0))
    >>> [round(float(x), 2) for x in criterion(e)['users'][:, 0]]
    [0.0, 0.77, 1.55, 2.32]

  SparseRec (arXiv 2411.12205) starts from a non-negative factorization instead.
  """

  def criterion(evidence):
    scores = _weights.random(evidence)
    names, leaves, treedef = core.named_leaves(scores)
    shapes = {n: x.shape for n, x in zip(names, leaves)}
    found = _factors(matrix, rows, columns, shapes)
    scores = [found.get(n, x) for n, x in zip(names, leaves)]
    return treedef.unflatten(scores)

  return criterion


def _factors(matrix, rows, columns, shapes):
  from scipy.sparse import linalg

  count, other = np.shape(matrix)
  for name, length in ((rows, count), (columns, other)):
    if name not in shapes or len(shapes[name]) != 2 or shapes[name][0] != length:
      raise ValueError(
        f'factorization: {name!r} has shape {shapes.get(name)}; wanted a table of'
        f' {length} rows among {", ".join(shapes)}.'
      )
  width = shapes[rows][1]
  if shapes[columns][1] != width or width >= min(count, other):
    raise ValueError(
      f'factorization: {rows} and {columns} have {width} and {shapes[columns][1]}'
      f' columns; wanted equally many, fewer than {min(count, other)}.'
    )
  matrix = matrix if hasattr(matrix, 'tocsr') else np.asarray(matrix)
  # A start of its own: ARPACK would draw one, and masks would differ by run.
  start = np.ones(min(count, other))
  # Of the shapes (rows, factors), (factors,) and (factors, columns).
  u, s, vt = linalg.svds(matrix.astype(np.float64), k=width, v0=start)
  # SciPy promises no order, and column j is to be the j-th factor.
  order = np.argsort(-s)
  root = np.sqrt(np.maximum(s[order], 0.0))
  return {
    rows: jnp.asarray(np.abs(u[:, order] * root), jnp.float32),
    columns: jnp.asarray(np.abs(vt[order].T * root), jnp.float32),
  }

"""Facility location, over cosines or over distances (CRAIG), lazily or by samples."""

import functools
import math
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from jaxsparse import core
from jaxsparse.data import _gradient_rows, _record_chunks, _record_inputs, _selection

# Bounds are refreshed a few at a time: most steps need few, and each costs N products.
_REFRESH = 16


def facility_location(
  rows,
  size,
  *,
  epsilon: float | None = None,
  seed=None,
  chunk: int = _record_inputs.CHUNK,
) -> _selection.Selection:
  r"""Facility location: every record has a chosen one that points the same way.

  .. math:: \max_{|S| = k} \sum_i \max_{j \in S} s_{ij}, \quad
     s_{ij} = \tfrac12 (1 + \cos(g_i, g_j))

  Greedy, with the usual lazy bounds: gains only shrink, so a record is looked at
  again only while its last known gain could still win. The result is that of the
  plain greedy method, of equal gains the lower index; sums are float32. Costs O(N^2 D)
  for the first choice and from O(N D) to O(N^2 D) for each other one; memory is
  `chunk * N` numbers. With `epsilon` each choice looks at
  `ceil(N / k log(1 / epsilon))` random records: O(N^2 D log(1 / epsilon)) in all.

  Args:
    rows: (N, D) gradients or features, or LastLayerGradients.
    size: records to keep, an int; or a float in (0, 1], a share of N.
    epsilon: None for lazy greedy; in (0, 1) for stochastic greedy, whose expected
      value is at least 1 - 1/e - epsilon of the best.
    seed: int, integer tracer or typed key, for stochastic greedy.
    chunk: candidates whose similarities to all records are held at a time.

  Returns:
    The indices in the order of choice; no weights.

  Raises:
    ValueError: a size or an epsilon outside its range; an epsilon without a seed or a
      seed without it; another shape, NaN.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> rows = jnp.array([[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [-1.0, 0.0]])
    >>> js.data.facility_location(rows, 2).indices.tolist()
    [1, 3]

  Minoux, Accelerated greedy algorithms, 1978; Mirzasoleiman et al., Lazier Than Lazy
  Greedy, AAAI 2015, algorithm 1; Iyer et al., Submodular Combinatorial Information
  Measures, ALT 2021.
  """
  rows, how, key = _arguments('rows', rows, size, epsilon, seed, chunk)
  return _facility_location(how, rows, key)


def craig(
  gradients,
  size,
  *,
  epsilon: float | None = None,
  seed=None,
  chunk: int = _record_inputs.CHUNK,
) -> _selection.Selection:
  r"""CRAIG: every gradient has a chosen one close to it, which stands for it.

  .. math:: \min_{|S| = k} \sum_i \min_{j \in S} \lVert g_i - g_j \rVert_2, \quad
     w_j = \#\{i : j \text{ is the nearest of } S\}

  Facility location over distances, greedy as `facility_location`, at the same cost.
  The paper takes last-layer gradients, class by class: `per_class(craig, ...)`. Of
  equal distances a record counts for the earlier choice.

  Args:
    gradients: (N, D), or LastLayerGradients.
    size: records to keep, an int; or a float in (0, 1], a share of N.
    epsilon: None for lazy greedy; in (0, 1) for stochastic greedy.
    seed: int, integer tracer or typed key, for stochastic greedy.
    chunk: candidates whose distances to all records are held at a time.

  Returns:
    The indices in the order of choice, and as weights the number of records that each
    stands for, with the sum N. A copy of an earlier choice weighs 0.

  Raises:
    ValueError: as `facility_location`.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> gradients = jnp.array([[0.0], [1.0], [2.0], [9.0]])
    >>> indices, weights = js.data.craig(gradients, 2)
    >>> indices.tolist(), weights.tolist()
    ([1, 3], [3.0, 1.0])

  Mirzasoleiman et al., Coresets for Data-efficient Training of Machine Learning Models,
  ICML 2020, algorithm 1.
  """
  rows, how, key = _arguments('gradients', gradients, size, epsilon, seed, chunk)
  return _craig(how, rows, key)


class _How(NamedTuple):
  """What is static: a program for each."""

  size: int
  chunk: int
  num_sampled: int  # 0: lazy.


def _arguments(name, rows, size, epsilon, seed, chunk):
  rows = _gradient_rows.as_rows(name, rows)
  total = _gradient_rows.num_rows(rows)
  size = _record_inputs.as_size(size, total)
  chunk = _record_inputs.as_count('chunk', chunk)
  if (epsilon is None) != (seed is None):
    raise ValueError(
      f'epsilon={epsilon!r}, seed={seed!r}: wanted both, for stochastic greedy, or'
      ' neither, for lazy greedy.'
    )
  if epsilon is None:
    return rows, _How(size, chunk, 0), None
  if not 0 < epsilon < 1:
    raise ValueError(f'epsilon={epsilon!r}: wanted a number in (0, 1).')
  num_sampled = min(math.ceil(total / size * math.log(1 / epsilon)), total)
  return rows, _How(size, chunk, num_sampled), core.as_key(seed)


@functools.partial(jax.jit, static_argnums=0)
def _facility_location(how, rows, key):
  rows = _gradient_rows.normalize(rows)

  def similarity(index):
    # In [0, 1], since a record that nobody covers counts 0.
    return 0.5 + 0.5 * _gradient_rows.products(rows, _gradient_rows.take(rows, index))

  indices, _ = _greedy(how, similarity, _gradient_rows.num_rows(rows), key)
  return _selection.unweighted(indices)


@functools.partial(jax.jit, static_argnums=0)
def _craig(how, rows, key):
  rows = _gradient_rows.center(rows)
  square, total = _gradient_rows.squares(rows), _gradient_rows.num_rows(rows)
  mean = _gradient_rows.total(rows) / total
  to_mean = square - 2 * _gradient_rows.along(rows, mean) + jnp.sum(mean**2)
  # No two records are farther apart, so similarities are not below 0.
  diameter = 2 * jnp.sqrt(jnp.maximum(jnp.max(to_mean), 0.0))

  def similarity(index):
    dots = _gradient_rows.products(rows, _gradient_rows.take(rows, index))
    squared = square[:, None] + square[index][None, :] - 2 * dots
    # A record is at distance 0 from itself, which rounding would not give.
    own = jnp.arange(total)[:, None] == index[None, :]
    distance = jnp.sqrt(jnp.maximum(jnp.where(own, 0.0, squared), 0.0))
    return jnp.maximum(diameter - distance, 0.0)

  indices, owner = _greedy(how, similarity, total, key)
  weights = jnp.zeros(how.size, jnp.float32).at[owner].add(1.0)
  return _selection.Selection(indices, weights)


class _State(NamedTuple):
  covered: jax.Array  # (N,) similarity to the nearest chosen record
  owner: jax.Array  # (N,) which choice that is
  bounds: jax.Array  # (N,) no smaller than the gain; -inf for what is chosen


def _greedy(how, similarity, total, key):
  """`(indices, owner)` for `similarity`: (M,) indices -> (N, M), never below 0."""

  def gains(index, covered):
    more = similarity(index) - covered[:, None]
    found = jnp.sum(jnp.maximum(more, 0.0), axis=0)
    # NaN, which only a program can be given, must not keep a loop from ending.
    return jnp.where(jnp.isnan(found), 0.0, found)

  def add(state, best, number):
    similar = similarity(best[None])[:, 0]
    # Strictly, so that a tie stays with the earlier choice.
    nearer = similar > state.covered
    return _State(
      jnp.where(nearer, similar, state.covered),
      jnp.where(nearer, number, state.owner),
      state.bounds.at[best].set(-jnp.inf),
    )

  def step(state, number):
    if how.num_sampled:
      best = _best_of_sample(how, state, gains, jax.random.fold_in(key, number))
    else:
      # Nothing is chosen before the first step, so the bounds are the gains.
      best, state = _best_by_bounds(state, gains, number == 0)
    best = best.astype(jnp.int32)
    return add(state, best, number), best

  covered = jnp.zeros(total)
  bounds = jnp.zeros(total)
  if not how.num_sampled:
    of_chunk = lambda index: gains(index, covered)
    bounds = _record_chunks.map_chunks(of_chunk, jnp.arange(total), how.chunk)
  start = _State(covered, jnp.zeros(total, jnp.int32), bounds)
  state, indices = lax.scan(step, start, jnp.arange(how.size, dtype=jnp.int32))
  return indices, state.owner


def _best_by_bounds(state, gains, are_exact):
  """Refreshes the largest bounds until one that is exact leads."""

  def is_stale(inner):
    bounds, exact = inner
    return ~exact[jnp.argmax(bounds)]

  def refresh(inner):
    bounds, exact = inner
    stale = jnp.where(exact, -jnp.inf, bounds)
    # What is chosen, or exact already, may fill up the block: it stays as it is.
    found, block = lax.top_k(stale, min(_REFRESH, stale.shape[0]))
    fresh = jnp.where(jnp.isneginf(found), bounds[block], gains(block, state.covered))
    return bounds.at[block].set(fresh), exact.at[block].set(True)

  exact = jnp.broadcast_to(are_exact, state.bounds.shape)
  bounds, _ = lax.while_loop(is_stale, refresh, (state.bounds, exact))
  # Of equal bounds argmax takes the first: the lower index.
  return jnp.argmax(bounds), state._replace(bounds=bounds)


def _best_of_sample(how, state, gains, key):
  chosen = jnp.isneginf(state.bounds)
  # Below all uniform numbers: chosen records come only where no others are left.
  draw = jnp.where(chosen, -1.0, jax.random.uniform(key, chosen.shape))
  # In rising order, so that of equal gains the lower index is first.
  sample = jnp.sort(lax.top_k(draw, how.num_sampled)[1])
  of_chunk = lambda index: gains(index, state.covered)
  found = _record_chunks.map_chunks(of_chunk, sample, how.chunk)
  return sample[jnp.argmax(jnp.where(chosen[sample], -jnp.inf, found))]

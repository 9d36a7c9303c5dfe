"""Distributions that read scores: pools over all leaves."""

import jax
import jax.numpy as jnp

from jaxsparse import core, masks
from jaxsparse.distributions import _counts


def global_pool(
  leaves: _counts.Leaves, sparsity, scores: core.Scores
) -> dict[str, jax.Array]:
  """All weights in one pool: a leaf keeps its members of the global top-k.

  Args:
    leaves: the pruned leaves by name.
    sparsity: fraction removed over all leaves together, in [0, 1); may be traced.
    scores: `{name: array}`, comparable between leaves.

  Returns:
    `{name: kept weights}`, int32 scalars.

  Raises:
    ValueError: no scores, or a sparsity outside [0, 1).

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> scores = {'a': jnp.array([1., 2., 3., 9.]), 'b': jnp.array([4., 5., 6., 7.])}
    >>> kept = js.distributions.global_pool(js.leaves_of(scores), 0.5, scores)
    >>> {name: int(k) for name, k in kept.items()}
    {'a': 1, 'b': 3}
  """
  num_kept = _counts.total_kept(leaves, sparsity)
  pool = dict(_scores_of(leaves, scores, 'global_pool'))
  return masks.threshold_counts(pool, num_kept)


def lamp(leaves: _counts.Leaves, sparsity, scores: core.Scores) -> dict[str, jax.Array]:
  """A global pool of magnitudes relative to what is left of their layer.

  `score(u) = w_u^2 / sum of w_v^2 over v >= u`, the weights of a layer sorted upwards.
  The largest weight of each layer scores 1, so no layer is emptied as long as there
  are no more layers than kept weights. The cumulated sum needs a sort per leaf, which
  gathers a sharded one: decide rarely.

  Args:
    leaves: the pruned leaves by name; each stacked layer is normalised by itself.
    sparsity: fraction removed over all leaves together, in [0, 1); may be traced.
    scores: `{name: |w|}`.

  Returns:
    `{name: kept weights}`, int32 scalars.

  Raises:
    ValueError: no scores, or a sparsity outside [0, 1).

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> scores = {'a': jnp.array([1., 1., 1., 1.]), 'b': jnp.array([9., 8., 7., 6.])}
    >>> kept = js.distributions.lamp(js.leaves_of(scores), 0.5, scores)
    >>> {name: int(k) for name, k in kept.items()}
    {'a': 2, 'b': 2}

  Lee et al., "Layer-adaptive sparsity for the magnitude-based pruning", 2021.
  """
  num_kept = _counts.total_kept(leaves, sparsity)
  found = _scores_of(leaves, scores, 'lamp')
  pool = {name: _lamp_scores(leaves[name], x) for name, x in found}
  return masks.threshold_counts(pool, num_kept)


def _scores_of(leaves, scores, who):
  if scores is None or any(name not in scores for name in leaves):
    missing = [n for n in leaves if n not in (scores or {})]
    if missing:
      raise ValueError(f'{who}: reads scores, but none came for {missing}.')
  return [(name, scores[name]) for name in leaves]


def _lamp_scores(leaf, magnitudes):
  """The LAMP scores of a leaf in any order: only how many are large matters."""
  stacks = leaf.stack_axes
  rows = jnp.moveaxis(magnitudes.astype(jnp.float32), stacks, range(len(stacks)))
  rows = rows.reshape(leaf.num_slices, -1)
  # -inf marks what is pruned already: it is worth nothing, and not as large as can be.
  worthless = jnp.isnan(rows) | jnp.isneginf(rows)
  rows = jnp.where(worthless, jnp.float32(0), jnp.abs(rows))
  # Relative to the largest, so that no square overflows or vanishes.
  largest = jnp.max(rows, axis=1, keepdims=True)
  # Falling, so that a cumulated sum is over all that is at least as large.
  rows = -jnp.sort(-rows / jnp.where(largest > 0, largest, jnp.float32(1)), axis=1)
  # A layer of zeros scores 0, not 0 / 0.
  return rows**2 / jnp.maximum(jnp.cumsum(rows**2, axis=1), jnp.float32(1e-30))

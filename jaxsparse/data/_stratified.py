"""Coresets of scores that avoid the extremes: moderate, and coverage-centric."""

import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from jaxsparse import core
from jaxsparse.data import _prototypes, _record_inputs, _selection


def moderate(
  features, labels, size, *, num_classes: int | None = None
) -> _selection.Selection:
  r"""Moderate coreset: records whose distance to their class centre is near the median.

  .. math:: s_i = -\big|d_i - \text{median}(d)\big|, \quad
     d_i = \lVert h_i - \mu_{y_i} \rVert_2

  One median for all records; `per_class` takes one for each class. Costs
  O(N H + N log N) time and O(N) memory beside the features.

  Args:
    features: (N, H), in the paper the inputs of the last layer.
    labels: (N,) integers in [0, C).
    size: records to keep, an int; or a float in (0, 1], a share of N.
    num_classes: C; by default one more than the largest label.

  Returns:
    The indices, nearest to the median first; no weights.

  Raises:
    ValueError: other shapes, labels out of range, a size outside its range.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> features = jnp.array([[-6.0], [-1.0], [2.0], [5.0], [0.0]])
    >>> js.data.moderate(features, jnp.zeros(5, int), 2).indices.tolist()
    [2, 1]

  Xia et al., Moderate Coreset, ICLR 2023, section 3.
  """
  distances = _prototypes.prototype_distances(features, labels, num_classes=num_classes)
  return _selection.top_scores(_nearness_to_median(distances), size)


@jax.jit
def _nearness_to_median(distances):
  return -jnp.abs(distances - jnp.median(distances))


def ccs(
  scores, size, *, hard_cutoff: float, seed, num_strata: int = 50
) -> _selection.Selection:
  r"""CCS: drops the hardest records, then draws evenly over the range of scores.

  .. math:: k_b = \min\big(n_b, \lfloor \text{rest} / \text{strata left} \rfloor\big)
     \text{ for strata by rising } n_b

  After the `round(beta N)` largest scores are gone, the range of the rest is cut into
  strata of equal width; small strata are used up first, and what they cannot give
  goes to the larger ones. Within a stratum the draw is uniform, without replacement.
  Costs O(N log N) time and O(N) memory.

  Args:
    scores: (N,) finite difficulties, larger for harder: `aum_scores` as in the paper,
      EL2N, or forgetting with a finite `never_learned`.
    size: records to keep, an int; or a float in (0, 1], a share of N.
    hard_cutoff: beta in [0, 1), the share of the hardest that is dropped; the paper
      tunes it for each ratio, from 0 at 70 % kept to 0.9 at 1 % of CIFAR-10.
    seed: int, integer tracer or typed key.
    num_strata: 50 in the paper.

  Returns:
    The indices in rising order; no weights.

  Raises:
    ValueError: a cutoff outside [0, 1) or that leaves fewer records than `size`; a size
      outside its range; outside `jit` a score that is not finite.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> scores = jnp.array([0.0, 0.1, 0.1, 0.1, 1.0, 9.0])
    >>> found = js.data.ccs(scores, 2, hard_cutoff=0.2, seed=0, num_strata=2)
    >>> int(found.indices[1])
    4

  Zheng et al., Coverage-centric Coreset Selection for High Pruning Rates, ICLR 2023,
  algorithm 1.
  """
  scores = _record_inputs.as_scores(scores)
  if _record_inputs.known(scores) and not np.isfinite(scores).all():
    raise ValueError(
      f'scores: {scores[np.isfinite(scores).argmin()]} among them; wanted finite'
      ' numbers, whose range is cut into strata.'
    )
  total = scores.shape[0]
  size = _record_inputs.as_size(size, total)
  num_strata = _record_inputs.as_count('num_strata', num_strata)
  if not 0 <= hard_cutoff < 1:
    raise ValueError(f'hard_cutoff={hard_cutoff!r}: wanted a share in [0, 1).')
  left = total - round(float(hard_cutoff) * total)
  if left < size:
    raise ValueError(
      f'hard_cutoff={hard_cutoff}: leaves {left} of {total} records; wanted at least'
      f' size={size}.'
    )
  return _ccs(size, left, num_strata, scores, core.as_key(seed))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _ccs(size, left, num_strata, scores, key):
  total = scores.shape[0]
  # By rank and not by a threshold: ties must not change how many are left.
  easy = (
    jnp.zeros(total, bool).at[_selection.top_scores(-scores, left).indices].set(True)
  )
  low = jnp.min(jnp.where(easy, scores, jnp.inf))
  high = jnp.max(jnp.where(easy, scores, -jnp.inf))
  place = (scores - low) / jnp.where(high > low, high - low, 1.0) * num_strata
  # The largest score belongs to the last stratum, whatever its sign.
  strata = jnp.clip(place.astype(jnp.int32), 0, num_strata - 1)
  # One more stratum, without a budget, takes what was dropped.
  strata = jnp.where(easy, strata, num_strata)
  counts = jnp.zeros(num_strata + 1, jnp.int32).at[strata].add(1)[:num_strata]
  budgets = jnp.append(_allocate(size, counts), 0)
  # A record's rank among those of its stratum, in random order.
  order = jnp.lexsort((jax.random.bits(key, (total,)), strata))
  starts = jnp.append(0, jnp.cumsum(counts))
  rank = jnp.arange(total) - starts[strata[order]]
  chosen = jnp.zeros(total, bool).at[order].set(rank < budgets[strata[order]])
  # The budgets add up to `size`, so that nothing is cut off or filled up.
  return _selection.unweighted(jnp.nonzero(chosen, size=size)[0])


def _allocate(size, counts):
  """An equal budget for each stratum, as far as it has records."""
  order = jnp.argsort(counts, stable=True)

  def share(rest, step):
    stratum, strata_left = step
    # Strata come by rising counts, so the last ones can give all that is left.
    budget = jnp.minimum(counts[stratum], rest // strata_left)
    return rest - budget, budget

  strata_left = jnp.arange(counts.shape[0], 0, -1)
  _, budgets = lax.scan(share, jnp.int32(size), (order, strata_left))
  return jnp.zeros_like(counts).at[order].set(budgets)

"""How many units each leaf keeps: sparsity, distribution, structure, prunable."""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any
import warnings

from jaxsparse import core, schedules
from jaxsparse import masks as masks_lib
from jaxsparse.rules import _apportion, _values


@dataclasses.dataclass(frozen=True)
class Budget:
  """What a rule prunes, and how much of it.

  Attributes:
    sparsity: fraction removed over all pruned leaves together: a number, a
      schedule, or a mapping from path pattern to either (then no distribution is
      used and every pruned leaf must be matched). A mapping may hold integers too,
      weights kept, and 1.0: what a distribution returns is such a mapping.
    distribution: shares a total sparsity out among the leaves.
    structure: one for all leaves, or a mapping from path pattern to structure.
    prunable: which leaves: a predicate, a glob pattern, or several patterns.
    leaves: overrides of `js.leaves_of`, needed for stacked layers.

  Raises:
    ValueError: a sparsity outside [0, 1), a distribution or a structure that is none.
  """

  sparsity: Any
  distribution: core.Distribution
  structure: Any
  prunable: core.Prunable = core.kernels
  leaves: core.LeafOverrides | None = None

  def __post_init__(self):
    _values.check(self.sparsity)
    for structure in _values.each(self.structure).values():
      if isinstance(structure, type) or not hasattr(structure, 'select'):
        raise ValueError(
          f'structure={structure!r}: wanted an object such as js.masks.Unstructured(),'
          ' or a mapping from path pattern to such.'
        )
    if not callable(self.distribution):
      raise ValueError(
        f'distribution={self.distribution!r}: wanted a function such as'
        ' js.distributions.erk.'
      )

  def require_constant(self, who: str) -> None:
    """Raises ValueError for a sparsity that moves, in the name of the rule `who`."""
    _values.check_constant(self.sparsity, who)

  def require_rising(self, who: str) -> None:
    """Raises ValueError for a sparsity that starts above its end."""
    _values.check_rising(self.sparsity, who)

  def settled_at(self) -> int | None:
    """The step from which on the sparsity stays; None where nobody knows it."""
    steps = [schedules.settled_at(s) for s in _values.each(self.sparsity).values()]
    known = [s for s in steps if s is not None]
    return max(known, default=0) if len(known) == len(steps) else None

  def pruned(self, params) -> dict[str, core.Leaf]:
    """The pruned leaves of one field, by name; warns where a filter leaves none."""
    found = core.prunable_leaves(params, self.prunable, self.leaves)
    # The default may find no kernel; a filter that was given is meant to find some.
    if not found and self.prunable is not core.kernels:
      names, _, _ = core.named_leaves(params)
      warnings.warn(
        f'jaxsparse: prunable={self.prunable!r} chooses no leaf, and nothing is pruned;'
        f' the leaves are {", ".join(names) or "(none)"}.',
        RuntimeWarning,
        stacklevel=2,
      )
    return found

  def structures(self, leaves: Mapping[str, core.Leaf]) -> dict[str, core.Structure]:
    """The structure of each leaf."""
    if not isinstance(self.structure, Mapping):
      return dict.fromkeys(leaves, self.structure)
    return _match_all(self.structure, leaves, 'structure')

  def num_kept(self, leaves: Mapping[str, core.Leaf], scores=None, step=None):
    """Units kept in each leaf.

    Args:
      leaves: what `pruned` returned.
      scores: `{name: array}` for distributions that read them.
      step: int32 scalar for a sparsity that moves; None for its final value.

    Returns:
      `{name: count}`: ints where nothing is traced, else int32 scalars.

    Raises:
      ValueError: a sparsity that a leaf's structure cannot express.
    """
    structures = self.structures(leaves)
    given = self._given(leaves)
    own = isinstance(self.sparsity, Mapping)
    if own:
      shares: core.Sparsities = {
        n: _values.share(leaf, given[n]) for n, leaf in leaves.items()
      }
    else:
      # Shares of the final sparsity: on the way there each leaf removes in proportion.
      shares = self.distribution(leaves, _values.final(self.sparsity), scores)
      _check_shares(leaves, shares)
    from_scores = not own and any(map(_is_array, shares.values()))
    for name, leaf in leaves.items():
      # NaN: a share that nobody knows yet, so no structure may depend on it.
      known = math.nan if from_scores else _values.fraction(leaf, shares[name])
      structures[name].check(leaf, known)
    if from_scores and step is not None and callable(self.sparsity):
      # Scores move too, so their shares are read anew rather than scaled.
      shares = self.distribution(leaves, self.sparsity(step), scores)
    kept = _apportion.whole_units(leaves, structures, shares)
    if from_scores or step is None:
      return kept
    return {
      n: _apportion.on_the_way(k, structures[n].num_units(leaves[n]), given[n], step)
      for n, k in kept.items()
    }

  def masks(self, params, scores, *, step=None, shares=None) -> core.Masks:
    """The masks of the units with the largest scores.

    Args:
      params: one field of the parameters.
      scores: a tree like it.
      step: int32 scalar for a sparsity that moves; None for its final value.
      shares: a tree of the scores that the distribution reads; None for `scores`.

    Returns:
      A mask tree with the treedef of `params`.
    """
    leaves = self.pruned(params)
    read = core.named_subset(scores if shares is None else shares, leaves)
    kept = self.num_kept(leaves, read, step)
    chosen = self.select(leaves, core.named_subset(scores, leaves), kept)
    return masks_lib.from_named(params, chosen)

  def _given(self, leaves):
    if isinstance(self.sparsity, Mapping):
      return _match_all(self.sparsity, leaves, 'sparsity')
    return dict.fromkeys(leaves, self.sparsity)

  def select(self, leaves, scores, num_kept):
    """`{name: mask}` of the units with the largest scores."""
    structures = self.structures(leaves)
    return {
      n: structures[n].select(leaf, scores[n], num_kept[n])
      for n, leaf in leaves.items()
    }


def _is_array(share):
  return hasattr(share, 'dtype') and share.dtype != float


def _check_shares(leaves, shares):
  for name in leaves:
    share = shares.get(name)
    # Counts and traced shares are arrays: nobody knows their value yet.
    if not hasattr(share, 'dtype') and (share is None or not 0 <= share <= 1):
      raise ValueError(
        f'distribution: gave {name} the share {share!r}; wanted a sparsity in [0, 1],'
        ' or an integer array of weights kept.'
      )


def _match_all(patterns, leaves, what):
  found = core.match(patterns, tuple(leaves), what)
  for name in leaves:
    if name not in found:
      raise ValueError(
        f"{what}: no pattern of {list(patterns)} matches {name}; add '*' for the rest."
      )
  return found

"""How many units each leaf keeps: sparsity, distribution, structure, prunable."""

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxsparse import core
from jaxsparse import masks as masks_lib

_FOREVER = 2**31 - 1


def _final(value) -> float:
  """The value of a schedule at the end of time, or a plain number."""
  if callable(value):
    # The schedule's arithmetic must not be traced when tx is built under jit.
    with jax.ensure_compile_time_eval():
      value = float(value(jnp.int32(_FOREVER)))
  if not 0.0 <= value < 1.0:
    raise ValueError(f'sparsity={value}: wanted a fraction removed in [0, 1).')
  return float(value)


@dataclasses.dataclass(frozen=True)
class Budget:
  """What a rule prunes, and how much of it.

  Attributes:
    sparsity: fraction removed over all pruned leaves together: a number, a
      schedule, or a mapping from path pattern to either (then no distribution is
      used and every pruned leaf must be matched).
    distribution: shares a total sparsity out among the leaves.
    structure: one for all leaves, or a mapping from path pattern to structure.
    prunable: which leaves: a predicate, a glob pattern, or several patterns.
    leaves: overrides of `js.leaves_of`, needed for stacked layers.

  Raises:
    ValueError: a sparsity outside [0, 1).
  """

  sparsity: Any
  distribution: core.Distribution
  structure: Any
  prunable: core.Prunable = core.kernels
  leaves: core.LeafOverrides | None = None

  def __post_init__(self):
    values = self.sparsity
    for value in values.values() if isinstance(values, Mapping) else [values]:
      _final(value)

  def pruned(self, params) -> dict[str, core.Leaf]:
    """The pruned leaves of one field, by name."""
    return core.prunable_leaves(params, self.prunable, self.leaves)

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
    schedules = self._schedules(leaves)
    finals = {name: _final(value) for name, value in schedules.items()}
    if isinstance(self.sparsity, Mapping):
      shares = finals
    else:
      shares = self.distribution(leaves, _final(self.sparsity), scores)
    if any(hasattr(s, 'dtype') for s in shares.values()):
      if step is not None and callable(self.sparsity):
        shares = self.distribution(leaves, self.sparsity(step), scores)
      return {n: _units_of_weights(structures[n], leaves[n], shares[n]) for n in leaves}
    for name, leaf in leaves.items():
      structures[name].check(leaf, shares[name])
    kept = _apportion(leaves, structures, shares)
    if step is None:
      return kept
    return {
      n: _on_the_way(k, structures[n].num_units(leaves[n]), schedules[n], step)
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

  def _schedules(self, leaves):
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


def _match_all(patterns, leaves, what):
  found = core.match(patterns, tuple(leaves), what)
  for name in leaves:
    if name not in found:
      raise ValueError(
        f"{what}: no pattern of {list(patterns)} matches {name}; add '*' for the rest."
      )
  return found


def _units_of_weights(structure, leaf, share):
  """Units from a traced share: kept weights (integers) or a sparsity (floats)."""
  unit, units = structure.unit_size(leaf), structure.num_units(leaf)
  if jnp.issubdtype(share.dtype, jnp.integer):
    kept = (share + unit // 2) // unit
  else:
    kept = units - jnp.round(share * units).astype(jnp.int32)
  return jnp.clip(kept.astype(jnp.int32), 0, units)


def _apportion(leaves, structures, shares) -> dict[str, int]:
  """Whole units per leaf by largest remainder: the total is met to one unit."""
  exact, kept = {}, {}
  for name, leaf in leaves.items():
    unit, units = structures[name].unit_size(leaf), structures[name].num_units(leaf)
    weights = round((1 - shares[name]) * leaf.size)
    # A structure with ragged edges has fewer weights than units * unit_size.
    exact[name] = weights / leaf.size * units
    kept[name] = int(exact[name] + 1e-9)
    shares = {**shares, name: (weights, unit)}
  missing = sum(shares[n][0] - kept[n] * shares[n][1] for n in leaves)
  by_remainder = sorted(leaves, key=lambda n: kept[n] - exact[n])
  for name in by_remainder:
    unit = shares[name][1]
    if exact[name] - kept[name] > 1e-9 and missing >= unit / 2:
      kept[name] += 1
      missing -= unit
  return kept


def _on_the_way(kept, units, schedule, step):
  """The units kept at `step`, removal growing in proportion to the schedule."""
  if not callable(schedule):
    return kept
  final = _final(schedule)
  removed = units - kept
  share = jnp.asarray(schedule(step), jnp.float32) / jnp.float32(final or 1.0)
  # float32 cannot count above 2**24: the end is an integer, not a rounded product.
  moving = jnp.round(share * jnp.float32(removed)).astype(jnp.int32)
  return units - jnp.where(share >= 1, jnp.int32(removed), moving)

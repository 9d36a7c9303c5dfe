"""How many units each leaf keeps: sparsity, distribution, structure, prunable."""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsparse import core
from jaxsparse import masks as masks_lib

# Half of int32: a schedule may add to the step.
_FOREVER = 2**30


def _final(value) -> float:
  """The value of a schedule at the end of time, or a plain number."""
  if callable(value):
    # The schedule's arithmetic must not be traced when tx is built under jit.
    with jax.ensure_compile_time_eval():
      value = np.asarray(value(jnp.int32(_FOREVER)))
    # By way of its digits: float32's 0.9 is 0.9, not 0.899999976.
    value = float(str(value))
  try:
    number = math.nan if isinstance(value, str) else float(value)
  except TypeError:
    number = math.nan
  if not 0.0 <= number < 1.0:
    raise ValueError(
      f'sparsity={value}: wanted a fraction removed in [0, 1), not traced, a schedule,'
      ' or a mapping from path pattern to either.'
    )
  return number


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
    ValueError: a sparsity outside [0, 1), a distribution or a structure that is none.
  """

  sparsity: Any
  distribution: core.Distribution
  structure: Any
  prunable: core.Prunable = core.kernels
  leaves: core.LeafOverrides | None = None

  def __post_init__(self):
    for value in _values(self.sparsity):
      _final(value)
    for structure in _values(self.structure):
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
      shares: Mapping[str, Any] = finals
    else:
      shares = self.distribution(leaves, _final(self.sparsity), scores)
      _check_shares(leaves, shares)
    if any(hasattr(s, 'dtype') and s.dtype != float for s in shares.values()):
      # NaN: a share that nobody knows yet, so no structure may depend on it.
      for name, leaf in leaves.items():
        structures[name].check(leaf, math.nan)
      if step is not None and callable(self.sparsity):
        shares = self.distribution(leaves, self.sparsity(step), scores)
      return _apportion_traced(leaves, structures, shares)
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


def _values(given):
  return list(given.values()) if isinstance(given, Mapping) else [given]


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


def _apportion_traced(leaves, structures, shares) -> dict:
  """Whole units per leaf, each handing its rounding on: the total is met to one unit.

  Shares are kept weights (integers) or sparsities (floats).
  """
  kept, carry = {}, jnp.zeros((), jnp.int32)
  for name, leaf in leaves.items():
    share = jnp.asarray(shares[name])
    units = structures[name].num_units(leaf)
    if not jnp.issubdtype(share.dtype, jnp.integer):
      share = leaf.size - jnp.round(share * leaf.size)
    weights = share.astype(jnp.int32) + carry
    if units == leaf.size:
      kept[name] = jnp.clip(weights, 0, units)
      carry = weights - kept[name]
    else:
      # Blocks at ragged edges are smaller: a unit is worth the mean of all.
      unit = leaf.size / units
      whole = jnp.round(weights.astype(jnp.float32) / unit).astype(jnp.int32)
      kept[name] = jnp.clip(whole, 0, units)
      carry = weights - jnp.round(kept[name] * unit).astype(jnp.int32)
  return kept


def _apportion(leaves, structures, shares) -> dict[str, int]:
  """Whole units per leaf by largest remainder: the total is met to one unit."""
  kept, rest, worth = {}, {}, {}
  for name, leaf in leaves.items():
    units = structures[name].num_units(leaf)
    exact = (1 - shares[name]) * units
    # Float errors of a large leaf are no remainder: N:M must not get one too many.
    kept[name] = int(exact + 1e-5)
    rest[name] = max(exact - kept[name], 0.0)
    # Blocks at ragged edges are smaller: a unit is worth the mean of all.
    worth[name] = leaf.size / units
  missing = sum(rest[name] * worth[name] for name in leaves)
  for name in sorted(leaves, key=lambda n: -rest[n]):
    if rest[name] > 1e-5 and missing >= worth[name] / 2:
      kept[name] += 1
      missing -= worth[name]
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

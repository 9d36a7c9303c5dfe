"""Whole units per leaf, from shares: sparsities or counts of kept weights."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np

from jaxsparse.rules import _values


def whole_units(leaves, structures, shares) -> dict:
  """Units kept in each leaf; the total is met to one unit.

  Args:
    leaves: `{name: Leaf}`.
    structures: `{name: Structure}`.
    shares: `{name: share}`, sparsities as floats, or kept weights as integer arrays.

  Returns:
    `{name: count}`: ints where nothing is traced, else int32 scalars.
  """
  # NumPy's float64 scalars have a dtype too, but are numbers that are known.
  if not any(hasattr(s, 'dtype') and s.dtype != float for s in shares.values()):
    kept = _by_remainder(leaves, structures, shares)
  elif any(isinstance(s, jax.core.Tracer) for s in shares.values()):
    return _in_turn(leaves, structures, shares)
  else:
    # Known counts stay known, also where the masks are chosen under jit.
    with jax.ensure_compile_time_eval():
      found = _in_turn(leaves, structures, shares)
      kept = {name: int(k) for name, k in found.items()}
  _warn_of_empty(leaves, structures, kept)
  return kept


def _warn_of_empty(leaves, structures, kept):
  empty = [
    f'{n} (0 of {structures[n].num_units(leaves[n])} units kept)'
    for n, k in kept.items()
    if not k
  ]
  if empty:
    warnings.warn(
      f'jaxsparse: nothing is left of {", ".join(empty)}, and no signal passes through'
      ' it. Remove less, give it a sparsity of its own (sparsity= takes a mapping),'
      ' another distribution, or leave it dense (prunable=).',
      RuntimeWarning,
      stacklevel=2,
    )


def _in_turn(leaves, structures, shares) -> dict:
  """Whole units per leaf, each handing its rounding on: the total is met to one unit.

  Shares are kept weights (integers) or sparsities (floats).
  """
  kept, carry = {}, jnp.zeros((), jnp.int32)
  for name, leaf in leaves.items():
    share = shares[name]
    units = structures[name].num_units(leaf)
    if isinstance(share, float):
      # Beside counts: in Python, whose floats hold the size of any leaf.
      share = np.int32(round((1 - share) * leaf.size))
    elif not _values.is_count(share):
      share = leaf.size - jnp.round(share * leaf.size)
    weights = jnp.asarray(share).astype(jnp.int32) + carry
    if units == leaf.size:
      # Single weights stay integers: float32 would miscount those of a large leaf.
      kept[name] = jnp.clip(weights, 0, units)
      carry = weights - kept[name]
    else:
      # Blocks at ragged edges are smaller: a unit is worth the mean of all.
      unit = leaf.size / units
      whole = jnp.round(weights.astype(jnp.float32) / unit).astype(jnp.int32)
      kept[name] = jnp.clip(whole, 0, units)
      carry = weights - jnp.round(kept[name] * unit).astype(jnp.int32)
  return kept


def _by_remainder(leaves, structures, shares) -> dict[str, int]:
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
  # Sorting is stable, so equal remainders go by the order of the tree. A unit is added
  # only where that brings the total nearer: a large block may overshoot.
  for name in sorted(leaves, key=lambda n: -rest[n]):
    if rest[name] > 1e-5 and missing >= worth[name] / 2:
      kept[name] += 1
      missing -= worth[name]
  return kept


def on_the_way(kept, units, schedule, step):
  """The units kept at `step`, removal growing in proportion to the schedule."""
  if not callable(schedule):
    return kept
  final = _values.final(schedule)
  removed = units - kept
  # A schedule that ends at 0 removes nothing, but 0 / 0 would be NaN.
  share = jnp.asarray(schedule(step), jnp.float32) / jnp.float32(final or 1.0)
  # float32 cannot count above 2**24: the end is an integer, not a rounded product.
  moving = jnp.round(share * jnp.float32(removed)).astype(jnp.int32)
  return units - jnp.where(share >= 1, jnp.int32(removed), moving)

"""The one drop-and-grow engine: SET, RigL and every later rewiring rule."""

import jax.numpy as jnp

from jaxsparse import core
from jaxsparse import masks as masks_lib
from jaxsparse.rules import _budget


def drop_grow(
  budget: _budget.Budget,
  evidence: core.Evidence,
  drop_scores,
  grow_scores,
  fraction,
) -> core.Decision:
  """Drops the worst active units and grows as many others, leaf by leaf.

  With K active units and the fraction f, `floor(f K)` active units with the
  smallest drop scores go; then the units with the largest grow scores come, among
  all that did not survive (so a dropped unit may come back, as a grown one). The
  count of every leaf stays exactly K.

  Args:
    budget: says what is pruned and in which structure.
    evidence: the current masks and the fields.
    drop_scores: tree like one field: the worth of active weights.
    grow_scores: tree like one field: the worth of inactive weights.
    fraction: share of the active units to replace, a number or traced scalar.

  Returns:
    A Decision with masks and survivors.
  """
  params = evidence.params[0]
  leaves = budget.pruned(params)
  structures = budget.structures(leaves)
  old = core.named_subset(evidence.masks, leaves)
  drop, grow = (
    core.named_subset(drop_scores, leaves),
    core.named_subset(grow_scores, leaves),
  )
  new, kept = {}, {}
  turn = jnp.zeros((), bool)
  for name, leaf in leaves.items():
    active = old[name]
    drop[name], grow[name] = _after(turn, drop[name]), _after(turn, grow[name])
    count = structures[name].count(leaf, active)
    # In float32 the product of a large count may round up to the next integer.
    dropped = jnp.minimum(
      jnp.floor(fraction * count.astype(jnp.float32)).astype(jnp.int32), count
    )
    worth = masks_lib.exclude(~active, drop[name])
    alive = structures[name].survivors(leaf, worth, count - dropped)
    # A NaN ranks below what is inactive; it must not let an inactive unit survive.
    alive &= active
    lifted = masks_lib.lift(alive, grow[name])
    new[name] = structures[name].select(leaf, lifted, count)
    kept[name] = alive
    turn = new[name][(0,) * new[name].ndim] if leaf.size else turn
  return core.Decision(
    masks_lib.from_named(params, new), masks_lib.from_named(params, kept), None
  )


def _after(turn, scores):
  """The scores, to be computed once the bool scalar `turn` is there.

  Side by side, the keys of all leaves would need the memory of the whole network at
  once, and every step that carries this cond would reserve it. A barrier does not
  survive on a CPU; a zero that the compiler cannot see does.
  """
  zero = turn.astype(jnp.uint32) >> 1
  return scores + zero.astype(scores.dtype)

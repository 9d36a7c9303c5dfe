"""The one drop-and-grow engine: SET, RigL and every later rewiring rule."""

from collections.abc import Mapping
import dataclasses

import jax
import jax.numpy as jnp

from jaxsparse import core
from jaxsparse import masks as masks_lib
from jaxsparse.rules import _budget


@dataclasses.dataclass(frozen=True)
class Rows:
  """The rows of tables: what each of them keeps whatever the rest of its table does.

  Attributes:
    tables: which of the pruned leaves are tables, `(rows, columns)`: a predicate, or
      path patterns.
    floor: active weights that no row goes below.
    fixed: whether every row keeps as many active weights as it has.
  """

  tables: core.Prunable
  floor: int = 1
  fixed: bool = False

  def of(self, params, leaves) -> dict[str, core.Leaf]:
    """The tables among the leaves of a budget.

    Raises:
      ValueError: a table that has not two axes.
    """
    found = core.prunable_leaves(params, self.tables)
    tables = {name: leaf for name, leaf in leaves.items() if name in found}
    for name, leaf in tables.items():
      if len(leaf.shape) != 2:
        raise ValueError(
          f'{name}: shape {leaf.shape} is no table; wanted (rows, columns), or another'
          ' tables=.'
        )
    return tables


def drop_grow(
  budget: _budget.Budget,
  evidence: core.Evidence,
  drop_scores,
  grow_scores,
  fraction,
  pool: bool | core.Prunable = False,
  *,
  rows: Rows | None = None,
  share=None,
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
    pool: whether the weights of all leaves compete: with K active weights together,
      `floor(f K)` go and come, wherever they are. The total stays exactly K, a leaf
      keeps its best weight at least. What `prunable` may be chooses the leaves of the
      pool; the others keep their own counts.
    rows: what rows of tables keep; None for nothing. A row that has fewer than the
      floor gets no more than others do.
    share: `(fraction, count) -> int32`, how many go; None for `share_of`.

  Returns:
    A Decision with masks and survivors.

  Raises:
    ValueError: `pool` or `rows` with another structure than `Unstructured()`.
  """
  share = share_of if share is None else share
  params = evidence.params[0]
  leaves = budget.pruned(params)
  structures = budget.structures(leaves)
  old = core.named_subset(evidence.masks, leaves)
  drop, grow = (
    core.named_subset(drop_scores, leaves),
    core.named_subset(grow_scores, leaves),
  )
  tables = {} if rows is None else rows.of(params, leaves)
  pooled = pooled_leaves(pool, params, leaves)
  for name in (*pooled, *tables):
    _check_unstructured(name, structures[name])
  floor = 0 if rows is None else rows.floor
  guards = {n: _best_of_rows(old[n], drop[n], floor) for n in tables if floor}
  left, wanted = {}, {}
  if pooled:
    left, wanted = _pooled(pooled, old, drop, grow, fraction, guards, share)
  new, kept = {}, {}
  turn = jnp.zeros((), bool)
  for name, leaf in leaves.items():
    active = old[name]
    drop[name], grow[name] = _after(turn, drop[name]), _after(turn, grow[name])
    if name in pooled:
      num_alive, count = left[name], wanted[name]
    else:
      count = structures[name].count(leaf, active)
      num_alive = count - share(fraction, count)
    worth = masks_lib.exclude(~active, drop[name])
    if name in guards:
      worth = masks_lib.lift(guards[name], worth)
      # All that is guarded survives, also where the fraction asks for more to go.
      num_alive = jnp.maximum(num_alive, core.count_true(guards[name]))
    alive = structures[name].survivors(leaf, worth, num_alive)
    # A NaN ranks below what is inactive; it must not let an inactive unit survive.
    alive &= active
    # Survivors rank above all, so exactly as many grow as the count has lost.
    lifted = masks_lib.lift(alive, grow[name])
    if rows is not None and rows.fixed and name in tables:
      # (rows, 1): each row keeps as many as it has.
      new[name] = masks_lib.top_k_mask(lifted, core.count_true(active, (1,)), (1,))
    else:
      new[name] = structures[name].select(leaf, lifted, count)
    kept[name] = alive
    # A single entry can be computed only when the search over its leaf has ended.
    turn = new[name][(0,) * new[name].ndim] if leaf.size else turn
  return core.Decision(
    masks_lib.from_named(params, new), masks_lib.from_named(params, kept), None
  )


def pooled_leaves(
  pool: bool | core.Prunable, params, leaves: Mapping[str, core.Leaf]
) -> dict[str, core.Leaf]:
  """Those of the leaves whose weights compete with one another.

  Args:
    pool: of `drop_grow`.
    params: the parameters, or their shapes.
    leaves: what is pruned.

  Returns:
    `{name: Leaf}`.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> params = {name: jnp.ones((2, 2)) for name in ('a', 'b')}
    >>> [*js.rules.pooled_leaves(('b',), params, js.leaves_of(params))]
    ['b']
  """
  if isinstance(pool, bool):
    return dict(leaves) if pool else {}
  found = core.prunable_leaves(params, pool)
  return {name: leaf for name, leaf in leaves.items() if name in found}


def rewire(rewiring: core.Rewiring):
  """The `update` of a rule that drops and grows.

  Args:
    rewiring: what to drop and what to grow.

  Returns:
    `(evidence, memory) -> Decision`, for `MaskRule.update`.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> budget = js.rules.Budget(
    ...   0.5, js.distributions.uniform, js.masks.Unstructured(), '*')
    >>> update = js.rules.rewire(js.core.Rewiring(
    ...   budget, js.criteria.magnitude, js.criteria.magnitude, 'gradient',
    ...   js.schedules.constant(0.5)))
    >>> params = {'w': jnp.array([[3., 1.], [2., 0.]])}
    >>> masks = {'w': jnp.array([[True, True], [False, False]])}
    >>> e = js.core.Evidence((params,), None, None, masks, jnp.int32(0), None)
    >>> update(e, None).masks['w'].tolist()
    [[True, False], [True, False]]
  """

  def update(evidence, memory):
    decision = drop_grow(
      rewiring.budget,
      evidence,
      drop_scores=rewiring.drop_scores(evidence),
      grow_scores=rewiring.grow_scores(evidence),
      fraction=rewiring.fraction(evidence.step),
      pool=rewiring.pool,
      rows=rewiring.rows,
    )
    survivors = decision.survivors
    if rewiring.remember is not None:
      memory = rewiring.remember(evidence, decision.masks, survivors)
    # None: what was active and is active has been so all along.
    kept = None if rewiring.keep_repicked else survivors
    return core.Decision(decision.masks, kept, memory)

  return update


def share_of(fraction, count) -> jax.Array:
  """`floor(fraction * count)` of an int32 count: how many units go.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> int(js.rules.share_of(0.3, jnp.int32(9)))
    2
  """
  # In float32 the product of a large count may round up to the next integer.
  product = jnp.floor(fraction * count.astype(jnp.float32)).astype(jnp.int32)
  return jnp.minimum(product, count)


def _check_unstructured(name, structure):
  if structure != masks_lib.Unstructured():
    raise ValueError(
      f'{name}: weights compete over all leaves, or within rows, only as'
      f' masks.Unstructured(), not as {structure}.'
    )


def _best_of_rows(active, drop, floor: int):
  """The `floor` best active weights of every row, which never go."""
  worth = masks_lib.exclude(~active, drop)
  # In a row below its floor inactive weights are among the best: they guard nothing.
  return masks_lib.top_k_mask(worth, floor, (1,)) & active


def _pooled(leaves, old, drop, grow, fraction, guards, share):
  """`({name: survivors}, {name: new count})` when all leaves are one pool."""
  total = sum(core.count_true(old[name]) for name in leaves)
  worth, safe = {}, jnp.zeros((), jnp.int32)
  for name, leaf in leaves.items():
    worth[name] = masks_lib.exclude(~old[name], drop[name])
    top = guards.get(name)
    if top is None:
      # No leaf is emptied: its best weight ranks above all.
      top = masks_lib.top_k_mask(worth[name], 1, tuple(range(len(leaf.shape))))
    worth[name] = masks_lib.lift(top, worth[name])
    safe = safe + core.count_true(top)
  # Every leaf or row keeps what is safe, so the fraction may be more than can go.
  spare = jnp.maximum(total - safe, 0)
  gone = jnp.minimum(share(fraction, total), spare)
  left = masks_lib.threshold_counts(worth, total - gone)
  unstructured = masks_lib.Unstructured()
  alive = {
    n: unstructured.survivors(leaf, worth[n], left[n]) & old[n]
    for n, leaf in leaves.items()
  }
  lifted = {n: masks_lib.lift(alive[n], grow[n]) for n in leaves}
  return left, masks_lib.threshold_counts(lifted, total)


def _after(turn, scores):
  """The scores, to be computed once the bool scalar `turn` is there.

  Side by side, the keys of all leaves would need the memory of the whole network at
  once, and every step that carries this cond would reserve it. A barrier does not
  survive on a CPU; a zero that the compiler cannot see does.
  """
  zero = turn.astype(jnp.uint32) >> 1
  return scores + zero.astype(scores.dtype)

"""What DSL does at its start, in every step, and when its masks are due."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxsparse import core, criteria, rules
from jaxsparse import masks as masks_lib


class DslMemory(NamedTuple):
  """What DSL remembers.

  Attributes:
    gradient: `{leaf name: float32 array}`, what growth goes by: the sum of gradients
      since the last update, or their moving average; None for the last gradient.
    rotation: float32 (columns, columns), of the latest update where that was a rotation,
      else 0; None without rotations.
  """

  gradient: Any
  rotation: Any


class How(NamedTuple):
  """The arguments of `dsl`, checked."""

  budget: rules.Budget
  fraction: core.Schedule
  scope: str
  rows: rules.Rows
  growth: str
  decay: float
  start: core.Criterion
  frequencies: Mapping[str, jax.Array] | None
  frequency_power: float
  rotate: core.When | None

  def leaves(self, params):
    """`(pruned leaves, those of them that are tables)`."""
    pruned = self.budget.pruned(params)
    return pruned, self.rows.of(params, pruned)


def init(how: How, evidence):
  """The first support: the best by `start`, with an exact count, no row below the floor."""
  params = evidence.params[0]
  leaves, tables = how.leaves(params)
  scores = core.named_subset(how.start(evidence), leaves)
  kept = how.budget.num_kept(leaves, scores)
  for name, leaf in tables.items():
    _check_floor(leaf, kept[name], how.rows.floor)
    if how.rows.fixed and how.start is criteria.random:
      # At random all rows begin alike; another start says which rows get more.
      least = kept[name] // leaf.shape[0]
      scores[name] = _with_ceiling(scores[name], least + 1)
      scores[name] = _with_floor(scores[name], least)
    else:
      scores[name] = _with_floor(scores[name], how.rows.floor)
  chosen = how.budget.select(leaves, scores, kept)
  if how.rotate is not None:
    _check_widths(tables)
  masks = masks_lib.from_named(params, chosen)
  return masks, fresh_memory(how, masks)


def fresh_memory(how: How, masks) -> DslMemory:
  """The memory of a start, or of the end, when nothing will be decided any more."""
  pruned = {n: m for n, m in zip(*core.named_leaves(masks)[:2]) if m.ndim}
  rotation = None
  if how.rotate is not None:
    tables = core.prunable_leaves(masks, how.rows.tables)
    width = next(m.shape[1] for n, m in pruned.items() if n in tables)
    rotation = jnp.zeros((width, width), jnp.float32)
  return DslMemory(None if how.growth == 'last' else _zeros(pruned), rotation)


def observe(how: How, evidence, memory: DslMemory) -> DslMemory:
  """Adds a gradient to what growth will go by."""

  def add(old, grad):
    # One overflow must not be remembered for ever.
    grad = jnp.nan_to_num(grad.astype(jnp.float32), posinf=0.0, neginf=0.0)
    if how.growth == 'ema':
      return how.decay * old + (1 - how.decay) * grad
    return old + grad

  grads = core.named_subset(evidence.grads[0], memory.gradient)
  return memory._replace(gradient={n: add(memory.gradient[n], grads[n]) for n in grads})


def drop_scores(how: How, evidence):
  """|w| f^power: a tree like one field."""
  scores = criteria.magnitude(evidence)
  if not how.frequencies:
    return scores
  names, leaves, treedef = core.named_leaves(scores)
  return treedef.unflatten(_weighted(how, scores, dict(zip(names, leaves))).values())


def pool_of(how: How):
  """Which leaves compete, as `rules.drop_grow` takes it."""
  return how.rows.tables if how.scope == 'joint' else how.scope == 'global'


def rewire(how: How, evidence, memory: DslMemory) -> core.Decision:
  """Drops the smallest weights and grows as many, within the scope."""
  seen = evidence.grads[0] if how.growth == 'last' else memory.gradient
  decision = rules.drop_grow(
    how.budget,
    evidence,
    drop_scores=drop_scores(how, evidence),
    grow_scores=jax.tree.map(jnp.abs, seen),
    fraction=how.fraction(evidence.step),
    pool=pool_of(how),
    rows=how.rows,
  )
  return decision._replace(memory=_forget(how, memory))


def rotate(how: How, evidence, memory: DslMemory) -> core.Decision:
  """Turns the tables, and keeps what is largest then.

  Scores `<E_u, E_i>` are those of `E_u Q` and `E_i Q`. With the eigenvectors of
  `sum_tables E' E` as Q the energy lies in few columns, the same for all tables, and
  sparse rows lose little of it.
  """
  params = evidence.params[0]
  leaves, tables = how.leaves(params)
  found = {
    n: x.astype(jnp.float32) for n, x in core.named_subset(params, tables).items()
  }
  # (columns, columns), one basis for all: scores multiply rows of two tables.
  _, vectors = jnp.linalg.eigh(sum(x.T @ x for x in found.values()))
  # eigh sorts upwards; here the first column holds most of the energy.
  turn = vectors[:, ::-1]
  worth = _weighted(how, params, {n: jnp.abs(x @ turn) for n, x in found.items()})
  worth = {n: _with_floor(x, how.rows.floor) for n, x in worth.items()}
  old = core.named_subset(evidence.masks, leaves)
  # What is in no table stays as it is, and stays trained.
  kept = {n: jnp.zeros_like(m) if n in tables else m for n, m in old.items()}
  return core.Decision(
    masks_lib.from_named(params, {**old, **_reselected(how, tables, old, worth)}),
    masks_lib.from_named(params, kept),
    _forget(how, memory)._replace(rotation=turn),
  )


def grown_value(how: How, params, evidence):
  """0; after a rotation the turned tables."""
  value = core.zeros_grown(params, evidence)
  if how.rotate is None:
    return value
  _, tables = how.leaves(params)
  # Called in every step, and the memory holds a past rotation until the next update.
  due, turn = how.rotate(evidence.step), evidence.decision.memory.rotation
  masks = core.named_subset(evidence.decision.masks, tables)
  names, leaves, treedef = core.named_leaves(params)
  zeros = dict(zip(names, jax.tree.leaves(value)))

  def turned():
    found = dict(zeros)
    for name, x in zip(names, leaves):
      if name in tables:
        there = (x.astype(jnp.float32) @ turn).astype(x.dtype)
        found[name] = jnp.where(masks[name], there, zeros[name])
    return found

  # A product with whole tables is not for every step.
  values = jax.lax.cond(due, turned, lambda: zeros)
  return treedef.unflatten([values[n] for n in names])


def _reselected(how, tables, old, worth):
  """The best of the turned tables, as many as the scope had."""
  if how.scope in ('global', 'joint'):
    total = sum(core.count_true(old[n]) for n in tables)
    counts = masks_lib.threshold_counts(worth, total)
  else:
    counts = {n: core.count_true(old[n]) for n in tables}
  if how.scope == 'row':
    return {
      n: masks_lib.top_k_mask(worth[n], core.count_true(old[n], (1,)), (1,))
      for n in tables
    }
  return {n: masks_lib.top_k_mask(worth[n], counts[n], (0, 1)) for n in tables}


def _forget(how, memory):
  """What was gathered since the last update has been used; an average goes on."""
  if how.growth == 'accumulated':
    memory = memory._replace(gradient=_zeros(memory.gradient))
  if how.rotate is not None:
    memory = memory._replace(rotation=jnp.zeros_like(memory.rotation))
  return memory


def _zeros(arrays):
  return {n: jnp.zeros_like(x, jnp.float32) for n, x in arrays.items()}


def _weighted(how, params, scores):
  """The scores `{name: array}` of tables times a power of how often rows are seen."""
  if not how.frequencies:
    return scores
  weights = criteria.row_weights(
    params, how.frequencies, how.frequency_power, 'frequencies'
  )
  return {
    n: x * weights[n].astype(x.dtype) if n in weights else x for n, x in scores.items()
  }


def _with_floor(scores, least):
  """The scores with the best `least` of each row above all others."""
  if isinstance(least, int) and not least:
    return scores
  return masks_lib.lift(masks_lib.top_k_mask(scores, least, (1,)), scores)


def _with_ceiling(scores, most):
  """The scores with all but the best `most` of each row below all others."""
  return masks_lib.exclude(~masks_lib.top_k_mask(scores, most, (1,)), scores)


def _check_floor(leaf, kept, floor):
  rows, columns = leaf.shape
  if floor > columns or (isinstance(kept, int) and kept < floor * rows):
    raise ValueError(
      f'{leaf.name}: {kept} of {leaf.size} weights are kept, but floor={floor} wants that'
      f' many in each of its {rows} rows of {columns}; remove less, or lower the floor.'
    )


def _check_widths(tables) -> None:
  widths = {name: leaf.shape[1] for name, leaf in tables.items()}
  if len(set(widths.values())) != 1:
    raise ValueError(
      f'rotate: the tables have the widths {widths or "(no table)"}; wanted one width for'
      ' all, since one rotation serves them.'
    )

"""Drop and grow on nonzeros: where the patterns go, and what moves with them."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from jaxsparse import core, rules, sparse
from jaxsparse.compact import _pools, _state, _values


class Move(NamedTuple):
  """How one leaf is rewired.

  Attributes:
    pattern: the new pattern.
    source: int32 like the values, where each value stood before.
    kept: bool like the values, False for what has grown and for padding.
    survived: bool like the values, those of `kept` that were not dropped; fewer where
      what is dropped and grown at once keeps its value.
  """

  pattern: sparse.Pattern
  source: jax.Array
  kept: jax.Array
  survived: jax.Array


class Moved(NamedTuple):
  """The state of training after a rewiring, before the optimizer steps."""

  patterns: Any
  params: Any
  grads: Any
  inner_state: Any
  memory: core.Memory
  kept: Any
  refused: Any = None


def is_move(x) -> bool:
  """Whether a node of a tree is the `Move` of a leaf."""
  return isinstance(x, Move)


def move_all(parts, moves, evidence, params, grads, state) -> Moved:
  """Carries values, gradients and moments to the new patterns.

  What has grown starts where the rule says, with a gradient of 0 and the moments of a
  fresh start.

  Args:
    parts: of the transform.
    moves: `{name: Move}`.
    evidence: what the moves were decided on.
    params: the values as the optimizer sees them.
    grads: the gradients, the same.
    state: the `CompactState`.
  """
  rule, inner = parts.rule, parts.inner
  names, old, treedef = core.named_leaves(state.patterns, is_leaf=_state.is_pattern)
  of_field = lambda read: treedef.unflatten(
    [read(moves[n]) if n in moves else p for n, p in zip(names, old)]
  )
  tree = rules.spread(rule, of_field(lambda move: move), params)
  carry = lambda x, move: _carried(x, move) if is_move(move) else x
  params = jax.tree.map(carry, params, tree)
  grads = jax.tree.map(carry, grads, tree)
  marks = rules.along(inner, params, state.inner_state, tree)
  arrays, state_treedef = jax.tree.flatten(state.inner_state)
  arrays = [carry(x, m) for x, m in zip(arrays, marks, strict=True)]
  new = of_field(lambda move: move.pattern)
  decision = core.Decision(new, of_field(lambda move: move.survived), state.memory)
  params, memory = _start_grown(rule, params, tree, evidence, decision)
  kept = jax.tree.map(_kept, params, tree)
  inner_state = rules.reset_moments(
    inner, params, state_treedef.unflatten(arrays), kept
  )
  return Moved(new, params, grads, inner_state, memory, kept)


def _start_grown(rule, params, tree, evidence, decision):
  """`(params, memory)`: grown weights at their value, which memory may hold."""
  held = _values.map_sparse(
    _values.as_held, rules.spread(rule, decision.masks, params), params
  )
  if rule.rewiring.remember is not None:
    seen = evidence._replace(params=rule.fields(held))
    memory = rule.rewiring.remember(seen, decision.masks, decision.survivors)
    decision = decision._replace(memory=memory)
  value = rule.grown_value(held, evidence._replace(decision=decision))

  def start(x, value, move):
    if not is_move(move):
      return x
    return jnp.where(move.kept.reshape(x.shape), x, value.reshape(x.shape))

  return jax.tree.map(start, params, value, tree), decision.memory


def _kept(x, move):
  return move.kept.reshape(x.shape) if is_move(move) else jnp.ones((), bool)


def _carried(x, move):
  # Where nothing stood the source is 0, which is another weight's: it is cleared.
  flat = jnp.take_along_axis(x.reshape(move.source.shape), move.source, axis=-1)
  return jnp.where(move.kept, flat, jnp.zeros((), x.dtype)).reshape(x.shape)


def at_random(rewiring, evidence, leaves, patterns) -> dict[str, Move]:
  """The moves of a rule that grows at random, the same as in masked training.

  One leaf at a time is decided on dense scores, since a random number belongs to each
  of its weights; the scores, bools and places of one leaf are all that is dense.

  Args:
    rewiring: what to drop and what to grow.
    evidence: values as params, patterns as masks.
    leaves: `{name: (Leaf, Structure)}`.
    patterns: `{name: Pattern}`.
  """
  drop = core.named_subset(rewiring.drop_scores(evidence), patterns)
  fraction = rewiring.fraction(evidence.step)
  moves: dict[str, Move] = {}
  turn = jnp.zeros((), jnp.uint32)
  for name, (leaf, structure) in leaves.items():
    pattern = patterns[name]
    budget = dataclasses.replace(
      rewiring.budget, structure=structure, prunable=(name,), leaves={name: leaf}
    )
    seen = evidence._replace(
      params=({name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)},),
      masks={name: _values.to_mask(pattern)},
      key=None if evidence.key is None else _after(turn, evidence.key),
    )
    worth = {name: _values.scatter(drop[name], pattern)}
    grow = rewiring.grow_scores(seen)
    decision = rules.drop_grow(budget, seen, worth, grow, fraction)
    assert decision.survivors is not None
    move = _to_mask(
      decision.masks[name], decision.survivors[name], pattern, rewiring.keep_repicked
    )
    moves[name], turn = move, jnp.ravel(move.pattern.count)[0].astype(jnp.uint32)
  return moves


def at_random_in_pool(rewiring, evidence, leaves, patterns, names):
  """As `by_candidates`, for a rule that grows at random where its leaves compete."""
  num = _pools.sizes(rewiring, patterns, names)
  own, growth = _pools.random_candidates(rewiring, evidence, leaves, patterns, num)
  return by_candidates(rewiring, evidence, leaves, patterns, names, growth, own)


def _after(turn, key):
  """The key, to be used once `turn` is there: two leaves are never dense at once."""
  # A count is below 2**31: a zero that the compiler cannot see.
  data = jax.random.key_data(key) + (turn >> jnp.uint32(31))
  return jax.random.wrap_key_data(data, impl=jax.random.key_impl(key))


def _to_mask(mask, survivors, pattern, keep_repicked) -> Move:
  """The move to the pattern of a mask."""
  shape = pattern.stack + (pattern.capacity * pattern.format.block,)
  # From 1 on: 0 is where nothing stood.
  places = lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1) + jnp.int32(1)
  dense = _values.scatter(places, pattern)
  if not keep_repicked:
    dense = jnp.where(survivors, dense, jnp.int32(0))
  new = _values.pattern_of(
    mask, pattern.format, pattern.capacity, _values.num_stacked(pattern)
  )
  source = _values.gather(dense, new)
  survived = _values.gather(jnp.broadcast_to(survivors, dense.shape), new)
  return Move(new, jnp.maximum(source - 1, 0), source > 0, survived)


def by_candidates(
  rewiring, evidence, leaves, patterns, names, growth, own=None
) -> tuple[dict[str, Move], dict[str, jax.Array]]:
  """The moves of a rule that grows by candidates: nothing here is dense.

  Args:
    rewiring: what to drop and what to grow.
    evidence: values as params and their gradients, patterns as masks.
    leaves: `{name: (Leaf, Structure)}`.
    patterns: `{name: Pattern}`.
    names: of the leaves that compete with one another.
    growth: `{name: Candidates}`.
    own: `{name: scores}` of growth for the values; None for what the rule makes of the
      evidence.

  Returns:
    `(moves, wanted)`: how many units a layer of each leaf of a pool would have, which
    may be more than there is room for; then the moves are wrong.
  """
  drop = core.named_subset(rewiring.drop_scores(evidence), patterns)
  # Dropped weights compete with the candidates, by the gradient that they have.
  if own is None:
    own = core.named_subset(rewiring.grow_scores(evidence), patterns)
  bare = {n: leaf for n, (leaf, _) in leaves.items()}
  tables = ()
  if rewiring.rows is not None and rewiring.rows.floor:
    field = sparse.dense_structs(evidence.params[0], evidence.masks)
    tables = tuple(rewiring.rows.of(field, bare))
  units = {}
  for name in leaves:
    pattern = patterns[name]
    one = _values.over_stack(_pools.units_of, len(pattern.stack))
    units[name] = one(pattern, drop[name], own[name], _pools.starts(pattern))
  fraction = rewiring.fraction(evidence.step)
  held = {n: patterns[n] for n in leaves}
  alive = _pools.survivors(rewiring, fraction, held, units, names, tables)
  counts = _pools.counts_of(held, alive, units, growth, names)
  layer = functools.partial(_one_layer, rewiring.keep_repicked)
  moves, wanted = {}, {}
  for name in leaves:
    pattern = patterns[name]
    shares = _pools.share_out(counts[name], pattern)
    one = _values.over_stack(layer, len(pattern.stack))
    moves[name] = one(
      pattern, units[name], alive[name], growth[name], shares, _pools.starts(pattern)
    )
    if name in names:
      wanted[name] = jnp.max(shares)
  return moves, wanted


def _one_layer(keep_repicked, pattern, units, alive, candidates, count, start) -> Move:
  fmt = pattern.format
  rank = lax.iota(jnp.int32, pattern.capacity)
  both = lambda a, b: jnp.concatenate([a, b])
  # One list: survivors above all, then what was dropped and the candidates by score.
  keys = both(
    _pools.grow_keys(alive, units.grow),
    _pools.grow_keys(jnp.zeros((), bool), candidates.scores),
  )
  hashes = _pools.hash_places(fmt, candidates.inputs, candidates.rows, start)
  valid = both(units.valid, candidates.valid)
  order = _pools.by_rank(keys, both(units.hashes, hashes), valid)[: pattern.capacity]
  new, moved = sparse.from_coordinates(
    both(units.inputs, candidates.inputs)[order],
    both(units.rows, candidates.rows)[order],
    (rank < count) & valid[order],
    fmt,
  )
  source, none = order[moved], jnp.zeros(candidates.valid.shape, bool)
  there = rank < new.count
  survived = both(alive, none)[source] & there
  kept = both(units.valid, none)[source] & there if keep_repicked else survived
  # A candidate stands behind all values, where nothing can be gathered.
  return _of_weights(Move(new, jnp.where(kept, source, 0), kept, survived))


def _of_weights(move: Move) -> Move:
  """A move of blocks as one of their weights."""
  block = move.pattern.format.block
  within = lax.iota(jnp.int32, block)[None, :]
  source = (move.source[:, None] * np.int32(block) + within).reshape(-1)
  flags = [jnp.repeat(x, block) for x in (move.kept, move.survived)]
  return Move(move.pattern, source, *flags)

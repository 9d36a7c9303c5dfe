"""Drop and grow on nonzeros: where the patterns go, and what moves with them."""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from jaxsparse import core, masks, native, rules, sparse
from jaxsparse.compact import _state, _values


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


def by_candidates(rewiring, evidence, leaves, patterns, growth) -> dict[str, Move]:
  """The moves of a rule that grows by gradient: nothing here is dense.

  Args:
    rewiring: what to drop and what to grow.
    evidence: values as params and their gradients, patterns as masks.
    leaves: `{name: (Leaf, Structure)}`.
    patterns: `{name: Pattern}`.
    growth: `{name: Candidates}`.
  """
  drop = core.named_subset(rewiring.drop_scores(evidence), patterns)
  # Dropped weights compete with the candidates, by the gradient that they have.
  grow = core.named_subset(rewiring.grow_scores(evidence), patterns)
  fraction = rewiring.fraction(evidence.step)
  moves = {}
  for name in leaves:
    pattern = patterns[name]
    stack = pattern.stack
    total = jnp.sum(pattern.count, dtype=jnp.int32)
    alive = total - rules.share_of(fraction, total)
    slices = np.arange(math.prod(stack), dtype=np.int32).reshape(stack)
    layer = functools.partial(_one_layer, rewiring.keep_repicked)
    one = _values.over_stack(layer, len(stack))
    moves[name] = one(
      pattern,
      drop[name],
      grow[name],
      growth[name],
      _share_out(alive, slices),
      _share_out(total, slices),
      jnp.asarray(slices),
    )
  return moves


def _share_out(count, slices):
  """A count shared over stacked layers as structures do: the first get the rest."""
  size = np.int32(slices.size)
  return count // size + (slices < count % size).astype(jnp.int32)


def _one_layer(
  keep_repicked, pattern, drop, grow, candidates, num_alive, count, index
) -> Move:
  fmt = pattern.format
  inputs, rows, valid = sparse.coordinates(pattern)
  start = index.astype(jnp.uint32) * jnp.uint32(fmt.num_blocks % 2**32)

  def hashes(inputs, rows):
    flat = inputs.astype(jnp.uint32) * jnp.uint32(fmt.rows) + rows.astype(jnp.uint32)
    return masks.hash_flat(start + flat)

  own = hashes(inputs, rows)
  worth = masks.ordered_keys(_of_units(drop, fmt))
  order = _by_rank(worth, own, valid)
  rank = lax.iota(jnp.int32, pattern.capacity)
  alive = jnp.zeros(pattern.capacity, bool).at[order].set(rank < num_alive)
  # A NaN, whose key is 0, never survives a drop.
  alive &= valid & (worth != 0)

  score = lambda mask, x: masks.ordered_keys(masks.lift(mask, x.astype(jnp.float32)))
  both = lambda a, b: jnp.concatenate([a, b])
  keys = both(
    score(alive, _of_units(grow, fmt)),
    score(jnp.zeros((), bool), candidates.scores),
  )
  places = both(own, hashes(candidates.inputs, candidates.rows))
  own_valid, valid = valid, both(valid, candidates.valid)
  order = _by_rank(keys, places, valid)[: pattern.capacity]
  new, moved = sparse.from_coordinates(
    both(inputs, candidates.inputs)[order],
    both(rows, candidates.rows)[order],
    (rank < count) & valid[order],
    fmt,
  )
  source, none = order[moved], jnp.zeros(candidates.valid.shape, bool)
  there = rank < new.count
  survived = both(alive, none)[source] & there
  kept = both(own_valid, none)[source] & there if keep_repicked else survived
  return _of_weights(Move(new, jnp.where(kept, source, 0), kept, survived))


def _of_units(scores, fmt):
  """The scores of blocks: the mean over their weights, as structures take it."""
  if fmt.block == 1:
    return scores
  return jnp.mean(scores.astype(jnp.float32).reshape(-1, fmt.block), axis=1)


def _of_weights(move: Move) -> Move:
  """A move of blocks as one of their weights."""
  block = move.pattern.format.block
  within = lax.iota(jnp.int32, block)[None, :]
  source = (move.source[:, None] * np.int32(block) + within).reshape(-1)
  flags = [jnp.repeat(x, block) for x in (move.kept, move.survived)]
  return Move(move.pattern, source, *flags)


def _by_rank(keys, hashes, valid):
  """Indices from the best unit to the worst, what is not valid last."""
  return native.argsort((~valid).astype(jnp.uint32), ~keys, ~hashes)

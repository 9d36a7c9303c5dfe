"""Drop and grow on nonzeros: where the patterns go, and what moves with them."""

import dataclasses
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
  """

  pattern: sparse.Pattern
  source: jax.Array
  kept: jax.Array


class Moved(NamedTuple):
  """The state of training after a rewiring, before the optimizer steps."""

  patterns: Any
  params: Any
  grads: Any
  inner_state: Any
  kept: Any


def is_move(x) -> bool:
  """Whether a node of a tree is a `Move`: for `is_leaf`."""
  return isinstance(x, Move)


def move_all(inner, moves, patterns, params, grads, inner_state) -> Moved:
  """Carries values, gradients and moments to the new patterns.

  What has grown starts at 0, with a gradient of 0 and the moments of a fresh start.

  Args:
    inner: the optimizer.
    moves: `{name: Move}`.
    patterns: the old patterns.
    params: the values as the optimizer sees them.
    grads: the gradients, the same.
    inner_state: the optimizer's state.
  """
  names, old, treedef = core.named_leaves(patterns, is_leaf=_state.is_pattern)
  tree = treedef.unflatten([moves.get(name) for name in names])
  carry = lambda x, move: x if move is None else _carried(x, move)
  params = _map_moves(carry, params, tree)
  grads = _map_moves(carry, grads, tree)
  marks = rules.along(inner, params, inner_state, tree)
  arrays, state_treedef = jax.tree.flatten(inner_state)
  arrays = [carry(x, m) for x, m in zip(arrays, marks, strict=True)]
  kept = _map_moves(lambda x, m: _kept(x, m), params, tree)
  state = rules.reset_moments(inner, params, state_treedef.unflatten(arrays), kept)
  new = treedef.unflatten(
    [moves[n].pattern if n in moves else p for n, p in zip(names, old)]
  )
  return Moved(new, params, grads, state, kept)


def _map_moves(function, tree, moves):
  return jax.tree.map(function, tree, moves)


def _kept(x, move):
  return jnp.ones((), bool) if move is None else move.kept.reshape(x.shape)


def _carried(x, move):
  flat = jnp.take_along_axis(x.reshape(move.source.shape), move.source, axis=-1)
  return jnp.where(move.kept, flat, jnp.zeros((), x.dtype)).reshape(x.shape)


def at_random(rewiring, evidence, leaves, patterns) -> dict[str, Move]:
  """The moves of a rule that grows at random, the same as in masked training.

  One leaf at a time is decided on dense scores, since a random number belongs to each
  of its weights; the scores, bools and places of one leaf are all that is dense.

  Args:
    rewiring: what to drop and what to grow.
    evidence: values as params, no masks.
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
    move = _to_mask(decision.masks[name], decision.survivors[name], pattern)
    moves[name], turn = move, jnp.ravel(move.pattern.count)[0].astype(jnp.uint32)
  return moves


def _after(turn, key):
  """The key, to be used once `turn` is there: two leaves are never dense at once."""
  # A count is below 2**31: a zero that the compiler cannot see.
  data = jax.random.key_data(key) + (turn >> jnp.uint32(31))
  return jax.random.wrap_key_data(data, impl=jax.random.key_impl(key))


def _to_mask(mask, survivors, pattern) -> Move:
  """The move to the pattern of a mask."""
  shape = pattern.inputs.shape[:-1] + (pattern.capacity * pattern.format.block,)
  # From 1 on: 0 is where nothing stood.
  places = lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1) + jnp.int32(1)
  dense = jnp.where(survivors, _values.scatter(places, pattern), jnp.int32(0))
  new = _values.pattern_of(
    mask, pattern.format, pattern.capacity, _values.num_stacked(pattern)
  )
  source = _values.gather(dense, new)
  return Move(new, jnp.maximum(source - 1, 0), source > 0)


def by_candidates(rewiring, evidence, leaves, patterns, growth) -> dict[str, Move]:
  """The moves of a rule that grows by gradient: nothing here is dense.

  Args:
    rewiring: what to drop and what to grow.
    evidence: values as params and their gradients, no masks.
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
    stack = pattern.inputs.shape[:-1]
    total = jnp.sum(pattern.count, dtype=jnp.int32)
    alive = total - rules.share_of(fraction, total)
    slices = np.arange(math.prod(stack), dtype=np.int32).reshape(stack)
    one = _values.over_stack(_one_layer, len(stack))
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


def _one_layer(pattern, drop, grow, candidates, num_alive, count, index) -> Move:
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
  valid = both(valid, candidates.valid)
  order = _by_rank(keys, places, valid)[: pattern.capacity]
  new, moved = sparse.from_coordinates(
    both(inputs, candidates.inputs)[order],
    both(rows, candidates.rows)[order],
    (rank < count) & valid[order],
    fmt,
  )
  source = order[moved]
  kept = both(alive, jnp.zeros(candidates.valid.shape, bool))[source]
  kept &= rank < new.count
  return _of_weights(Move(new, jnp.where(kept, source, 0), kept))


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
  return Move(move.pattern, source, jnp.repeat(move.kept, block))


def _by_rank(keys, hashes, valid):
  """Indices from the best unit to the worst, what is not valid last."""
  return native.argsort((~valid).astype(jnp.uint32), ~keys, ~hashes)

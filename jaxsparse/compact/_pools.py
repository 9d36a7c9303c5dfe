"""How many units each leaf keeps and gets at a rewiring: its own, or those of a pool."""

import math
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from jaxsparse import core, masks, native, rules, sparse
from jaxsparse.compact import _state, _values


class Units(NamedTuple):
  """The active units of a leaf, in the order of its values; stacked layers lead.

  Attributes:
    inputs: int32, the input of each.
    rows: int32, its row.
    valid: bool, False for padding.
    hashes: uint32, what breaks ties.
    worth: uint32, the larger, the later it is dropped.
    grow: what it would be grown for.
  """

  inputs: jax.Array
  rows: jax.Array
  valid: jax.Array
  hashes: jax.Array
  worth: jax.Array
  grow: jax.Array


def sizes(rewiring, patterns, names) -> dict[str, int]:
  """How many candidates each leaf needs, static.

  Args:
    rewiring: what is dropped and grown.
    patterns: `{name: Pattern}`.
    names: those of a pool, any of whose leaves may get all that the pool drops.
  """
  # Sizes are static, also where this is called under jit.
  with jax.ensure_compile_time_eval():
    steps = np.arange(0, 10**6, 50, dtype=np.int32)
    most = float(jnp.max(rewiring.fraction(steps)))
  of_pool = sum(math.prod(patterns[n].stack) * patterns[n].capacity for n in names)
  found = {}
  for name, pattern in patterns.items():
    if name in names:
      # With one more than there is room for, a leaf shows that it is full.
      room = min(pattern.capacity + 1, pattern.format.num_blocks)
      found[name] = min(math.ceil(most * of_pool), room)
    else:
      found[name] = math.ceil(most * pattern.capacity)
  return found


def units_of(pattern: sparse.Pattern, drop, grow, start) -> Units:
  """The units of one layer, whose places begin at index `start` of the whole leaf."""
  fmt = pattern.format
  inputs, rows, valid = sparse.coordinates(pattern)
  worth = masks.ordered_keys(_of_units(drop, fmt))
  hashes = hash_places(fmt, inputs, rows, start)
  return Units(inputs, rows, valid, hashes, worth, _of_units(grow, fmt))


def hash_places(fmt, inputs, rows, start):
  """What breaks ties, as on the dense leaf."""
  flat = inputs.astype(jnp.uint32) * jnp.uint32(fmt.rows) + rows.astype(jnp.uint32)
  return masks.hash_flat(start + flat)


def _of_units(scores, fmt):
  """The scores of blocks: the mean over their weights, as structures take it."""
  if fmt.block == 1:
    return scores
  return jnp.mean(scores.astype(jnp.float32).reshape(-1, fmt.block), axis=1)


def by_rank(keys, hashes, valid):
  """Indices from the best unit to the worst, what is not valid last."""
  # Complements, because the sort is a rising one.
  return native.argsort((~valid).astype(jnp.uint32), ~keys, ~hashes)


def grow_keys(alive, scores):
  """Scores as keys, what is alive above all."""
  if scores.dtype != jnp.uint32:
    scores = scores.astype(jnp.float32)
  return masks.ordered_keys(masks.lift(alive, scores))


def share_out(count, pattern):
  """A count shared over stacked layers as structures do: the first get the rest."""
  slices = _layers(pattern.stack)
  size = np.int32(slices.size)
  return count // size + (slices < count % size).astype(jnp.int32)


def starts(pattern):
  """The index in the whole leaf at which each stacked layer begins, modulo 2**32."""
  size = np.uint32(pattern.format.num_blocks % 2**32)
  return jnp.asarray(_layers(pattern.stack).astype(np.uint32) * size)


def _layers(stack):
  """The number of each stacked layer."""
  return np.arange(math.prod(stack), dtype=np.int32).reshape(stack)


def survivors(rewiring, fraction, patterns, units, names, tables) -> dict[str, Any]:
  """The units that a drop leaves, `{name: bool array}`.

  Args:
    rewiring: what is dropped.
    fraction: the share that goes.
    patterns: `{name: Pattern}`.
    units: `{name: Units}`.
    names: those of the pool.
    tables: those that have rows with a floor.
  """
  counts = {n: jnp.sum(p.count, dtype=jnp.int32) for n, p in patterns.items()}
  worth = {n: u.worth for n, u in units.items()}
  left = {n: counts[n] - rules.share_of(fraction, counts[n]) for n in patterns}
  guards = {
    n: _best_of_rows(units[n], patterns[n], rewiring.rows.floor) for n in tables
  }
  # No leaf of a pool is emptied.
  guards |= {n: _best(units[n]) for n in names if n not in guards}
  for name, guard in guards.items():
    worth[name] = masks.lift(guard, worth[name])
    left[name] = jnp.maximum(left[name], core.count_true(guard))
  if names:
    total = sum(counts[n] for n in names)
    spare = jnp.maximum(total - sum(core.count_true(guards[n]) for n in names), 0)
    gone = jnp.minimum(rules.share_of(fraction, total), spare)
    # Padding has the lowest key, so that what is there is counted first.
    competing = {n: jnp.where(units[n].valid, worth[n], np.uint32(0)) for n in names}
    left |= masks.threshold_counts(competing, total - gone)
  alive = {}
  for name, pattern in patterns.items():
    top = _values.over_stack(_top, len(pattern.stack))
    u, num = units[name], share_out(left[name], pattern)
    alive[name] = top(worth[name], u.hashes, u.valid, num)
  return alive


def counts_of(patterns, alive, units, candidates, names) -> dict[str, Any]:
  """How many units each leaf has afterwards, all stacked layers together."""
  counts = {n: jnp.sum(p.count, dtype=jnp.int32) for n, p in patterns.items()}
  if not names:
    return counts
  nothing = jnp.zeros((), bool)
  keys = {}
  for name in names:
    # Survivors are above all others, so no leaf gets a count below theirs.
    own = grow_keys(alive[name], units[name].grow)
    new = grow_keys(nothing, candidates[name].scores)
    flags = units[name].valid, candidates[name].valid
    pairs = [jnp.where(v, k, np.uint32(0)) for v, k in zip(flags, (own, new))]
    keys[name] = jnp.concatenate([k.reshape(-1) for k in pairs])
  return counts | masks.threshold_counts(keys, sum(counts[n] for n in names))


def _top(worth, hashes, valid, num):
  """The best `num` of a layer."""
  rank = lax.iota(jnp.int32, valid.size)
  order = by_rank(worth, hashes, valid)
  best = jnp.zeros(valid.size, bool).at[order].set(rank < num)
  # A NaN, whose key is 0, never survives a drop.
  return best & valid & (worth != 0)


def _best(units):
  """The best unit of a whole leaf."""
  worth = jnp.where(units.valid, units.worth, np.uint32(0))
  among = units.valid & (worth == jnp.max(worth, initial=np.uint32(0)))
  hashes = jnp.where(among, units.hashes, np.uint32(0))
  # Hashes of one leaf differ, so this is one unit.
  return among & (hashes == jnp.max(hashes, initial=np.uint32(0)))


def _best_of_rows(units, pattern, floor):
  """The best `floor` units of each input of a layer: a row of a table."""
  # Padding makes one more row, behind all others.
  inputs = jnp.where(units.valid, units.inputs, np.int32(pattern.format.inputs))
  order = native.argsort(inputs.astype(jnp.uint32), ~units.worth, ~units.hashes)
  counts = jnp.zeros(pattern.format.inputs + 1, jnp.int32).at[inputs].add(1)
  starts = jnp.cumsum(counts, dtype=jnp.int32) - counts
  # The place of each unit within its own row, the best first.
  rank = lax.iota(jnp.int32, inputs.size) - starts[inputs[order]]
  return jnp.zeros(inputs.size, bool).at[order].set(rank < floor) & units.valid


def random_candidates(rewiring, evidence, leaves, patterns, num):
  """`(grow scores of active units, candidates)` of a rule that grows at random.

  One leaf at a time has its scores as a dense array, since a random number belongs to
  each of its weights.
  """
  own: dict[str, jax.Array] = {}
  found: dict[str, _state.Candidates] = {}
  for name, (leaf, _) in leaves.items():
    pattern = patterns[name]
    struct = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)}
    scores = rewiring.grow_scores(evidence._replace(params=(struct,)))[name]
    own[name] = _values.gather(scores, pattern)
    # `criteria.random` is below 2**31: adding 1 frees the 0, and does not wrap.
    scores = jnp.where(_values.to_mask(pattern), np.uint32(0), scores + np.uint32(1))

    def best(scores, pattern, start, num=num[name]):
      keys = scores.reshape(-1)
      hashes = masks.hash_flat(start + lax.iota(jnp.uint32, keys.size))
      at = native.top_indices(keys, hashes, num)
      inputs, rows = jnp.divmod(at, np.int32(pattern.format.rows))
      # 0 is what is active.
      taken = keys[at]
      score = jnp.maximum(taken, np.uint32(1)) - np.uint32(1)
      return _state.Candidates(inputs, rows, score, taken > 0)

    whole = _values.over_stack(best, len(pattern.stack))
    found[name] = whole(scores, pattern, starts(pattern))
  return own, found

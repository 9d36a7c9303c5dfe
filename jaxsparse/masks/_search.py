"""The search for a threshold, by counting keys at or above guessed levels."""

import functools
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from jaxsparse import core

_HALVE, _INTERPOLATE, _OVERSHOOT = 0, 1, 2
# A tie can defeat interpolation for ever; halving ends within 32 more steps.
_LAST_GUESS = 16


class _Bracket(NamedTuple):
  """One search per slice: the wanted level is in [low, high].

  Attributes:
    low, high: uint32 levels.
    at_least: how many keys are at or above `low`, int32, never below `wanted`.
    above: how many keys are above `high`, int32, less than `wanted`.
    middle: the level to count at next.
    move: how `middle` was chosen, int32: _HALVE, _INTERPOLATE or _OVERSHOOT.
    step: int32 scalar.
  """

  low: jax.Array
  high: jax.Array
  at_least: jax.Array
  above: jax.Array
  middle: jax.Array
  move: jax.Array
  step: jax.Array


@functools.partial(jax.jit, static_argnums=3, inline=True)
def find_level(arrays, wanted, total, axes):
  """Finds a level with `wanted` keys at or above it, or the level of a tie.

  Bisection needs about 25 passes over the keys; keys are smooth enough within an
  octave that guesses by interpolation find the level in about 14.

  Args:
    arrays: uint32 keys, several only if `axes` is None.
    wanted: int32, how many keys to keep per slice, at most `total`.
    total: int32, how many keys compete per slice.
    axes: the axes of a slice; None for all, without keeping them.

  Returns:
    `(level, at_least, above)` per slice: the count of keys at or above the level is
    `at_least`. Either it is `wanted` (or `wanted` is 0), or the level is that of a
    tie, and `above < wanted < at_least` keys are above it.
  """
  keep = axes is not None
  lows = [jnp.min(x, axis=axes, keepdims=keep) for x in arrays]
  highs = [jnp.max(x, axis=axes, keepdims=keep) for x in arrays]
  low = functools.reduce(jnp.minimum, lows)
  high = functools.reduce(jnp.maximum, highs)
  # Zeros that vary over devices as the data does: shard_map checks the carry.
  none = (low ^ low).astype(jnp.int32) + (wanted - wanted)
  low, high = low + none.astype(jnp.uint32), high + none.astype(jnp.uint32)
  # Rounded up, always above `low`: else a bracket of two levels would never narrow.
  halfway = high - (high - low) // jnp.uint32(2)
  start = _Bracket(low, high, total + none, none, halfway, none, jnp.int32(0))

  def unfinished(b):
    return (b.at_least != wanted) & (b.low != b.high) & (wanted > 0)

  def step(b):
    # The middle is above `low`, so keys that do not compete may be given as 0.
    count = sum(core.count_true(x >= b.middle, axes) for x in arrays)
    return _narrow(b, count, wanted, unfinished(b))

  end = lax.while_loop(lambda b: jnp.any(unfinished(b)), step, start)
  return end.low, end.at_least, end.above


def _narrow(b: _Bracket, count, wanted, active) -> _Bracket:
  """Moves one end of the bracket to `middle`, where `count` keys were found."""
  # A slice that has finished stays as it is while others go on.
  up, down = active & (count >= wanted), active & (count < wanted)
  narrowed = b._replace(
    low=jnp.where(up, b.middle, b.low),
    high=jnp.where(down, b.middle - jnp.uint32(1), b.high),
    at_least=jnp.where(up, count, b.at_least),
    above=jnp.where(down, count, b.above),
    step=b.step + 1,
  )
  # Only the choice of the next level is approximate, in float32.
  density = _inside(b) / (_as_float(b.high - b.low) + 1.0)
  # The count at `middle` if keys were spread evenly over the levels of the bracket.
  predicted = _as_float(b.at_least) - _as_float(b.middle - b.low) * density
  is_linear = jnp.abs(_as_float(count) - predicted) < _inside(b) / 8
  # Subtracted as integers: float32 would lose a small miss between large counts.
  miss = _as_float(count - wanted)
  move = _next_move(b, _inside(narrowed) / _inside(b), is_linear, miss)
  offset = _next_offset(narrowed, move, wanted, miss, density)
  return narrowed._replace(middle=narrowed.low + offset, move=move)


def _next_move(b, shrinkage, is_linear, miss):
  """Whether to halve, interpolate or overshoot, from how well the last move did."""
  # A good guess leaves the far end where it was: overshooting brings it near.
  near_miss = jnp.abs(miss) < _inside(b) / 8
  return jnp.select(
    [b.step >= _LAST_GUESS, b.move == _HALVE, b.move == _OVERSHOOT],
    [
      jnp.full_like(b.move, _HALVE),
      jnp.where(is_linear, _INTERPOLATE, _HALVE),
      jnp.where(shrinkage < 0.5, _INTERPOLATE, _HALVE),
    ],
    jnp.where(
      shrinkage <= 0.25,
      _INTERPOLATE,
      jnp.where(near_miss, _OVERSHOOT, _HALVE),
    ),
  )


def _next_offset(b, move, wanted, miss, density):
  """How far above `low` to count next: uint32 from 1 to `high - low`."""
  width = b.high - b.low
  size = _as_float(width)
  interpolated = size * (_as_float(b.at_least - wanted) / _inside(b))
  # Half as far again as the miss asks for, from the end that has just moved:
  # the wanted level is then likely between the two.
  overshoot = jnp.minimum(1.5 * jnp.abs(miss) / density, size)
  overshot = jnp.where(miss >= 0, overshoot, size + 1.0 - overshoot)
  offset = jnp.where(move == _INTERPOLATE, interpolated, overshot)
  # The largest float32 below 2**32: above it the conversion is undefined.
  offset = jnp.clip(offset, 1.0, 4294967040.0).astype(jnp.uint32)
  halfway = width - width // jnp.uint32(2)
  return jnp.where(move == _HALVE, halfway, jnp.clip(offset, jnp.uint32(1), width))


def _inside(b: _Bracket):
  """How many keys are inside the bracket, float32."""
  return _as_float(b.at_least - b.above)


def _as_float(x):
  return x.astype(jnp.float32)

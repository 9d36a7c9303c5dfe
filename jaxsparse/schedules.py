"""Schedules (`step -> number`) and times of rewiring (`step -> bool`).

A schedule is an optax schedule: any of optax's, or any function of the step, will
do in its place. Steps may be Python ints or traced int32 scalars.
"""

from collections.abc import Sequence
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxsparse import core

__all__ = (
  'always',
  'as_fraction',
  'at',
  'constant',
  'cosine',
  'cosine_sparsity',
  'cubic',
  'every',
  'never',
  'one_shot',
)


def constant(value: float) -> core.Schedule:
  """The same number at every step: `f(t) = value`.

  Args:
    value: a finite number.

  Returns:
    A schedule that returns a float32 scalar.

  Raises:
    ValueError: `value` is not finite.

  Example:
    >>> import jaxsparse as js
    >>> float(js.schedules.constant(0.5)(100))
    0.5
  """
  _check_finite('value', value)
  return lambda step: jnp.full(jnp.shape(step), value, jnp.float32)


def cubic(final: float, start: int, stop: int, initial: float = 0.0) -> core.Schedule:
  """Sparsity that rises fast, then slowly.

  `s(t) = final + (initial - final) (1 - (t - start) / (stop - start))^3` between
  `start` and `stop`, `initial` before and `final` after.

  Args:
    final: sparsity from `stop` on, in [0, 1].
    start: the last step with the initial sparsity.
    stop: the first step with the final sparsity.
    initial: sparsity up to `start`, in [0, 1].

  Returns:
    A schedule that returns a float32 scalar.

  Raises:
    ValueError: a sparsity outside [0, 1], or not `0 <= start < stop`.

  Example:
    >>> import jaxsparse as js
    >>> sparsity = js.schedules.cubic(0.8, start=0, stop=100)
    >>> [round(float(sparsity(t)), 3) for t in (0, 50, 100, 200)]
    [0.0, 0.7, 0.8, 0.8]

  Zhu & Gupta, "To prune, or not to prune", 2017, equation 1.
  """
  left = _time_left(final, start, stop, initial)
  return lambda step: _between(initial, final, left(step) ** 3)


def cosine_sparsity(
  final: float, start: int, stop: int, initial: float = 0.0
) -> core.Schedule:
  """Sparsity that rises along half a cosine: slowly at both ends.

  `s(t) = final + (initial - final) / 2 (1 + cos(pi (t - start) / (stop - start)))`
  between `start` and `stop`, `initial` before and `final` after.

  Args:
    final: sparsity from `stop` on, in [0, 1].
    start: the last step with the initial sparsity.
    stop: the first step with the final sparsity.
    initial: sparsity up to `start`, in [0, 1].

  Returns:
    A schedule that returns a float32 scalar.

  Raises:
    ValueError: a sparsity outside [0, 1], or not `0 <= start < stop`.

  Example:
    >>> import jaxsparse as js
    >>> sparsity = js.schedules.cosine_sparsity(0.8, start=0, stop=100)
    >>> [round(float(sparsity(t)), 3) for t in (0, 50, 100)]
    [0.0, 0.4, 0.8]
  """
  left = _time_left(final, start, stop, initial)
  # (1 + cos(pi u)) / 2 as a square: exactly 1 and 0 at the ends, also in float32.
  return lambda step: _between(
    initial, final, jnp.sin(left(step) * jnp.float32(math.pi / 2)) ** 2
  )


def cosine(initial: float, stop: int, final: float = 0.0) -> core.Schedule:
  """A fraction that decays along half a cosine: how much is dropped and grown.

  `f(t) = final + (initial - final) / 2 (1 + cos(pi t / stop))` before `stop`, and
  `final` from then on.

  Args:
    initial: the fraction at step 0, in [0, 1].
    stop: the step at which it has decayed.
    final: the fraction from `stop` on, in [0, 1].

  Returns:
    A schedule that returns a float32 scalar.

  Raises:
    ValueError: a fraction outside [0, 1], or not `0 < stop`.

  Example:
    >>> import jaxsparse as js
    >>> fraction = js.schedules.cosine(0.3, stop=100)
    >>> [round(float(fraction(t)), 3) for t in (0, 50, 100, 200)]
    [0.3, 0.15, 0.0, 0.0]

  Evci et al., "Rigging the Lottery", 2020, section 3.
  """
  return cosine_sparsity(final, 0, stop, initial)


def one_shot(final: float, at: int) -> core.Schedule:
  """All of the sparsity at once: `s(t) = final if t >= at else 0`.

  Args:
    final: sparsity from step `at` on, in [0, 1].
    at: the first sparse step.

  Returns:
    A schedule that returns a float32 scalar.

  Raises:
    ValueError: `final` outside [0, 1], or a negative `at`.

  Example:
    >>> import jaxsparse as js
    >>> sparsity = js.schedules.one_shot(0.9, at=10)
    >>> [round(float(sparsity(t)), 2) for t in (9, 10)]
    [0.0, 0.9]
  """
  _check_fraction('final', final)
  _check_step('at', at)
  return lambda step: jnp.where(
    _as_step(step) >= at, jnp.float32(final), jnp.float32(0)
  )


def every(n: int, start: int | None = None, stop: int | None = None) -> core.When:
  """True at the multiples of `n` with `start <= step < stop`.

  Args:
    n: the number of steps from one True to the next.
    start: the first step that may be True; None for `n`, so that the start is
      trained before it is judged.
    stop: the first step that may not be True again; None for no end.

  Returns:
    A function `step -> bool` scalar.

  Raises:
    ValueError: `n` below 1, a negative `start`, or a `stop` before `start`.

  Example:
    >>> import jaxsparse as js
    >>> when = js.schedules.every(10, stop=30)
    >>> [t for t in range(50) if when(t)]
    [10, 20]
  """
  _check_step('n', n, least=1)
  start = n if start is None else start
  _check_step('start', start)
  if stop is not None:
    _check_step('stop', stop, least=start)

  def when(step):
    step = _as_step(step)
    due = (step % jnp.int32(n) == 0) & (step >= start)
    return due if stop is None else due & (step < stop)

  return when


def at(*steps: int | Sequence[int]) -> core.When:
  """True at the given steps.

  Args:
    *steps: ints, or one sequence of ints.

  Returns:
    A function `step -> bool` scalar.

  Raises:
    ValueError: no step, or a step that is no int or negative.

  Example:
    >>> import jaxsparse as js
    >>> when = js.schedules.at(3, 7)
    >>> [t for t in range(10) if when(t)]
    [3, 7]
  """
  if len(steps) == 1 and not np.ndim(steps[0]) == 0:
    steps = tuple(steps[0])
  if not steps:
    raise ValueError('at: no step given; wanted one or more, or schedules.never.')
  for step in steps:
    _check_step('steps', step)
  # Sorted, so that equal sets of steps compile to the same program.
  chosen = np.array(sorted(set(steps)), np.int32)

  def when(step):
    step = _as_step(step)
    return jnp.any(step[..., None] == chosen.reshape((1,) * step.ndim + (-1,)), -1)

  return when


def never(step) -> jax.Array:
  """False at every step: masks stay as they start.

  Example:
    >>> import jaxsparse as js
    >>> bool(js.schedules.never(3))
    False
  """
  return jnp.zeros(jnp.shape(step), bool)


def always(step) -> jax.Array:
  """True at every step.

  Example:
    >>> import jaxsparse as js
    >>> bool(js.schedules.always(3))
    True
  """
  return jnp.ones(jnp.shape(step), bool)


def as_fraction(value, name: str) -> core.Schedule:
  """A schedule from a schedule or from a number in [0, 1].

  Args:
    value: a function of the step, returned as it is, or a number.
    name: what the argument is called, for the error.

  Returns:
    A schedule.

  Raises:
    ValueError: a number outside [0, 1].

  Example:
    >>> import jaxsparse as js
    >>> float(js.schedules.as_fraction(0.25, 'drop_fraction')(3))
    0.25
  """
  if callable(value):
    return value
  _check_fraction(name, value)
  return constant(value)


def _as_step(step):
  return jnp.asarray(step).astype(jnp.int32)


def _time_left(final, start, stop, initial):
  """Checks a ramp; returns `step -> share of the ramp still to come`, in [0, 1]."""
  _check_fraction('final', final)
  _check_fraction('initial', initial)
  _check_step('start', start)
  _check_step('stop', stop, least=start + 1)

  def left(step):
    # In integers until the end: exactly 0 at `stop`, and right above 2**24.
    remaining = stop - jnp.clip(_as_step(step), start, stop)
    return remaining.astype(jnp.float32) / jnp.float32(stop - start)

  return left


def _between(initial, final, share):
  initial, final = jnp.float32(initial), jnp.float32(final)
  # Not `final + (initial - final) * share`, which misses `initial` by rounding.
  return initial * share + final * (1.0 - share)


def _check_finite(name, value):
  if isinstance(value, jax.core.Tracer) or not math.isfinite(value):
    raise ValueError(f'{name}={value!r}: wanted a finite Python number.')


def _check_fraction(name, value):
  _check_finite(name, value)
  if not 0 <= value <= 1:
    raise ValueError(f'{name}={value!r}: wanted a number in [0, 1].')


def _check_step(name, value, least=0):
  is_int = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
  if not is_int or not least <= value < 2**31:
    raise ValueError(f'{name}={value!r}: wanted an int of at least {least}.')

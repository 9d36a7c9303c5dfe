"""Schedules: functions of the step that return a number."""

import math

import jax
import jax.numpy as jnp

from jaxsparse import core
from jaxsparse.schedules import _checks


def as_fraction(value, name: str) -> core.Schedule:
  """A schedule from a schedule or from a number in [0, 1].

  Of a schedule only the value at step 0 is looked at, and not while it is traced; a
  later one counts as 0 or 1 where it leaves [0, 1].

  Args:
    value: a function of the step, returned as it is, or a number.
    name: what the argument is called, for the error.

  Returns:
    A schedule.

  Raises:
    ValueError: a number, or a schedule's first value, outside [0, 1].

  Example:
    >>> import jaxsparse as js
    >>> float(js.schedules.as_fraction(0.25, 'drop_fraction')(3))
    0.25
  """
  if callable(value):
    start = value(jnp.zeros((), jnp.int32))
    if not isinstance(start, jax.core.Tracer):
      _checks.fraction(f'{name}(0)', float(start))
    return value
  _checks.fraction(name, value)
  return constant(value)


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
  _checks.finite('value', value)
  return _settling(lambda step: jnp.full(jnp.shape(step), value, jnp.float32), 0)


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
  share = lambda step: jnp.sin(left(step) * jnp.float32(math.pi / 2)) ** 2
  return _settling(lambda step: _between(initial, final, share(step)), stop)


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
  return _settling(lambda step: _between(initial, final, left(step) ** 3), stop)


def hold(schedule, steps: int) -> core.Schedule:
  """The first value of a schedule for a while, then the schedule from its start.

  `f(t) = schedule(max(t - steps, 0))`

  Args:
    schedule: a function of the step, for example a learning rate of optax, or a number.
    steps: how many steps it waits.

  Returns:
    A schedule.

  Raises:
    ValueError: negative `steps`, or a number that is not finite.

  Example:
    >>> import jaxsparse as js, optax
    >>> rate = js.schedules.hold(optax.linear_schedule(1.0, 0.0, 4), 10)
    >>> [float(rate(t)) for t in (0, 10, 12, 14)]
    [1.0, 1.0, 0.5, 0.0]
  """
  _checks.step('steps', steps)
  if not callable(schedule):
    return constant(schedule)

  def held(step):
    return schedule(jnp.maximum(_checks.as_step(step) - steps, 0))

  known = settled_at(schedule)
  return held if known is None else _settling(held, steps + known)


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
  _checks.fraction('final', final)
  _checks.step('at', at)
  zero = jnp.float32(0)
  return _settling(
    lambda step: jnp.where(_checks.as_step(step) >= at, jnp.float32(final), zero), at
  )


def settled_at(schedule) -> int | None:
  """The step from which on a schedule keeps its value.

  Args:
    schedule: a schedule, or a number.

  Returns:
    A step; 0 for a number, None for a function that is none of this room's.

  Example:
    >>> import jaxsparse as js
    >>> js.schedules.settled_at(js.schedules.cubic(0.9, start=10, stop=50))
    50
  """
  return getattr(schedule, 'settled_at', None) if callable(schedule) else 0


def _settling(schedule, step):
  """The schedule, which now knows from which step on it is constant."""
  # As an attribute, since a schedule is a function to optax and no more.
  schedule.settled_at = step
  return schedule


def _time_left(final, start, stop, initial):
  """Checks a ramp; returns `step -> share of the ramp still to come`, in [0, 1]."""
  _checks.fraction('final', final)
  _checks.fraction('initial', initial)
  _checks.step('start', start)
  _checks.step('stop', stop, least=start + 1)

  def left(step):
    # In integers until the end: exactly 0 at `stop`, and right above 2**24.
    remaining = stop - jnp.clip(_checks.as_step(step), start, stop)
    return remaining.astype(jnp.float32) / jnp.float32(stop - start)

  return left


def _between(initial, final, share):
  initial, final = jnp.float32(initial), jnp.float32(final)
  # Not `final + (initial - final) * share`, which misses `initial` by rounding.
  return initial * share + final * (1.0 - share)

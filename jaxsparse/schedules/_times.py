"""Times of rewiring: functions of the step that return a bool."""

from collections.abc import Sequence
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxsparse import core
from jaxsparse.schedules import _checks


def always(step) -> jax.Array:
  """True at every step.

  Example:
    >>> import jaxsparse as js
    >>> bool(js.schedules.always(3))
    True
  """
  return jnp.ones(jnp.shape(step), bool)


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
    steps = tuple(np.asarray(steps[0]).tolist())
  if not steps:
    raise ValueError('at: no step given; wanted one or more, or schedules.never.')
  for step in steps:
    _checks.step('steps', step)
  # Sorted, so that equal sets of steps compile to the same program.
  chosen = np.unique(np.array(steps, np.int32))

  def when(step):
    step = _checks.as_step(step)
    # Reshaped by hand, as `jax_numpy_rank_promotion='raise'` forbids jax to do it.
    return jnp.any(step[..., None] == chosen.reshape((1,) * step.ndim + (-1,)), -1)

  return _ending(when, int(chosen[-1]))


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
  _checks.step('n', n, least=1)
  start = n if start is None else start
  _checks.step('start', start)
  if stop is not None:
    _checks.step('stop', stop, least=start)

  def when(step):
    step = _checks.as_step(step)
    due = (step % jnp.int32(n) == 0) & (step >= start)
    return due if stop is None else due & (step < stop)

  last = math.inf if stop is None else (stop - 1) // n * n
  # The multiples of n may have ended before `start`.
  return _ending(when, last if last >= start else -1)


def either(first: core.When, second: core.When) -> core.When:
  """True where one of two is.

  Args:
    first: `step -> bool`.
    second: `step -> bool`.

  Returns:
    A function `step -> bool`.

  Example:
    >>> import jaxsparse as js
    >>> when = js.schedules.either(js.schedules.at(3), js.schedules.every(10, stop=30))
    >>> [t for t in range(50) if when(t)]
    [3, 10, 20]
  """
  both = lambda step: jnp.logical_or(first(step), second(step))
  ends = [end for end in map(last_step, (first, second)) if end is not None]
  return _ending(both, max(ends)) if len(ends) == 2 else both


def never(step) -> jax.Array:
  """False at every step: masks stay as they start.

  Example:
    >>> import jaxsparse as js
    >>> bool(js.schedules.never(3))
    False
  """
  return jnp.zeros(jnp.shape(step), bool)


def last_step(when) -> int | float | None:
  """The last step at which a time of rewiring is True.

  Args:
    when: a function `step -> bool`, or None for never.

  Returns:
    A step; -1 where none is, `math.inf` where there is no end, None for a function that
    is none of this room's.

  Example:
    >>> import jaxsparse as js
    >>> js.schedules.last_step(js.schedules.every(10, stop=35))
    30
  """
  return -1 if when is None else getattr(when, 'last_step', None)


def _ending(when, step):
  """The function, which now knows the last step at which it is True."""
  when.last_step = step
  return when


_ending(always, math.inf)
_ending(never, -1)

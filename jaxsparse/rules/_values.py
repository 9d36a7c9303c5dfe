"""What `sparsity=` may be: a number, a schedule, a mapping to these or to counts."""

from collections.abc import Mapping
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Half of int32: a schedule may add to the step.
_FOREVER = 2**30


def each(given) -> dict[str, Any]:
  """`{pattern: value}` of a mapping, or `{'': value}` of a single value."""
  return dict(given) if isinstance(given, Mapping) else {'': given}


def final(value) -> float:
  """The value of a schedule at the end of time, or a plain number, in [0, 1)."""
  number = _at(value, _FOREVER)
  # Written so that NaN, for what is no number, is refused too.
  if not 0.0 <= number < 1.0:
    shown = number if callable(value) else value
    raise ValueError(
      f'sparsity={shown}: wanted a fraction removed in [0, 1), not traced, a schedule,'
      ' or a mapping from path pattern to either, or to integers: weights kept.'
      f'{_percent(number)}'
    )
  return number


def _percent(number: float) -> str:
  """What somebody may have meant who gave a percentage."""
  return f' For {number:g} % give {number / 100:g}.' if 1 < number < 100 else ''


def _at(value, step: int) -> float:
  """The value of a schedule at a step, or a plain number; NaN for what is neither."""
  if callable(value):
    # The schedule's arithmetic must not be traced when tx is built under jit.
    with jax.ensure_compile_time_eval():
      value = np.asarray(value(jnp.int32(step)))
    # By way of its digits: float32's 0.9 is 0.9, not 0.899999976.
    value = float(str(value))
  try:
    return math.nan if isinstance(value, str) else float(value)
  except TypeError:
    return math.nan


def is_count(value) -> bool:
  """Whether a value is a number of kept weights: an int, or an integer array."""
  if isinstance(value, bool | str) or callable(value):
    return False
  dtype = np.int32 if isinstance(value, int) else getattr(value, 'dtype', float)
  return bool(jnp.issubdtype(dtype, jnp.integer)) and not np.ndim(value)


def check(sparsity) -> None:
  """Raises ValueError for a sparsity, or one of a mapping, that cannot be."""
  for pattern, value in each(sparsity).items():
    if not isinstance(sparsity, Mapping):
      final(value)
    elif is_count(value):
      _check_count(pattern, value)
    # Distributions give a leaf of which nothing is left a sparsity of 1.
    elif not isinstance(value, float) or value != 1:
      final(value)


def _check_count(pattern, value):
  if isinstance(value, int) and value == 0:
    raise ValueError(
      f'sparsity: {pattern!r} got the int 0; wanted 0.0 to remove nothing, or 1.0 to'
      ' keep nothing: an int is a number of weights kept.'
    )
  if not isinstance(value, jax.core.Tracer) and int(value) < 0:
    raise ValueError(
      f'sparsity: {pattern!r} got {value}; wanted weights kept, 0 or more.'
    )


def share(leaf, value):
  """What a leaf's own value says: a sparsity, or an integer array of weights kept."""
  if not is_count(value):
    return 1.0 if isinstance(value, float) and value == 1 else final(value)
  if isinstance(value, jax.core.Tracer):
    return value
  # In Python: under jit even a comparison of known arrays would be traced.
  if int(value) > leaf.size:
    raise ValueError(
      f'sparsity: {leaf.name} got {value}; wanted at most its {leaf.size} weights kept,'
      ' or a fraction removed as a float.'
    )
  return np.int32(int(value))


def fraction(leaf, share) -> float:
  """A share as a sparsity; NaN while nobody knows it."""
  if not is_count(share):
    return share
  traced = isinstance(share, jax.core.Tracer)
  return math.nan if traced else 1 - int(share) / leaf.size


def check_constant(sparsity, who: str) -> None:
  """Raises ValueError, in the name of a method, for a sparsity that moves."""
  for pattern, value in each(sparsity).items():
    if callable(value):
      where = f' for {pattern!r}' if pattern else ''
      raise ValueError(
        f'{who}: sparsity={value!r}{where} is a schedule, which this method does not'
        ' follow; wanted a fraction removed in [0, 1). Of the transforms, gmp follows'
        ' a schedule.'
      )


def check_rising(sparsity, who: str) -> None:
  """Raises ValueError, in the name of a method, for a start above the end."""
  for pattern, value in each(sparsity).items():
    if not callable(value):
      continue
    start, end = _at(value, 0), final(value)
    # A float32 schedule may be off by its last digit.
    if not 0 <= start <= end + 1e-6:
      where = f' for {pattern!r}' if pattern else ''
      raise ValueError(
        f'{who}: the schedule of sparsity={value!r}{where} starts at {start:g} and ends'
        f' at {end:g}; wanted one that rises in [0, 1), for what is pruned stays so.'
      )

"""Checks of the arguments of schedules."""

import math

import jax.numpy as jnp
import numpy as np


def as_step(step):
  """A step, Python or traced, as int32."""
  return jnp.asarray(step).astype(jnp.int32)


def finite(name, value):
  """Raises ValueError for what is no finite Python number."""
  try:
    is_finite = math.isfinite(value)
  except TypeError:  # A tracer's error is one too.
    is_finite = False
  if not is_finite:
    raise ValueError(f'{name}={value!r}: wanted a finite Python number.')


def fraction(name, value):
  """Raises ValueError for what is no number in [0, 1]."""
  finite(name, value)
  if not 0 <= value <= 1:
    raise ValueError(f'{name}={value!r}: wanted a number in [0, 1].')


def step(name, value, least=0):
  """Raises ValueError for what is no int of at least `least`."""
  # True is an int to Python, and surely no step.
  is_int = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
  if not is_int or not least <= value < 2**31:
    raise ValueError(f'{name}={value!r}: wanted an int of at least {least}.')

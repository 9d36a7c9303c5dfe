"""Schedules (`step -> number`) and times of rewiring (`step -> bool`).

A schedule is an optax schedule: any of optax's, or any function of the step, will
do in its place. Steps may be Python ints or traced int32 scalars.
"""

from jaxsparse.schedules._numbers import (
  as_fraction,
  constant,
  cosine,
  cosine_sparsity,
  cubic,
  hold,
  one_shot,
  settled_at,
)
from jaxsparse.schedules._times import always, at, either, every, last_step, never

__all__ = (
  'always',
  'as_fraction',
  'at',
  'constant',
  'cosine',
  'cosine_sparsity',
  'cubic',
  'either',
  'every',
  'hold',
  'last_step',
  'never',
  'one_shot',
  'settled_at',
)

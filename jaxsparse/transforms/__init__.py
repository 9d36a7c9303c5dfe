"""Sparse training methods: each wraps an optax optimizer, one paper a file."""

from jaxsparse.transforms._dsl import dsl, dsl_rule, is_table
from jaxsparse.transforms._dsl_released import dsl_released, dsl_released_rule
from jaxsparse.transforms._gmp import gmp, gmp_rule
from jaxsparse.transforms._greg import greg
from jaxsparse.transforms._iss_p import iss_p, iss_p_rule, iss_r
from jaxsparse.transforms._one_shot import one_shot, one_shot_rule
from jaxsparse.transforms._rigl import rigl, rigl_rule
from jaxsparse.transforms._set import (
  set,
  set_rule,
)
from jaxsparse.transforms._sr_ste import sr_ste
from jaxsparse.transforms._static import static, static_rule
from jaxsparse.transforms._ste import ste, ste_rule

__all__ = (
  'dsl',
  'dsl_released',
  'dsl_released_rule',
  'dsl_rule',
  'gmp',
  'gmp_rule',
  'greg',
  'is_table',
  'iss_p',
  'iss_p_rule',
  'iss_r',
  'one_shot',
  'one_shot_rule',
  'rigl',
  'rigl_rule',
  'set',
  'set_rule',
  'sr_ste',
  'static',
  'static_rule',
  'ste',
  'ste_rule',
)

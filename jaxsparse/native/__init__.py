"""Finds and loads the compiled kernels; what uses them falls back without them."""

from jaxsparse.native._library import (
  CALLS,
  available,
  instruction_set,
  stays_whole,
  why_not,
  without,
)
from jaxsparse.native._normal import can_index, normal
from jaxsparse.native._select import can_select, select
from jaxsparse.native._sort import argsort
from jaxsparse.native._top import top_indices

__all__ = (
  'CALLS',
  'argsort',
  'available',
  'can_index',
  'can_select',
  'instruction_set',
  'normal',
  'select',
  'stays_whole',
  'top_indices',
  'why_not',
  'without',
)

"""Finds and loads the compiled kernels; what uses them falls back without them."""

from jaxsparse.native._library import available, instruction_set, stays_whole, why_not
from jaxsparse.native._select import can_select, select
from jaxsparse.native._sort import argsort

__all__ = (
  'argsort',
  'available',
  'can_select',
  'instruction_set',
  'select',
  'stays_whole',
  'why_not',
)

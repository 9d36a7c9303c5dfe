"""Structures, exact selection, and operations on masks."""

from jaxsparse.masks._groups import Block, Channel
from jaxsparse.masks._ops import apply, density, from_named, from_nonzeros
from jaxsparse.masks._select import (
  hash_flat,
  hash_index,
  ordered_keys,
  threshold_counts,
  top_k_mask,
)
from jaxsparse.masks._structures import NM, Unstructured, exclude, lift

__all__ = (
  'Block',
  'Channel',
  'NM',
  'Unstructured',
  'apply',
  'density',
  'exclude',
  'from_named',
  'from_nonzeros',
  'hash_flat',
  'hash_index',
  'lift',
  'ordered_keys',
  'threshold_counts',
  'top_k_mask',
)

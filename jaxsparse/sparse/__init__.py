"""Arrays that hold their nonzeros only, and products with them."""

from jaxsparse.sparse._arrays import SparseArray, from_mask, to_dense
from jaxsparse.sparse._backends import choose_backend
from jaxsparse.sparse._check import check
from jaxsparse.sparse._conv import conv
from jaxsparse.sparse._dense_view import dense_structs, flat_indices
from jaxsparse.sparse._formats import Format, choose_format, format_of
from jaxsparse.sparse._matmul import matmul, take
from jaxsparse.sparse._nm import NMPattern
from jaxsparse.sparse._patterns import (
  Pattern,
  coordinates,
  from_coordinates,
  gather,
  is_pattern,
  pattern_of,
  to_mask,
)

__all__ = (
  'Format',
  'NMPattern',
  'Pattern',
  'SparseArray',
  'check',
  'choose_backend',
  'choose_format',
  'conv',
  'coordinates',
  'dense_structs',
  'flat_indices',
  'format_of',
  'from_coordinates',
  'from_mask',
  'gather',
  'is_pattern',
  'matmul',
  'pattern_of',
  'take',
  'to_dense',
  'to_mask',
)

"""The wrapper that keeps a network sparse, and what rules are made of."""

from jaxsparse.rules._access import apply_masks, get_masks, init, view
from jaxsparse.rules._budget import Budget
from jaxsparse.rules._drop_grow import Rows, drop_grow, pooled_leaves, rewire, share_of
from jaxsparse.rules._keep_sparse import keep_sparse, spread
from jaxsparse.rules._moments import along
from jaxsparse.rules._moments import hold as hold_moments
from jaxsparse.rules._moments import reset as reset_moments
from jaxsparse.rules._parts import Parts, parts_of
from jaxsparse.rules._parts import attach as attach_parts

__all__ = (
  'Budget',
  'Parts',
  'Rows',
  'along',
  'apply_masks',
  'attach_parts',
  'drop_grow',
  'get_masks',
  'hold_moments',
  'init',
  'keep_sparse',
  'parts_of',
  'pooled_leaves',
  'reset_moments',
  'rewire',
  'share_of',
  'spread',
  'view',
)

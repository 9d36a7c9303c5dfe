"""The wrapper that keeps a network sparse, and what rules are made of."""

from jaxsparse.rules._access import apply_masks, get_masks, init, view
from jaxsparse.rules._budget import Budget
from jaxsparse.rules._drop_grow import drop_grow
from jaxsparse.rules._keep_sparse import keep_sparse

__all__ = (
  'Budget',
  'apply_masks',
  'drop_grow',
  'get_masks',
  'init',
  'keep_sparse',
  'view',
)

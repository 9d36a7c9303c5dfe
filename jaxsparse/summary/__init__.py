"""Reports: densities, bytes, FLOPs, and how masks move over training."""

from jaxsparse.summary._counts import (
  Stats,
  dead_units,
  density_per_leaf,
  stats,
)
from jaxsparse.summary._flops import Flops, flops
from jaxsparse.summary._movement import (
  Overlap,
  Sad,
  Share,
  ever_active,
  exploration,
  overlap,
  sad,
)
from jaxsparse.summary._shrinkage import Shrinkage, shrinkage, support
from jaxsparse.summary._table import table

__all__ = (
  'Flops',
  'Overlap',
  'Sad',
  'Share',
  'Shrinkage',
  'Stats',
  'dead_units',
  'density_per_leaf',
  'ever_active',
  'exploration',
  'flops',
  'overlap',
  'sad',
  'shrinkage',
  'stats',
  'support',
  'table',
)

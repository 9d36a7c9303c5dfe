"""Criteria: `Evidence -> scores`, the larger the more worth keeping."""

from jaxsparse.criteria._gradients import grasp, saliency, snip, synflow
from jaxsparse.criteria._tables import factorization, popularity, row_weights
from jaxsparse.criteria._weights import magnitude, random

__all__ = (
  'factorization',
  'grasp',
  'magnitude',
  'popularity',
  'random',
  'row_weights',
  'saliency',
  'snip',
  'synflow',
)

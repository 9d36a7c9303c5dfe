"""Criteria: `Evidence -> scores`, the larger the more worth keeping."""

from jaxsparse.criteria._gradients import grasp, saliency, snip, synflow
from jaxsparse.criteria._weights import magnitude, random

__all__ = (
  'grasp',
  'magnitude',
  'random',
  'saliency',
  'snip',
  'synflow',
)

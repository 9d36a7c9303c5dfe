"""Training and running a network on its nonzeros only."""

from jaxsparse.compact._state import Candidates, CompactState, get_patterns

__all__ = (
  'Candidates',
  'CompactState',
  'get_patterns',
)

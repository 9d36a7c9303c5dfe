"""Training and running a network on its nonzeros only."""

from jaxsparse.compact._bind import bind, handler, join
from jaxsparse.compact._capacity import check_capacity, resize
from jaxsparse.compact._convert import convert, densify
from jaxsparse.compact._grow import grow_candidates, growth_sizes, growth_when_due
from jaxsparse.compact._init import init, lecun_normal
from jaxsparse.compact._readiness import first_step
from jaxsparse.compact._state import Candidates, CompactState, get_patterns

__all__ = (
  'Candidates',
  'CompactState',
  'bind',
  'check_capacity',
  'convert',
  'densify',
  'first_step',
  'get_patterns',
  'grow_candidates',
  'growth_sizes',
  'growth_when_due',
  'handler',
  'init',
  'join',
  'lecun_normal',
  'resize',
)

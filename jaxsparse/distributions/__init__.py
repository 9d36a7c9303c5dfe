"""How a total sparsity is shared out among leaves, to the weight.

A distribution is a function `(leaves, sparsity, scores=None) -> {name: share}`. Those
that look at shapes return sparsities as Python floats such that
`round((1 - s) * size)` weights are kept in each leaf, and
`round((1 - sparsity) * total)` in all of them. Those that read scores return int32
counts of kept weights, which sum to the same total and may be traced. Either result,
as it is or edited, is a mapping that `sparsity=` of a transform takes.
"""

from jaxsparse.distributions._fixing import fixing, uniform_plus
from jaxsparse.distributions._scores import global_pool, lamp
from jaxsparse.distributions._shapes import er, erk, uniform

__all__ = (
  'er',
  'erk',
  'fixing',
  'global_pool',
  'lamp',
  'uniform',
  'uniform_plus',
)

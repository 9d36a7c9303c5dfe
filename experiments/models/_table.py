"""Embedding tables: dense, of two hashed parts, with learned soft thresholds."""

from flax import linen as nn
import jax
import jax.numpy as jnp

TABLES = ('dense', 'hashed', 'hashed_sum', 'soft')


class Table(nn.Module):
  """A vector for each of `num` indices.

  Attributes:
    num: rows.
    features: columns.
    kind: `'dense'`; `'hashed'`: row i is `Q[i // m] * R[i % m]`, elementwise, with m
      remainders (Shi et al. 2020, arXiv 1909.02107, section 3), `'hashed_sum'`: their
      sum; `'soft'`: row i is
      `sign(v) max(|v| - sigmoid(s), 0)` with a threshold s for every weight (Liu et al.
      2021, PEP, arXiv 2101.07577, equation 4).
    remainders: m.
    stddev: of the initial rows.
    threshold: the initial s.

  Raises:
    ValueError: an unknown kind, or fewer than one remainder.

  Example:
    >>> import jax
    >>> from experiments import models
    >>> table = models.Table(10, 4, kind='hashed', remainders=3)
    >>> params = jax.eval_shape(table.init, jax.random.key(0))['params']
    >>> [params[name]['embedding'].shape for name in ('quotient', 'remainder')]
    [(4, 4), (3, 4)]
  """

  num: int
  features: int
  kind: str = 'dense'
  remainders: int = 0
  stddev: float = 0.05
  threshold: float = -15.0

  def setup(self):
    if self.kind not in TABLES:
      raise ValueError(f'table: got {self.kind!r}, wanted one of {", ".join(TABLES)}.')
    normal = nn.initializers.normal
    if self.kind.startswith('hashed'):
      if self.remainders < 1:
        raise ValueError(f'table: remainders={self.remainders}, wanted at least 1.')
      # The product, or the sum, has the deviation that is asked for.
      part = self.stddev * 0.5**0.5 if self.kind == 'hashed_sum' else self.stddev**0.5
      make = lambda num: nn.Embed(num, self.features, embedding_init=normal(part))
      self.quotient = make(-(-self.num // self.remainders))
      self.remainder = make(min(self.remainders, self.num))
      return
    shape = (self.num, self.features)
    self.embedding = self.param('embedding', normal(self.stddev), shape)
    if self.kind == 'soft':
      init = nn.initializers.constant(self.threshold)
      self.thresholds = self.param('threshold', init, shape)

  def __call__(self, indices=None):
    """The rows of `indices`, (..., features); all of them for None."""
    take = lambda x: x if indices is None else jnp.take(x, indices, axis=0)
    if self.kind.startswith('hashed'):
      indices = jnp.arange(self.num) if indices is None else indices
      rest = self.remainder(indices % self.remainders)
      quotient = self.quotient(indices // self.remainders)
      return quotient + rest if self.kind == 'hashed_sum' else quotient * rest
    rows = take(self.embedding)
    if self.kind == 'dense':
      return rows
    size = jnp.abs(rows) - jax.nn.sigmoid(take(self.thresholds))
    return jnp.sign(rows) * jnp.maximum(size, 0.0)

"""Runs an unmodified Flax model whose kernels need not be arrays."""

from jaxsparse.layers._bind import bind
from jaxsparse.layers._product import Handler, Product

__all__ = (
  'Handler',
  'Product',
  'bind',
)

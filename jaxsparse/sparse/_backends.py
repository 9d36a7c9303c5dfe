"""Who computes a product: the kernels, or plain jnp."""

import math

import jax

from jaxsparse import native
from jaxsparse.sparse import _cpu, _patterns, _reference

MODULES = {'cpu': _cpu, 'reference': _reference}
_ANY = math.inf
# The sparsity from which the kernels beat a dense product, by measurement (matmul 1024
# wide, convolutions 3x3 of 64 to 512 features): for a batch below each size. A batch of
# less than one vector costs as much as a whole one.
_BREAK_EVEN = {
  ('matmul', False): {8: 0.88, _ANY: 0.3},
  ('matmul', True): {8: 0.75, _ANY: 0.3},
  ('conv', False): {8: 0.97, 16: 0.9, _ANY: 0.6},
  ('conv', True): {8: 0.97, 16: 0.9, _ANY: 0.6},
}


def choose_backend(
  pattern: _patterns.Pattern, batch: int, product: str = 'matmul'
) -> str:
  """Which implementation a product takes where it is traced.

  `'cpu'`, the C++ kernels, where they are available, see arrays of one device, and were
  measured to be faster than a dense product; else `'reference'`, plain jnp.

  Args:
    pattern: the pattern of the weight; its capacity tells the sparsity.
    batch: how many products; of a convolution, images times the columns of each.
    product: `'matmul'` or `'conv'`.

  Returns:
    `'cpu'` or `'reference'`.

  Raises:
    ValueError: another product.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> fmt = js.sparse.Format((4, 4))
    >>> full = js.sparse.pattern_of(jnp.ones((4, 4), bool), fmt, 16)
    >>> js.sparse.choose_backend(full, 128)
    'reference'
  """
  fmt = pattern.format
  break_even = _BREAK_EVEN.get((product, fmt.block > 1))
  if break_even is None:
    raise ValueError(f"product={product!r}: wanted 'matmul' or 'conv'.")
  batch = _reference.expected(batch)
  wanted = next(sparsity for size, sparsity in break_even.items() if batch < size)
  pays = 1 - _patterns.density_of(pattern) >= wanted
  usable = native.available() and native.stays_whole()
  return 'cpu' if pays and _has_kernel(fmt, product) and usable else 'reference'


def pick(
  given: str | None, pattern: _patterns.Pattern, batch: int, product: str = 'matmul'
) -> str:
  """The backend that is asked for, if it can be used, or the best one."""
  if given is None:
    return choose_backend(pattern, batch, product)
  if given not in MODULES:
    raise ValueError(f'backend={given!r}: wanted one of {tuple(MODULES)}, or None.')
  if given == 'cpu':
    _require_cpu(pattern.format, product)
  return given


def _has_kernel(fmt, product):
  return product == 'conv' or fmt.block == 1 or fmt.block % 4 == 0


def _require_cpu(fmt, product):
  if not native.available():
    raise ValueError(f"backend='cpu': {native.why_not()}.")
  if not _has_kernel(fmt, product):
    raise ValueError(
      f"backend='cpu': block={fmt.block}; the kernels have 1 and multiples of 4."
    )


def plain(pattern):
  """The arrays of a pattern out of what `symbolic_zeros` wraps them in."""
  return jax.tree.map(
    lambda p: p.value, pattern, is_leaf=lambda p: hasattr(p, 'perturbed')
  )

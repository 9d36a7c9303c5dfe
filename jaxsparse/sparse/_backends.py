"""Who computes a product: the kernels, or plain jnp."""

from collections.abc import Callable
import functools
import math
import types
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

from jaxsparse import native
from jaxsparse.sparse import _cpu, _pallas, _patterns, _reference

MODULES: dict[str, Any] = {'cpu': _cpu, 'pallas': _pallas, 'reference': _reference}
_ANY = math.inf
# The sparsity from which the kernels beat a dense product, by measurement (matmul 1024
# wide, convolutions 3x3 of 64 to 512 features): for a batch below each size. A batch of
# less than one vector costs as much as a whole one. For N:M only the forward product
# has a kernel, without tiles; at 2:4 it loses. Single weights: on Zen 5, by
# benchmarks/break_even.py; on Zen 4, whose dense product is slower, they won from 30 % on.
_NEVER = 2.0
_BREAK_EVEN = {
  ('matmul', 'single'): {8: 0.9, 32: 0.8, _ANY: 0.5},
  ('matmul', 'blocks'): {8: 0.75, _ANY: 0.3},
  ('matmul', 'N:M'): {8: _NEVER, _ANY: 0.7},
  ('conv', 'single'): {8: 0.97, 16: 0.9, _ANY: 0.6},
  ('conv', 'blocks'): {8: 0.97, 16: 0.9, _ANY: 0.6},
  ('conv', 'N:M'): {_ANY: _NEVER},
}
# The same for Pallas, on an H200: blocks from 32x32 on, in products from 4096x4096 with
# a batch of 512 on. In smaller ones little is gained; for other formats a GPU's dense
# product is faster.
_PALLAS_BREAK_EVEN = 0.95
_PALLAS_SIDE = 32
_PALLAS_WORK = 2**33
_WITH_PALLAS = ('cuda', 'gpu', 'rocm')


def choose_backend(
  pattern: _patterns.AnyPattern, batch: int, product: str = 'matmul'
) -> str:
  """Which implementation a product takes where it is traced.

  `'cpu'`, the C++ kernels, or on a GPU `'pallas'`, where they are available, see arrays
  of one device, and were measured to be faster than a dense product; else
  `'reference'`, plain jnp, which on a GPU or TPU is a dense product with the masked
  weight.

  Args:
    pattern: the pattern of the weight; its capacity tells the sparsity.
    batch: how many products; of a convolution, images times the columns of each.
    product: `'matmul'` or `'conv'`.

  Returns:
    `'cpu'`, `'pallas'` or `'reference'`.

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
  kind = 'N:M' if fmt.nm else 'blocks' if fmt.block > 1 else 'single'
  break_even = _BREAK_EVEN.get((product, kind))
  if break_even is None:
    raise ValueError(f"product={product!r}: wanted 'matmul' or 'conv'.")
  sparsity = 1 - _patterns.density_of(pattern)
  # Plain jnp is split over devices by XLA, the call of a kernel is not.
  if not native.stays_whole():
    return 'reference'
  if jax.default_backend() in _WITH_PALLAS:
    large = _reference.expected(batch) * fmt.inputs * fmt.outputs >= _PALLAS_WORK
    full = min(fmt.block, fmt.depth) >= _PALLAS_SIDE
    pays = large and full and sparsity >= _PALLAS_BREAK_EVEN
    return 'pallas' if pays and not _pallas.why_not(fmt, product) else 'reference'
  batch = _reference.expected(batch)
  wanted = next(least for size, least in break_even.items() if batch < size)
  has_kernel = native.available() and not _cpu.why_not(fmt, product)
  return 'cpu' if sparsity >= wanted and has_kernel else 'reference'


def pick(
  given: str | None, pattern: _patterns.AnyPattern, batch: int, product: str = 'matmul'
) -> str:
  """The backend that is asked for, if it can be used, or the best one.

  `'automatic pallas'` is for `module`: what nobody has asked for is not interpreted.
  """
  if given is None:
    chosen = choose_backend(pattern, batch, product)
    return 'automatic pallas' if chosen == 'pallas' else chosen
  if given not in MODULES:
    raise ValueError(f'backend={given!r}: wanted one of {tuple(MODULES)}, or None.')
  reason = None
  if given == 'cpu' and not native.available():
    reason = f'{native.why_not()}'
  elif given == 'cpu':
    reason = _cpu.why_not(pattern.format, product)
  elif given == 'pallas':
    reason = _pallas.why_not(pattern.format, product)
    if jax.default_backend() not in ('cpu', *_WITH_PALLAS):
      reason = f'there are no kernels for a {jax.default_backend()}'
  if reason:
    raise ValueError(f'backend={given!r}: {reason}.')
  return given


def module(backend: str) -> Any:
  """The functions of what `pick` has picked."""
  return _AUTOMATIC_PALLAS if backend == 'automatic pallas' else MODULES[backend]


def _where_there_is_a_gpu(name: str) -> Callable[..., Any]:
  """A function of `_pallas` that is the reference where it is lowered for a CPU."""
  kernel, plain = getattr(_pallas, name), getattr(_reference, name)
  return functools.partial(
    lax.platform_dependent, cuda=kernel, rocm=kernel, default=plain
  )


_AUTOMATIC_PALLAS = types.SimpleNamespace(
  forward=_where_there_is_a_gpu('forward'),
  backward=_where_there_is_a_gpu('backward'),
  take=_reference.take,
  take_backward=_reference.take_backward,
)


def compute_dtype(backend: str, x_dtype, values_dtype) -> Any:
  """The dtype in which a backend wants activations and values; it returns the same.

  Sums are in float32 all the same.
  """
  dtype = jnp.result_type(x_dtype, values_dtype)
  # The C++ kernels have float32 only.
  halves = backend != 'cpu' and ('pallas' in backend or jax.default_backend() != 'cpu')
  if halves and dtype in (jnp.bfloat16, jnp.float16):
    return dtype
  return jnp.dtype(jnp.float32)


def plain(pattern):
  """The arrays of a pattern out of what `symbolic_zeros` wraps them in."""
  return jax.tree.map(
    lambda p: p.value, pattern, is_leaf=lambda p: hasattr(p, 'perturbed')
  )

"""The product with a sparse weight, its gradients, and who computes it."""

import functools
import math

import jax
from jax.custom_derivatives import SymbolicZero
import jax.numpy as jnp

from jaxsparse import native
from jaxsparse.sparse import _arrays, _cpu, _patterns, _reference

_BACKENDS = {'cpu': _cpu, 'reference': _reference}
# The sparsity from which the kernels beat a dense product, by measurement.
_BREAK_EVEN = 0.25
_BREAK_EVEN_OF_ONE = 0.8


def matmul(
  x: jax.Array, weight: _arrays.SparseArray, *, backend: str | None = None
) -> jax.Array:
  r"""The product of activations with a sparse weight, differentiable in both.

  .. math:: y_{b,o} = \sum_i x_{b,i} W_{i,o}

  The gradient of the weight is computed where it has values, nowhere else; that of
  padding is 0. Only reverse mode is supported. Half-precision values and activations
  are accepted; products and sums are in float32.

  Args:
    x: float array (..., *inputs), its last axes the input axes of the weight.
    weight: a `SparseArray`.
    backend: `'cpu'`, `'reference'`, or None for what `choose_backend` says.

  Returns:
    Array (..., *outputs) of the promoted dtype.

  Raises:
    ValueError: x has other axes, or is no float array; the backend is unknown, or
      cannot be used.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> weight = js.sparse.from_mask(jnp.array([[1., 2.], [3., 4.]]),
    ...                              jnp.array([[True, False], [True, True]]))
    >>> js.sparse.matmul(jnp.array([[1., 10.]]), weight).tolist()
    [[31.0, 40.0]]
  """
  x, fmt = jnp.asarray(x), weight.pattern.format
  lead = x.shape[: x.ndim - len(fmt.in_shape)]
  if x.shape[len(lead) :] != fmt.in_shape or not jnp.issubdtype(x.dtype, jnp.floating):
    raise ValueError(
      f'x: {x.dtype} of shape {x.shape}; wanted floats (..., '
      f'{", ".join(map(str, fmt.in_shape))}) for a weight of shape {fmt.shape}.'
    )
  batch = math.prod(lead)
  if backend is None:
    backend = choose_backend(weight.pattern, batch)
  elif backend not in _BACKENDS:
    raise ValueError(f'backend={backend!r}: wanted one of {tuple(_BACKENDS)}, or None.')
  elif backend == 'cpu':
    _require_cpu(fmt)
  dtype = jnp.result_type(x.dtype, weight.values.dtype)
  y = _matmul(
    backend,
    x.reshape(batch, fmt.inputs).astype(jnp.float32),
    weight.values.astype(jnp.float32),
    weight.pattern,
  )
  return y.reshape(*lead, *fmt.out_shape).astype(dtype)


def choose_backend(pattern: _patterns.Pattern, batch: int) -> str:
  """Which implementation `matmul` takes where it is traced.

  `'cpu'`, the C++ kernels, where they are available, see arrays of one device, and were
  measured to be faster than a dense product; else `'reference'`, plain jnp.

  Args:
    pattern: the pattern of the weight; its capacity tells the sparsity.
    batch: how many products.

  Returns:
    `'cpu'` or `'reference'`.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> fmt = js.sparse.Format((4, 4))
    >>> full = js.sparse.pattern_of(jnp.ones((4, 4), bool), fmt, 16)
    >>> js.sparse.choose_backend(full, 128)
    'reference'
  """
  fmt = pattern.format
  sparsity = 1 - _patterns.density_of(pattern)
  single = batch == 1 and fmt.block == 1
  pays = sparsity >= (_BREAK_EVEN_OF_ONE if single else _BREAK_EVEN)
  usable = pays and _has_kernel(fmt) and native.available() and native.stays_whole()
  return 'cpu' if usable else 'reference'


def _has_kernel(fmt):
  return fmt.block == 1 or fmt.block % 4 == 0


def _require_cpu(fmt):
  if not native.available():
    raise ValueError(f"backend='cpu': {native.why_not()}.")
  if not _has_kernel(fmt):
    raise ValueError(
      f"backend='cpu': block={fmt.block}; the kernels have 1 and multiples of 4."
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _matmul(backend, x, values, pattern):
  return _BACKENDS[backend].forward(values, pattern, x)


def _matmul_forward(backend, x, values, pattern):
  y = _BACKENDS[backend].forward(values.value, _plain(pattern), x.value)
  # What nobody differentiates is not computed: dx of a first layer, dW of a frozen one.
  saved_x = x.value if values.perturbed else None
  saved_values = values.value if x.perturbed else None
  return y, (saved_x, saved_values, _plain(pattern))


def _matmul_backward(backend, saved, dy):
  x, values, pattern = saved
  if isinstance(dy, SymbolicZero) or (x is None and values is None):
    return None, None, None
  dx, dvalues = _BACKENDS[backend].backward(values, pattern, x, dy)
  return dx, dvalues, None


def _plain(pattern):
  """The arrays of a pattern out of what `symbolic_zeros` wraps them in."""
  return jax.tree.map(
    lambda p: p.value, pattern, is_leaf=lambda p: hasattr(p, 'perturbed')
  )


_matmul.defvjp(_matmul_forward, _matmul_backward, symbolic_zeros=True)

"""The products with a sparse weight, their gradients, and who computes them."""

import functools
import math

import jax
from jax.custom_derivatives import SymbolicZero
import jax.numpy as jnp
import numpy as np

from jaxsparse import native
from jaxsparse.sparse import _arrays, _cpu, _patterns, _reference

_BACKENDS = {'cpu': _cpu, 'reference': _reference}
# The sparsity from which the kernels beat a dense product, by measurement (1024 wide).
# A batch of less than one vector costs as much as a whole one.
_BREAK_EVEN = 0.3
_SMALL_BATCH = 8
_BREAK_EVEN_SMALL = {'weights': 0.88, 'blocks': 0.75}


def matmul(
  x: jax.Array,
  weight: _arrays.SparseArray,
  *,
  transpose: bool = False,
  backend: str | None = None,
) -> jax.Array:
  r"""The product of activations with a sparse weight, differentiable in both.

  .. math:: y_{b,o} = \sum_i x_{b,i} W_{i,o}
    \quad\text{or, transposed,}\quad y_{b,i} = \sum_o x_{b,o} W_{i,o}

  The gradient of the weight is computed where it has values, nowhere else; that of
  padding is 0. Only reverse mode is supported. Half-precision values and activations
  are accepted; products and sums are in float32.

  Args:
    x: float array (..., *inputs), its last axes the input axes of the weight; the
      output axes if `transpose`.
    weight: a `SparseArray`.
    transpose: contracts the outputs of the weight, as a tied embedding does.
    backend: `'cpu'`, `'reference'`, or None for what `choose_backend` says.

  Returns:
    Array (..., *outputs), or (..., *inputs), of the promoted dtype.

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
  sides = fmt.in_shape, fmt.out_shape
  given, wanted = sides[::-1] if transpose else sides
  lead = x.shape[: x.ndim - len(given)]
  if x.shape[len(lead) :] != given or not jnp.issubdtype(x.dtype, jnp.floating):
    raise ValueError(
      f'x: {x.dtype} of shape {x.shape}; wanted floats (..., '
      f'{", ".join(map(str, given))}) for a weight of shape {fmt.shape}.'
    )
  batch = math.prod(lead)
  backend = _backend(backend, weight.pattern, batch)
  dtype = jnp.result_type(x.dtype, weight.values.dtype)
  y = _matmul(
    backend,
    transpose,
    x.reshape(batch, math.prod(given)).astype(jnp.float32),
    weight.values.astype(jnp.float32),
    weight.pattern,
  )
  return y.reshape(*lead, *wanted).astype(dtype)


def take(
  weight: _arrays.SparseArray, ids: jax.Array, *, backend: str | None = None
) -> jax.Array:
  """Rows of a sparse table, differentiable in its values: an embedding.

  Args:
    weight: a `SparseArray` with one input axis, that of the rows.
    ids: integer array of any shape. Negative ones count from the end; a row that does
      not exist is NaN, as in `jnp.take`.
    backend: `'cpu'`, `'reference'` (which makes the table dense), or None.

  Returns:
    Array (*ids.shape, *outputs) of the dtype of the values.

  Raises:
    ValueError: ids are no integers, the weight has several input axes, or the backend
      cannot be used.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> table = js.sparse.from_mask(jnp.array([[1., 2.], [3., 4.]]),
    ...                             jnp.array([[True, False], [True, True]]))
    >>> js.sparse.take(table, jnp.array([1, 0])).tolist()
    [[3.0, 4.0], [1.0, 0.0]]
  """
  ids, fmt = jnp.asarray(ids), weight.pattern.format
  if not jnp.issubdtype(ids.dtype, jnp.integer):
    raise ValueError(f'ids: dtype {ids.dtype}; wanted integers.')
  if fmt.in_axes != 1:
    raise ValueError(
      f'weight: {fmt.in_axes} input axes of shape {fmt.shape}; wanted one.'
    )
  flat = ids.reshape(-1).astype(jnp.int32)
  flat = jnp.where(flat < 0, flat + np.int32(fmt.inputs), flat)
  # Rows are read one by one, so that one id is no special case.
  backend = _backend(backend, weight.pattern, _SMALL_BATCH)
  values = weight.values.astype(jnp.float32)
  rows = _take(backend, values, weight.pattern, flat)
  return rows.reshape(*ids.shape, *fmt.out_shape).astype(weight.values.dtype)


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
  kind = 'weights' if fmt.block == 1 else 'blocks'
  small = batch < _SMALL_BATCH
  pays = sparsity >= (_BREAK_EVEN_SMALL[kind] if small else _BREAK_EVEN)
  usable = pays and _has_kernel(fmt) and native.available() and native.stays_whole()
  return 'cpu' if usable else 'reference'


def _backend(given, pattern, batch):
  """The backend that is asked for, if it can be used, or the best one."""
  if given is None:
    return choose_backend(pattern, batch)
  if given not in _BACKENDS:
    raise ValueError(f'backend={given!r}: wanted one of {tuple(_BACKENDS)}, or None.')
  if given == 'cpu':
    _require_cpu(pattern.format)
  return given


def _has_kernel(fmt):
  return fmt.block == 1 or fmt.block % 4 == 0


def _require_cpu(fmt):
  if not native.available():
    raise ValueError(f"backend='cpu': {native.why_not()}.")
  if not _has_kernel(fmt):
    raise ValueError(
      f"backend='cpu': block={fmt.block}; the kernels have 1 and multiples of 4."
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _matmul(backend, transpose, x, values, pattern):
  if transpose:
    return _BACKENDS[backend].backward(values, pattern, None, x)[0]
  return _BACKENDS[backend].forward(values, pattern, x)


def _matmul_forward(backend, transpose, x, values, pattern):
  plain = _plain(pattern)
  y = _matmul(backend, transpose, x.value, values.value, plain)
  # What nobody differentiates is not computed: dx of a first layer, dW of a frozen one.
  saved_x = x.value if values.perturbed else None
  saved_values = values.value if x.perturbed else None
  return y, (saved_x, saved_values, plain)


def _matmul_backward(backend, transpose, saved, dy):
  x, values, pattern = saved
  if isinstance(dy, SymbolicZero) or (x is None and values is None):
    return None, None, None
  which = _BACKENDS[backend]
  if not transpose:
    dx, dvalues = which.backward(values, pattern, x, dy)
    return dx, dvalues, None
  # x and dy change their roles.
  dx = None if values is None else which.forward(values, pattern, dy)
  dvalues = None if x is None else which.backward(None, pattern, dy, x)[1]
  return dx, dvalues, None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _take(backend, values, pattern, ids):
  return _BACKENDS[backend].take(values, pattern, ids)


def _take_forward(backend, values, pattern, ids):
  return _BACKENDS[backend].take(values, pattern, ids), (pattern, ids)


def _take_backward(backend, saved, dy):
  return _BACKENDS[backend].take_backward(*saved, dy), None, None


def _plain(pattern):
  """The arrays of a pattern out of what `symbolic_zeros` wraps them in."""
  return jax.tree.map(
    lambda p: p.value, pattern, is_leaf=lambda p: hasattr(p, 'perturbed')
  )


_matmul.defvjp(_matmul_forward, _matmul_backward, symbolic_zeros=True)
_take.defvjp(_take_forward, _take_backward)

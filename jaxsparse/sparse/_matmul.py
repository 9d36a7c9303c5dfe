"""Products with a sparse weight, and their gradients."""

import functools
import math

import jax
from jax.custom_derivatives import SymbolicZero
import jax.numpy as jnp
import numpy as np

from jaxsparse.sparse import _arrays, _backends

# Rows of a table are read one by one, so that one id is no special case.
_MANY = 128


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
  are accepted; sums are in float32, on a CPU products too. On a GPU the products of
  float32 are as precise as `jax.default_matmul_precision` says.

  Args:
    x: float array (..., *inputs), its last axes the input axes of the weight; the
      output axes if `transpose`.
    weight: a `SparseArray`.
    transpose: contracts the outputs of the weight, as a tied embedding does.
    backend: `'cpu'`, `'pallas'`, `'reference'`, or None for what `choose_backend` says.

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
  backend = _backends.pick(backend, weight.pattern, batch)
  dtype = jnp.result_type(x.dtype, weight.values.dtype)
  within = _backends.compute_dtype(backend, x.dtype, weight.values.dtype)
  y = _matmul(
    backend,
    transpose,
    x.reshape(batch, math.prod(given)).astype(within),
    weight.values.astype(within),
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
    backend: `'cpu'`, `'reference'` (which makes the table dense), or None; for
      `'pallas'` it is the reference.

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
  backend = _backends.pick(backend, weight.pattern, _MANY)
  values = weight.values.astype(jnp.float32)
  rows = _take(backend, values, weight.pattern, flat)
  return rows.reshape(*ids.shape, *fmt.out_shape).astype(weight.values.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _matmul(backend, transpose, x, values, pattern):
  if transpose:
    return _backends.module(backend).backward(values, pattern, None, x)[0]
  return _backends.module(backend).forward(values, pattern, x)


def _matmul_forward(backend, transpose, x, values, pattern):
  # With symbolic_zeros every leaf comes wrapped, those of the pattern too.
  plain = _backends.plain(pattern)
  y = _matmul(backend, transpose, x.value, values.value, plain)
  # What nobody differentiates is not computed: dx of a first layer, dW of a frozen one.
  saved_x = x.value if values.perturbed else None
  saved_values = values.value if x.perturbed else None
  return y, (saved_x, saved_values, plain)


def _matmul_backward(backend, transpose, saved, dy):
  x, values, pattern = saved
  if isinstance(dy, SymbolicZero) or (x is None and values is None):
    # To jax, None is a gradient of zeros that nobody makes.
    return None, None, None
  which = _backends.module(backend)
  if not transpose:
    dx, dvalues = which.backward(values, pattern, x, dy)
    return dx, dvalues, None
  # x and dy change their roles.
  dx = None if values is None else which.forward(values, pattern, dy)
  dvalues = None if x is None else which.backward(None, pattern, dy, x)[1]
  return dx, dvalues, None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _take(backend, values, pattern, ids):
  return _backends.module(backend).take(values, pattern, ids)


def _take_forward(backend, values, pattern, ids):
  return _backends.module(backend).take(values, pattern, ids), (pattern, ids)


def _take_backward(backend, saved, dy):
  return _backends.module(backend).take_backward(*saved, dy), None, None


_matmul.defvjp(_matmul_forward, _matmul_backward, symbolic_zeros=True)
_take.defvjp(_take_forward, _take_backward)

"""What stays dense between sparse layers: narrow layers, and biases.

The kernels hold activations feature by feature. Where XLA multiplies such by a dense
head, or sums their gradients up for a bias, it transposes them, and slowly. So the
kernels do this too, as products with patterns that are full.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsparse import native, sparse

# Measured: heads of that many outputs gain; wide layers are XLA's.
_NARROW = 64
_MOST = 2**16
_FEWEST = 16


def multiply(backend, product, kernel, x):
  """The product of a layer whose kernel is an array."""
  (x_axes, kernel_axes), batch_axes = product.options['dimension_numbers']
  plain = (*x_axes, *kernel_axes) == (x.ndim - 1, 0) and not any(map(len, batch_axes))
  narrow = kernel.ndim == 2 and kernel.shape[1] <= _NARROW and kernel.size <= _MOST
  if not (plain and narrow and _has_kernels(backend, x, kernel)):
    return product.apply(x, kernel)
  # Values stand output by output, as in every pattern without tiles.
  weight = sparse.SparseArray(kernel.T.reshape(-1), _full(*kernel.shape))
  return sparse.matmul(x, weight, backend='cpu')


def add_bias(backend, y, bias):
  """The bias of a sparse layer, added."""
  if bias.ndim != 1 or not bias.size or not _has_kernels(backend, y, bias):
    return y + bias.reshape((1,) * (y.ndim - 1) + bias.shape)
  return _add_bias(y, bias)


def _has_kernels(backend, x, array) -> bool:
  if backend not in (None, 'cpu') or not native.available():
    return False
  asked = backend == 'cpu' or native.stays_whole()
  # What `jax.export` leaves open is no int.
  known = x.ndim > 1 and all(isinstance(n, int) for n in x.shape)
  many = known and x.size >= _FEWEST * max(x.shape[-1], 1)
  return asked and many and x.dtype == array.dtype == jnp.float32


@jax.custom_vjp
def _add_bias(y, bias):
  return y + bias.reshape((1,) * (y.ndim - 1) + bias.shape)


def _add_bias_forward(y, bias):
  return _add_bias(y, bias), None


def _add_bias_backward(_, dy):
  # The gradient of the weights of an input that is always 1.
  flat = dy.reshape(-1, dy.shape[-1])
  ones, full = jnp.ones((flat.shape[0], 1), dy.dtype), _full(1, flat.shape[1])

  def product(values):
    return sparse.matmul(ones, sparse.SparseArray(values, full), backend='cpu')

  _, pull = jax.vjp(product, jnp.zeros(flat.shape[1], dy.dtype))
  return dy, *pull(flat)


_add_bias.defvjp(_add_bias_forward, _add_bias_backward)


@functools.cache
def _full(inputs: int, outputs: int) -> sparse.Pattern:
  """The pattern of all weights, in arrays that are not traced."""
  fmt = sparse.Format((inputs, outputs))
  grid = np.arange(inputs * outputs, dtype=np.int32).reshape(outputs, inputs)
  arrays: dict[str, Any] = dict(
    starts=np.arange(outputs + 1, dtype=np.int32) * np.int32(inputs),
    inputs=np.tile(np.arange(inputs, dtype=fmt.input_dtype), outputs),
    back_starts=np.arange(inputs + 1, dtype=np.int32) * np.int32(outputs),
    back_rows=np.tile(np.arange(outputs, dtype=fmt.row_dtype), inputs),
    order=np.ascontiguousarray(grid.T).reshape(-1),
  )
  return sparse.Pattern(**arrays, format=fmt)

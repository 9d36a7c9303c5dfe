"""The products as calls of the C++ kernels.

The kernels take activations feature-major, (features, batch). The transpositions around
a call cost nothing between two of them: XLA gives what lies between, biases and
nonlinearities, the layout that makes a transposition another view.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxsparse.sparse import _formats, _nm, _reference


def why_not(fmt: _formats.Format, product: str = 'matmul') -> str | None:
  """Why there is no kernel for a format; None if there is one."""
  if product == 'matmul' and fmt.block > 1 and fmt.block % 4:
    return f'block={fmt.block}; the kernels have 1 and multiples of 4'
  return None


def forward(values, pattern, x):
  """x W: float32 (batch, outputs)."""
  fmt = pattern.format
  call = jax.ffi.ffi_call(
    'jaxsparse_forward',
    jax.ShapeDtypeStruct((fmt.outputs, x.shape[0]), jnp.float32),
    # The kernels take no leading axes: under vmap they are called one by one.
    vmap_method='sequential',
  )
  y = call(
    *_by_output(values, pattern),
    x.T,
    # NumPy scalars: the type of an attribute is part of the call's signature.
    input_tiles=np.int64(fmt.input_tiles),
    block=np.int64(fmt.block),
  )
  return y.T


def backward(values, pattern, x, dy):
  """`(dy W', x' dy on the pattern)`; without x or without values that half is None."""
  fmt = pattern.format
  if fmt.nm is not None:
    # The weights of one input are not together: there is no order to go back in.
    return _reference.backward(values, pattern, x, dy)
  dx = jax.ShapeDtypeStruct((fmt.inputs, dy.shape[0]), jnp.float32)
  dvalues = jax.ShapeDtypeStruct((pattern.capacity * fmt.block,), jnp.float32)
  places = (pattern.back_starts, pattern.back_rows, pattern.order)
  if values is None:
    return None, _call(fmt, 'jaxsparse_backward_values', dvalues, *places, x.T, dy.T)
  if x is None:
    return _call(fmt, 'jaxsparse_backward_x', dx, values, *places, dy.T).T, None
  results = (dx, dvalues)
  dx, dvalues = _call(fmt, 'jaxsparse_backward', results, values, *places, x.T, dy.T)
  return dx.T, dvalues


def take(values, pattern, ids):
  """Rows of W: float32 (n, outputs)."""
  fmt = pattern.format
  if fmt.nm is not None:
    return _reference.take(values, pattern, ids)
  # An input is a row of the table; the backward order has its weights together.
  places = (pattern.back_starts, pattern.back_rows, pattern.order)
  result = jax.ShapeDtypeStruct((ids.shape[0], fmt.outputs), jnp.float32)
  return _call(fmt, 'jaxsparse_take', result, values, *places, ids)


def take_backward(pattern, ids, dy):
  """The gradient of the values of `take`."""
  fmt = pattern.format
  if fmt.nm is not None:
    return _reference.take_backward(pattern, ids, dy)
  places = (pattern.back_starts, pattern.back_rows, pattern.order)
  result = jax.ShapeDtypeStruct((pattern.capacity * fmt.block,), jnp.float32)
  return _call(fmt, 'jaxsparse_take_backward', result, *places, ids, dy)


def conv(values, pattern, x, geometry):
  """The convolution of images (n, h, w, c), in the layout that they have in Flax."""
  fmt = pattern.format
  call = jax.ffi.ffi_call(
    'jaxsparse_conv_forward',
    jax.ShapeDtypeStruct(geometry.y_shape, jnp.float32),
    vmap_method='sequential',
  )
  return call(
    *_by_output(values, pattern),
    x,
    input_tiles=np.int64(fmt.input_tiles),
    block=np.int64(fmt.block),
    sizes=_sizes(geometry),
  )


def conv_backward(values, pattern, x, dy, geometry):
  """`(dx, dvalues)`; without x or without values that half is None."""
  fmt, name = pattern.format, 'jaxsparse_conv_backward'
  if fmt.nm is not None:
    return _reference.conv_backward(values, pattern, x, dy, geometry)
  dx = jax.ShapeDtypeStruct(geometry.x_shape, jnp.float32)
  dvalues = jax.ShapeDtypeStruct((pattern.capacity * fmt.block,), jnp.float32)
  places = (pattern.back_starts, pattern.back_rows, pattern.order)
  options = {'sizes': _sizes(geometry)}
  if values is None:
    return None, _call(fmt, f'{name}_values', dvalues, *places, x, dy, **options)
  if x is None:
    return _call(fmt, f'{name}_x', dx, values, *places, dy, **options), None
  return _call(fmt, name, (dx, dvalues), values, *places, x, dy, **options)


def _by_output(values, pattern):
  """Values, starts and inputs of the rows of the forward order."""
  fmt = pattern.format
  if fmt.nm is None:
    return values, pattern.starts, pattern.inputs
  # As many weights for each output: their starts need no memory.
  inputs, valid = _nm.sources(pattern)
  starts = np.arange(fmt.outputs + 1, dtype=np.int32) * np.int32(inputs.shape[1])
  # What is no weight points at input 0, so its value has to be 0.
  values = jnp.where(valid, values.reshape(valid.shape), jnp.zeros((), values.dtype))
  return values.reshape(-1), starts, inputs.reshape(-1)


def _sizes(geometry):
  """The taps of a kernel, the strides, and what is padded before the first place."""
  before = [pair[0] for pair in geometry.padding]
  return np.array([*geometry.kernel, *geometry.strides, *before], np.int64)


def _call(fmt, name, results, *args, **options):
  call = jax.ffi.ffi_call(name, results, vmap_method='sequential')
  tiles = dict(row_tiles=np.int64(fmt.row_tiles), block=np.int64(fmt.block))
  return call(*args, **tiles, **options)

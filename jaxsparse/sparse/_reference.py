"""The products in plain jnp: what is right, and what runs everywhere.

Where a weight is dense enough, a dense product is the fastest that jnp has; on a GPU or
TPU it always is, while the dense weight fits. Else rows of activations are gathered and
added up, a few thousand weights at a time, so that they stay in a cache.
"""

import jax
from jax import export, lax
import jax.numpy as jnp

from jaxsparse.sparse import _patterns

# Measured on a CPU: below it, gathering wins.
_DENSE_FROM = 0.11
# Floats that are gathered at a time; a GPU or TPU wants more work at once.
_CHUNK = 2**16
_LARGE_CHUNK = 2**24
# Weights of a dense matrix that a GPU or TPU makes: a GiB of float32.
_DENSE_UP_TO = 2**28


def forward(values, pattern, x):
  """x W: (batch, outputs), in the dtype of x and from float32 sums."""
  fmt = pattern.format
  if _is_dense(pattern):
    return _dot(x, _matrix(values, pattern))
  inputs, outputs, valid = _patterns.places(pattern)
  values = jnp.where(valid, values, jnp.zeros((), values.dtype))
  # Feature-major: a gathered row is what one weight meets in the whole batch.
  return _spread(x.T, inputs, outputs, values, fmt.outputs).T


def backward(values, pattern, x, dy):
  """`(dy W', x' dy on the pattern)`; without x or without values that half is None."""
  fmt = pattern.format
  dx = dvalues = None
  if _is_dense(pattern):
    if values is not None:
      dx = _dot(dy, _matrix(values, pattern).T)
    if x is not None:
      dvalues = _patterns.gather(_dot(x.T, dy).reshape(fmt.shape), pattern)
    return dx, dvalues
  inputs, outputs, valid = _patterns.places(pattern)
  if values is not None:
    values = jnp.where(valid, values, jnp.zeros((), values.dtype))
    dx = _spread(dy.T, outputs, inputs, values, fmt.inputs).T
  if x is not None:
    dvalues = _products(x.T, dy.T, inputs, outputs)
    dvalues = jnp.where(valid, dvalues, jnp.zeros((), dvalues.dtype))
  return dx, dvalues


def conv(values, pattern, x, geometry):
  """The convolution with the dense kernel: nothing in jnp is faster at any sparsity."""
  return _dense_conv(geometry, x, _patterns.scatter(values, pattern))


def conv_backward(values, pattern, x, dy, geometry):
  """`(dx, dvalues)`; without x or without values that half is None."""
  fmt = pattern.format
  dx = dvalues = None
  if values is not None:
    kernel = _patterns.scatter(values, pattern)
    shape = jax.ShapeDtypeStruct(geometry.x_shape, dy.dtype)
    # The product is linear in x and in the kernel: a transpose wants no forward pass.
    transposed = jax.linear_transpose(lambda x: _dense_conv(geometry, x, kernel), shape)
    (dx,) = transposed(dy)
  if x is not None:
    shape = jax.ShapeDtypeStruct(fmt.shape, dy.dtype)
    transposed = jax.linear_transpose(lambda w: _dense_conv(geometry, x, w), shape)
    dvalues = _patterns.gather(transposed(dy)[0], pattern)
  return dx, dvalues


def _dense_conv(geometry, x, kernel):
  return lax.conv_general_dilated(
    x,
    kernel,
    geometry.strides,
    geometry.padding,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )


def take(values, pattern, ids):
  """Rows of W: float32 (n, outputs), NaN where there is no such row."""
  # An id that is still negative names no row, and must not count from the end.
  return _matrix(values, pattern).at[ids].get(mode='fill', wrap_negative_indices=False)


def take_backward(pattern, ids, dy):
  """The gradient of the values of `take`."""
  fmt = pattern.format
  dense = jnp.zeros((fmt.inputs, fmt.outputs), dy.dtype)
  dense = dense.at[ids].add(dy, mode='drop', wrap_negative_indices=False)
  return _patterns.gather(dense.reshape(fmt.shape), pattern)


def _dot(a, b):
  return jnp.dot(a, b, preferred_element_type=jnp.float32).astype(a.dtype)


def _is_dense(pattern):
  fmt = pattern.format
  is_many = _patterns.density_of(pattern) >= _DENSE_FROM or fmt.nm is not None
  fits = fmt.inputs * fmt.outputs <= _DENSE_UP_TO
  return is_many or (fits and jax.default_backend() != 'cpu')


def _matrix(values, pattern):
  dense = _patterns.scatter(values, pattern)
  return dense.reshape(pattern.format.inputs, pattern.format.outputs)


def expected(batch) -> int:
  """A batch as a number: one that `jax.export` leaves open is taken to be of 128."""
  return 128 if export.is_symbolic_dim(batch) else batch


def _chunks(arrays, batch):
  """Cuts arrays of one length into (chunks, length), padded with 0."""
  floats = _CHUNK if jax.default_backend() == 'cpu' else _LARGE_CHUNK
  length = max(floats // max(expected(batch), 1), 1)
  size = arrays[0].shape[0]
  length = min(length, max(size, 1))
  padding = -size % length
  return [jnp.pad(a, (0, padding)).reshape(-1, length) for a in arrays]


def _spread(given, sources, targets, values, size):
  """Adds values[k] * given[sources[k]] to row targets[k] of an array of `size` rows."""

  def add(total, chunk):
    source, target, value = chunk
    product = value.astype(wide)[:, None] * given[source].astype(wide)
    return total.at[target].add(product), None

  # A sum of many halves would lose the small ones.
  wide = max(given.dtype, jnp.dtype(jnp.float32), key=lambda d: d.itemsize)
  start = jnp.zeros((size, given.shape[1]), wide)
  # Padding adds 0 to the first row.
  chunks = _chunks([sources, targets, values], given.shape[1])
  total, _ = lax.scan(add, start, tuple(chunks))
  return total.astype(given.dtype)


def _products(left, right, rows, columns):
  """The products left[rows[k]] . right[columns[k]]."""
  row_chunks, column_chunks = _chunks([rows, columns], left.shape[1])
  one = lambda c: jnp.sum(left[c[0]] * right[c[1]], axis=1)
  out = lax.map(one, (row_chunks, column_chunks))
  return out.reshape(-1)[: rows.shape[0]]

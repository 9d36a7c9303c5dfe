"""Convolutions with a sparse kernel, and their gradients."""

from collections.abc import Sequence
import functools
from typing import NamedTuple

import jax
from jax import lax
from jax.custom_derivatives import SymbolicZero
import jax.numpy as jnp

from jaxsparse.sparse import _arrays, _backends


class Geometry(NamedTuple):
  """What is static about a convolution, two numbers for the two axes of an image."""

  kernel: tuple[int, int]
  strides: tuple[int, int]
  padding: tuple[tuple[int, int], tuple[int, int]]
  x_shape: tuple[int, ...]
  y_shape: tuple[int, ...]


def conv(
  weight: _arrays.SparseArray,
  x: jax.Array,
  *,
  strides: int | Sequence[int] = 1,
  padding: str | Sequence[tuple[int, int]] = 'SAME',
  backend: str | None = None,
) -> jax.Array:
  r"""The convolution of images with a sparse kernel, differentiable in both.

  .. math:: y_{n,h,w,o} = \sum_{i,j,c} x_{n,\,sh+i-p,\,sw+j-p,\,c}\, W_{i,j,c,o}

  with strides s and padding p, which is what `nn.Conv` computes. The gradient of the
  kernel is computed where it has values, nowhere else; that of padding is 0. Only
  reverse mode is supported. Half-precision values and images are accepted; on a CPU
  products and sums are in float32. Dilated and grouped convolutions are not: keep those
  dense.

  Args:
    weight: a `SparseArray` of shape (height, width, features in, features out), of
      which the last axis alone is the output, as `Format` has it by default.
    x: float array (batch, height, width, features in).
    strides: one number, or one for each axis of an image.
    padding: `'SAME'`, `'SAME_LOWER'`, `'VALID'`, or `((before, after), (before,
      after))` of the two axes.
    backend: `'cpu'`, `'reference'` (which makes the kernel dense), or None for what
      `choose_backend` says.

  Returns:
    Array (batch, height out, width out, features out) of the promoted dtype.

  Raises:
    ValueError: the weight is no such kernel; x has other axes, or is no float array;
      strides or padding that mean nothing; the backend is unknown, or cannot be used.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> kernel = jnp.ones((3, 3, 1, 1))
    >>> weight = js.sparse.from_mask(kernel, kernel * jnp.eye(3)[..., None, None] > 0)
    >>> x = jnp.arange(9.).reshape(1, 3, 3, 1)
    >>> js.sparse.conv(weight, x, padding='VALID').tolist()
    [[[[12.0]]]]
  """
  x = jnp.asarray(x)
  geometry = _geometry(weight.pattern.format, x, strides, padding)
  batch, _, columns, _ = geometry.y_shape
  backend = _backends.pick(backend, weight.pattern, batch * columns, 'conv')
  dtype = jnp.result_type(x.dtype, weight.values.dtype)
  within = _backends.compute_dtype(backend, x.dtype, weight.values.dtype)
  y = _conv(
    backend,
    geometry,
    x.astype(within),
    weight.values.astype(within),
    weight.pattern,
  )
  return y.astype(dtype)


def _geometry(fmt, x, strides, padding):
  if len(fmt.shape) != 4 or fmt.in_axes != 3:
    raise ValueError(
      f'weight: shape {fmt.shape} with {fmt.in_axes} input axes; wanted (height, width,'
      ' features in, features out) with 3.'
    )
  features = fmt.shape[2]
  floats = jnp.issubdtype(x.dtype, jnp.floating)
  if x.ndim != 4 or x.shape[-1] != features or not floats:
    raise ValueError(
      f'x: {x.dtype} of shape {x.shape}; wanted floats (batch, height, width,'
      f' {features}) for a kernel of shape {fmt.shape}; there are no feature groups.'
    )
  strides = (strides,) * 2 if isinstance(strides, int) else tuple(strides)
  if len(strides) != 2 or min(strides) < 1:
    raise ValueError(f'strides={strides}: wanted one or two positive numbers.')
  kernel = fmt.shape[:2]
  padding = _padding(padding, x.shape[1:3], kernel, strides)
  size = [
    max((n + before + after - k) // stride + 1, 0)
    for n, k, stride, (before, after) in zip(x.shape[1:3], kernel, strides, padding)
  ]
  y_shape = (x.shape[0], *size, fmt.outputs)
  return Geometry(kernel, strides, padding, x.shape, y_shape)


def _padding(given, size, kernel, strides):
  if isinstance(given, str):
    if given.upper() not in ('SAME', 'SAME_LOWER', 'VALID'):
      raise ValueError(f"padding={given!r}: wanted 'SAME', 'SAME_LOWER' or 'VALID'.")
    given = lax.padtype_to_pads(size, kernel, strides, given)
  pairs = tuple(tuple(int(n) for n in pair) for pair in given)
  if [len(pair) for pair in pairs] != [2, 2]:
    raise ValueError(f'padding={given}: wanted two pairs (before, after).')
  return pairs


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _conv(backend, geometry, x, values, pattern):
  return _backends.module(backend).conv(values, pattern, x, geometry)


def _conv_forward(backend, geometry, x, values, pattern):
  plain = _backends.plain(pattern)
  y = _conv(backend, geometry, x.value, values.value, plain)
  # What nobody differentiates is not computed.
  saved_x = x.value if values.perturbed else None
  saved_values = values.value if x.perturbed else None
  return y, (saved_x, saved_values, plain)


def _conv_backward(backend, geometry, saved, dy):
  x, values, pattern = saved
  if isinstance(dy, SymbolicZero) or (x is None and values is None):
    return None, None, None
  which = _backends.module(backend)
  dx, dvalues = which.conv_backward(values, pattern, x, dy, geometry)
  return dx, dvalues, None


_conv.defvjp(_conv_forward, _conv_backward, symbolic_zeros=True)

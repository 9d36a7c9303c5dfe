"""The products as Pallas kernels for a GPU; interpreted, and slow, on a CPU.

Blocks of any size up to 128 and N:M groups of up to 8, of one tile. What suits the
tensor cores are blocks of 16 to 128 outputs, in both directions with a depth of 16 to
128 inputs: `js.masks.Block((32, 32))`. Blocks of one input gain in the forward product
only; single weights, which read a row of activations each, and N:M, which does the
arithmetic of a dense product, gain nothing: a dense product is chosen for them.

The kernels are written for the Triton lowering of Pallas (CUDA and ROCm). They read
rows by index, have loops of a length that is not known, and write where a mask is True;
none of that is what Pallas lowers for a TPU, where the reference is chosen. From jax
0.11 on, jax says that this lowering will be removed some day; without it the reference
is chosen on a GPU too.
"""

import jax.numpy as jnp

from jaxsparse.sparse import (
  _block_kernels,
  _formats,
  _launch,
  _nm,
  _nm_kernels,
  _patterns,
  _reference,
)

take, take_backward = _reference.take, _reference.take_backward


def why_not(fmt: _formats.Format, product: str = 'matmul') -> str | None:
  """Why there is no kernel for a format; None if there is one."""
  largest = _block_kernels.LARGEST
  if product != 'matmul':
    return 'there are no kernels for convolutions'
  if fmt.nm is not None and fmt.nm[1] > _nm_kernels.LONGEST:
    return f'nm={fmt.nm}; the kernels have groups of up to {_nm_kernels.LONGEST}'
  if max(fmt.block, fmt.depth) > largest:
    return f'blocks of {fmt.depth}x{fmt.block}; the kernels have up to {largest}'
  if fmt.input_tiles > 1 or fmt.row_tiles > 1:
    return 'a format with tiles; the kernels want it without'
  return _launch.why_not()


def forward(values, pattern, x):
  """x W: (batch, outputs), of the dtype of x."""
  if not _is_any(pattern, x):
    return jnp.zeros((x.shape[0], pattern.format.outputs), x.dtype)
  return _kernels(pattern).forward(values, pattern, x.T).T


def backward(values, pattern, x, dy):
  """`(dy W', x' dy on the pattern)`; without x or without values that half is None."""
  fmt, kernels = pattern.format, _kernels(pattern)
  dx = dvalues = None
  is_any = _is_any(pattern, dy)
  if values is not None:
    dx = jnp.zeros((dy.shape[0], fmt.inputs), dy.dtype)
    if is_any:
      dx = kernels.backward_x(values, pattern, dy.T).T
  if x is not None:
    dvalues = jnp.zeros(pattern.capacity * fmt.block, dy.dtype)
    if is_any:
      dvalues = kernels.backward_values(pattern, x.T, dy.T)
  return dx, dvalues


def conv(values, pattern, x, geometry):
  """There is none."""
  raise AssertionError('no kernels for convolutions')


conv_backward = conv


def _is_any(pattern: _patterns.AnyPattern, x) -> bool:
  return pattern.capacity > 0 and x.shape[0] > 0


def _kernels(pattern: _patterns.AnyPattern):
  is_nm = isinstance(pattern, _nm.NMPattern)
  return _nm_kernels if is_nm else _block_kernels

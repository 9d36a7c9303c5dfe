"""The gradient of a weight by tiles of its inputs, from what its products saw."""

from collections.abc import Callable
import math
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from jaxsparse import sparse
from jaxsparse.compact import _capture


class Tiles(NamedTuple):
  """One product's part of the gradient.

  Attributes:
    width: how many consecutive inputs are together; a tile lies within them.
    tile: `(start, size) -> float32 (size, outputs)`, the sum over the examples of the
      gradient of the inputs from `start` on; only `size` is static.
  """

  width: int
  tile: Callable[[jax.Array, int], jax.Array]


def tiles_of(
  name: str,
  fmt: sparse.Format,
  call: _capture.Call,
  x: jax.Array,
  dy: jax.Array,
  axis: str | None,
) -> Tiles:
  """The tiles of one call.

  Args:
    name: of the leaf, for messages.
    fmt: the format of its pattern.
    call: what was called.
    x: its input.
    dy: the gradient of its output.
    axis: a device axis over which the examples are gathered.

  Returns:
    Its `Tiles`.

  Raises:
    ValueError: a product that cannot be cut into tiles.
  """
  make = {'dot': _dot, 'embed': _embed, 'conv': _conv}[call.kind]
  return make(name, fmt, call.options, x, dy, lambda a: _gathered(a, axis))


def _gathered(x, axis):
  """The examples, on the first axis, of all devices."""
  return x if axis is None else lax.all_gather(x, axis, tiled=True)


def _dot(name, fmt, options, x, dy, gathered):
  (x_axes, weight_axes), batch_axes = options['dimension_numbers']
  pairs = sorted(zip(weight_axes, x_axes))
  contracted = tuple(w for w, _ in pairs)
  axes = tuple(range(len(fmt.shape)))
  sides = axes[: fmt.in_axes], axes[fmt.in_axes :]
  if any(map(len, batch_axes)) or contracted not in sides:
    raise ValueError(
      f'{name}: a product over the axes {contracted}; wanted the inputs'
      f' {sides[0]}, or the outputs, of a weight of shape {fmt.shape}.'
    )
  x = jnp.moveaxis(x, [a for _, a in pairs], range(x.ndim - len(pairs), x.ndim))
  lengths = [fmt.inputs, fmt.outputs]
  if contracted == sides[1]:
    # A tied embedding reads the table from its other side.
    x, dy = dy, x
  # (examples, inputs) and (examples, outputs).
  left, right = (
    gathered(a.reshape(-1, n)) for a, n in zip((x, dy), lengths, strict=True)
  )

  def tile(start, size):
    part = lax.dynamic_slice_in_dim(left, start, size, 1)
    return _product(part, right)

  return Tiles(fmt.inputs, tile)


def _embed(name, fmt, options, ids, dy, gathered):
  del name, options
  ids = gathered(ids.reshape(-1).astype(jnp.int32))
  # In float32, in which products are summed too.
  dy = gathered(dy.reshape(-1, fmt.outputs).astype(jnp.float32))
  ids = jnp.where(ids < 0, ids + np.int32(fmt.inputs), ids)

  def tile(start, size):
    rows = jnp.zeros((size, fmt.outputs), jnp.float32)
    # A negative difference is a row of an earlier tile, not one from the end.
    return rows.at[ids - start].add(dy, mode='drop', wrap_negative_indices=False)

  return Tiles(fmt.inputs, tile)


def _conv(name, fmt, options, x, dy, gathered):
  spatial = len(fmt.shape) - 2
  if options.get('feature_group_count', 1) != 1:
    raise ValueError(f'{name}: a convolution in groups has no growth by gradient.')
  dilation = options.get('rhs_dilation') or (1,) * spatial
  strides = options['window_strides']
  if any(d != 1 for d in options.get('lhs_dilation') or ()):
    raise ValueError(f'{name}: a dilated input has no growth by gradient.')
  numbers = lax.conv_dimension_numbers(
    x.shape, fmt.shape, options.get('dimension_numbers')
  )
  if numbers.rhs_spec[2:] != tuple(range(spatial)):
    raise ValueError(f'{name}: wanted the window on the first axes of {fmt.shape}.')
  # lax names the features second, before the window's axes; here they come last.
  last = lambda spec: (spec[0], *spec[2:], spec[1])
  x = x.transpose(last(numbers.lhs_spec))
  dy = gathered(dy.transpose(last(numbers.out_spec)))
  window, channels = fmt.shape[:spatial], fmt.shape[spatial]
  extent = [(n - 1) * d + 1 for n, d in zip(window, dilation)]
  padding = options['padding']
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(x.shape[1:-1], extent, strides, padding)
  x = gathered(_padded(x, padding))
  places = dy.shape[1:-1]
  reach = [(n - 1) * s + 1 for n, s in zip(places, strides)]
  right = dy.reshape(-1, fmt.outputs)

  def tile(start, size):
    tap, channel = jnp.divmod(start, np.int32(channels))
    offsets = jnp.unravel_index(tap, window)
    first = [o.astype(jnp.int32) * np.int32(d) for o, d in zip(offsets, dilation)]
    zero = jnp.int32(0)
    # A dynamic slice has no strides: the whole reach is taken and then thinned out.
    seen = lax.dynamic_slice(x, (zero, *first, channel), (x.shape[0], *reach, size))
    # What this tap of the window saw at every place of the output.
    steps = (slice(None), *(slice(None, None, s) for s in strides))
    return _product(seen[steps].reshape(-1, size), right)

  # Inputs are (*window, channels): within `channels` a tile stays in one tap.
  return Tiles(channels, tile)


def _padded(x, padding):
  """Pads the window's axes; a negative padding cuts."""
  config = [(0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0)]
  return lax.pad(x, jnp.zeros((), x.dtype), config)


def _product(left, right):
  """left' right, summed in float32."""
  return lax.dot_general(
    left, right, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32
  )


def even_tile(width: int, outputs: int, scores: int) -> int:
  """How many inputs make a tile of about so many scores, even over `width`."""
  most = max(1, min(width, scores // max(outputs, 1)))
  return math.ceil(width / math.ceil(width / most))

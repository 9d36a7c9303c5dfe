"""Pallas kernels for blocks: products that gather rows of activations.

All activations are feature-major, (features, batch), as for the C++ kernels: a gathered
row is then contiguous. The values of a few slices of one row of blocks are a small
matrix, and so are the activations that they meet; their product is one for the tensor
cores. They have 16 rows at least, so blocks of 16, 32, 64 or 128 outputs fill them;
the gradient of x wants a depth of 16 or more too: it has one row for each input that
shares its blocks with its neighbours. Smaller blocks are padded, and waste what is
padded, which costs little where memory is the limit.

No sum is atomic: the results are the same bits from run to run.
"""

import functools

import jax
from jax import lax
import jax.numpy as jnp

from jaxsparse.sparse import _launch
from jaxsparse.sparse._launch import int32, load, program_id, span, store

# The largest block, either way: what one program computes.
LARGEST = 128
# Columns of a batch that one program computes at most.
_WIDTH = 128


def forward(values, pattern, x):
  """x W, of feature-major x: (outputs, batch) of the dtype of x."""
  fmt, batch = pattern.format, x.shape[1]
  side, width = _launch.side(fmt.block, LARGEST), _launch.side(batch, _WIDTH)
  chunk = _chunk(pattern, x)
  kernel = functools.partial(_forward, fmt, side, chunk, width)
  return _launch.launch(
    kernel,
    jax.ShapeDtypeStruct((fmt.outputs, batch), x.dtype),
    (fmt.rows, _launch.tiles(batch, width)),
    pattern.starts,
    pattern.inputs,
    values,
    x,
    num_warps=_warps(side * width),
    loaded=chunk * (side + width) * x.dtype.itemsize,
  )


def backward_x(values, pattern, dy):
  """dy W', of feature-major dy: (inputs, batch)."""
  fmt, batch = pattern.format, dy.shape[1]
  height, width = _launch.side(fmt.depth, LARGEST), _launch.side(batch, _WIDTH)
  kernel = functools.partial(_backward_x, fmt, width)
  return _launch.launch(
    kernel,
    jax.ShapeDtypeStruct((fmt.inputs, batch), dy.dtype),
    (fmt.inputs // fmt.depth, _launch.tiles(batch, width)),
    pattern.back_starts,
    pattern.back_rows,
    pattern.order,
    values,
    dy,
    num_warps=_warps(height * width),
    loaded=_launch.side(fmt.block, LARGEST) * (height + width) * dy.dtype.itemsize,
  )


def backward_values(pattern, x, dy):
  """x' dy on the pattern, of feature-major x and dy."""
  fmt, batch = pattern.format, x.shape[1]
  side, width = _launch.side(fmt.block, LARGEST), _launch.side(batch, _WIDTH // 2)
  chunk = _chunk(pattern, x)
  # A row is shared by as many programs as an even one has chunks.
  splits = max(_launch.tiles(_launch.tiles(pattern.capacity, fmt.rows), chunk), 1)
  size = pattern.capacity * fmt.block
  kernel = functools.partial(_backward_values, fmt, splits, (chunk, side, width))
  dvalues = _launch.launch(
    kernel,
    jax.ShapeDtypeStruct((size,), x.dtype),
    (fmt.rows, splits),
    pattern.starts,
    pattern.inputs,
    x,
    dy,
    num_warps=_warps(chunk * side),
    loaded=width * (chunk + side) * x.dtype.itemsize,
  )
  # Behind the count no program writes, so what stands there is no gradient.
  held = lax.iota(jnp.int32, size) < pattern.count * int32(fmt.block)
  return jnp.where(held, dvalues, jnp.zeros((), x.dtype))


def _chunk(pattern, x):
  """Slices of a row that are multiplied together."""
  in_a_row = pattern.capacity // max(pattern.format.rows, 1)
  return _launch.side(in_a_row, 64 if x.dtype.itemsize < 4 else 32)


def _warps(size):
  return 8 if size > 64 * 128 else 4


def _bounds(starts, at, capacity):
  """Where a segment begins and ends; never outside of the arrays."""
  begin, end = starts[at], starts[at + int32(1)]
  return jnp.maximum(begin, int32(0)), jnp.minimum(end, int32(capacity))


def _count(begin, end, length):
  return (jnp.maximum(end - begin, int32(0)) + int32(length - 1)) // int32(length)


def _indices(ref, at, held, bound):
  """Indices of a pattern; wrong ones are moved to where there is memory."""
  found = load(ref, (at,), held).astype(jnp.int32)
  return jnp.clip(found, int32(0), int32(bound - 1))


def _forward(fmt, side, chunk, width, starts, inputs, values, x, y, *, dot):
  row, unit = program_id(0), span(int32(0), side)
  column = span(program_id(1) * int32(width), width)
  in_block, in_batch = unit < int32(fmt.block), column < int32(x.shape[1])
  begin, end = _bounds(starts, row, inputs.shape[0])

  def step(i, total):
    at = span(begin + i * int32(chunk), chunk)
    held = at < end
    source = _indices(inputs, at, held, fmt.inputs)
    # Activations (chunk, width); the weights are (side, chunk).
    given = load(
      x, (source[:, None], column[None, :]), held[:, None] & in_batch[None, :]
    )
    place = at[None, :] * int32(fmt.block) + unit[:, None]
    weights = load(values, (place,), held[None, :] & in_block[:, None])
    return total + dot(weights, given)

  total = jnp.zeros((side, width), jnp.float32)
  total = lax.fori_loop(int32(0), _count(begin, end, chunk), step, total)
  output = row * int32(fmt.block) + unit
  mask = in_block[:, None] & in_batch[None, :]
  store(y, (output[:, None], column[None, :]), total, mask)


def _backward_x(fmt, width, starts, rows, order, values, dy, dx, *, dot):
  one = _launch.pl.next_power_of_2(fmt.block)
  # One input alone is no matrix; its sums are taken without the tensor cores.
  alone = fmt.depth == 1
  # A tensor core sums over 16 at least: blocks of fewer outputs are taken together.
  together = max((32 if alone else 16) // one, 1)
  first = program_id(0) * int32(fmt.depth)
  column = span(program_id(1) * int32(width), width)
  in_batch = column < int32(dy.shape[1])
  begin, end = _bounds(starts, first, rows.shape[0])
  # Of each entry that is summed over: its block in the step, and its output in that.
  which = span(int32(0), together * one) // int32(one)
  unit = span(int32(0), together * one) - which * int32(one)
  height = 1 if alone else _launch.side(fmt.depth, LARGEST)
  deep = span(int32(0), height)

  def step(i, total):
    at = begin + i * int32(together) + which
    held = (at < end) & (unit < int32(fmt.block))
    output = _indices(rows, at, held, fmt.rows) * int32(fmt.block) + unit
    # (together * one, width): outputs of some blocks, and columns of the batch.
    given = load(
      dy, (output[:, None], column[None, :]), held[:, None] & in_batch[None, :]
    )
    place = _indices(order, at, held, rows.shape[0])
    if alone:
      weights = load(values, (place * int32(fmt.block) + unit,), held)
      return total + weights.astype(jnp.float32)[:, None] * given.astype(jnp.float32)
    # The slices of a deep block follow one another in the order of the values.
    place = (place[None, :] + deep[:, None]) * int32(fmt.block) + unit[None, :]
    inside = held[None, :] & (deep < int32(fmt.depth))[:, None]
    # A wrong place near the end would read behind it.
    inside &= place < int32(values.shape[0])
    return total + dot(load(values, (place,), inside), given)

  total = jnp.zeros((together * one if alone else height, width), jnp.float32)
  total = lax.fori_loop(int32(0), _count(begin, end, together), step, total)
  if alone:
    total = jnp.sum(total, axis=0)[None, :]
  mask = (deep < int32(fmt.depth))[:, None] & in_batch[None, :]
  store(dx, ((first + deep)[:, None], column[None, :]), total, mask)


def _backward_values(fmt, splits, sizes, starts, inputs, x, dy, dvalues, *, dot):
  chunk, side, width = sizes
  batch = x.shape[1]
  row, unit = program_id(0), span(int32(0), side)
  in_block = unit < int32(fmt.block)
  output = jnp.minimum(row * int32(fmt.block) + unit, int32(fmt.outputs - 1))
  begin, end = _bounds(starts, row, inputs.shape[0])
  split = program_id(1)

  def of_chunk(i, nothing):
    at = span(begin + (split + i * int32(splits)) * int32(chunk), chunk)
    held = at < end
    source = _indices(inputs, at, held, fmt.inputs)

    def step(t, total):
      column = span(t * int32(width), width)
      in_batch = column < int32(batch)
      # x (chunk, width) and dy (width, side): a product of values (chunk, side).
      given = load(
        x, (source[:, None], column[None, :]), held[:, None] & in_batch[None, :]
      )
      wanted = load(
        dy, (output[None, :], column[:, None]), in_block[None, :] & in_batch[:, None]
      )
      return total + dot(given, wanted)

    total = jnp.zeros((chunk, side), jnp.float32)
    total = lax.fori_loop(int32(0), int32(_launch.tiles(batch, width)), step, total)
    place = at[:, None] * int32(fmt.block) + unit[None, :]
    store(dvalues, (place,), total, held[:, None] & in_block[None, :])
    return nothing

  # A row longer than the average takes more turns, a short one perhaps none.
  mine = _count(begin + split * int32(chunk), end, chunk * splits)
  lax.fori_loop(int32(0), mine, of_chunk, int32(0))

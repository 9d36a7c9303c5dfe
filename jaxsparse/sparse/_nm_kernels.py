"""Pallas kernels for N:M weights: unpacked between memory and the tensor cores.

The weight is read from memory as its values and a byte for each; what a program
multiplies is a dense tile for each of the m places in a group, made by comparisons in
registers, against every m-th row of feature-major activations. So the arithmetic is
that of a dense product (the sparse instruction of the tensor cores has no way in
through Pallas), while the weight, its gradient and its moments take n/m of the memory:
what pays is where reading the weight is the limit, in small batches.
"""

import functools

import jax
from jax import lax
import jax.numpy as jnp

from jaxsparse.sparse import _launch, _nm
from jaxsparse.sparse._launch import int32, load, program_id, span, store

# Groups longer than this would not fit into the registers of a program.
LONGEST = 8
_WARPS = 8


def forward(values, pattern, x):
  """x W, of feature-major x: (outputs, batch) of the dtype of x."""
  fmt, batch = pattern.format, x.shape[1]
  _, m = fmt.nm
  width = 128 if m <= 4 else 64
  sizes = _launch.side(fmt.outputs, 64), _depth(x), _launch.side(batch, width)
  return _launch.launch(
    functools.partial(_forward, fmt, sizes),
    jax.ShapeDtypeStruct((fmt.outputs, batch), x.dtype),
    (_launch.tiles(fmt.outputs, sizes[0]), _launch.tiles(batch, sizes[2])),
    pattern.positions,
    values,
    x,
    num_warps=_WARPS,
    loaded=_loaded(fmt, x, sizes[0] * sizes[1], m * sizes[1] * sizes[2]),
  )


def backward_x(values, pattern, dy):
  """dy W', of feature-major dy: (inputs, batch)."""
  fmt, batch = pattern.format, dy.shape[1]
  sizes = 16, 32, _launch.side(batch, _width(fmt))
  return _launch.launch(
    functools.partial(_backward_x, fmt, sizes),
    jax.ShapeDtypeStruct((fmt.inputs, batch), dy.dtype),
    (_launch.tiles(fmt.groups, sizes[0]), _launch.tiles(batch, sizes[2])),
    pattern.positions,
    values,
    dy,
    num_warps=_WARPS,
    loaded=_loaded(fmt, dy, sizes[0] * sizes[1], sizes[1] * sizes[2]),
  )


def backward_values(pattern, x, dy):
  """x' dy on the pattern, of feature-major x and dy."""
  fmt = pattern.format
  _, m = fmt.nm
  sizes = _launch.side(fmt.outputs, _width(fmt)), 16, _launch.side(x.shape[1], 64)
  return _launch.launch(
    functools.partial(_backward_values, fmt, sizes),
    jax.ShapeDtypeStruct((pattern.capacity,), x.dtype),
    (_launch.tiles(fmt.outputs, sizes[0]), _launch.tiles(fmt.groups, sizes[1])),
    pattern.positions,
    x,
    dy,
    num_warps=_WARPS,
    loaded=_loaded(fmt, x, 0, (m * sizes[1] + sizes[0]) * sizes[2]),
  )


def _loaded(fmt, x, groups, activations):
  """Bytes of the weights of some groups with their places, and of activations."""
  size = x.dtype.itemsize
  return groups * fmt.nm[0] * (size + 1) + activations * size


def _depth(x):
  """Groups that are multiplied together."""
  return 32 if x.dtype.itemsize < 4 else 16


def _width(fmt):
  """Columns of which a program keeps one sum for each place in a group."""
  return max(16, 512 // _launch.pl.next_power_of_2(fmt.nm[1]))


def _slots(fmt, output, group):
  """Where the n weights of groups stand, and which groups there are."""
  n, _ = fmt.nm
  inside = (output < int32(fmt.outputs)) & (group < int32(fmt.groups))
  first = (output * int32(fmt.groups) + group) * int32(n)
  return [first + int32(s) for s in range(n)], inside


def _positions(ref, slots, inside):
  return [load(ref, (at,), inside, _nm.NOTHING).astype(jnp.int32) for at in slots]


def _unpacked(positions, weights, place):
  """The tile of a dense weight that has one place of each group."""
  zero = jnp.zeros((), weights[0].dtype)
  tile = jnp.zeros(weights[0].shape, weights[0].dtype)
  for position, weight in zip(positions, weights):
    tile = tile + jnp.where(position == int32(place), weight, zero)
  return tile


def _rows(ref, group, column, fmt, place):
  """Every m-th row of activations."""
  _, m = fmt.nm
  mask = (group < int32(fmt.groups)) & (column < int32(ref.shape[1]))
  return load(ref, (group * int32(m) + int32(place), column), mask)


def _forward(fmt, sizes, positions, values, x, y, *, dot):
  # Outputs, groups, and columns of the batch.
  height, depth, width = sizes
  output = span(program_id(0) * int32(height), height)[:, None]
  column = span(program_id(1) * int32(width), width)[None, :]

  def step(i, total):
    group = span(i * int32(depth), depth)
    slots, inside = _slots(fmt, output, group[None, :])
    found = _positions(positions, slots, inside)
    weights = [load(values, (at,), inside) for at in slots]
    for place in range(fmt.nm[1]):
      given = _rows(x, group[:, None], column, fmt, place)
      total += dot(_unpacked(found, weights, place), given)
    return total

  total = jnp.zeros((height, width), jnp.float32)
  steps = int32(_launch.tiles(fmt.groups, depth))
  total = lax.fori_loop(int32(0), steps, step, total)
  inside = (output < int32(fmt.outputs)) & (column < int32(x.shape[1]))
  store(y, (output, column), total, inside)


def _backward_x(fmt, sizes, positions, values, dy, dx, *, dot):
  # Groups, outputs, and columns of the batch.
  height, depth, width = sizes
  _, m = fmt.nm
  group = span(program_id(0) * int32(height), height)[:, None]
  column = span(program_id(1) * int32(width), width)[None, :]
  in_batch = column < int32(dy.shape[1])

  def step(i, totals):
    output = span(i * int32(depth), depth)
    slots, inside = _slots(fmt, output[None, :], group)
    found = _positions(positions, slots, inside)
    weights = [load(values, (at,), inside) for at in slots]
    mask = (output < int32(fmt.outputs))[:, None] & in_batch
    given = load(dy, (output[:, None], column), mask)
    return tuple(
      total + dot(_unpacked(found, weights, place), given)
      for place, total in enumerate(totals)
    )

  # A group has m rows of dx, so there are m sums.
  totals = (jnp.zeros((height, width), jnp.float32),) * m
  steps = int32(_launch.tiles(fmt.outputs, depth))
  totals = lax.fori_loop(int32(0), steps, step, totals)
  inside = (group < int32(fmt.groups)) & in_batch
  for place, total in enumerate(totals):
    store(dx, (group * int32(m) + int32(place), column), total, inside)


def _backward_values(fmt, sizes, positions, x, dy, dvalues, *, dot):
  # Outputs, groups, and columns of the batch.
  height, depth, width = sizes
  _, m = fmt.nm
  output = span(program_id(0) * int32(height), height)[:, None]
  group = span(program_id(1) * int32(depth), depth)[None, :]

  def step(i, totals):
    column = span(i * int32(width), width)
    mask = (output < int32(fmt.outputs)) & (column < int32(dy.shape[1]))[None, :]
    given = load(dy, (output, column[None, :]), mask)
    return tuple(
      total + dot(given, _rows(x, group, column[:, None], fmt, place))
      for place, total in enumerate(totals)
    )

  totals = (jnp.zeros((height, depth), jnp.float32),) * m
  steps = int32(_launch.tiles(x.shape[1], width))
  totals = lax.fori_loop(int32(0), steps, step, totals)
  # The sums are those of all m places; only the n that are held are written.
  slots, inside = _slots(fmt, output, group)
  for at, found in zip(slots, _positions(positions, slots, inside)):
    value = jnp.zeros((height, depth), jnp.float32)
    for place, total in enumerate(totals):
      value = value + jnp.where(found == int32(place), total, jnp.float32(0))
    store(dvalues, (at,), value, inside)

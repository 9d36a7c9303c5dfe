"""Where the nonzeros are: integers in two orders."""

import dataclasses
import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from jaxsparse import native
from jaxsparse.sparse import _formats, _nm


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=('starts', 'inputs', 'back_starts', 'back_rows', 'order'),
  meta_fields=('format',),
)
@dataclasses.dataclass(frozen=True)
class Pattern:
  """The places of the blocks of a sparse weight, without their values.

  A registered pytree of integer arrays; only `format` is static, so a pattern of the
  same capacity never compiles anew. The capacity is the length of the arrays, the
  count of blocks that are really there is `starts[-1]`; what lies behind is padding.

  Attributes:
    starts: int32 (input_tiles * rows + 1), where each row of each tile of inputs
      begins.
    inputs: (capacity,), the input of each block; rises within a row of a tile.
    back_starts: int32 (row_tiles * inputs + 1), the same of the backward order.
    back_rows: (capacity,), the row (output / block) of each block, in backward order.
    order: int32 (capacity,), where each block of the backward order stands in the
      forward order, which is that of the values.
    format: the static `Format`.

  Indices are uint16 where they fit, else int32. Stacked layers have one more leading
  axis on every array.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> mask = jnp.array([[True, False, True], [False, False, True]])
    >>> pattern = js.sparse.pattern_of(mask, js.sparse.Format((2, 3)), capacity=4)
    >>> pattern.starts.tolist(), pattern.inputs.tolist()[:3]
    ([0, 1, 1, 3], [0, 0, 1])
  """

  starts: jax.Array
  inputs: jax.Array
  back_starts: jax.Array
  back_rows: jax.Array
  order: jax.Array
  format: _formats.Format

  @property
  def capacity(self) -> int:
    """How many blocks there is room for."""
    return self.inputs.shape[-1]

  @property
  def count(self) -> jax.Array:
    """How many blocks there are, int32."""
    return self.starts[..., -1]

  @property
  def stack(self) -> tuple[int, ...]:
    """The leading axes, which enumerate stacked layers."""
    return self.inputs.shape[:-1]


AnyPattern = Pattern | _nm.NMPattern


def is_pattern(x) -> bool:
  """Whether a node of a tree is a `Pattern` or a `NMPattern`: for `is_leaf`.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> js.sparse.is_pattern(jnp.ones(3))
    False
  """
  return isinstance(x, AnyPattern)


@functools.partial(jax.jit, static_argnames='format', inline=True)
def from_coordinates(
  inputs: jax.Array, rows: jax.Array, valid: jax.Array, format: _formats.Format
) -> tuple[Pattern, jax.Array]:
  """Puts places that come in any order into a pattern.

  Args:
    inputs: int32 (capacity,), the input of each block.
    rows: int32 (capacity,), its row: output / block.
    valid: bool (capacity,), False for padding.
    format: the static `Format`.

  Returns:
    `(pattern, order)`: entry i of the pattern was entry `order[i]` of the arguments.
    No place may come twice; `check` finds it.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> pattern, order = js.sparse.from_coordinates(
    ...   jnp.array([1, 0]), jnp.array([2, 0]), jnp.ones(2, bool),
    ...   js.sparse.Format((2, 3)))
    >>> order.tolist(), pattern.inputs.tolist()
    ([1, 0], [0, 1])
  """
  # Padding is sorted behind everything.
  segments = format.input_tiles * format.rows
  tile = inputs // np.int32(format.input_tile or max(format.inputs, 1))
  segment = jnp.where(valid, tile * np.int32(format.rows) + rows, np.int32(segments))
  order = _order(segment, inputs)
  segment, inputs, rows = segment[order], inputs[order], rows[order]
  back_segments = format.row_tiles * format.inputs
  back_tile = rows // np.int32((format.output_tile or format.outputs) // format.block)
  back = back_tile * np.int32(format.inputs) + inputs
  # After the sort, padding is known by its segment.
  back = jnp.where(segment < segments, back, np.int32(back_segments))
  back_order = _order(back, rows)
  back, back_rows = back[back_order], rows[back_order]
  pattern = Pattern(
    _starts(segment, segments),
    inputs.astype(format.input_dtype),
    _starts(back, back_segments),
    back_rows.astype(format.row_dtype),
    back_order,
    format,
  )
  return pattern, order


def _order(first, second):
  """The indices that sort two int32 arrays of what is not negative."""
  return native.argsort(first.astype(jnp.uint32), second.astype(jnp.uint32))


def _starts(segment, segments):
  """Where each segment begins in a sorted list of segment numbers."""
  counts = jnp.zeros(segments + 1, jnp.int32)
  # The segment of padding is one too far, and is dropped.
  counts = counts.at[segment + np.int32(1)].add(1, mode='drop', indices_are_sorted=True)
  return jnp.cumsum(counts, dtype=jnp.int32)


@functools.partial(jax.jit, static_argnames=('format', 'capacity'), inline=True)
def pattern_of(
  mask: jax.Array, format: _formats.Format, capacity: int | None = None
) -> AnyPattern:
  """The pattern of a mask.

  A block is held if any of its weights is kept; of a group of N:M, the first n.

  Args:
    mask: bool array of `format.shape`, True for kept weights.
    format: the static `Format`.
    capacity: room for that many blocks; further ones are left out. None for N:M, whose
      format says it.

  Returns:
    A `Pattern`, or a `NMPattern`.

  Raises:
    ValueError: no capacity.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> mask = jnp.eye(3, dtype=bool)
    >>> int(js.sparse.pattern_of(mask, js.sparse.Format((3, 3)), 5).count)
    3
  """
  if format.nm is not None:
    return _nm.pattern_of(mask, format)
  if capacity is None:
    raise ValueError('capacity: None; wanted a number of blocks.')
  kept = mask.reshape(format.inputs, format.rows, format.block).any(-1)
  # A static size, for jit; what it is filled up with is not valid.
  inputs, rows = jnp.nonzero(kept, size=capacity, fill_value=(0, 0))
  total = jnp.count_nonzero(kept).astype(jnp.int32)
  valid = lax.iota(jnp.int32, capacity) < total
  pattern, _ = from_coordinates(
    inputs.astype(jnp.int32), rows.astype(jnp.int32), valid, format
  )
  return pattern


def coordinates(pattern: AnyPattern) -> tuple[jax.Array, jax.Array, jax.Array]:
  """The places of the blocks, in the order of the values.

  Returns:
    `(inputs, rows, valid)`: int32, int32 and bool arrays (capacity,); a row is
    output / block; padding is not valid, its place is 0, 0.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> pattern = js.sparse.pattern_of(
    ...   jnp.eye(3, dtype=bool), js.sparse.Format((3, 3)), 3)
    >>> [x.tolist() for x in js.sparse.coordinates(pattern)]
    [[0, 1, 2], [0, 1, 2], [True, True, True]]
  """
  if isinstance(pattern, _nm.NMPattern):
    return _nm.coordinates(pattern)
  valid = lax.iota(jnp.int32, pattern.capacity) < pattern.count
  zero = jnp.int32(0)
  rows = jnp.zeros(pattern.capacity, jnp.int32)
  # The forward order names no rows: the backward one says them.
  rows = rows.at[pattern.order].set(pattern.back_rows.astype(jnp.int32), mode='drop')
  inputs = pattern.inputs.astype(jnp.int32)
  return jnp.where(valid, inputs, zero), jnp.where(valid, rows, zero), valid


def places(pattern: AnyPattern) -> tuple[jax.Array, jax.Array, jax.Array]:
  """`(inputs, outputs, valid)` of every single weight, in the order of the values."""
  inputs, rows, valid = coordinates(pattern)
  block = pattern.format.block
  outputs = rows[:, None] * np.int32(block) + lax.iota(jnp.int32, block)[None, :]
  return (
    jnp.repeat(inputs, block),
    outputs.reshape(-1),
    jnp.repeat(valid, block),
  )


def gather(dense: jax.Array, pattern: AnyPattern) -> jax.Array:
  """The entries of a dense array where the pattern has weights; 0 for padding.

  Args:
    dense: array of the shape `pattern.format.shape`.
    pattern: a `Pattern`.

  Returns:
    Array (capacity * block,), in the order of the values of a `SparseArray`.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> pattern = js.sparse.pattern_of(
    ...   jnp.eye(3, dtype=bool), js.sparse.Format((3, 3)), 4)
    >>> js.sparse.gather(jnp.arange(9.).reshape(3, 3), pattern).tolist()
    [0.0, 4.0, 8.0, 0.0]
  """
  if isinstance(pattern, _nm.NMPattern):
    return _nm.gather(dense, pattern)
  inputs, outputs, valid = places(pattern)
  matrix = dense.reshape(pattern.format.inputs, pattern.format.outputs)
  return jnp.where(valid, matrix[inputs, outputs], jnp.zeros((), dense.dtype))


def scatter(values: jax.Array, pattern: AnyPattern) -> jax.Array:
  """The dense array with the values on the pattern and 0 elsewhere."""
  if isinstance(pattern, _nm.NMPattern):
    return _nm.scatter(values, pattern)
  inputs, outputs, valid = places(pattern)
  # Padding is sent out of range, where it is dropped.
  inputs = jnp.where(valid, inputs, np.int32(pattern.format.inputs))
  matrix = jnp.zeros((pattern.format.inputs, pattern.format.outputs), values.dtype)
  matrix = matrix.at[inputs, outputs].set(values, mode='drop')
  return matrix.reshape(pattern.format.shape)


def to_mask(pattern: AnyPattern) -> jax.Array:
  """The mask of the weights that a pattern holds.

  Returns:
    bool array of the shape of the dense weight.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> pattern = js.sparse.pattern_of(
    ...   jnp.eye(2, dtype=bool), js.sparse.Format((2, 2)), 3)
    >>> js.sparse.to_mask(pattern).tolist()
    [[True, False], [False, True]]
  """
  return scatter(jnp.ones(pattern.capacity * pattern.format.block, bool), pattern)


def density_of(pattern: AnyPattern) -> float:
  """The static density: that of the capacity."""
  return pattern.capacity / max(pattern.format.num_blocks, 1)

"""Whether a sparse array is what it should be; on the host, once."""

import jax
import numpy as np

from jaxsparse.sparse import _arrays, _nm, _patterns


def check(array: '_arrays.SparseArray | _patterns.AnyPattern', name: str = '') -> None:
  """Refuses a corrupted sparse array or pattern.

  The kernels check bounds in every call; this looks at everything else too: that places
  are sorted, that none comes twice, that both orders tell of the same places.

  Args:
    array: a `SparseArray`, a `Pattern` or a `NMPattern`, not traced, not stacked.
    name: the leaf's name, for the message.

  Raises:
    ValueError: what is wrong, and with which leaf.

  Example:
    >>> import dataclasses, jax.numpy as jnp, jaxsparse as js
    >>> weight = js.sparse.from_mask(jnp.ones((2, 2)), jnp.eye(2, dtype=bool))
    >>> js.sparse.check(weight)
    >>> wrong = dataclasses.replace(weight.pattern, inputs=jnp.array([0, 7], 'uint16'))
    >>> js.sparse.check(wrong, 'dense/kernel')
    Traceback (most recent call last):
    ValueError: dense/kernel: inputs: 7 is out of range; there are 2.
  """
  prefix = f'{name}: ' if name else ''
  pattern = array.pattern if isinstance(array, _arrays.SparseArray) else array
  if isinstance(array, _arrays.SparseArray):
    wanted = (pattern.capacity * pattern.format.block,)
    if array.values.shape != wanted:
      raise ValueError(
        f'{prefix}values: shape {array.values.shape}; wanted {wanted}, the capacity of'
        ' the pattern.'
      )
  if isinstance(pattern, _nm.NMPattern):
    problem = _nm.problem(pattern)
  else:
    problem = _problem(pattern)
  if problem:
    raise ValueError(prefix + problem)


def _problem(pattern):
  """What is wrong with a pattern, or None."""
  fmt, p = pattern.format, jax.tree.map(np.asarray, pattern)
  capacity = p.inputs.size
  problem = (
    _half('starts', 'inputs', p, fmt.input_tiles * fmt.rows, fmt.inputs)
    or _half('back_starts', 'back_rows', p, fmt.row_tiles * fmt.inputs, fmt.rows)
    or (p.order.shape != (capacity,) and f'order: shape {p.order.shape}')
  )
  if problem:
    return problem
  count = int(p.starts[-1])
  if int(p.back_starts[-1]) != count:
    return f'back_starts: {p.back_starts[-1]} blocks; starts has {count}.'
  if not np.array_equal(np.sort(p.order[:count]), np.arange(count)):
    return f'order: it is no order of the {count} blocks.'
  tile = fmt.input_tile or max(fmt.inputs, 1)
  back_tile = (fmt.output_tile or fmt.outputs) // fmt.block
  part, rows = np.divmod(_segments(p.starts), fmt.rows)
  back_part, inputs = np.divmod(_segments(p.back_starts), fmt.inputs)
  order = p.order[:count]
  if not np.array_equal(p.inputs[:count] // tile, part):
    return 'inputs: some are not in the tile where they stand.'
  if not np.array_equal(p.back_rows[:count] // back_tile, back_part):
    return 'back_rows: some are not in the tile where they stand.'
  same = np.array_equal(p.inputs[:count][order], inputs)
  if not same or not np.array_equal(rows[order], p.back_rows[:count]):
    return 'back_rows: the backward order tells of other places than the forward one.'
  if not _comes_in_blocks(p.inputs[:count], part * fmt.rows + rows, fmt.depth):
    return f'inputs: they do not come in whole blocks of depth {fmt.depth}.'
  return None


def _comes_in_blocks(inputs, segments, depth):
  if inputs.size % depth:
    return False
  inputs, segments = inputs.reshape(-1, depth), segments.reshape(-1, depth)
  first = inputs[:, :1]
  aligned = (first % depth == 0) & (inputs == first + np.arange(depth))
  return bool(aligned.all() and (segments == segments[:, :1]).all())


def _half(starts_name, indices_name, p, segments, bound):
  """Checks the lengths, bounds and sorting of one of the two orders."""
  starts, indices = getattr(p, starts_name), getattr(p, indices_name)
  if starts.shape != (segments + 1,) or starts.dtype != np.int32:
    return (
      f'{starts_name}: {starts.dtype} of shape {starts.shape}; wanted int32 of'
      f' {(segments + 1,)}.'
    )
  if indices.shape != p.inputs.shape or indices.ndim != 1:
    return f'{indices_name}: shape {indices.shape}; wanted {p.inputs.shape}.'
  if starts[0] != 0 or (np.diff(starts) < 0).any():
    return f'{starts_name}: it does not rise from 0.'
  count = int(starts[-1])
  if count > indices.size:
    return f'{starts_name}: {count} blocks; the capacity is {indices.size}.'
  # Differences of uint16 would wrap around.
  indices = indices[:count].astype(np.int64)
  outside = indices[(indices < 0) | (indices >= bound)]
  if outside.size:
    return f'{indices_name}: {outside[0]} is out of range; there are {bound}.'
  same_segment = np.diff(_segments(starts)) == 0
  if (np.diff(indices)[same_segment] <= 0).any():
    return f'{indices_name}: unsorted, or a place comes twice.'
  return None


def _segments(starts):
  """The segment of each block."""
  return np.repeat(np.arange(starts.size - 1), np.diff(starts))

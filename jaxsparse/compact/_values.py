"""A dense leaf as its values, and back; stacked layers have leading axes."""

from collections.abc import Callable

import jax
import numpy as np

from jaxsparse import core, masks, native, sparse
from jaxsparse.compact import _state


def num_stacked(pattern: sparse.Pattern) -> int:
  """How many leading axes of the arrays enumerate layers."""
  return len(pattern.stack)


def over_stack(function: Callable, count: int) -> Callable:
  """The function of one layer, for layers that `count` leading axes enumerate."""
  for _ in range(count):
    function = jax.vmap(function)
  return function


def gather(dense, pattern):
  """The values of a dense leaf."""
  return over_stack(sparse.gather, num_stacked(pattern))(dense, pattern)


def scatter(values, pattern):
  """The dense leaf, 0 off the pattern."""
  whole = lambda v, p: sparse.to_dense(sparse.SparseArray(v, p))
  return over_stack(whole, num_stacked(pattern))(values, pattern)


def to_mask(pattern):
  """The mask of a dense leaf."""
  return over_stack(sparse.to_mask, num_stacked(pattern))(pattern)


def pattern_of(mask, format, capacity, stacked):
  """The pattern of the mask of a dense leaf."""
  one = lambda m: sparse.pattern_of(m, format, capacity)
  return over_stack(one, stacked)(mask)


def as_seen(values, pattern):
  """Values with as many axes as the dense leaf, as an optimizer sees them.

  Predicates such as `ndim > 1` then decide as they do on the dense leaf.
  """
  if not _state.is_pattern(pattern):
    return values
  return values.reshape(values.shape + (1,) * (len(pattern.format.shape) - 1))


def as_held(seen, pattern):
  """The inverse of `as_seen`."""
  return seen.reshape(seen.shape[: num_stacked(pattern) + 1])


def map_sparse(function: Callable, patterns, tree, *others, dense=lambda x, *_: x):
  """Maps over a tree like the params: sparse leaves get `(leaf, ..., pattern)`.

  Args:
    function: for leaves that have a pattern.
    patterns: a tree of patterns.
    tree: a tree like the params.
    *others: more such trees.
    dense: for the leaves that have none.
  """

  def one(pattern, *leaves):
    is_sparse = _state.is_pattern(pattern)
    return function(*leaves, pattern) if is_sparse else dense(*leaves)

  return jax.tree.map(one, patterns, tree, *others, is_leaf=_state.is_pattern)


def format_of(leaf: core.Leaf, structure, density: float) -> sparse.Format:
  """The format of one layer of a leaf.

  Raises:
    ValueError: stacked axes that do not lead, outputs that are not the last axes.
  """
  if isinstance(structure, masks.NM) and _is_held_as_nm(leaf, structure):
    return sparse.format_of(leaf, density, nm=(structure.n, structure.m))
  depth, block = _block(leaf, structure)
  return sparse.format_of(leaf, density, block, depth)


def _is_held_as_nm(leaf, structure) -> bool:
  # The C++ kernels of single weights also make the gradients fast; elsewhere a byte a
  # weight is all that the places need.
  last = len(leaf.shape) - len(leaf.out_axes) - 1
  axis = last if structure.axis is None else structure.axis % len(leaf.shape)
  return axis == last and structure.m <= 128 and not native.available()


def _block(leaf, structure) -> tuple[int, int]:
  """How many inputs and outputs are kept or pruned together; 1 where no kernel does."""
  if not isinstance(structure, masks.Block):
    return 1, 1
  ndim = len(leaf.shape)
  axes = structure.axes
  if axes is None and leaf.in_axes and leaf.out_axes:
    axes = leaf.in_axes[-1], leaf.out_axes[-1]
  lengths = {a % ndim: n for a, n in zip(axes or (), structure.shape) if n > 1}
  block = lengths.pop(ndim - 1, 1)
  depth = lengths.pop(ndim - len(leaf.out_axes) - 1, 1)
  whole = (
    leaf.shape[-1] % block == 0 and leaf.shape[-len(leaf.out_axes) - 1] % depth == 0
  )
  # The kernels have these; other blocks are held as single weights.
  return (depth, block) if whole and not lengths and block % 4 == 0 else (1, 1)


def count_blocks(mask, format: sparse.Format) -> int | None:
  """How many blocks the fullest layer of a mask has; not traced; None for N:M."""
  if format.nm is not None:
    return None
  blocks = np.asarray(mask).reshape(-1, format.inputs, format.rows, format.block)
  return int(blocks.any(-1).sum(axis=(1, 2)).max(initial=0))

"""A dense leaf as its values, and back; stacked layers have leading axes."""

from collections.abc import Callable

import jax
import numpy as np

from jaxsparse import core, masks, sparse
from jaxsparse.compact import _state


def num_stacked(pattern: sparse.Pattern) -> int:
  """How many leading axes of the arrays enumerate layers."""
  return pattern.inputs.ndim - 1


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
  return sparse.format_of(leaf, density, _block(leaf, structure))


def _block(leaf, structure) -> int:
  """How many outputs the structure keeps or prunes together; 1 where kernels do not."""
  if not isinstance(structure, masks.Block):
    return 1
  *others, length = structure.shape
  axes, last = structure.axes, len(leaf.shape) - 1
  along = axes is None or axes[-1] % len(leaf.shape) == last
  whole = along and set(others) <= {1} and leaf.shape[-1] % length == 0
  # The kernels have these; other blocks are held as single weights.
  return length if whole and length % 4 == 0 else 1


def count_blocks(mask, format: sparse.Format) -> int:
  """How many blocks the fullest layer of a mask has; not traced."""
  blocks = np.asarray(mask).reshape(-1, format.inputs, format.rows, format.block)
  return int(blocks.any(-1).sum(axis=(1, 2)).max(initial=0))

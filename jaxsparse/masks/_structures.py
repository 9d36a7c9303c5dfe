"""Structures of single weights: unstructured and N:M."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from jaxsparse import core
from jaxsparse.masks import _select

_TOP_UINT32 = 2**32 - 1


def lift(mask, scores):
  """Puts what `mask` keeps above every other score: growth never removes it."""
  if scores.dtype == jnp.uint32:
    top, below = _TOP_UINT32, _TOP_UINT32 - 1
  else:
    # An overflown gradient is infinite too; the sum over a block must stay finite.
    top, below = jnp.inf, min(float(jnp.finfo(scores.dtype).max), 1e28)
  others = jnp.minimum(scores, jnp.asarray(below, scores.dtype))
  return jnp.where(mask, jnp.asarray(top, scores.dtype), others)


def exclude(mask, scores):
  """Puts what `mask` keeps below every finite score."""
  bottom = 0 if scores.dtype == jnp.uint32 else -jnp.inf
  return jnp.where(mask, jnp.asarray(bottom, scores.dtype), scores)


def layer_axis(leaf, axis, what):
  """The axis as a non-negative number; refused when it is not one of a layer."""
  ndim = len(leaf.shape)
  if not -ndim <= axis < ndim or axis % ndim in leaf.stack_axes:
    raise ValueError(
      f'{leaf.name}: {what} axis {axis} is not in {leaf.shape}, or is stacked.'
    )
  return axis % ndim


def _split(num_kept, shape, slice_axes):
  """Shares `num_kept` units over slices, the first ones get the remainder.

  Returns an int32 array that has the slices' lengths along `slice_axes` and 1
  elsewhere.
  """
  slices = tuple(n if a in slice_axes else 1 for a, n in enumerate(shape))
  count = math.prod(slices)
  num_kept = jnp.asarray(num_kept, jnp.int32)
  index = jnp.arange(count, dtype=jnp.int32).reshape(slices)
  return num_kept // count + (index < num_kept % count).astype(jnp.int32)


def select_units(scores, num_kept, slice_axes):
  """The mask of the best units, `num_kept` shared over the slices."""
  if not scores.size:
    return jnp.zeros(scores.shape, bool)
  unit_axes = tuple(a for a in range(scores.ndim) if a not in slice_axes)
  return _select.top_k_mask(
    scores, _split(num_kept, scores.shape, slice_axes), unit_axes
  )


@dataclasses.dataclass(frozen=True)
class Unstructured:
  """Single weights, compared within the layer or within each output.

  Args:
    group: `'layer'` compares all weights of a layer; `'output'` keeps equally many
      inputs for every output feature (constant fan-in), up to one.

  Raises:
    ValueError: another `group`.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> leaf = js.Leaf('kernel', (2, 3), in_axes=(0,), out_axes=(1,))
    >>> scores = jnp.array([[3., 1., 5.], [2., 4., 0.]])
    >>> js.masks.Unstructured().select(leaf, scores, 2).astype(int).tolist()
    [[0, 0, 1], [0, 1, 0]]
  """

  group: str = 'layer'

  def __post_init__(self):
    if self.group not in ('layer', 'output'):
      raise ValueError(f"group={self.group!r}: it must be 'layer' or 'output'.")

  def num_units(self, leaf: core.Leaf) -> int:
    """The number of weights."""
    return leaf.size

  def unit_size(self, leaf: core.Leaf) -> int:
    """1."""
    del leaf
    return 1

  def check(self, leaf: core.Leaf, sparsity: float) -> None:
    """Refuses a leaf without output axes when outputs are to be compared."""
    del sparsity
    if self.group == 'output' and not leaf.out_axes:
      raise ValueError(f"{leaf.name}: group='output' needs a leaf with out_axes.")

  def select(self, leaf: core.Leaf, scores: jax.Array, num_kept) -> jax.Array:
    """Keeps the `num_kept` largest scores.

    Args:
      leaf: the parameter.
      scores: array of the leaf's shape, any float dtype or uint32; NaN ranks last.
      num_kept: weights kept in the whole leaf, an int or a traced int32 scalar;
        stacked layers (and outputs, if they are the group) share it equally.

    Returns:
      bool mask of the leaf's shape. Ties go by a hash of the flat index.
    """
    groups = leaf.out_axes if self.group == 'output' else ()
    return select_units(scores, num_kept, (*leaf.stack_axes, *groups))

  def count(self, leaf: core.Leaf, mask: jax.Array) -> jax.Array:
    """The number of weights that a mask keeps."""
    del leaf
    return core.count_true(mask)

  def survivors(self, leaf: core.Leaf, scores: jax.Array, num_kept) -> jax.Array:
    """Keeps the `num_kept` largest of each layer, whatever the group."""
    # Outputs may lose unequally: the growth gives each its equal number again.
    return select_units(scores, num_kept, leaf.stack_axes)


@dataclasses.dataclass(frozen=True)
class NM:
  """N of every M consecutive weights along the contracted axis.

  While a schedule moves, the n of `select` is `ceil(num_kept / groups)`, so that a
  gradual run goes through m:m, (m-1):m, ... n:m.

  Args:
    n: weights kept per group.
    m: the length of a group.
    axis: the axis along which weights are grouped; None for the last `in_axes`.

  Raises:
    ValueError: not `0 < n <= m`; by `check`: an axis that m does not divide, or a
      sparsity other than `1 - n/m`.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> leaf = js.Leaf('kernel', (4, 1), in_axes=(0,), out_axes=(1,))
    >>> scores = jnp.array([[.1], [.4], [.3], [.2]])
    >>> js.masks.NM(2, 4).select(leaf, scores, 2)[:, 0].astype(int).tolist()
    [0, 1, 1, 0]
  """

  n: int
  m: int
  axis: int | None = None

  def __post_init__(self):
    if not 0 < self.n <= self.m:
      raise ValueError(f'NM(n={self.n}, m={self.m}): wanted 0 < n <= m.')

  def _axis(self, leaf: core.Leaf) -> int:
    if self.axis is None and not leaf.in_axes:
      raise ValueError(f'{leaf.name}: NM needs in_axes, or axis=.')
    axis = leaf.in_axes[-1] if self.axis is None else self.axis
    return layer_axis(leaf, axis, 'NM')

  def num_units(self, leaf: core.Leaf) -> int:
    """The number of weights."""
    return leaf.size

  def unit_size(self, leaf: core.Leaf) -> int:
    """1."""
    del leaf
    return 1

  def check(self, leaf: core.Leaf, sparsity: float) -> None:
    """Refuses what N:M cannot express, see the class."""
    length = leaf.shape[self._axis(leaf)]
    if length % self.m:
      raise ValueError(
        f'{leaf.name}: axis {self._axis(leaf)} of shape {leaf.shape} has length'
        f' {length}, which groups of m={self.m} do not divide; leave the leaf out of'
        ' prunable, or give another axis.'
      )
    # Written so that NaN, a sparsity that scores will decide, is refused too.
    if not abs(sparsity - (1 - self.n / self.m)) <= 1 / leaf.size:
      raise ValueError(
        f'{leaf.name}: NM({self.n}, {self.m}) has sparsity {1 - self.n / self.m:g},'
        f' but {sparsity:g} was asked for; use that sparsity with'
        ' distribution=js.distributions.uniform.'
      )

  def select(self, leaf: core.Leaf, scores: jax.Array, num_kept) -> jax.Array:
    """Keeps the best `ceil(num_kept / groups)` of every group.

    Args:
      leaf: the parameter.
      scores: array of the leaf's shape, any float dtype or uint32; NaN ranks last.
      num_kept: weights kept in the whole leaf, int or traced int32 scalar.

    Returns:
      bool mask of the leaf's shape. Ties go by a hash of the flat index.
    """
    axis = self._axis(leaf)
    # (.., groups, m, ..): rolling along `axis + 1` stays within a group.
    grouped = (*leaf.shape[:axis], -1, self.m, *leaf.shape[axis + 1 :])
    keys = _select.ordered_keys(scores).reshape(grouped)
    ties = _select.hash_index(leaf.shape).reshape(grouped)
    rank = jnp.zeros(keys.shape, jnp.int32)
    # Groups are short: m comparisons with a neighbour each beat any sort.
    for shift in range(1, self.m):
      other_keys = jnp.roll(keys, shift, axis + 1)
      other_ties = jnp.roll(ties, shift, axis + 1)
      beaten = (other_keys > keys) | ((other_keys == keys) & (other_ties > ties))
      rank += beaten.astype(jnp.int32)
    groups = leaf.size // self.m
    per_group = -(-jnp.asarray(num_kept, jnp.int32) // groups)
    return (rank < per_group).reshape(leaf.shape)

  def count(self, leaf: core.Leaf, mask: jax.Array) -> jax.Array:
    """The number of weights that a mask keeps."""
    del leaf
    return core.count_true(mask)

  def survivors(self, leaf: core.Leaf, scores: jax.Array, num_kept) -> jax.Array:
    """Keeps the `num_kept` largest of each layer: a drop may empty a group."""
    return select_units(scores, num_kept, leaf.stack_axes)

"""Structures of several weights: blocks and channels."""

from collections.abc import Sequence
import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxsparse import core
from jaxsparse.masks import _structures


@dataclasses.dataclass(frozen=True)
class Block:
  """Rectangular blocks of weights.

  The score of a block is the mean over its weights. Blocks at the edge of a shape
  that the block does not divide are smaller, and count as one unit all the same.

  Args:
    shape: the lengths of a block along `axes`.
    axes: which axes; None for (last input axis, last output axis), so that the
      blocks of a convolution lie within one tap of its window.

  Raises:
    ValueError: a length below 1; by `check`: axes that a leaf does not have.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> leaf = js.Leaf('kernel', (2, 3), in_axes=(0,), out_axes=(1,))
    >>> scores = jnp.array([[1., 1., 9.], [1., 1., 9.]])
    >>> js.masks.Block((2, 2)).select(leaf, scores, 1).astype(int).tolist()
    [[0, 0, 1], [0, 0, 1]]
  """

  shape: tuple[int, ...]
  axes: tuple[int, ...] | None = None

  def __post_init__(self):
    lengths = self.shape if isinstance(self.shape, Sequence) else ()
    if not lengths or any(
      not isinstance(n, int | np.integer) or n < 1 for n in lengths
    ):
      raise ValueError(
        f'Block(shape={self.shape!r}): wanted a tuple of lengths, ints of 1 or more.'
      )
    if self.axes is not None and len(self.axes) != len(self.shape):
      raise ValueError(f'Block: shape={self.shape} and axes={self.axes} differ.')

  def _lengths(self, leaf: core.Leaf) -> tuple[int, ...]:
    """The block's length along every axis of the leaf."""
    axes = self.axes
    if axes is None:
      if len(self.shape) != 2 or not (leaf.in_axes and leaf.out_axes):
        raise ValueError(
          f'{leaf.name}: Block(shape={self.shape}) needs axes=: without them a block'
          ' is (input, output) of a leaf that has both.'
        )
      axes = (leaf.in_axes[-1], leaf.out_axes[-1])
    lengths = [1] * len(leaf.shape)
    axes = tuple(_structures.layer_axis(leaf, a, 'Block') for a in axes)
    if len(set(axes)) != len(axes):
      raise ValueError(f'{leaf.name}: Block has an axis twice: {self.axes}.')
    for axis, length in zip(axes, self.shape):
      lengths[axis] = length
    return tuple(lengths)

  def num_units(self, leaf: core.Leaf) -> int:
    """The number of blocks."""
    pairs = zip(leaf.shape, self._lengths(leaf))
    return math.prod(-(-n // b) for n, b in pairs)

  def unit_size(self, leaf: core.Leaf) -> int:
    """The weights of a full block."""
    return math.prod(self._lengths(leaf))

  def check(self, leaf: core.Leaf, sparsity: float) -> None:
    """Refuses a leaf without the axes of the block."""
    del sparsity
    self._lengths(leaf)

  def select(self, leaf: core.Leaf, scores: jax.Array, num_kept) -> jax.Array:
    """Keeps the `num_kept` blocks with the largest mean score.

    Args:
      leaf: the parameter.
      scores: array of the leaf's shape, any float dtype or uint32; NaN ranks last.
      num_kept: blocks kept in the whole leaf, int or traced int32 scalar.

    Returns:
      bool mask of the leaf's shape. Ties go by a hash of the block's flat index.
    """
    lengths = self._lengths(leaf)
    # No block spans stacked layers, so their axes are those of the means as well.
    unit_mask = _structures.select_units(
      _block_means(scores, lengths), num_kept, leaf.stack_axes
    )
    mask = unit_mask
    # Back to weights; what repeats beyond a ragged edge is cut off.
    for axis, length in enumerate(lengths):
      mask = jnp.repeat(mask, length, axis)
    return mask[tuple(slice(n) for n in leaf.shape)]

  def count(self, leaf: core.Leaf, mask: jax.Array) -> jax.Array:
    """The number of blocks that a mask keeps, each told by its first weight."""
    corners = tuple(slice(None, None, b) for b in self._lengths(leaf))
    return core.count_true(mask[corners])

  def survivors(self, leaf: core.Leaf, scores: jax.Array, num_kept) -> jax.Array:
    """The same as `select`."""
    return self.select(leaf, scores, num_kept)


def _block_means(scores, lengths):
  """Means over blocks, each over the weights that it really has."""
  # Sums of uint32 would overflow, and bfloat16 would tie most of them.
  scores = scores.astype(jnp.float32)
  sizes = jnp.ones(scores.shape, jnp.float32)
  padding = [(0, -n % b) for n, b in zip(scores.shape, lengths)]
  split: list[int] = []
  # Every axis becomes two: which block, and where in it.
  for n, b in zip(scores.shape, lengths):
    split += [-(-n // b), b]
  within = tuple(range(1, len(split), 2))
  total, count = (
    jnp.sum(jnp.pad(x, padding).reshape(split), axis=within) for x in (scores, sizes)
  )
  return total / count


@dataclasses.dataclass(frozen=True)
class Channel:
  """Whole slices along one axis, by default the output features.

  The score of a channel is the mean over its weights; its mask is stored with one
  bool per channel.

  Args:
    axis: the axis that enumerates channels; None for the last `out_axes`.

  Raises:
    ValueError: by `check`: a leaf without that axis.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> leaf = js.Leaf('kernel', (2, 3), in_axes=(0,), out_axes=(1,))
    >>> scores = jnp.array([[1., 2., 3.], [1., 2., 3.]])
    >>> js.masks.Channel().select(leaf, scores, 2).astype(int).tolist()
    [[0, 1, 1]]
  """

  axis: int | None = None

  def _axis(self, leaf: core.Leaf) -> int:
    if self.axis is None and not leaf.out_axes:
      raise ValueError(f'{leaf.name}: Channel needs out_axes, or axis=.')
    axis = leaf.out_axes[-1] if self.axis is None else self.axis
    return _structures.layer_axis(leaf, axis, 'Channel')

  def num_units(self, leaf: core.Leaf) -> int:
    """The number of channels, of all stacked layers together."""
    return leaf.shape[self._axis(leaf)] * leaf.num_slices

  def unit_size(self, leaf: core.Leaf) -> int:
    """The weights of one channel."""
    return leaf.size // self.num_units(leaf)

  def check(self, leaf: core.Leaf, sparsity: float) -> None:
    """Refuses a leaf without the channel axis."""
    del sparsity
    self._axis(leaf)

  def select(self, leaf: core.Leaf, scores: jax.Array, num_kept) -> jax.Array:
    """Keeps the `num_kept` channels with the largest mean score.

    Args:
      leaf: the parameter.
      scores: array of the leaf's shape, any float dtype or uint32; NaN ranks last.
      num_kept: channels kept in the whole leaf, int or traced int32 scalar.

    Returns:
      bool mask, broadcastable: length 1 along all axes but stacks and channels.
    """
    kept_axes = (*leaf.stack_axes, self._axis(leaf))
    pooled = tuple(a for a in range(len(leaf.shape)) if a not in kept_axes)
    # In float32 as the means of blocks, for the same reasons.
    means = jnp.mean(scores.astype(jnp.float32), axis=pooled, keepdims=True)
    return _structures.select_units(means, num_kept, leaf.stack_axes)

  def count(self, leaf: core.Leaf, mask: jax.Array) -> jax.Array:
    """The number of channels that a mask keeps."""
    del leaf
    return core.count_true(mask)

  def survivors(self, leaf: core.Leaf, scores: jax.Array, num_kept) -> jax.Array:
    """The same as `select`."""
    return self.select(leaf, scores, num_kept)

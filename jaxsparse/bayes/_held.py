"""Leaves that are held as their nonzeros: where masks are, there is a pattern."""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from jaxsparse import core, sparse


def plain(mask):
  """The `sparse.Pattern` of a leaf; a mask as it is."""
  # js.compact wraps patterns while it looks for what should grow.
  return getattr(mask, 'pattern', mask)


def is_held(mask) -> bool:
  """Whether a leaf is held as its nonzeros: for `is_leaf` of a tree of masks."""
  return sparse.is_pattern(plain(mask))


def nodes(masks) -> list:
  """The masks and patterns of a tree, along the leaves of the means."""
  return jax.tree.leaves(masks, is_leaf=is_held)


def dense_structs(mu, masks):
  """The means, with the shapes that leaves have when they are dense."""
  unwrapped = jax.tree.map(plain, masks, is_leaf=is_held)
  return sparse.dense_structs(mu, unwrapped)


def whole(values, mask):
  """A leaf as the model takes it."""
  return sparse.SparseArray(values, mask) if is_held(mask) else values


def values_of(theta) -> list:
  """The arrays of draws, of those on nonzeros their values."""
  is_whole = lambda x: isinstance(x, sparse.SparseArray)
  leaves = jax.tree.leaves(theta, is_leaf=is_whole)
  return [x.values if is_whole(x) else x for x in leaves]


def active(mask):
  """Bool, broadcastable to the values: what counts; of a pattern, all but padding."""
  if not is_held(mask):
    return mask
  pattern = plain(mask)
  # A pattern is filled from the front: padding lies behind the counted blocks.
  shape = pattern.stack + (pattern.capacity * pattern.format.block,)
  places = lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1)
  return places < (pattern.count * np.int32(pattern.format.block))[..., None]


def density(mask, leaf: core.Leaf):
  """The share of active weights of a leaf; 1 where it is not pruned."""
  if is_held(mask):
    pattern = plain(mask)
    blocks = jnp.sum(pattern.count, dtype=jnp.int32)
    kept = blocks * jnp.int32(pattern.format.block)
  elif mask.ndim:
    kept = core.kept_weights(mask, leaf)
  else:
    return 1.0
  # Above 0, since scales in units of 1 / sqrt(density) are to be finite.
  return jnp.maximum(kept, 1).astype(jnp.float32) / float(leaf.size)

"""What a leaf that is held as its nonzeros is in the dense tree: shapes, indices."""

import math

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from jaxsparse import native
from jaxsparse.sparse import _patterns


def dense_structs(values, patterns, is_leaf=_patterns.is_pattern):
  """The shapes and dtypes that the leaves of a tree have when they are dense.

  Args:
    values: a tree of arrays, vectors of values where there is a pattern.
    patterns: a tree of the same structure; what is no pattern marks a dense leaf.
    is_leaf: what counts as a pattern; it has a `stack` and a `format`.

  Returns:
    A tree of `jax.ShapeDtypeStruct`.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> weight = js.sparse.from_mask(jnp.ones((4, 4)), jnp.eye(4, dtype=bool))
    >>> js.sparse.dense_structs({'w': weight.values}, {'w': weight.pattern})['w'].shape
    (4, 4)
  """
  leaves, treedef = jax.tree.flatten(values)
  nodes = jax.tree.leaves(patterns, is_leaf=is_leaf)
  shapes = [
    p.stack + p.format.shape if is_leaf(p) else v.shape
    for v, p in zip(leaves, nodes, strict=True)
  ]
  structs = [jax.ShapeDtypeStruct(s, v.dtype) for s, v in zip(shapes, leaves)]
  return treedef.unflatten(structs)


def flat_indices(pattern: _patterns.Pattern) -> jax.Array:
  """Where each value stands in the dense array, seen flat.

  Args:
    pattern: a `Pattern`, stacked ones included: the whole stack is one array.

  Returns:
    uint32 of the shape of the values, modulo 2**32; of no meaning for padding.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> pattern = js.sparse.pattern_of(
    ...   jnp.eye(3, dtype=bool), js.sparse.Format((3, 3)), 3)
    >>> js.sparse.flat_indices(pattern).tolist()
    [0, 4, 8]
  """
  fmt, stack = pattern.format, pattern.stack
  has_kernel = fmt.nm is None and native.available() and native.stays_whole()

  def one(pattern, start):
    if has_kernel:
      return start + _by_kernel(pattern)
    inputs, outputs, _ = _patterns.places(pattern)
    flat = inputs.astype(jnp.uint32) * np.uint32(fmt.outputs)
    return start + flat + outputs.astype(jnp.uint32)

  for _ in stack:
    one = jax.vmap(one)
  # Reduced as a Python int, because a large layer's size is no uint32.
  size = np.uint32(fmt.inputs * fmt.outputs % 2**32)
  starts = lax.iota(jnp.uint32, math.prod(stack)).reshape(stack) * size
  return one(pattern, starts)


def _by_kernel(pattern):
  fmt = pattern.format
  call = jax.ffi.ffi_call(
    'jaxsparse_flat_indices',
    jax.ShapeDtypeStruct((pattern.capacity * fmt.block,), jnp.uint32),
    # The kernel takes leading axes, so under vmap nothing is looped over.
    vmap_method='broadcast_all',
  )
  rows, outputs, block = np.asarray((fmt.rows, fmt.outputs, fmt.block), np.int64)
  return call(pattern.starts, pattern.inputs, rows=rows, outputs=outputs, block=block)

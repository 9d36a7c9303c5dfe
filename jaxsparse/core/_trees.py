"""Names, keys and counts over pytrees."""

import zlib

import jax
import jax.numpy as jnp


def _path_name(path) -> str:
  parts = []
  for entry in path:
    # The entry of a dict, an attribute or a sequence has its name in one of these.
    for attribute in ('key', 'name', 'idx'):
      if hasattr(entry, attribute):
        parts.append(str(getattr(entry, attribute)))
        break
  return '/'.join(parts) or 'param'


def _is_box(x) -> bool:
  """Whether a node is an NNX variable or a Linen box: one array with metadata."""
  return hasattr(x, 'get_value') or hasattr(x, 'unbox')


def _box_paths(tree, paths) -> set:
  """Where in a tree the boxes are, looked for only if some path ends as theirs do."""
  if not any(
    getattr(p[-1], 'name', None) in ('value', 'raw_value') for p in paths if p
  ):
    return set()
  flat, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_box)
  return {path for path, x in flat if _is_box(x)}


def named_leaves(tree, is_leaf=None):
  """Flattens a tree into slash names, leaves and treedef.

  Args:
    tree: any pytree; an `nnx.State` gives the names that a Linen dict would give.
    is_leaf: as in `jax.tree.flatten`.

  Returns:
    `(names, leaves, treedef)`. A bare array is called `param`.

  Example:
    >>> from jaxsparse import core
    >>> core.named_leaves({'dense1': {'kernel': 1.0, 'bias': 2.0}})[0]
    ['dense1/bias', 'dense1/kernel']
  """
  flat, treedef = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)
  boxes = _box_paths(tree, [path for path, _ in flat])
  # A box holds its array in an attribute `value`, a level that plain dicts lack. Any
  # other field or key of that name, as in attention, is a name like any other.
  names = [_path_name(p[:-1] if p[:-1] in boxes else p) for p, _ in flat]
  return names, [x for _, x in flat], treedef


def named_subset(tree, names) -> dict:
  """`{name: leaf}` of the leaves of a tree that have these names."""
  found, leaves, _ = named_leaves(tree)
  return {n: x for n, x in zip(found, leaves) if n in names}


def as_key(seed) -> jax.Array:
  """A typed key from an int, an integer tracer or a typed key.

  Raises:
    ValueError: anything else: a float, or an old key of two uint32.
  """
  dtype = getattr(seed, 'dtype', jnp.int32 if isinstance(seed, int) else float)
  if jnp.issubdtype(dtype, jax.dtypes.prng_key):
    return seed
  is_bool = isinstance(seed, bool)
  if is_bool or not jnp.issubdtype(dtype, jnp.integer) or jnp.ndim(seed):
    raise ValueError(
      f'seed={seed!r}: wanted an int, an integer scalar, or a typed key as from'
      ' jax.random.key.'
    )
  return jax.random.key(seed)


def leaf_key(key: jax.Array, name: str) -> jax.Array:
  """The key of one leaf: it depends on the leaf's name, not on its position.

  Adding a layer therefore leaves the random masks of all others as they were.
  """
  # crc32 is stable over processes, unlike `hash`.
  return jax.random.fold_in(key, zlib.crc32(name.encode()))


def kept_weights(mask, param) -> jax.Array:
  """The number of weights that a broadcastable mask keeps, an int32 scalar.

  Counts in float32 over blocks below 2**24, exact there, and sums in integers:
  int32 counts are about three times slower on a CPU.
  """
  mask = jnp.asarray(mask)
  # Each entry of a broadcastable mask stands for equally many weights.
  repeat = param.size // max(mask.size, 1)
  return count_true(mask) * jnp.int32(repeat)


def count_true(mask, axes=None) -> jax.Array:
  """Counts True along `axes` (all by default), keeping them with length 1.

  Args:
    mask: bool array.
    axes: tuple of axes to count over; None for all.

  Returns:
    int32, exact for any array below 2**31; a scalar when `axes` is None.
  """
  squeeze = axes is None
  axes = tuple(range(mask.ndim)) if axes is None else tuple(axes)
  # Inner axes in float32, which is fast and exact below 2**24; the rest in integers.
  counts = mask.astype(jnp.float32)
  block, inner = 1, []
  for axis in reversed(axes):
    if block * mask.shape[axis] >= 2**24:
      break
    block *= mask.shape[axis]
    inner.append(axis)
  counts = jnp.sum(counts, axis=tuple(inner), keepdims=True)
  counts = counts.astype(jnp.int32)
  outer = tuple(a for a in axes if a not in inner)
  if outer:
    counts = jnp.sum(counts, axis=outer, keepdims=True, dtype=jnp.int32)
  return counts.reshape(()) if squeeze else counts

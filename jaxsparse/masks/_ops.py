"""Operations on whole trees of masks."""

import jax
import jax.numpy as jnp

from jaxsparse import core


def apply(masks: core.Masks, tree):
  """Sets what is off the mask to 0, by `where`, so that a NaN there is lost.

  Args:
    masks: bool tree, leaves broadcastable to those of `tree`.
    tree: params, gradients, moments ... of the same treedef.

  Returns:
    The tree, dtypes kept.
  """
  return jax.tree.map(lambda m, x: jnp.where(m, x, jnp.zeros_like(x)), masks, tree)


def density(masks: core.Masks, params) -> jax.Array:
  """The kept share of the weights that are masked at all, a float32 scalar.

  Leaves whose mask is a scalar are not pruned and do not dilute the figure; a
  tree without a pruned leaf has density 1.

  Args:
    masks: bool tree.
    params: arrays (or anything with a shape) of the same treedef.

  Returns:
    kept / all over the pruned leaves.

  Raises:
    ValueError: masks that are not bool.
  """
  for mask in jax.tree.leaves(masks):
    if jnp.result_type(mask) != jnp.bool_:
      raise ValueError(f'masks: a leaf is {jnp.result_type(mask)}; wanted bool.')
  pairs = [
    (m, p)
    for m, p in zip(jax.tree.leaves(masks), jax.tree.leaves(params))
    if jnp.ndim(m)
  ]
  if not pairs:
    return jnp.ones((), jnp.float32)
  # The count of one leaf fits in int32; that of all leaves together need not.
  kept = sum(core.kept_weights(m, p).astype(jnp.float32) for m, p in pairs)
  return jnp.asarray(kept) / float(sum(p.size for _, p in pairs))


def from_nonzeros(params, prunable: core.Prunable = core.kernels, leaves=None):
  """The masks of a model that is already sparse: True where a weight is not 0.

  Args:
    params: any pytree of arrays.
    prunable: which leaves get a mask; see `js.kernels`.
    leaves: overrides as in `js.leaves_of`.

  Returns:
    bool tree for `js.transforms.static(inner, masks=...)`.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> params = {'kernel': jnp.array([[0., 2.], [3., 0.]])}
    >>> js.masks.from_nonzeros(params)['kernel'].astype(int).tolist()
    [[0, 1], [1, 0]]
  """
  pruned = core.prunable_leaves(params, prunable, leaves)
  names, values, _ = core.named_leaves(params)
  found = {n: v != 0 for n, v in zip(names, values) if n in pruned}
  return from_named(params, found)


def from_named(params, masks: dict[str, jax.Array]):
  """A mask tree from `{leaf name: mask}`; a scalar True for every other leaf."""
  names, values, treedef = core.named_leaves(params)
  # A fresh array per leaf: a shared one could not be donated.
  return treedef.unflatten(
    [
      _placed(masks[n], x) if n in masks else jnp.ones((), bool)
      for n, x in zip(names, values)
    ]
  )


def _placed(mask, param):
  """The mask with the sharding of its parameter; traced ones are the compiler's."""
  traced = any(isinstance(x, jax.core.Tracer) for x in (mask, param))
  sharding = getattr(param, 'sharding', None)
  # A mask of length 1 along an axis cannot be divided as its parameter is, and one that
  # is committed would tie uncommitted params to its device.
  if traced or sharding is None or mask.shape != param.shape or not param.committed:
    return mask
  return jax.device_put(mask, sharding)

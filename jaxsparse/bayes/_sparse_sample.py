"""Draws of the weights that hold their nonzeros only."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxsparse import core, sparse
from jaxsparse.bayes import _posterior


def sample_sparse(
  posterior: _posterior.Posterior,
  params: _posterior.Gaussian,
  masks: core.Masks,
  key: jax.Array,
  *,
  capacity: Mapping[str, int] | None = None,
  leaves: core.LeafOverrides | None = None,
) -> core.Params:
  """`posterior.sample`, with a `js.sparse.SparseArray` where a leaf is pruned.

  The values are those that `posterior.sample` draws with this key; what is kept is in
  proportion to the active weights, while the drawing itself makes one dense leaf at a
  time.

  Args:
    posterior: of `js.bayes.ssvi` or `mean_field`.
    params: its `Gaussian`.
    masks: as of `js.get_masks`.
    key: typed key.
    capacity: `{leaf name: room for weights}`, under `jit`, where the masks are traced;
      the count of each pruned leaf, which never changes. Of a stacked leaf: of the
      fullest layer.
    leaves: overrides of `js.leaves_of`, needed for stacked layers.

  Returns:
    A tree like the model's params. A pruned leaf with fewer than two axes stays dense.

  Raises:
    ValueError: traced masks without a capacity, or one that is too small.

  Example:
    >>> import jax, jax.numpy as jnp, jaxsparse as js
    >>> posterior = js.bayes.mean_field()
    >>> params = posterior.init(jax.random.key(0), {'kernel': jnp.ones((8, 4))})
    >>> masks = {'kernel': jnp.arange(32).reshape(8, 4) < 4}
    >>> theta = js.bayes.sample_sparse(posterior, params, masks, jax.random.key(1))
    >>> theta['kernel'].shape, theta['kernel'].values.size
    ((8, 4), 4)
  """
  found = core.leaves_of(params.mu, leaves)
  theta = posterior.sample(params, masks, key)
  names, values, treedef = core.named_leaves(theta)
  held = [
    _held(found[name], value, mask, (capacity or {}).get(name))
    if mask.ndim and value.ndim - len(found[name].stack_axes) > 1
    else value
    for name, value, mask in zip(names, values, jax.tree.leaves(masks), strict=True)
  ]
  return treedef.unflatten(held)


def _held(leaf: core.Leaf, value, mask, capacity):
  mask, stacked = jnp.broadcast_to(mask, value.shape), len(leaf.stack_axes)
  if capacity is None:
    if isinstance(mask, jax.core.Tracer):
      raise ValueError(f'capacity: {leaf.name} has a traced mask; wanted its count.')
    # A shape: its value must be known before anything is traced.
    capacity = int(mask.sum(axis=leaf.unit_axes).max())
  # The axes before the first that is an output are inputs, as products see them.
  first_output = min(leaf.out_axes, default=value.ndim - 1) - stacked
  density = capacity * leaf.num_slices / max(leaf.size, 1)
  form = sparse.choose_format(value.shape[stacked:], density, first_output or None)

  def one(value, mask):
    return sparse.from_mask(value, mask, capacity=capacity, format=form)

  if set(leaf.stack_axes) != set(range(stacked)):
    raise ValueError(
      f'{leaf.name}: stacked axes {leaf.stack_axes} of {leaf.shape}; wanted those first.'
    )
  # One `vmap` for each stacked axis.
  for _ in range(stacked):
    one = jax.vmap(one)
  return one(value, mask)

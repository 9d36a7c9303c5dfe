"""Whether gradients, parameters and masks are of one model."""

import jax
import jax.numpy as jnp

from jaxsparse import core


def check(grads, params, field, masks) -> None:
  """Raises ValueError, naming the leaf, for what belongs to another model."""
  names, leaves, _ = core.named_leaves(params)
  given = dict(zip(*core.named_leaves(grads)[:2]))
  # A rule may take more gradients than there are parameters, never fewer.
  if lacking := sorted({*names} - {*given}):
    more = sorted({*given} - {*names})
    raise ValueError(
      f'grads: of another model than the params; they lack {", ".join(lacking)}, and'
      f' {", ".join(more) or "nothing"} is in them only.'
    )
  for name, leaf in zip(names, leaves):
    shape, wanted = jnp.shape(given[name]), jnp.shape(leaf)
    if shape != wanted:
      raise ValueError(f'grads: {name} has shape {shape}, the parameter {wanted}.')
  names, leaves, _ = core.named_leaves(field)
  masks = jax.tree.leaves(masks)
  if len(masks) != len(leaves):
    raise ValueError(
      f'state: it has {len(masks)} masks for {len(leaves)} parameters; it belongs to'
      ' another model. Call tx.init on these params.'
    )
  for name, mask, leaf in zip(names, masks, leaves):
    shape, wanted = jnp.shape(mask), jnp.shape(leaf)
    if shape and not (
      len(shape) == len(wanted) and all(n in (1, w) for n, w in zip(shape, wanted))
    ):
      raise ValueError(
        f'state: the mask of {name} has shape {shape}, the parameter {wanted}; it'
        ' belongs to another model. Call tx.init on these params.'
      )

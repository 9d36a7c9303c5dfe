"""Reaching the masks from outside the wrapper."""

import jax
import jax.numpy as jnp
import optax

from jaxsparse import core
from jaxsparse import masks as masks_lib


def _states(opt_state):
  found = core.sparse_states(opt_state)
  if not found and _holds_patterns(opt_state):
    raise ValueError(
      'opt_state: it is that of compact training, which holds patterns instead of masks;'
      ' use js.compact.get_patterns, or js.compact.densify first.'
    )
  if not found:
    raise ValueError(
      'opt_state: no KeepSparseState in it; was the optimizer wrapped by a transform'
      f' of jaxsparse? Got {type(opt_state).__name__}.'
    )
  return found


def _holds_patterns(opt_state):
  """Whether a state of compact training is in it; that room is above this one."""
  has = lambda x: isinstance(x, tuple) and hasattr(x, 'patterns')
  return any(map(has, jax.tree.leaves(opt_state, is_leaf=has)))


def _is_node(x):
  return isinstance(x, optax.MaskedNode) or hasattr(x, 'get_value')


def _masks(state):
  """The masks of one state, without the boxes that `nnx.Optimizer` adds.

  It boxes every array in a Variable, the step too. In a state that is not boxed, a
  Variable is the parameter's own, and part of the treedef of the params.
  """
  if not hasattr(state.step, 'get_value'):
    return state.masks
  return jax.tree.map(
    lambda x: x.get_value() if hasattr(x, 'get_value') else x,
    state.masks,
    is_leaf=_is_node,
  )


def get_masks(opt_state) -> core.Masks:
  """The masks that an optimizer's state holds, wherever in it they are.

  Args:
    opt_state: the state of any optax transformation that contains a sparse
      transform: in a chain, in `MultiSteps`, in several branches of
      `optax.partition` (merged), in an `nnx.Optimizer`.

  Returns:
    A tree of bool arrays with the treedef of (one field of) the params; a scalar
    True where nothing is pruned. Of an `nnx.Optimizer`, a state of plain arrays.

  Raises:
    ValueError: there is no sparse transform in it.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js, optax
    >>> tx = js.transforms.static(optax.adam(1e-3), 0.5, seed=0)
    >>> params, opt_state = js.init(tx, {'kernel': jnp.ones((4, 4))})
    >>> int(js.get_masks(opt_state)['kernel'].sum())
    8
  """
  trees = list(map(_masks, _states(opt_state)))
  first = trees[0]
  for other in trees[1:]:
    # Branches of a partition have a MaskedNode for what another one trains.
    first = jax.tree.map(_either, first, other, is_leaf=_is_node)
  return jax.tree.map(
    lambda m: jnp.ones((), bool) if isinstance(m, optax.MaskedNode) else m,
    first,
    is_leaf=_is_node,
  )


def _either(a, b):
  return b if isinstance(a, optax.MaskedNode) else a


def apply_masks(params: core.Params, opt_state) -> core.Params:
  """Sets to exactly 0 every weight off the mask, and clears a NaN there.

  For loops that call `tx.init` themselves (`TrainState.create`,
  `nnx.Optimizer`), for loaded weights, and for averages (EMA, SWA).

  Args:
    params: the parameters, or an average of them.
    opt_state: the state that holds the masks.

  Returns:
    The masked parameters, dtypes kept.

  Raises:
    ValueError: no sparse transform in the state, or another model's.
  """
  names, flat, treedef = core.named_leaves(params)
  masks = jax.tree.leaves(get_masks(opt_state))
  # A posterior holds several fields of one treedef that share the masks.
  fields = len(flat) // max(len(masks), 1)
  if len(masks) * fields != len(flat):
    raise ValueError(
      f'params: {len(flat)} leaves do not fit the {len(masks)} masks; they belong to'
      ' another model.'
    )
  masks = masks * fields
  if fields > 1:
    # A scalar in the place of an array: that field has no value for this leaf.
    masks = [m if jnp.ndim(p) else jnp.ones((), bool) for m, p in zip(masks, flat)]
  for name, mask, param in zip(names, masks, flat):
    shape, wanted = mask.shape, jnp.shape(param)
    if shape and not (
      len(shape) == len(wanted) and all(n in (1, w) for n, w in zip(shape, wanted))
    ):
      raise ValueError(
        f'params: {name} of shape {wanted} does not fit its mask of shape {shape}; it'
        ' belongs to another model.'
      )
  return treedef.unflatten(masks_lib.apply(masks, flat))


def init(
  tx,
  params: core.Params,
  *,
  rescale: bool = False,
  leaves: core.LeafOverrides | None = None,
):
  """Initialises an optimizer and makes the parameters sparse from the start.

  Args:
    tx: an optax transformation that contains a sparse transform.
    params: the dense initial parameters.
    rescale: whether to scale the kept weights of each output feature by
      sqrt(fan_in / kept fan_in), so that the variance of its activation is that
      of the dense layer (Evci et al. 2022, Gradient Flow in Sparse Neural
      Networks, section 3).
    leaves: overrides of `js.leaves_of` for the rescaling of stacked layers.

  Returns:
    `(params, opt_state)`.

  Raises:
    ValueError: no sparse transform in `tx`; `rescale` for a rule with a memory.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js, optax
    >>> tx = js.transforms.static(optax.sgd(0.1), 0.75, seed=0)
    >>> params, opt_state = js.init(tx, {'kernel': jnp.ones((4, 4))})
    >>> int((params['kernel'] != 0).sum())
    4
  """
  opt_state = tx.init(params)
  params = apply_masks(params, opt_state)
  if rescale and any(jax.tree.leaves(s.memory) for s in _states(opt_state)):
    raise ValueError(
      'rescale: the rule remembers what it saw of the weights that it was given (a dense'
      ' latent, the smallest ones), which scaling the params would not reach; wanted a'
      ' rule without a memory.'
    )
  if not rescale:
    return params, opt_state
  masks = jax.tree.leaves(get_masks(opt_state))
  described = core.leaves_of(params, leaves).values()
  flat, treedef = jax.tree.flatten(params)
  # Of several fields the first is the weights; there are as many masks as it has leaves.
  scaled = [
    _to_sparse_fan_in(*args) for args in zip(described, masks, flat, strict=False)
  ]
  return treedef.unflatten(scaled + flat[len(masks) :]), opt_state


def _to_sparse_fan_in(leaf, mask, param):
  if not jnp.ndim(mask) or not leaf.out_axes:
    return param
  inputs = tuple(a for a in leaf.unit_axes if a not in leaf.out_axes)
  # One count per output feature, of length 1 along the axes of its inputs.
  kept = core.count_true(jnp.broadcast_to(mask, param.shape), inputs)
  # An output without inputs has no weight to scale, and must not divide by 0.
  scale = jnp.sqrt(leaf.fan_in / jnp.maximum(kept, 1).astype(jnp.float32))
  return param * scale.astype(param.dtype)


def view(params: core.Params, opt_state) -> core.Params:
  """What the model sees of the parameters: the identity for every rule of today.

  Args:
    params: the parameters.
    opt_state: the state of the sparse transform.

  Returns:
    The tree to give to the model; differentiate at it.
  """
  del opt_state
  return params

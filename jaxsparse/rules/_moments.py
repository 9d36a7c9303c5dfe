"""The parts of an inner optimizer's state that lie along the parameters."""

import jax
import jax.numpy as jnp
import optax


class _Along:
  """Boxes what belongs to one array of a state, so that it is a leaf itself."""

  def __init__(self, value):
    self.value = value


def _is_masked_node(x):
  return isinstance(x, optax.MaskedNode)


def along(inner, params, state, tree):
  """Finds, for each array of an optimizer's state, its leaf of `tree`.

  Args:
    inner: the optimizer whose `init` made `state`.
    params: the parameters.
    state: the optimizer's state.
    tree: a tree like the params, for example masks.

  Returns:
    A list along `jax.tree.leaves(state)`: the leaf of `tree` where the array is
    param-like (a moment, an accumulator, a copy) and has its parameter's shape,
    otherwise None. Factored and scalar statistics are None.
  """

  def box(param, value):
    masked = _is_masked_node(param)
    return param if masked else _Along((jnp.shape(param), value))

  # A leaf that another optimizer of a partition steps is a MaskedNode in the params.
  boxes = jax.tree.map(box, params, tree, is_leaf=_is_masked_node)

  def pick(array, box):
    # Such a node has no leaves, neither in the state nor in the list that is returned.
    if _is_masked_node(array) or _is_masked_node(box):
      return array
    shape, value = box.value
    # Adafactor's factors are listed along the params too, in shapes of their own.
    return _Along(value if jnp.shape(array) == shape else None)

  marked = optax.tree.map_params(
    inner,
    pick,
    state,
    boxes,
    transform_non_params=lambda x: _Along(None),
    is_leaf=_is_masked_node,
  )
  flat = jax.tree.leaves(marked)
  return [x.value if isinstance(x, _Along) else None for x in flat]


def reset(inner, params, state, kept):
  """Gives all weights but the kept ones the statistics of a fresh start.

  That is 0 for Adam, but not for Adagrad or RMSprop, and a copy of the parameter
  for Prodigy or schedule-free: so it is what `inner.init(params)` says.

  Args:
    inner: the optimizer.
    params: the parameters, grown weights already at their value.
    state: the optimizer's state.
    kept: bool tree like the params.

  Returns:
    The state, other arrays unchanged.
  """
  marks = along(inner, params, state, kept)
  leaves, treedef = jax.tree.flatten(state)
  fresh = jax.tree.leaves(inner.init(params))
  # Moments may be kept in another dtype than the init gives (`mu_dtype`).
  return treedef.unflatten(
    [
      s if m is None else jnp.where(m, s, f.astype(s.dtype))
      for m, s, f in zip(marks, leaves, fresh, strict=True)
    ]
  )


def hold(inner, params, old, new, due):
  """Keeps the old param-like statistics where `due`; counts and schedules advance.

  Args:
    inner: the optimizer.
    params: the parameters.
    old: its state before the update.
    new: its state after it.
    due: bool scalar.

  Returns:
    The state.
  """
  marks = along(inner, params, new, params)
  leaves, treedef = jax.tree.flatten(new)
  return treedef.unflatten(
    [
      n if m is None else jnp.where(due, o, n)
      for m, o, n in zip(marks, jax.tree.leaves(old), leaves, strict=True)
    ]
  )

"""Exact counts on the host: weights kept, bytes held, units that died."""

import dataclasses
from typing import Any

import jax
import numpy as np

from jaxsparse import core, rules

BOOL = np.dtype(bool)


@dataclasses.dataclass(frozen=True)
class Stats:
  """What a sparse model holds, in exact integers.

  Attributes:
    num_weights: all parameters.
    num_kept: parameters that no mask removes; unpruned leaves count in full.
    num_prunable: parameters of the pruned leaves.
    num_prunable_kept: those of them that are kept.
    param_bytes: bytes of the parameters, stored densely.
    mask_bytes: bytes of the masks.
    state_bytes: bytes of the optimizer state without its masks; 0 when only masks
      were given.
    density: `{leaf name: kept share}` of the pruned leaves.
  """

  num_weights: int
  num_kept: int
  num_prunable: int
  num_prunable_kept: int
  param_bytes: int
  mask_bytes: int
  state_bytes: int
  density: dict[str, float]

  @property
  def nominal_sparsity(self) -> float:
    """The removed share of the pruned leaves; 0 where none is pruned."""
    return 1 - self.num_prunable_kept / self.num_prunable if self.num_prunable else 0.0

  @property
  def whole_model_sparsity(self) -> float:
    """The removed share of all parameters."""
    return 1 - self.num_kept / self.num_weights if self.num_weights else 0.0


def named_masks(params, source) -> dict[str, Any]:
  """`{leaf name: mask}` from masks, from an optimizer state, or all True from None.

  Raises:
    ValueError: masks that are not of these parameters, naming the leaf.
  """
  names, values, _ = core.named_leaves(params)
  if source is None:
    return {name: np.ones((), bool) for name in names}
  tree = rules.get_masks(source) if core.sparse_states(source) else source
  masks = jax.tree.leaves(tree)
  # A posterior holds several fields of one treedef that share the masks.
  if names and (not masks or len(names) % len(masks)):
    raise ValueError(
      f'opt_state_or_masks: {len(masks)} leaves for {len(names)} parameters; wanted'
      ' the state of a sparse transform, or one mask per parameter.'
    )
  masks *= len(names) // max(len(masks), 1)
  for name, mask, value in zip(names, masks, values):
    _check(name, mask, value)
  return dict(zip(names, masks))


def _check(name, mask, value) -> None:
  shape, dtype = np.shape(mask), getattr(mask, 'dtype', type(mask))
  fits = dtype == BOOL and len(shape) in (0, len(value.shape))
  if not fits or any(m not in (1, n) for m, n in zip(shape, value.shape)):
    raise ValueError(
      f'opt_state_or_masks: the mask of {name} has shape {shape} and dtype {dtype};'
      f' wanted bool, broadcastable to {value.shape}.'
    )


def count_kept(mask, size: int) -> int:
  """How many of a leaf's `size` weights a broadcastable mask keeps, exactly."""
  # Python integers: float32 stops counting at 2**24, int32 at 2**31.
  mask = np.asarray(mask)
  return int(np.count_nonzero(mask)) * (size // mask.size) if mask.size else 0


def num_bytes(tree) -> int:
  """The bytes of all arrays in a tree, an array that occurs twice counted once."""
  arrays = {id(x): x for x in jax.tree.leaves(tree) if hasattr(x, 'dtype')}
  return sum(x.size * x.dtype.itemsize for x in arrays.values())


def stats(params, opt_state_or_masks=None) -> Stats:
  r"""Counts weights, kept weights and bytes.

  .. math::
    s_\text{nominal} = 1 - \frac{\sum_{l \in P} k_l}{\sum_{l \in P} n_l}, \qquad
    s_\text{whole} = 1 - \frac{\sum_l k_l}{\sum_l n_l}

  with the weights n and kept weights k of leaf l, and the pruned leaves P.

  Args:
    params: any pytree of arrays, or of `jax.ShapeDtypeStruct`.
    opt_state_or_masks: an optimizer state that holds a sparse transform, or a tree
      of masks; None for a dense model.

  Returns:
    `Stats`. Zeros that happen to be in `params` do not count: masks decide.

  Raises:
    ValueError: masks that are not of these parameters.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> params = {'bias': jnp.zeros(2), 'kernel': jnp.ones((4, 2))}
    >>> masks = {'bias': jnp.array(True), 'kernel': jnp.eye(4, 2, dtype=bool)}
    >>> found = js.summary.stats(params, masks)
    >>> found.num_kept, found.nominal_sparsity, found.whole_model_sparsity
    (4, 0.75, 0.6)
  """
  masks = named_masks(params, opt_state_or_masks)
  names, values, _ = core.named_leaves(params)
  sizes = {name: value.size for name, value in zip(names, values)}
  kept = {name: count_kept(masks[name], sizes[name]) for name in names}
  pruned = [name for name in names if np.ndim(masks[name])]
  states = core.sparse_states(opt_state_or_masks)
  held = num_bytes(opt_state_or_masks)
  mask_bytes = num_bytes([s.masks for s in states]) if states else held
  return Stats(
    num_weights=sum(sizes.values()),
    num_kept=sum(kept.values()),
    num_prunable=sum(sizes[name] for name in pruned),
    num_prunable_kept=sum(kept[name] for name in pruned),
    param_bytes=num_bytes(params),
    mask_bytes=mask_bytes,
    state_bytes=held - mask_bytes,
    density={name: kept[name] / sizes[name] for name in pruned if sizes[name]},
  )


def density_per_leaf(params, opt_state_or_masks) -> dict[str, float]:
  """The kept share of every pruned leaf.

  Args:
    params: any pytree of arrays.
    opt_state_or_masks: as in `stats`.

  Returns:
    `{leaf name: kept / all}`, without the leaves that have a scalar mask.

  Raises:
    ValueError: masks that are not of these parameters.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> masks = {'kernel': jnp.array([[True, False]])}  # one bool per channel
    >>> js.summary.density_per_leaf({'kernel': jnp.ones((3, 2))}, masks)
    {'kernel': 0.5}
  """
  return stats(params, opt_state_or_masks).density


def dead_units(params, opt_state_or_masks, leaves=None) -> dict[str, tuple[int, int]]:
  """Counts the output units that no kept weight reaches.

  Args:
    params: any pytree of arrays.
    opt_state_or_masks: as in `stats`.
    leaves: overrides as in `js.leaves_of`; stacked axes must be given.

  Returns:
    `{leaf name: (dead units, units)}` for the pruned leaves with output axes; the
    units of stacked layers are counted one by one.

  Raises:
    ValueError: masks that are not of these parameters.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> masks = {'kernel': jnp.array([[True, False], [True, False]])}
    >>> js.summary.dead_units({'kernel': jnp.ones((2, 2))}, masks)
    {'kernel': (1, 2)}
  """
  masks = named_masks(params, opt_state_or_masks)
  dead = {}
  for name, leaf in core.leaves_of(params, leaves).items():
    if np.ndim(masks[name]) and leaf.out_axes:
      inputs = tuple(a for a in leaf.unit_axes if a not in leaf.out_axes)
      alive = np.any(np.broadcast_to(masks[name], leaf.shape), axis=inputs)
      dead[name] = (int(np.count_nonzero(~alive)), alive.size)
  return dead

"""How masks move: overlap, change between steps, and what was ever explored."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxsparse import core
from jaxsparse.summary import _counts


@dataclasses.dataclass(frozen=True)
class Overlap:
  """How far two sets of kept weights agree.

  Attributes:
    leaves: `{leaf name: intersection over union}` of the pruned leaves.
    total: the same over all pruned leaves together.
    num_shared: weights kept in both.
    num_either: weights kept in at least one.
  """

  leaves: dict[str, float]
  total: float
  num_shared: int
  num_either: int


@dataclasses.dataclass(frozen=True)
class Sad:
  """The sum of absolute differences of two masks, in weights.

  Attributes:
    leaves: `{leaf name: weights whose mask changed}` of the pruned leaves.
    total: the sum over leaves.
    share: total over all weights of the pruned leaves, in [0, 1].
  """

  leaves: dict[str, int]
  total: int
  share: float


@dataclasses.dataclass(frozen=True)
class Share:
  """A share of the weights of the pruned leaves, in [0, 1].

  Attributes:
    leaves: `{leaf name: share}` of the pruned leaves.
    total: the share of all of them together.
  """

  leaves: dict[str, float]
  total: float


def _pairs(masks_a, masks_b, params):
  """Yields `(name, a, b, weights)` for the leaves that either tree prunes."""
  names, flat_a, tree_a = core.named_leaves(masks_a)
  flat_b, tree_b = jax.tree.flatten(masks_b)
  if tree_a != tree_b:
    raise ValueError(f'masks_b: has the structure {tree_b}, masks_a has {tree_a}.')
  if params is not None:
    _counts.named_masks(params, masks_a), _counts.named_masks(params, masks_b)
    shapes = [p.shape for p in jax.tree.leaves(params)]
  else:
    shapes = [() for _ in names]
  for name, a, b, shape in zip(names, flat_a, flat_b, shapes):
    try:
      joint = np.broadcast_shapes(np.shape(a), np.shape(b))
    except ValueError:
      raise ValueError(
        f'masks_b: {name} has shape {np.shape(b)}, which does not fit the shape'
        f' {np.shape(a)} in masks_a.'
      ) from None
    # A scalar in both trees is a leaf that nothing prunes.
    if joint:
      a, b = np.broadcast_to(a, joint), np.broadcast_to(b, joint)
      # In Python integers: NumPy's product of a large shape may overflow.
      yield name, a, b, int(np.prod(shape or joint, dtype=object))


def _divide(part: int, whole: int, empty: float) -> float:
  return part / whole if whole else empty


def overlap(masks_a: core.Masks, masks_b: core.Masks, params=None) -> Overlap:
  r"""Compares two sets of kept weights.

  .. math:: \mathrm{IoU}(a, b) = |a \cap b| \, / \, |a \cup b|

  Args:
    masks_a: bool tree; leaves with a scalar mask in both trees are left out.
    masks_b: bool tree of the same structure.
    params: the parameters, needed for the right totals where masks are broadcast
      (`js.masks.Channel`); without it a leaf has as many weights as its mask.

  Returns:
    `Overlap`; two empty sets agree with 1.

  Raises:
    ValueError: trees of different structure, or a leaf of another shape.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> a, b = jnp.array([True, True, False]), jnp.array([True, False, True])
    >>> round(js.summary.overlap({'kernel': a}, {'kernel': b}).total, 3)
    0.333
  """
  shared, either = {}, {}
  for name, a, b, size in _pairs(masks_a, masks_b, params):
    shared[name] = _counts.count_kept(a & b, size)
    either[name] = _counts.count_kept(a | b, size)
  total_shared, total_either = sum(shared.values()), sum(either.values())
  return Overlap(
    leaves={name: _divide(shared[name], either[name], 1.0) for name in shared},
    total=_divide(total_shared, total_either, 1.0),
    num_shared=total_shared,
    num_either=total_either,
  )


def sad(masks_a: core.Masks, masks_b: core.Masks, params=None) -> Sad:
  r"""Counts the weights whose mask differs.

  .. math:: \mathrm{SAD}(a, b) = \lVert a - b \rVert_1

  Args:
    masks_a: bool tree, for example the masks of an earlier step.
    masks_b: bool tree of the same structure.
    params: as in `overlap`.

  Returns:
    `Sad`.

  Raises:
    ValueError: trees of different structure, or a leaf of another shape.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> a, b = jnp.array([True, True, False, False]), jnp.array([True, False, True, False])
    >>> js.summary.sad({'kernel': a}, {'kernel': b})
    Sad(leaves={'kernel': 2}, total=2, share=0.5)

  Zhou et al. 2021, Learning N:M Fine-grained Structured Sparse Neural Networks
  From Scratch, https://arxiv.org/abs/2102.04010
  """
  changed, weights = {}, 0
  for name, a, b, size in _pairs(masks_a, masks_b, params):
    changed[name] = _counts.count_kept(a != b, size)
    weights += size
  total = sum(changed.values())
  return Sad(leaves=changed, total=total, share=_divide(total, weights, 0.0))


def ever_active(previous: core.Masks | None, masks: core.Masks) -> core.Masks:
  """Adds the weights that are kept now to those that were kept at some time.

  Pure, works under `jit`: carry the result beside the training state, and call it
  after every step in which masks may change.

  Args:
    previous: the result of the last call; None at the start.
    masks: the current masks.

  Returns:
    bool tree with the structure of `masks`, fresh arrays.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> ever = js.summary.ever_active(None, {'kernel': jnp.array([True, False, False])})
    >>> ever = js.summary.ever_active(ever, {'kernel': jnp.array([False, True, False])})
    >>> ever['kernel'].tolist()
    [True, True, False]
  """
  if previous is None:
    # Copies: the caller may donate its masks to the next step.
    return jax.tree.map(lambda m: jnp.array(m, copy=True), masks)
  return jax.tree.map(jnp.logical_or, previous, masks)


def exploration(ever: core.Masks, params=None) -> Share:
  r"""The share of the prunable weights that were kept at some time.

  .. math:: R = \lVert \vee_t \, m_t \rVert_0 \, / \, n

  Args:
    ever: what `ever_active` accumulated.
    params: as in `overlap`.

  Returns:
    `Share`; 0 in total where nothing is pruned.

  Raises:
    ValueError: a tree that is not of these parameters.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> js.summary.exploration({'kernel': jnp.array([True, True, True, False])}).total
    0.75

  Liu et al. 2021, Do We Actually Need Dense Over-Parameterization? In-Time
  Over-Parameterization in Sparse Training, https://arxiv.org/abs/2102.02887
  """
  active, sizes = {}, {}
  for name, mask, _, size in _pairs(ever, ever, params):
    active[name] = _counts.count_kept(mask, size)
    sizes[name] = size
  return Share(
    leaves={name: _divide(active[name], sizes[name], 0.0) for name in active},
    total=_divide(sum(active.values()), sum(sizes.values()), 0.0),
  )

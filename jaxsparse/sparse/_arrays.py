"""Values on a pattern, to and from a dense array and its mask."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsparse.sparse import _formats, _nm, _patterns


@functools.partial(
  jax.tree_util.register_dataclass, data_fields=('values', 'pattern'), meta_fields=()
)
@dataclasses.dataclass(frozen=True)
class SparseArray:
  """A weight that holds its nonzeros only: what a product takes.

  A registered pytree. In training the float `values` and the integer `pattern` live in
  different trees, and are joined just before the model runs.

  Attributes:
    values: (capacity * block,), in the order of `pattern.inputs`, or of
      `pattern.positions`; what is held for padding is never read, its gradient is 0.
    pattern: a `Pattern`, or for N:M a `NMPattern`.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> weight = js.sparse.from_mask(jnp.array([[1., 2.], [3., 4.]]),
    ...                              jnp.array([[True, False], [False, True]]))
    >>> weight.values.tolist(), weight.shape
    ([1.0, 4.0], (2, 2))
  """

  values: jax.Array
  pattern: _patterns.AnyPattern

  @property
  def shape(self) -> tuple[int, ...]:
    """The shape of the dense weight, without stacked axes."""
    return self.pattern.format.shape

  @property
  def dtype(self) -> Any:
    """The dtype of the values."""
    return self.values.dtype


def from_mask(
  param: jax.Array,
  mask: jax.Array,
  *,
  capacity: int | None = None,
  in_axes: int | None = None,
  block: int = 1,
  format: _formats.Format | None = None,
) -> SparseArray:
  """Keeps the weights of a mask, exactly.

  Stacked layers: `jax.vmap` over it, with `capacity` and `format` given.

  Args:
    param: float array of at least two axes.
    mask: bool array that broadcasts to it, True for kept weights.
    capacity: room for that many blocks; None for as many as there are, which needs a
      mask that is not traced, or for N:M.
    in_axes: how many leading axes are inputs; None for all but the last.
    block: how many consecutive outputs are kept or pruned together: 1, or a multiple
      of 4 for the fast kernels.
    format: instead of `in_axes` and `block`; None for `choose_format`.

  Returns:
    A `SparseArray`.

  Raises:
    ValueError: a capacity below the count of the mask; a mask that is not made of such
      blocks, or keeps more than n of some group; no capacity under `jit`.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> param = jnp.arange(6.).reshape(2, 3)
    >>> weight = js.sparse.from_mask(param, param > 3, capacity=4)
    >>> js.sparse.to_dense(weight).tolist()
    [[0.0, 0.0, 0.0], [0.0, 4.0, 5.0]]
  """
  param = jnp.asarray(param)
  mask = jnp.broadcast_to(jnp.asarray(mask), param.shape)
  traced = isinstance(mask, jax.core.Tracer)
  given, format = format, format or _formats.Format(param.shape, in_axes, block)
  if format.shape != param.shape:
    raise ValueError(f'format: shape {format.shape}; wanted {param.shape}.')
  if format.nm is not None:
    capacity = _checked_nm(None if traced else np.asarray(mask), format, capacity)
    return _from_mask(param, mask, format, capacity)
  if traced and capacity is None:
    raise ValueError('capacity: None with a traced mask; wanted a number of blocks.')
  if not traced:
    capacity = _checked_capacity(np.asarray(mask), format, capacity)
  # Tiles are chosen by the density, which is known only now.
  if given is None:
    density = (capacity or 0) / max(format.num_blocks, 1)
    format = _formats.choose_format(format.shape, density, format.in_axes, format.block)
  return _from_mask(param, mask, format, capacity)


@functools.partial(jax.jit, static_argnums=(2, 3), inline=True)
def _from_mask(param, mask, format, capacity):
  pattern = _patterns.pattern_of(mask, format, capacity)
  # A traced mask is not checked: what it prunes within a block is held as 0.
  kept = jnp.where(mask, param, jnp.zeros((), param.dtype))
  return SparseArray(_patterns.gather(kept, pattern), pattern)


def _checked_nm(mask, format, capacity):
  wanted, (n, m) = _nm.capacity_of(format), format.nm
  if capacity not in (None, wanted):
    raise ValueError(f'capacity={capacity}: a weight of nm={n, m} has {wanted}.')
  if mask is not None and (most := _nm.most_in_a_group(mask, format)) > n:
    raise ValueError(
      f'mask: it keeps {most} of some {m} consecutive inputs; wanted at most {n}, as'
      f' structure=js.masks.NM({n}, {m}) makes it.'
    )
  return wanted


def _checked_capacity(mask, format, capacity):
  blocks = mask.reshape(format.inputs, format.rows, format.block)
  kept = blocks.any(-1)
  # (inputs / depth, depth, rows): a deep block is kept as a whole or not at all.
  deep = kept.reshape(-1, format.depth, format.rows)
  whole = np.array_equal(deep.any(1), deep.all(1))
  if not (whole and np.array_equal(kept, blocks.all(-1))):
    block = f'{format.depth}x{format.block}' if format.depth > 1 else format.block
    raise ValueError(
      f'mask: it is not made of blocks of {block} outputs; prune with'
      f' structure=js.masks.Block(({format.depth}, {format.block})).'
    )
  count = int(np.count_nonzero(kept))
  if capacity is None:
    return count
  if capacity < count:
    raise ValueError(f'capacity={capacity}: the mask keeps {count} blocks.')
  return capacity


def to_dense(array: SparseArray) -> jax.Array:
  """The dense weight, 0 where nothing is held.

  Args:
    array: a `SparseArray`.

  Returns:
    Array of the shape `array.shape` and the dtype of the values.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> weight = js.sparse.from_mask(jnp.ones((2, 2)), jnp.eye(2, dtype=bool))
    >>> js.sparse.to_dense(weight).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
  """
  return _patterns.scatter(array.values, array.pattern)

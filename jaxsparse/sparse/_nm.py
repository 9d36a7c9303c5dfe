"""Where the nonzeros of an N:M weight are: small integers in groups."""

import dataclasses
import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from jaxsparse.sparse import _formats

# A place that holds nothing; no m is as large.
NOTHING = 255


@functools.partial(
  jax.tree_util.register_dataclass, data_fields=('positions',), meta_fields=('format',)
)
@dataclasses.dataclass(frozen=True)
class NMPattern:
  r"""The places of the weights of an N:M weight, without their values.

  .. math:: W_{gm + p,\,o} = v_k, \quad p = \text{positions}_k, \quad
    k = (oG + g)\,n + s, \quad 0 \le s < n

  with G groups of m inputs. A registered pytree with one array of a byte per weight;
  only `format` is static, so another pattern never compiles anew.

  Attributes:
    positions: uint8 (outputs * groups * n,), by output, then by group of inputs: where
      in its group each weight stands; rises within a group. 255 is no weight, behind
      the others: a group may hold fewer than n.
    format: the static `Format`, with `nm`.

  Stacked layers have one more leading axis.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> mask = jnp.array([[1, 0], [0, 1], [0, 1], [1, 0]], bool)
    >>> fmt = js.sparse.Format((4, 2), nm=(2, 4))
    >>> js.sparse.pattern_of(mask, fmt).positions.tolist()
    [0, 3, 1, 2]
  """

  positions: jax.Array
  format: _formats.Format

  @property
  def capacity(self) -> int:
    """How many weights there is room for: n in every group."""
    return self.positions.shape[-1]

  @property
  def count(self) -> jax.Array:
    """How many weights there are, int32."""
    held = self.positions != np.uint8(NOTHING)
    return jnp.sum(held, axis=-1, dtype=jnp.int32)

  @property
  def stack(self) -> tuple[int, ...]:
    """The leading axes, which enumerate stacked layers."""
    return self.positions.shape[:-1]


def capacity_of(format: _formats.Format) -> int:
  """The length of the values and positions of a format."""
  n, _ = format.nm or (0, 1)
  return format.outputs * format.groups * n


def pattern_of(mask: jax.Array, format: _formats.Format) -> NMPattern:
  """The pattern of a mask; of a group that keeps more than n, the first n."""
  n, m = format.nm or (0, 1)
  # (outputs, groups, m), for positions stand output by output.
  kept = mask.reshape(format.groups, m, format.outputs).transpose(2, 0, 1)
  # How many stand before each one says which of the n places it takes.
  rank = jnp.cumsum(kept, axis=-1, dtype=jnp.int32) - np.int32(1)
  rank = jnp.where(kept, rank, np.int32(-1))
  place = lax.broadcasted_iota(jnp.int32, kept.shape, 2)
  slots = [
    jnp.min(jnp.where(rank == np.int32(s), place, np.int32(NOTHING)), axis=-1)
    for s in range(n)
  ]
  positions = jnp.stack(slots, axis=-1).astype(jnp.uint8)
  return NMPattern(positions.reshape(-1), format)


def coordinates(pattern: NMPattern) -> tuple[jax.Array, jax.Array, jax.Array]:
  """`(inputs, outputs, valid)` of the weights, in the order of the values."""
  inputs, valid = sources(pattern)
  outputs = lax.broadcasted_iota(jnp.int32, inputs.shape, 0)
  outputs = jnp.where(valid, outputs, np.int32(0))
  return inputs.astype(jnp.int32).reshape(-1), outputs.reshape(-1), valid.reshape(-1)


def scatter(values: jax.Array, pattern: NMPattern) -> jax.Array:
  """The dense weight: comparisons only, which every device does well."""
  fmt = pattern.format
  n, m = fmt.nm or (0, 1)
  shape = (fmt.outputs, fmt.groups, n)
  positions, values = pattern.positions.reshape(shape), values.reshape(shape)
  # (1, inputs): where in its group each input stands.
  place = np.tile(np.arange(m, dtype=np.uint8), fmt.groups)[None, :]
  dense = jnp.zeros((fmt.outputs, fmt.inputs), values.dtype)
  for s in range(n):
    at = jnp.repeat(positions[:, :, s], m, axis=1)
    dense = jnp.where(at == place, jnp.repeat(values[:, :, s], m, axis=1), dense)
  return dense.T.reshape(fmt.shape)


def gather(dense: jax.Array, pattern: NMPattern) -> jax.Array:
  """The entries of a dense array where the pattern has weights; 0 elsewhere."""
  fmt = pattern.format
  n, m = fmt.nm or (0, 1)
  dense = dense.reshape(fmt.inputs, fmt.outputs).T
  dense = dense.reshape(fmt.outputs, fmt.groups, m)
  positions = pattern.positions.reshape(fmt.outputs, fmt.groups * n)
  values = jnp.zeros(positions.shape, dense.dtype)
  for place in range(m):
    given = jnp.repeat(dense[:, :, place], n, axis=1)
    values = jnp.where(positions == np.uint8(place), given, values)
  return values.reshape(-1)


def sources(pattern: NMPattern) -> tuple[jax.Array, jax.Array]:
  """`(inputs, valid)` of the weights by output: (outputs, groups * n)."""
  fmt = pattern.format
  n, m = fmt.nm or (0, 1)
  positions = pattern.positions.reshape(fmt.outputs, fmt.groups * n)
  valid = positions < np.uint8(m)
  dtype = fmt.input_dtype
  first = np.repeat(np.arange(fmt.groups, dtype=dtype) * dtype.type(m), n)[None, :]
  # 255 may wrap around here: it is no weight, and replaced in the next line.
  inputs = positions.astype(dtype) + first
  return jnp.where(valid, inputs, jnp.zeros((), dtype)), valid


def most_in_a_group(mask: np.ndarray, format: _formats.Format) -> int:
  """The most weights that a group of a mask keeps; not traced."""
  _, m = format.nm or (0, 1)
  grouped = mask.reshape(format.groups, m, format.outputs)
  return int(grouped.sum(axis=1, dtype=np.int64).max(initial=0))


def problem(pattern: NMPattern) -> str | None:
  """What is wrong with a pattern, or None; not traced."""
  fmt, positions = pattern.format, np.asarray(pattern.positions)
  if fmt.nm is None:
    return 'format: no nm in it.'
  (n, m), wanted = fmt.nm, (capacity_of(fmt),)
  if positions.dtype != np.uint8 or positions.shape != wanted:
    return (
      f'positions: {positions.dtype} of shape {positions.shape}; wanted uint8 of'
      f' {wanted}.'
    )
  # Differences of uint8 would wrap around.
  grouped = positions.reshape(-1, n).astype(np.int32)
  outside = grouped[(grouped >= m) & (grouped != NOTHING)]
  if outside.size:
    return f'positions: {outside[0]} is out of range; a group has {m}.'
  rises = (np.diff(grouped, axis=1) > 0) | (grouped[:, 1:] == NOTHING)
  if not rises.all():
    return 'positions: unsorted in a group, or a place comes twice.'
  return None

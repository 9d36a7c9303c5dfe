"""Sparse tables as they are shipped: values, short column numbers, counts of rows."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class PackedRows(NamedTuple):
  """A sparse table, row after row.

  Attributes:
    values: float32 or float16 (kept,).
    columns: uint8 (kept,), uint16 for more than 256 columns.
    counts: uint8 (rows,), uint16 for more than 255 columns: how many values a row has.
    like: (0, columns) of the dtype of the dense table: its width.
  """

  values: jax.Array
  columns: jax.Array
  counts: jax.Array
  like: jax.Array


def pack(table, mask=None, dtype=np.float32) -> PackedRows:
  """Packs a table.

  Args:
    table: (rows, columns).
    mask: bool of its shape, what is kept; None for what is not 0.
    dtype: of the values, float32 or float16.

  Returns:
    `PackedRows`.

  Raises:
    ValueError: a table of other axes, or of more than 65,536 columns.
  """
  table = np.asarray(table)
  if table.ndim != 2 or table.shape[1] > 2**16:
    raise ValueError(
      f'pack: shape {table.shape}; wanted (rows, columns) with at most 65,536 columns.'
    )
  mask = table != 0 if mask is None else np.asarray(mask)
  rows, columns = np.nonzero(mask)
  counts = np.bincount(rows, minlength=len(table))
  width = table.shape[1]
  return PackedRows(
    jnp.asarray(table[rows, columns].astype(dtype)),
    jnp.asarray(columns.astype(np.uint8 if width <= 256 else np.uint16)),
    jnp.asarray(counts.astype(np.uint8 if width <= 255 else np.uint16)),
    jnp.zeros((0, width), table.dtype),
  )


def num_bytes(packed: PackedRows) -> int:
  """The bytes of its arrays."""
  return sum(int(x.nbytes) for x in packed)


def unpack(packed: PackedRows, rows=None) -> jax.Array:
  """Some rows as dense ones; all for None.

  Args:
    packed: a table.
    rows: int (B,).

  Returns:
    float32 (B, columns).
  """
  counts = packed.counts.astype(jnp.int32)
  rows = jnp.arange(len(counts)) if rows is None else rows
  width = packed.like.shape[1]
  place = jnp.arange(width)[None, :]
  source = (jnp.cumsum(counts) - counts)[rows][:, None] + place
  source = jnp.where(place < counts[rows][:, None], source, len(packed.values))
  column = packed.columns.at[source].get(mode='fill', fill_value=0).astype(jnp.int32)
  value = packed.values.at[source].get(mode='fill', fill_value=0)
  dense = jnp.zeros((len(rows), width), jnp.float32)
  # Absent values are 0, and do nothing to the column 0.
  return dense.at[jnp.arange(len(rows))[:, None], column].add(value.astype(jnp.float32))


def scores(user: PackedRows, item: PackedRows, users) -> jax.Array:
  """Dot products of some users with all items, straight from packed rows.

  Every value of the table of items is read once; no table is unpacked, only the rows of
  these users.

  Args:
    user: table of users.
    item: table of items, as wide.
    users: int (B,).

  Returns:
    float32 (B, items).
  """
  dense = unpack(user, users)
  # In int32: sums of short counts would overflow.
  row = jnp.repeat(
    jnp.arange(len(item.counts)),
    item.counts.astype(jnp.int32),
    total_repeat_length=len(item.values),
  )
  terms = dense.T[item.columns.astype(jnp.int32)] * item.values[:, None].astype(
    jnp.float32
  )
  return jax.ops.segment_sum(terms, row, len(item.counts), indices_are_sorted=True).T

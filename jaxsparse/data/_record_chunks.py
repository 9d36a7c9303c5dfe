"""A function of record indices, applied chunk by chunk."""

from collections.abc import Callable

import jax
from jax import lax
import jax.numpy as jnp


def map_chunks(function: Callable, index: jax.Array, chunk: int):
  """`function(index)` computed for `chunk` indices at a time.

  Args:
    function: `(chunk,) int32 indices -> tree of arrays (chunk, ...)`.
    index: (M,) int32.
    chunk: indices in one call; all calls have this shape, so it is compiled once.

  Returns:
    A tree of arrays (M, ...).
  """
  total = index.shape[0]
  chunk = min(chunk, total)
  # What is too many repeats the last index, and its results are cut off.
  padded = jnp.pad(index, (0, -total % chunk), mode='edge').reshape(-1, chunk)
  out = lax.map(function, padded)
  return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:total], out)

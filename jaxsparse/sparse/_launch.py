"""How the Pallas kernels are started: compiled on a GPU, interpreted on a CPU."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

try:
  from jax.experimental import pallas as pl
  from jax.experimental.pallas import triton
except ImportError:  # The Triton lowering of Pallas is to leave jax some day.
  pl = triton = None  # type: ignore[assignment]


def why_not() -> str | None:
  """Why this jax has no such kernels; None if it has."""
  if triton is None:
    return f'jax {jax.__version__} has no Triton lowering of Pallas'
  return None


def launch(
  kernel: Callable[..., None],
  results: Any,
  grid: Sequence[int],
  *args: jax.Array,
  num_warps: int = 4,
  num_stages: int = 3,
) -> Any:
  """Runs a kernel on a grid; every array is seen whole.

  Which of the two ways is decided where the program is lowered, so that a program that
  was traced on a machine without a GPU can be lowered for one.

  Args:
    kernel: `(*arrays, *results) -> None`, refs.
    results: a tree of `jax.ShapeDtypeStruct`.
    grid: how many programs.
    *args: arrays.
    num_warps: warps of a program.
    num_stages: how many iterations of a loop are loaded ahead.
  """
  params = triton.CompilerParams(num_warps=num_warps, num_stages=num_stages)

  def call(interpret):
    return pl.pallas_call(
      kernel,
      out_shape=results,
      grid=tuple(grid),
      interpret=interpret,
      compiler_params=params,
    )

  return lax.platform_dependent(
    *args, cpu=call(True), cuda=call(False), rocm=call(False)
  )


def program_id(axis: int) -> jax.Array:
  """Which program of the grid runs."""
  return pl.program_id(axis)


def span(start, size: int) -> jax.Array:
  """int32 (size,): `start`, `start + 1`, ..."""
  return start + lax.iota(jnp.int32, size)


def load(ref, index: tuple, mask, other=0) -> jax.Array:
  """What stands at an index, `other` where the mask is False."""
  return triton.load(ref.at[index], mask=mask, other=other)


def store(ref, index: tuple, value, mask) -> None:
  """Writes where the mask is True."""
  triton.store(ref.at[index], value.astype(ref.dtype), mask=mask)


def dot(a, b) -> jax.Array:
  """The product of two matrices, summed in float32.

  The precision of float32 operands is that of `jax.default_matmul_precision`.
  """
  return jnp.dot(a, b, preferred_element_type=jnp.float32)


def side(size: int, most: int) -> int:
  """The power of two that covers a size, from 16, which a tensor core wants."""
  return min(max(16, pl.next_power_of_2(size)), most)


def tiles(size: int, length: int) -> int:
  """How many tiles of a length cover a size."""
  return -(-size // length)


def int32(number: int) -> np.int32:
  """A constant that does not promote the int32 of the kernels."""
  return np.int32(number)

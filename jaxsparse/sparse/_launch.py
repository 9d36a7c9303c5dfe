"""How the Pallas kernels are started: compiled on a GPU, interpreted on a CPU."""

from collections.abc import Callable, Sequence
import functools
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


_PRECISE = ('highest', 'float32', 'F32_F32_F32', 'TF32_TF32_F32_X3')
# What the tiles in flight may take of the 99 KiB of shared memory that the smallest
# multiprocessor with tensor cores for these dtypes gives to a program.
_SHARED_MEMORY = 80 * 2**10


def launch(
  kernel: Callable[..., None],
  results: Any,
  grid: Sequence[int],
  *args: jax.Array,
  num_warps: int,
  loaded: int,
) -> Any:
  """Runs a kernel on a grid; every array is seen whole.

  Which of the two ways is decided where the program is lowered, so that a program that
  was traced on a machine without a GPU can be lowered for one.

  Args:
    kernel: `(*arrays, *results, dot=) -> None`, refs and how two matrices are
      multiplied.
    results: a tree of `jax.ShapeDtypeStruct`.
    grid: how many programs.
    *args: arrays.
    num_warps: warps of a program.
    loaded: bytes that an iteration of the inner loop loads for its products; as many
      iterations are loaded ahead as there is room for, two at most.
  """
  num_stages = min(3, 1 + _SHARED_MEMORY // max(loaded, 1))
  params = triton.CompilerParams(num_warps=num_warps, num_stages=num_stages)

  def call(interpret):
    return pl.pallas_call(
      functools.partial(kernel, dot=_interpreted_dot if interpret else _compiled_dot),
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


def _interpreted_dot(a, b) -> jax.Array:
  return jnp.dot(a, b, preferred_element_type=jnp.float32)


def _compiled_dot(a, b) -> jax.Array:
  """As precise as `jax.default_matmul_precision` says, on tensor cores anyhow."""
  precision: Any = lax.Precision.DEFAULT
  wanted = getattr(jax.config, 'jax_default_matmul_precision', None)
  if a.dtype == jnp.float32 and wanted in _PRECISE:
    # Three products of TF32 lose next to nothing; one of float32 leaves the registers.
    precision = lax.DotAlgorithmPreset.TF32_TF32_F32_X3
  return jnp.dot(a, b, precision=precision, preferred_element_type=jnp.float32)


def side(size: int, most: int) -> int:
  """The power of two that covers a size, from 16, which a tensor core wants."""
  return min(max(16, pl.next_power_of_2(size)), most)


def tiles(size: int, length: int) -> int:
  """How many tiles of a length cover a size."""
  return -(-size // length)


def int32(number: int) -> np.int32:
  """A constant that does not promote the int32 of the kernels."""
  return np.int32(number)

"""The mask of the largest scores, in C++."""

import math

import jax
from jax import lax
import jax.numpy as jnp

from jaxsparse.native import _library

_DTYPES = ('bfloat16', 'float32', 'int32', 'uint32')
# Below it the threshold costs about what the call does.
_SMALLEST = 4096


def can_select(shape: tuple[int, ...], axes: tuple[int, ...]) -> bool:
  """Whether `select` may be used, and is worth it, where this is traced.

  Args:
    shape: the shape of the scores.
    axes: the axes within which scores compete, sorted; for the kernel they must be the
      last ones.

  Returns:
    A bool.

  Example:
    >>> import jaxsparse as js
    >>> js.native.can_select((2, 2), (0, 1))
    False
  """
  trailing = axes == tuple(range(len(shape) - len(axes), len(shape)))
  large = math.prod(shape[a] for a in axes) >= _SMALLEST
  # Ties go by the hash of a flat index, which is a uint32.
  fits = trailing and large and math.prod(shape) < 2**32
  return fits and _library.available() and _library.stays_whole()


def select(scores: jax.Array, num_kept: jax.Array, num_axes: int) -> jax.Array:
  """Keeps exactly the `num_kept` largest scores of every slice.

  The order and the ties are those of `js.masks.top_k_mask`, bit for bit. Over ten
  million scores it reads the array about three times.

  Args:
    scores: array, a slice is its last `num_axes` axes; float32, bfloat16, int32 and
      uint32 as they are, others must have been made uint32 keys.
    num_kept: int32 array of the shape of the other axes; clipped.
    num_axes: how many axes a slice has.

  Returns:
    bool array of the shape of `scores`.

  Raises:
    ValueError: another dtype.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> if js.native.available():
    ...   scores = jnp.array([[1., 4., 2.], [9., 7., 8.]])
    ...   mask = js.native.select(scores, jnp.array([1, 2], jnp.int32), 1)
    ...   assert mask.tolist() == [[False, True, False], [True, False, True]]
  """
  if scores.dtype.name not in _DTYPES:
    raise ValueError(f'scores: dtype {scores.dtype}; wanted one of {_DTYPES}.')
  slices = scores.shape[: scores.ndim - num_axes]
  flat = (math.prod(slices), math.prod(scores.shape[scores.ndim - num_axes :]))
  call = jax.ffi.ffi_call(
    'jaxsparse_select',
    jax.ShapeDtypeStruct(flat, bool),
    # The kernel takes leading axes, so under vmap nothing is looped over.
    vmap_method='broadcast_all',
  )
  kept = jnp.broadcast_to(lax.convert_element_type(num_kept, jnp.int32), slices)
  return call(scores.reshape(flat), kept.reshape(-1)).reshape(scores.shape)

"""The order of integers, in C++ where that is at hand."""

import jax
from jax import lax
import jax.numpy as jnp

from jaxsparse.native import _library


def argsort(*keys: jax.Array) -> jax.Array:
  """The indices that sort by the first key, ties by the second, and so on.

  The sort is stable. The kernel sorts digit by digit: 50,000 pairs of small integers in
  about half a millisecond, where a sort by comparisons takes some ten.

  Args:
    *keys: uint32 arrays (n,).

  Returns:
    int32 (n,).

  Raises:
    ValueError: no key, or one of another dtype or shape.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> first, second = jnp.array([1, 0, 1], 'uint32'), jnp.array([5, 9, 2], 'uint32')
    >>> js.native.argsort(first, second).tolist()
    [1, 2, 0]
  """
  shape = keys[0].shape if keys else None
  for key in keys or (None,):
    if key is None or key.dtype != jnp.uint32 or key.ndim != 1 or key.shape != shape:
      raise ValueError(f'keys={keys}: wanted uint32 arrays of one shape (n,).')
  size = keys[0].size
  if _library.available() and _library.stays_whole():
    call = jax.ffi.ffi_call(
      'jaxsparse_argsort',
      jax.ShapeDtypeStruct((size,), jnp.int32),
      # The kernel takes leading axes, so under vmap nothing is looped over.
      vmap_method='broadcast_all',
    )
    return call(jnp.stack(keys))
  iota = lax.iota(jnp.int32, size)
  return lax.sort((*keys, iota), num_keys=len(keys), is_stable=True)[-1]

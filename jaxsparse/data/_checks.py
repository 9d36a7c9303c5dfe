"""Checks of the arguments of plans."""

import numpy as np


def count(name: str, value, least: int = 1, below: int = 2**31) -> int:
  """The value as an int; a ValueError for what is no int in [least, below)."""
  is_int = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
  if not is_int or not least <= value < below:
    raise ValueError(f'{name}={value!r}: wanted an int in [{least}, {below}).')
  return int(value)


def round_size(num_examples: int, ratio, batch_size: int, stands_for: str = '') -> int:
  """`round(ratio * num_examples)`, refused where that is less than a batch.

  Raises:
    ValueError: a ratio outside (0, 1], or fewer examples than a batch.
  """
  try:
    inside = 0 < ratio <= 1
  except TypeError:
    inside = False
  if not inside or isinstance(ratio, bool):
    raise ValueError(f'ratio={ratio!r}: wanted a number in (0, 1].')
  size = round(float(ratio) * num_examples)
  if size < batch_size:
    raise ValueError(
      f'ratio={ratio}: {stands_for or "a round"} has {size} of {num_examples} examples,'
      f' fewer than batch_size={batch_size}; wanted at least one batch.'
    )
  return size


def steps(total_steps: int, batch_size: int) -> None:
  """Refuses a plan whose slots do not fit into 32 bits."""
  if total_steps * batch_size >= 2**32:
    raise ValueError(
      f'total_steps={total_steps}, batch_size={batch_size}: wanted fewer than 2**32'
      ' examples in all.'
    )


def vector(name: str, values, length: int | None, dtype) -> np.ndarray:
  """A finite array (length,); `length` None takes any but an empty one."""
  array = np.asarray(values)
  wrong = array.ndim != 1 or not array.size or length not in (None, array.size)
  if wrong:
    raise ValueError(
      f'{name}: got an array of shape {array.shape}, wanted'
      f' ({length if length is not None else "n"},).'
    )
  integer = np.issubdtype(dtype, np.integer)
  if integer and not np.issubdtype(array.dtype, np.integer):
    raise ValueError(f'{name}: got {array.dtype}, wanted integers.')
  if not np.isfinite(array).all():
    where = int(np.argmin(np.isfinite(array)))
    raise ValueError(f'{name}[{where}]={array[where]}: wanted finite numbers.')
  return array.astype(dtype)

"""Patches of photographs, cut and turned on the fly: a pure function of the step."""

import numpy as np

from experiments.datasets import _photographs


def patches(
  data: _photographs.Photographs,
  batch_size: int,
  size: int,
  step: int,
  seed: int,
  *,
  augment: bool = True,
) -> dict[str, np.ndarray]:
  """The batch of one training step.

  A photograph is chosen in proportion to the places that a patch may have in it, so
  that all places are equally likely; then mirrored and turned by multiples of 90
  degrees, one of eight ways. Nothing needs saving for a resumed run but `step`.

  Args:
    data: from `photographs`.
    batch_size: number of patches, over all devices.
    size: side of a patch at low resolution.
    step: the global step, from 0.
    seed: an int in [0, 2**63).
    augment: whether to mirror and turn.

  Returns:
    `{'low': uint8 (B, size, size, 3), 'high': uint8 (B, size * scale, ..., 3)}`.

  Raises:
    ValueError: a photograph smaller than a patch, naming it; a batch of no patch.

  Example:
    >>> from experiments import datasets
    >>> data = datasets.photographs('sample:china', 2)
    >>> batch = datasets.patches(data, 4, 24, step=0, seed=0)
    >>> batch['low'].shape, batch['high'].shape
    ((4, 24, 24, 3), (4, 48, 48, 3))
  """
  if batch_size < 1 or size < 1 or step < 0:
    raise ValueError(
      f'batch_size={batch_size}, size={size}, step={step}: wanted a patch of a pixel, and'
      ' a step of 0 or more.'
    )
  places = np.array([x.shape[:2] for x in data.low]) - size + 1
  if places.min() < 1:
    _refuse(data, int(places.min(1).argmin()), size)
  ends = np.cumsum(places.prod(1))
  # NumPy promises the raw words of a bit generator for ever, its methods not.
  words = np.random.Philox(key=[seed, step]).random_raw(2 * batch_size)
  scale, low, high = data.scale, [], []
  for place, turn in words.reshape(batch_size, 2):
    place = int(place) % int(ends[-1])
    index = int(np.searchsorted(ends, place, 'right'))
    top, left = divmod(place - int(ends[index - 1] if index else 0), places[index, 1])
    way = int(turn >> 32) % 8 if augment else 0
    small = data.low[index][top : top + size, left : left + size]
    y, x, side = top * scale, left * scale, size * scale
    low.append(_turned(small, way))
    high.append(_turned(data.high[index][y : y + side, x : x + side], way))
  return {'low': np.stack(low), 'high': np.stack(high)}


def _refuse(data, index: int, size: int):
  height, width = data.low[index].shape[:2]
  raise ValueError(
    f'{data.names[index]}: {height}x{width} pixels at low resolution; wanted at least a'
    f' patch of {size}x{size}.'
  )


def _turned(image, way: int):
  """One of the eight ways to mirror and turn a square."""
  return np.rot90(image[:, ::-1] if way >= 4 else image, way % 4)

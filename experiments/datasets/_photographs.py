"""Photographs of any size for super-resolution: folders, pairs, and two samples."""

import pathlib
from typing import NamedTuple

import numpy as np

from experiments.datasets import _arrays, _bicubic

_SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')
# Two photographs that scikit-learn ships, 427x640.
_SAMPLES = ('sample:china', 'sample:flower')


class Photographs(NamedTuple):
  """Images at two resolutions.

  Attributes:
    names: of the files.
    high: uint8 (H, W, 3) each, sides multiples of the scale.
    low: uint8 (H / scale, W / scale, 3) each.
    scale: the ratio of their sides.
  """

  names: tuple[str, ...]
  high: tuple[np.ndarray, ...]
  low: tuple[np.ndarray, ...]
  scale: int


def photographs(
  source: str,
  scale: int,
  data_dir: str | None = None,
  *,
  low: str | None = None,
  smallest: int = 1,
  most: int | None = None,
) -> Photographs:
  """Reads the images of a folder, and makes or reads those of low resolution.

  Rows and columns beyond a multiple of the scale are cut off. Grey images become
  three equal channels, an alpha channel is dropped, of 16 bits the upper 8 are kept.
  All images are held in memory, 3 bytes a pixel.

  Args:
    source: a folder, in `data_dir` unless its path is absolute; or 'sample:china',
      'sample:flower', photographs that scikit-learn ships.
    scale: how much smaller the other images are.
    data_dir: where folders lie; None for the current directory.
    low: a folder of images of low resolution, in the order of the others' names;
      `{scale}` in it is replaced. None makes them with `resize`.
    smallest: the least length of a side at high resolution.
    most: only so many, the first ones by name.

  Returns:
    `Photographs`.

  Raises:
    ValueError: no such folder, no image in it, one that cannot be read or is too
      small, images of low resolution of another number or size; names the file.

  Example:
    >>> from experiments import datasets
    >>> found = datasets.photographs('sample:china', 3)
    >>> found.high[0].shape, found.low[0].shape
    ((426, 639, 3), (142, 213, 3))
  """
  names, images = _read(source, data_dir, most)
  high = tuple(_cut(image, scale) for image in images)
  for name, image in zip(names, high):
    if min(image.shape[:2]) < max(smallest, scale):
      raise ValueError(
        f'{name}: {image.shape[0]}x{image.shape[1]} pixels; wanted at least'
        f' {max(smallest, scale)} on each side: a patch for training, the window of SSIM'
        ' for a test.'
      )
  if low is None:
    small = tuple(_bicubic.resize(image, 1 / scale) for image in high)
    return Photographs(names, high, small, scale)
  low_names, small = _read(low.format(scale=scale), data_dir, most)
  if len(low_names) != len(names):
    raise ValueError(
      f'{low}: {len(low_names)} images for the {len(names)} of {source}; wanted as many.'
    )
  for name, image, large in zip(low_names, small, high):
    if tuple(scale * n for n in image.shape[:2]) != large.shape[:2]:
      raise ValueError(
        f'{name}: {image.shape[0]}x{image.shape[1]} pixels, but the image of high'
        f' resolution has {large.shape[0]}x{large.shape[1]}; wanted 1/{scale} of them.'
      )
  return Photographs(names, high, tuple(small), scale)


def _read(source, data_dir, most) -> tuple[tuple[str, ...], list[np.ndarray]]:
  if source.startswith('sample:'):
    return (source,), [_sample(source)]
  folder = (
    pathlib.Path(data_dir or '.').expanduser() / pathlib.Path(source).expanduser()
  )
  if not folder.is_dir():
    raise ValueError(
      f'{folder}: no such folder; wanted one of images, in --data_dir or with its whole'
      f' path, or one of {", ".join(_SAMPLES)}.'
    )
  files = sorted(
    f for f in folder.iterdir()
    if f.suffix.lower() in _SUFFIXES and not f.name.startswith('.')
  )[:most]  # fmt: skip
  if not files:
    raise ValueError(f'{folder}: no image in it; wanted {", ".join(_SUFFIXES)}.')
  images = [_arrays.decode_image(f.read_bytes(), str(f)) for f in files]
  return tuple(map(str, files)), [np.broadcast_to(i, (*i.shape[:2], 3)) for i in images]


def _sample(source: str) -> np.ndarray:
  if source not in _SAMPLES:
    raise ValueError(f'{source}: no such sample; wanted one of {", ".join(_SAMPLES)}.')
  from sklearn import datasets

  return datasets.load_sample_image(source.removeprefix('sample:') + '.jpg')


def _cut(image: np.ndarray, scale: int) -> np.ndarray:
  height, width = (n // scale * scale for n in image.shape[:2])
  return image[:height, :width]

"""Test images that belong to no class: what a network should be unsure of."""

import numpy as np

from experiments.datasets import _load


def _pixels_shuffled(images, labels, rng):
  """Every intensity is kept, every shape lost: one order for all images."""
  order = rng.permutation(images.shape[1] * images.shape[2])
  flat = images.reshape(len(images), -1, images.shape[3])
  return flat[:, order].reshape(images.shape)


def _upside_down(images, labels, rng):
  return images[:, ::-1]


def _blended(images, labels, rng):
  """The mean of two images of different classes."""
  first, second = _parts(images, labels, 2, rng)
  return ((first.astype(np.uint16) + second) // 2).astype(np.uint8)


def _quadrants(images, labels, rng):
  """The four quarters come from images of different classes."""
  parts = _parts(images, labels, 4, rng)
  height, width = images.shape[1] // 2, images.shape[2] // 2
  mixed = parts[0].copy()
  mixed[:, :height, width:] = parts[1][:, :height, width:]
  mixed[:, height:, :width] = parts[2][:, height:, :width]
  mixed[:, height:, width:] = parts[3][:, height:, width:]
  return mixed


def _parts(images, labels, count, rng):
  """As often the images, in orders that give each place `count` different classes.

  Sorted by class, what lies a `count`-th of the set apart is of another class, while
  no class has a larger share than that.
  """
  order = rng.permutation(len(images))
  order = order[np.argsort(labels[order], kind='stable')]
  shift = len(images) // count
  return [images[np.roll(order, -i * shift)] for i in range(count)]


_KINDS = {
  'blended': _blended,
  'pixels_shuffled': _pixels_shuffled,
  'quadrants': _quadrants,
  'upside_down': _upside_down,
}


def outside(name: str, data: _load.Data, data_dir=None, seed: int = 0) -> np.ndarray:
  """Images of no class of ours, in the shape of ours.

  Args:
    name: a data set as `load` takes it; or our own test images made into something
      else: 'blended' (the mean of two classes), 'quadrants' (quarters of four classes)
      and 'upside_down' are near to what was learned, 'pixels_shuffled' is far.
    data: ours.
    data_dir: where data sets lie.
    seed: of what is drawn.

  Returns:
    uint8 (N, H, W, C).

  Raises:
    ValueError: a data set with images of another shape.

  Example:
    >>> import tempfile
    >>> from experiments import datasets
    >>> data = datasets.load('digits', data_dir=tempfile.mkdtemp())
    >>> datasets.outside('blended', data).shape
    (355, 8, 8, 1)
  """
  if name in _KINDS:
    return _KINDS[name](*data.test, np.random.default_rng(seed))
  images = _load.load(name, data_dir).test[0]
  if images.shape[1:] != data.image_shape:
    raise ValueError(
      f'config.out_of_distribution: the images of {name} are {images.shape[1:]}, those'
      f' of {data.name} {data.image_shape}.'
    )
  return images

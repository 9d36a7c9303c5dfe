"""One call from a name to images in memory."""

import dataclasses

import numpy as np

from experiments.datasets import _arrays, _folder, _prepared, _signals

Split = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Data:
  """Labelled images in memory, divided once and for all.

  Attributes:
    name: as given to `load`.
    train: images uint8 (N, H, W, C), signals float32 (N, L, 1, 1), and labels int32
      (N,), to learn from.
    validation: the same, to choose by.
    test: the same, to report at the end.
    num_classes: how many classes there are.
    class_names: their names.
    mean: of the training images per channel, in units of the full range (1 = 255); of
      signals in their own.
    std: standard deviation in the same units, at least 1/255.
  """

  name: str
  train: Split
  validation: Split
  test: Split
  num_classes: int
  class_names: tuple[str, ...]
  mean: tuple[float, ...]
  std: tuple[float, ...]

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """(H, W, C)."""
    return self.train[0].shape[1:]


def load(
  name: str, data_dir: str | None = None, validation: float = 0.1, seed: int = 0
) -> Data:
  """Loads an image-classification set into memory.

  Args:
    name: a TFDS name (`digits`, `mnist`, `fashion_mnist`, `cifar10`, ...), `mnist1d`
      (4,000 + 1,000 signals, computed by the package of that name), or `folder:/path` of a directory or a tar with `train/<class>/*.png` and
      `test/<class>/*.png` (JPEG too). Images have one size; grey ones become RGB where
      any is RGB, an alpha channel is dropped, 16 bits are cut to the upper 8.
    data_dir: where TFDS keeps its data; `$TFDS_DATA_DIR` or TFDS's default if None.
      `digits` is prepared there (or in the user's cache) on first use; all other
      names must have been prepared as array_record.
    validation: fraction of each training class that is set aside, in [0, 1).
    seed: which ones; an int in [0, 2**63).

  Returns:
    `Data`. The test images are never touched, nor counted in `mean` and `std`.

  Raises:
    ValueError: an unknown or unprepared name, damaged files, bad arguments.

  Example:
    >>> import tempfile
    >>> from experiments import datasets
    >>> data = datasets.load('digits', data_dir=tempfile.mkdtemp())
    >>> data.image_shape, data.num_classes
    ((8, 8, 1), 10)
  """
  if not 0 <= validation < 1:
    raise ValueError(f'validation: got {validation}, want a fraction in [0, 1).')
  if not 0 <= seed < 2**63:
    raise ValueError(f'seed: got {seed}, want 0 <= seed < 2**63.')
  if name.startswith('folder:'):
    arrays = _folder.read_folder(name.removeprefix('folder:'))
  elif name == 'mnist1d':
    arrays = _signals.make_mnist1d()
  else:
    arrays = _prepared.read_prepared(name, data_dir)
  return _divide(name, arrays, validation, seed)


def _divide(name: str, arrays: _arrays.Arrays, validation: float, seed: int) -> Data:
  images, labels = arrays.train_images, arrays.train_labels
  held = _held_out(labels, validation, seed)
  train = (images[~held], labels[~held])
  mean, std = _moments(train[0])
  return Data(
    name=name,
    train=train,
    validation=(images[held], labels[held]),
    test=(arrays.test_images, arrays.test_labels),
    num_classes=len(arrays.class_names),
    class_names=arrays.class_names,
    mean=mean,
    std=std,
  )


def _held_out(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
  """Which training examples are for validation, the same share of every class."""
  held = np.zeros(len(labels), bool)
  seen = done = 0
  for label in np.unique(labels):
    members = np.flatnonzero(labels == label)
    # Rounding the running total makes the whole exact and each class within one.
    seen += len(members)
    num_held = round(fraction * seen) - done
    done += num_held
    words = np.random.Philox(key=[seed, int(label)]).random_raw(len(members))
    held[members[np.argsort(words)[:num_held]]] = True
  return held


def _moments(images: np.ndarray):
  """Exact mean and deviation per channel, of bytes from counts of the 256 levels."""
  if images.dtype != np.uint8:
    values = images.reshape(-1, images.shape[-1]).astype(np.float64)
    return tuple(values.mean(0).tolist()), tuple(values.std(0).tolist())
  levels = np.arange(256) / 255
  mean, std = [], []
  for channel in range(images.shape[-1]):
    counts = np.bincount(images[..., channel].reshape(-1), minlength=256)
    share = counts / counts.sum()
    centre = float(share @ levels)
    mean.append(centre)
    std.append(max(float(share @ (levels - centre) ** 2) ** 0.5, 1 / 255))
  return tuple(mean), tuple(std)

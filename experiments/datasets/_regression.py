"""Regression sets with their splits: the nine of the UCI protocol, and diabetes."""

from collections.abc import Callable
import pathlib
import tarfile
from typing import NamedTuple
import zlib

import numpy as np

# The folders of the archive that comes with Gal and Ghahramani 2016; the splits are
# those of Hernandez-Lobato and Adams 2015.
_FOLDERS = {
  'boston': 'bostonHousing',
  'concrete': 'concrete',
  'energy': 'energy',
  'kin8nm': 'kin8nm',
  'naval': 'naval-propulsion-plant',
  'power': 'power-plant',
  'protein': 'protein-tertiary-structure',
  'wine': 'wine-quality-red',
  'yacht': 'yacht',
}
REGRESSION_SETS = ('diabetes', *_FOLDERS)
_SPLITS = 20


class RegressionData(NamedTuple):
  """A table of numbers, divided into training and test several times over.

  Attributes:
    name: as given to `load_regression`.
    features: float64 (N, D).
    targets: float64 (N,), in their own unit.
    train: int32 (S, n), the rows that each of the S splits learns from.
    test: int32 (S, m), the others.
  """

  name: str
  features: np.ndarray
  targets: np.ndarray
  train: np.ndarray
  test: np.ndarray


class Standardized(NamedTuple):
  """Both sides of all splits, in units of each split's own training rows.

  Attributes:
    train: features float32 (S, n, D) and targets float32 (S, n).
    test: the same of the rows that were left out.
    mean: float64 (S,), of the training targets: what was subtracted.
    std: float64 (S,), what was divided by: errors times it are in the set's unit.
  """

  train: tuple[np.ndarray, np.ndarray]
  test: tuple[np.ndarray, np.ndarray]
  mean: np.ndarray
  std: np.ndarray


def load_regression(name: str, data_dir: str | None = None) -> RegressionData:
  """Loads a regression set with its standard splits.

  Args:
    name: `diabetes`, which scikit-learn brings along (20 splits of 90 to 10, drawn
      here), or one of the nine UCI sets (20 splits; 5 of `protein`).
    data_dir: of the nine: the archive (`.tar.gz`), or the folder that it unpacks to,
      with `<set>/data/data.txt` and `index_{features,target,train_0,test_0,...}.txt`.

  Returns:
    `RegressionData`.

  Raises:
    ValueError: an unknown name, no such folder or archive, and what is wrong in a
      file, by its name and line.

  Example:
    >>> from experiments import datasets
    >>> data = datasets.load_regression('diabetes')
    >>> data.features.shape, data.train.shape, data.test.shape
    ((442, 10), (20, 398), (20, 44))
  """
  if name not in REGRESSION_SETS:
    raise ValueError(
      f'unknown regression set {name!r}; wanted one of {", ".join(REGRESSION_SETS)}.'
    )
  if name == 'diabetes':
    return _diabetes()
  read = _reader(_FOLDERS[name], data_dir)
  rows = _numbers(*read('data.txt'))
  columns, target = (
    _integers(*read(f'index_{what}.txt'), rows.shape[1])
    for what in ('features', 'target')
  )
  count = int(_integers(*read('n_splits.txt'), 1001)[0])
  sides = [
    [_integers(*read(f'index_{side}_{i}.txt'), len(rows)) for i in range(count)]
    for side in ('train', 'test')
  ]
  for i, (train, test) in enumerate(zip(*sides)):
    _check_split(read(f'index_test_{i}.txt')[0], train, test, len(sides[1][0]))
  train, test = map(np.stack, sides)
  return RegressionData(name, rows[:, columns], rows[:, target[0]], train, test)


def standardize(data: RegressionData) -> Standardized:
  """All splits, each in units of its own training rows, so that test rows stay unseen.

  Args:
    data: of `load_regression`.

  Returns:
    `Standardized`. A feature that is constant in training becomes 0 there.

  Example:
    >>> from experiments import datasets
    >>> splits = datasets.standardize(datasets.load_regression('diabetes'))
    >>> splits.train[0].shape, splits.test[1].shape
    ((20, 398, 10), (20, 44))
  """
  inside, outside = data.features[data.train], data.features[data.test]
  middle, scale = _moments(inside)
  mean, std = _moments(data.targets[data.train])
  as_units = lambda x, middle, scale: ((x - middle) / scale).astype(np.float32)
  return Standardized(
    (
      as_units(inside, middle, scale),
      as_units(data.targets[data.train], mean, std),
    ),
    (as_units(outside, middle, scale), as_units(data.targets[data.test], mean, std)),
    mean[:, 0],
    std[:, 0],
  )


def _moments(values):
  """Mean and deviation over the rows of each split; 1 where nothing varies."""
  middle = values.mean(axis=1, keepdims=True)
  # A constant column has a deviation of some rounding, not of exactly 0.
  scale = values.std(axis=1, keepdims=True)
  tiny = 1e-12 * np.maximum(np.abs(middle), 1e-300)
  return middle, np.where(scale > tiny, scale, 1.0)


def _diabetes() -> RegressionData:
  from sklearn import datasets

  features, targets = datasets.load_diabetes(return_X_y=True)
  # NumPy promises the raw words of a bit generator for ever, `permutation` not.
  words = [
    np.random.Philox(key=[0, i]).random_raw(len(targets)) for i in range(_SPLITS)
  ]
  orders = np.argsort(words, axis=1, kind='stable').astype(np.int32)
  end = round(0.9 * len(targets))
  return RegressionData('diabetes', features, targets, orders[:, :end], orders[:, end:])


def _reader(folder: str, data_dir) -> Callable[[str], tuple[str, str]]:
  """`file name -> (where it is, its text)`, from an archive or a folder."""
  if data_dir is None:
    raise ValueError(
      '--data_dir: wanted the archive of the UCI regression sets, or its folder.'
    )
  path = pathlib.Path(data_dir).expanduser()
  if path.is_file():
    texts = _members(path, folder)
    where = lambda name: f'{path}: {folder}/data/{name}'
  else:
    roots = [r for r in (path, path / 'UCI_Datasets') if (r / folder).is_dir()]
    if not roots:
      raise ValueError(f'--data_dir: {path} is no archive and has no folder {folder}.')
    files = (roots[0] / folder / 'data').glob('*.txt')
    texts = {f.name: f.read_text('utf-8', 'replace') for f in files}
    where = lambda name: str(roots[0] / folder / 'data' / name)

  def read(name):
    if name not in texts:
      raise ValueError(f'{where(name)}: no such file.')
    return where(name), texts[name]

  return read


def _members(path: pathlib.Path, folder: str) -> dict[str, str]:
  # Members are read in their order in the file: a seek would unzip it again.
  found = {}
  try:
    with tarfile.open(path) as tar:
      for member in tar:
        parts = pathlib.PurePosixPath(member.name).parts
        if member.isfile() and parts[-3:-1] == (folder, 'data'):
          if parts[-1].endswith('.txt'):
            found[parts[-1]] = tar.extractfile(member).read().decode('utf-8', 'replace')
  except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
    raise ValueError(f'{path}: a damaged archive ({error}).') from error
  if not found:
    raise ValueError(f'{path}: the archive has no folder {folder}/data.')
  return found


def _numbers(where: str, text: str) -> np.ndarray:
  """A table of finite numbers; each line has as many as the first."""
  rows: list[list[float]] = []
  for number, line in enumerate(text.splitlines(), 1):
    words = line.split()
    if not words:
      continue
    try:
      rows.append([float(word) for word in words])
    except ValueError as error:
      raise ValueError(f'{where}, line {number}: {error}.') from error
    if len(words) != len(rows[0]) or not np.all(np.isfinite(rows[-1])):
      raise ValueError(
        f'{where}, line {number}: got {line.strip()[:80]!r}, wanted {len(rows[0])}'
        ' finite numbers.'
      )
  if not rows:
    raise ValueError(f'{where}: an empty file.')
  return np.array(rows)


def _integers(where: str, text: str, end: int) -> np.ndarray:
  """A column of integers in [0, end)."""
  values = _numbers(where, text)[:, 0]
  wrong = np.flatnonzero((values != np.floor(values)) | (values < 0) | (values >= end))
  if wrong.size:
    raise ValueError(
      f'{where}, line {wrong[0] + 1}: got {values[wrong[0]]:g}, wanted an integer in'
      f' [0, {end}).'
    )
  return values.astype(np.int32)


def _check_split(where: str, train, test, num_test: int):
  both = np.concatenate([train, test])
  if len(np.unique(both)) != len(both):
    raise ValueError(f'{where}: some row is in it twice, or in training as well.')
  # One compiled program trains all splits, so they have to be of one size.
  if len(test) != num_test:
    raise ValueError(f'{where}: {len(test)} rows, the first split has {num_test}.')

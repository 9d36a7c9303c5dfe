"""Image folders: `train/<class>/*` and `test/<class>/*`, on disk or in a tar."""

from collections.abc import Iterator
import pathlib
import tarfile
import zlib

from absl import logging
import numpy as np

from experiments.datasets import _arrays

_SUFFIXES = ('.jpg', '.jpeg', '.png')
_TAR_SUFFIXES = ('.tar', '.tar.gz', '.tgz', '.tar.bz2', '.tar.xz')
_LAYOUT = 'train/<class>/*.{jpg,jpeg,png} and test/<class>/*.{jpg,jpeg,png}'


def read_folder(location: str) -> _arrays.Arrays:
  """Reads a folder, or a tar of one, through the cache.

  Args:
    location: a path; inside a tar the layout may lie under other folders.

  Returns:
    The images of both splits, in the order of their paths; the classes are the
    sorted names of the class folders.

  Raises:
    ValueError: no such path, another layout, a class without images or that only
      one split has, a broken file, images of two sizes; names the file.
  """
  path = pathlib.Path(location).expanduser()
  if path.is_dir():
    files = _folder_files(path)
    stats = [(str(f), f.stat()) for f in files]
    fingerprint = repr([(f, s.st_size, s.st_mtime_ns) for f, s in stats])
    entries = lambda: (('/'.join(f.parts[-3:]), f.read_bytes()) for f in files)
  elif path.is_file() and path.name.endswith(_TAR_SUFFIXES):
    stat = path.stat()
    fingerprint = repr((stat.st_size, stat.st_mtime_ns))
    entries = lambda: _tar_entries(path)
  else:
    raise ValueError(
      f'folder:{location}: want a directory, or a file ending in'
      f' {", ".join(_TAR_SUFFIXES)}, that holds {_LAYOUT}.'
    )
  return _arrays.cached(
    str(path.resolve()), fingerprint, lambda: _decode(entries(), location)
  )


def _folder_files(path: pathlib.Path) -> list[pathlib.Path]:
  files = []
  for split in ('train', 'test'):
    for folder in _visible(path / split) if (path / split).is_dir() else ():
      if folder.is_dir():
        inside = [f for f in _visible(folder) if f.is_file()]
        if not any(_is_image(f.name) for f in inside):
          raise ValueError(f'{folder}: no image in this class; want {_LAYOUT}.')
        files += inside
  return files


def _visible(path: pathlib.Path) -> list[pathlib.Path]:
  return sorted(p for p in path.iterdir() if not p.name.startswith('.'))


def _is_image(name: str) -> bool:
  return name.lower().endswith(_SUFFIXES)


def _tar_entries(path: pathlib.Path) -> Iterator[tuple[str, bytes]]:
  # Members are read in their order in the file: a seek would unzip it again.
  try:
    with tarfile.open(path) as tar:
      for member in tar:
        parts = pathlib.PurePosixPath(member.name).parts[-3:]
        hidden = any(p.startswith('.') for p in parts)
        if len(parts) == 3 and parts[0] in ('train', 'test') and not hidden:
          if member.isdir():
            continue
          yield '/'.join(parts), tar.extractfile(member).read()
  except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
    raise ValueError(f'{path}: a damaged archive ({error}).') from error


def _decode(entries: Iterator[tuple[str, bytes]], location: str) -> _arrays.Arrays:
  images, ignored = {}, 0
  for name, data in entries:
    if _is_image(name):
      images[name] = _arrays.decode_image(data, f'{location}: {name}')
    else:
      ignored += 1
  if ignored:
    logging.warning('%s: ignored %d files that are no JPEG or PNG.', location, ignored)
  classes = {
    split: {n.split('/')[1] for n in images if n.startswith(split)}
    for split in ('train', 'test')
  }
  if not classes['train'] or not classes['test']:
    raise ValueError(f'folder:{location}: no images found; want {_LAYOUT}.')
  if classes['train'] != classes['test']:
    odd = ', '.join(sorted(classes['train'] ^ classes['test']))
    raise ValueError(f'folder:{location}: only one of train and test has {odd}.')
  names = sorted(images)
  stacked = _arrays.stack_images([images[n] for n in names], names)
  class_names = sorted(classes['train'])
  labels = np.array([class_names.index(n.split('/')[1]) for n in names], np.int32)
  train = np.array([n.startswith('train/') for n in names])
  return _arrays.Arrays(
    stacked[train], labels[train], stacked[~train], labels[~train], tuple(class_names)
  )

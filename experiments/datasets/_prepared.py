"""TFDS data sets that lie on the disk as array_record; TensorFlow is never needed."""

import contextlib
import difflib
import io
import os
import pathlib
import re
import shutil
import tempfile
import time

from absl import logging
import numpy as np

from experiments.datasets import _arrays

# Decoding fewer images than this takes less than a second.
_CACHE_FROM = 5000


def read_prepared(name: str, data_dir: str | None) -> _arrays.Arrays:
  """Reads a prepared TFDS image-classification set; prepares `digits` itself.

  Args:
    name: `name`, `name/config`, either with `:version`; the newest version without.
    data_dir: where TFDS keeps its data; `$TFDS_DATA_DIR` or TFDS's default if None.

  Returns:
    The images. The test split is `test`, or `validation` where a set has no `test`.

  Raises:
    ValueError: an unknown name, a set that is not prepared (with the command that
      does it), one without images and labels, or damaged files.
  """
  root = pathlib.Path(
    data_dir or os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
  ).expanduser()
  path = _version_dir(root, name)
  if path is None and name == 'digits':
    given = bool(data_dir or os.environ.get('TFDS_DATA_DIR'))
    path = _prepare_digits(root if given else None)
  if path is None:
    raise ValueError(_why_absent(name, root))
  builder = _open(path, name, root)
  sizes = {split: info.num_examples for split, info in builder.info.splits.items()}
  if sum(sizes.values()) < _CACHE_FROM:
    return _decode(builder, path)
  files = sorted(f for f in path.iterdir() if f.is_file())
  fingerprint = repr([(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files])
  return _arrays.cached(
    str(path.resolve()), fingerprint, lambda: _decode(builder, path)
  )


def _version_dir(root: pathlib.Path, name: str) -> pathlib.Path | None:
  """The directory of the wanted (or newest) version, None if there is none."""
  base, _, version = name.partition(':')
  folder = root / base
  if not re.fullmatch(r'\w+(/[\w.-]+)?', base) or not folder.is_dir():
    return None
  wanted = re.compile(re.escape(version) if version else r'\d+\.\d+\.\d+')
  found = [p for p in folder.iterdir() if wanted.fullmatch(p.name)]
  found = [p for p in found if (p / 'dataset_info.json').is_file()]
  return max(found, key=lambda p: [int(n) for n in p.name.split('.')], default=None)


def _prepare_digits(root: pathlib.Path | None) -> pathlib.Path:
  """Writes `digits` under `root`, or in the cache where `root` is not writable."""
  cache = _arrays.cache_dir() / 'tfds'
  for place in (cache,) if root is None else (root, cache):
    path = _version_dir(place, 'digits')
    if path is not None:
      return path
    try:
      place.mkdir(parents=True, exist_ok=True)
      staging = pathlib.Path(tempfile.mkdtemp(prefix='.digits-', dir=place))
      break
    except OSError as error:
      logging.info('%s: cannot prepare digits here (%s).', place, error)
  else:
    raise ValueError(f'data_dir: neither {root} nor {cache} can be written to.')
  try:
    _write_digits(staging)
    built = _version_dir(staging, 'digits')
    path = place / 'digits' / built.name
    path.parent.mkdir(exist_ok=True)
    try:
      # Atomic: of several processes the first one wins, and a killed one leaves
      # only its staging directory.
      built.rename(path)
    except OSError:
      if _version_dir(place, 'digits') is None:
        raise
    return path
  finally:
    shutil.rmtree(staging, ignore_errors=True)
    _sweep(place)


def _write_digits(data_dir: pathlib.Path):
  from experiments.datasets import digits

  # TFDS prints where it prepares (the staging directory) and nine progress bars.
  silent = io.StringIO()
  with contextlib.redirect_stdout(silent), contextlib.redirect_stderr(silent):
    builder = digits.Builder(data_dir=str(data_dir), file_format='array_record')
    try:
      builder.download_and_prepare()
    except Exception as error:  # array_record raises RuntimeError on a full disk.
      raise ValueError(f'{data_dir}: cannot prepare digits here ({error}).') from error


def _sweep(place: pathlib.Path):
  """Removes what processes killed more than an hour ago left behind."""
  for staging in place.glob('.digits-*'):
    try:
      if time.time() - staging.stat().st_mtime > 3600:
        shutil.rmtree(staging, ignore_errors=True)
    except OSError:
      pass  # Another process swept it first.


def _prepare_command(name: str, root: pathlib.Path) -> str:
  code = (
    f"import tensorflow_datasets as tfds; tfds.builder('{name}', data_dir='{root}',"
    " file_format='array_record').download_and_prepare()"
  )
  return f'pip install tensorflow-cpu && python -c "{code}"'


def _why_absent(name: str, root: pathlib.Path) -> str:
  from tensorflow_datasets.core import registered

  base = re.split('[/:]', name)[0]
  known = {'digits', *registered.list_imported_builders()}
  if base in known:
    return (
      f'dataset {name!r} is not prepared in {root}. TFDS needs TensorFlow once to do'
      f' so:\n  {_prepare_command(name, root)}'
    )
  near = difflib.get_close_matches(base, known, n=5)
  children = sorted(root.iterdir()) if root.is_dir() else []
  prepared = {p.name for p in children if any(p.glob('**/dataset_info.json'))}
  return (
    f'dataset: unknown name {name!r}. Near matches: {", ".join(near) or "none"}. Ready'
    f' to use: {", ".join(sorted({"digits", *prepared}))}. Otherwise any'
    ' image-classification name of TFDS, or folder:/path/to/images.'
  )


def _open(path: pathlib.Path, name: str, root: pathlib.Path):
  import tensorflow_datasets as tfds

  try:
    builder = tfds.builder_from_directory(str(path))
    file_format = builder.info.file_format.value
  except Exception as error:  # TFDS raises whatever its parsers raise.
    raise ValueError(f'{path}: not a readable TFDS data set ({error}).') from error
  if file_format != 'array_record':
    raise ValueError(
      f'{path}: prepared as {file_format}, which cannot be read without TensorFlow;'
      f' remove it and prepare it again:\n  {_prepare_command(name, root)}'
    )
  return builder


def _decode(builder, path: pathlib.Path) -> _arrays.Arrays:
  import tensorflow_datasets as tfds

  image_name, label_name = builder.info.supervised_keys or ('image', 'label')
  features = builder.info.features
  image, label = (dict(features).get(n) for n in (image_name, label_name))
  is_classes = isinstance(label, tfds.features.ClassLabel)
  if image is None or len(image.shape or ()) != 3 or not is_classes:
    raise ValueError(f'{path}: no set of labelled images; its features are {features}.')
  if np.dtype(image.np_dtype) != np.uint8:
    raise ValueError(f'{path}: images of {image.np_dtype}, want uint8.')
  splits = builder.info.splits
  test = 'test' if 'test' in splits else 'validation'
  if 'train' not in splits or test not in splits:
    raise ValueError(f'{path}: splits {", ".join(splits)}; want train and test.')
  encoded = isinstance(image, tfds.features.Image)
  decoders = {image_name: tfds.decode.SkipDecoding()} if encoded else None
  arrays = []
  for split in ('train', test):
    try:
      source = builder.as_data_source(split, decoders=decoders)
      examples = source.__getitems__(range(splits[split].num_examples))
    except Exception as error:  # array_record raises RuntimeError, IndexError, ...
      raise ValueError(f'{path}: the split {split} is damaged ({error}).') from error
    images = [example[image_name] for example in examples]
    names = [f'{path}: {split} example {i}' for i in range(len(images))]
    if encoded:
      images = [_arrays.decode_image(i, n) for i, n in zip(images, names)]
    arrays.append(_arrays.stack_images(images, names))
    arrays.append(np.array([e[label_name] for e in examples], np.int32))
  return _arrays.Arrays(*arrays, tuple(label.names))

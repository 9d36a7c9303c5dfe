"""Decoded images, and their cache on the disk."""

import contextlib
import hashlib
import io
import os
import pathlib
import tempfile
import time
from typing import NamedTuple
import zipfile

from absl import logging
import numpy as np
from PIL import Image


class Arrays(NamedTuple):
  """All images of a data set as its source divides them, uint8 (N, H, W, C)."""

  train_images: np.ndarray
  train_labels: np.ndarray
  test_images: np.ndarray
  test_labels: np.ndarray
  class_names: tuple[str, ...]


def cache_dir() -> pathlib.Path:
  """`$XDG_CACHE_HOME/jaxsparse`, or `~/.cache/jaxsparse`."""
  root = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
  return pathlib.Path(root) / 'jaxsparse'


def decode_image(data: bytes, where: str) -> np.ndarray:
  """Decodes a PNG or JPEG into uint8 (H, W, 1) if grey, else (H, W, 3).

  An alpha channel is dropped, 16 bits are cut to the upper 8, palettes and CMYK
  become RGB.

  Raises:
    ValueError: bytes that are no image, naming `where` they came from.
  """
  try:
    image = Image.open(io.BytesIO(data))
    if image.mode.startswith('I'):
      pixels = np.asarray(image)
      # PIL gives 16-bit grey as uint16 or as int32, by version and by file.
      return (np.clip(pixels, 0, 65535) >> 8).astype(np.uint8)[:, :, None]
    if image.mode in ('L', 'LA', '1'):
      return np.asarray(image.convert('L'))[:, :, None]
    return np.asarray(image.convert('RGB'))
  except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
    raise ValueError(f'{where}: not a readable image ({error}).') from error


def stack_images(images: list[np.ndarray], names: list[str]) -> np.ndarray:
  """Stacks decoded images; one colour image makes all of them three-channelled.

  Raises:
    ValueError: two sizes, naming the first file that differs from the first one.
  """
  for image, name in zip(images, names):
    if image.shape[:2] != images[0].shape[:2]:
      raise ValueError(
        f'{name}: {image.shape[0]}x{image.shape[1]} pixels, but {names[0]} has'
        f' {images[0].shape[0]}x{images[0].shape[1]}; all images must have one size.'
      )
  channels = max(image.shape[2] for image in images)
  stacked = np.empty((len(images), *images[0].shape[:2], channels), np.uint8)
  for index, image in enumerate(images):
    stacked[index] = image
  return stacked


def cached(name: str, fingerprint: str, decode) -> Arrays:
  """Returns `decode()`, from the disk if it was decoded before.

  Args:
    name: of the source: a newer version of it replaces the older file.
    fingerprint: a text that changes when the source does.
    decode: `() -> Arrays`.

  Returns:
    The arrays. A cache that cannot be read or written costs time, nothing else.
  """
  prefix = f'images-{hashlib.sha256(name.encode()).hexdigest()[:16]}-'
  digest = hashlib.sha256(fingerprint.encode()).hexdigest()[:16]
  path = cache_dir() / f'{prefix}{digest}.npz'
  try:
    # Opened here: numpy leaves a file open that turns out broken.
    with open(path, 'rb') as file, np.load(file) as stored:
      fields = [stored[field] for field in Arrays._fields]
    return Arrays(*fields[:-1], tuple(fields[-1].tolist()))
  except FileNotFoundError:
    pass
  except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
    logging.warning('%s: unreadable (%s), decoding %s again.', path, error, name)
  arrays = decode()
  try:
    _write(path, arrays)
  except OSError as error:
    logging.warning('%s: not written (%s); the next run decodes again.', path, error)
    return arrays
  for older in path.parent.glob(f'{prefix}*.npz'):
    if older != path:
      older.unlink(missing_ok=True)
  return arrays


def _write(path: pathlib.Path, arrays: Arrays):
  path.parent.mkdir(parents=True, exist_ok=True)
  for part in path.parent.glob('*.part'):
    with contextlib.suppress(FileNotFoundError):
      if time.time() - part.stat().st_mtime > 3600:
        part.unlink()  # Of a process that was killed while it wrote.
  # The rename is atomic: a reader sees a whole file or none, whoever is killed.
  with tempfile.NamedTemporaryFile(dir=path.parent, suffix='.part', delete=False) as f:
    try:
      np.savez(f, **arrays._asdict())
      f.flush()
      os.replace(f.name, path)
    except BaseException:
      pathlib.Path(f.name).unlink(missing_ok=True)
      raise

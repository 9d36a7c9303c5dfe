"""The directory of checkpoints: what it holds, and how things leave it.

Every process calls these functions; the first one changes the disk.
"""

from collections.abc import Iterable
import os
import pathlib
import shutil

from absl import logging
import jax

# Orbax's own mark, so that both kinds of leftovers go at the next start.
_TMP = '.orbax-checkpoint-tmp'


def prepare(directory: pathlib.Path) -> None:
  """Makes the directory and removes what killed saves left behind."""
  if jax.process_index() == 0:
    directory.mkdir(parents=True, exist_ok=True)
  clean(directory)
  _barrier('jaxsparse_checkpoint_prepare')


def steps(directory: pathlib.Path) -> tuple[int, ...]:
  """The committed steps, oldest first."""
  try:
    names = os.listdir(directory)
  except (FileNotFoundError, NotADirectoryError):
    return ()
  # Temporary directories, and those set aside, are no numbers.
  return tuple(sorted(int(name) for name in names if name.isdecimal()))


def clean(directory: pathlib.Path) -> None:
  """Removes temporary directories."""
  if jax.process_index() == 0 and directory.is_dir():
    for leftover in directory.glob(f'*{_TMP}*'):
      shutil.rmtree(leftover, ignore_errors=True)


def delete(directory: pathlib.Path, doomed: Iterable[int]) -> None:
  """Deletes steps; a failure is logged, because the new step is safe already."""
  for step in doomed if jax.process_index() == 0 else ():
    # Renamed first: a kill in the middle must not leave half a checkpoint.
    away = directory / f'{step}{_TMP}-delete'
    try:
      (directory / str(step)).rename(away)
      shutil.rmtree(away)
    except OSError as error:
      logging.warning('Could not delete step %d of %s: %s.', step, directory, error)


def set_aside(directory: pathlib.Path, damaged: Iterable[int]) -> None:
  """Renames steps to `damaged.<step>`."""
  for step in damaged if jax.process_index() == 0 else ():
    aside = directory / f'damaged.{step}'
    shutil.rmtree(aside, ignore_errors=True)
    if (directory / str(step)).exists():
      (directory / str(step)).rename(aside)
  _barrier('jaxsparse_checkpoint_aside')


def _barrier(name: str) -> None:
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices(name)

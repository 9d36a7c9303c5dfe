"""A directory of checkpoints: save, verify, fall back, keep the last and the best."""

from collections.abc import Sequence
import contextlib
import math
import operator
import os
import pathlib
import warnings

from absl import logging
import orbax.checkpoint as ocp

from jaxsparse.checkpoint import _directory, _manifest, _noise, _step


class CheckpointError(RuntimeError):
  """A checkpoint could not be written, or none could be read."""


def open_dir(
  directory,
  keep: int | None = 3,
  best: str | None = None,
  config=None,
  fingerprint=None,
  ignore: Sequence[str] = (),
  readonly: bool = False,
) -> 'Checkpoints':
  """Opens, or makes, a directory of checkpoints.

  Temporary directories that killed saves left behind are removed: one process (or
  one set of processes of one job) writes to a directory; others open it readonly.

  Args:
    directory: a local or mounted directory; `<directory>/<step>` is one checkpoint.
    keep: how many of the newest stay; None for all. While a save is under way there
      is one more.
    best: 'max' or 'min': the step with the best `metric` stays too.
    config: JSON-able mapping (or ConfigDict), saved with each step. A directory whose
      checkpoints have another config is refused; None compares nothing.
    fingerprint: any JSON-able value that must be equal too, such as a hash of the
      data; None compares nothing.
    ignore: glob patterns of config keys (`optimizer.total_steps`) that may differ.
    readonly: neither make nor clean nor write anything.

  Returns:
    `Checkpoints`, also a context manager that waits and closes.

  Raises:
    ValueError: bad arguments; a checkpoint of another config or fingerprint.
    CheckpointError: the directory cannot be made.

  Example:
    >>> import tempfile
    >>> import jax.numpy as jnp
    >>> import jaxsparse as js
    >>> with js.checkpoint.open_dir(tempfile.mkdtemp(), keep=2) as checkpoints:
    ...   for step in (10, 20, 30):
    ...     _ = checkpoints.save(step, {'w': jnp.full(3, step)}, extra={'epoch': 1})
    ...   checkpoints.wait()
    ...   restored = checkpoints.restore({'w': jnp.zeros(3, jnp.int32)})
    ...   checkpoints.steps(), restored.step, restored.extra
    ((20, 30), 30, {'epoch': 1})
  """
  if keep is not None and keep < 1:
    raise ValueError(f'keep must be at least 1, or None for all; got {keep}.')
  if best not in (None, 'max', 'min'):
    raise ValueError(f"best must be None, 'max' or 'min'; got {best!r}.")
  if '://' in os.fspath(directory):
    raise ValueError(f'directory must be local or mounted; got {directory}.')
  if isinstance(ignore, str):
    raise ValueError(f'ignore must be a sequence of patterns; got {ignore!r}.')
  identity = _step.Identity(
    _manifest.as_json(config, 'config'),
    _manifest.as_json(fingerprint, 'fingerprint'),
    tuple(ignore),
  )
  path = pathlib.Path(directory).expanduser().absolute()
  return Checkpoints(path, keep, best, identity, readonly)


class Checkpoints:
  """A directory of checkpoints; made by `open_dir`.

  With several processes all of them call every method; the first one writes. State
  is gathered to each host, one whole array at a time, before it is written.
  """

  def __init__(self, path, keep, best, identity, readonly):
    self.directory = path
    self._keep, self._best = keep, best
    self._identity, self._readonly = identity, readonly
    self._pending = None  # The step whose save is under way.
    self._current = None  # The step saved or restored last through this object.
    self._damaged = {}  # Step -> what is wrong with it.
    self._metrics = {}
    self._orbax = None
    # First, so that another run's directory is refused before anything is cleaned.
    self._read_directory()
    if not readonly:
      try:
        _directory.prepare(path)
      except OSError as error:
        raise CheckpointError(
          f'Cannot make the directory {path}: {_step.reason(error)}.'
        ) from error

  def __enter__(self):
    return self

  def __exit__(self, *exception):
    self.close()

  def save(self, step: int, state, extra=None, metric=None) -> bool:
    """Starts to save a step and returns; the writing goes on in the background.

    The values are those of this moment: the next step may donate the buffers.

    Args:
      step: a whole number larger than all steps in the directory.
      state: any pytree of arrays (jax or NumPy, zero-size ones too), typed keys, None,
        and Python bools, ints and floats. Replicated arrays are read from one device,
        sharded ones whole.
      extra: JSON-able value, such as the position in the data.
      metric: a number for `best`; None or NaN: never the best.

    Returns:
      True; False where this very step was just saved or restored, so that nothing
      had to be done.

    Raises:
      ValueError: a leaf that cannot be stored, or a step that is not the newest.
      CheckpointError: this or the save before could not be written. Older
        checkpoints are as they were, and `save` may be called again.
    """
    if self._readonly:
      raise CheckpointError(f'{self.directory} was opened with readonly=True.')
    self.wait()
    step = operator.index(step)
    if step == self._current:
      return False
    # A damaged step is moved aside below, so its number may be used again.
    newest = max((s for s in self.steps() if s not in self._damaged), default=-1)
    if step <= newest or step < 0:
      raise ValueError(
        f'step must be above the newest checkpoint, {newest}, in {self.directory};'
        f' got {step}. Restore that one, or use another directory.'
      )
    metric = None if metric is None or math.isnan(metric) else float(metric)
    items = _step.items(step, state, extra, metric, self._identity)
    self._pending, self._metrics[step] = step, metric
    try:
      # Orbax refuses to write a step that exists; a bad one is kept as evidence.
      _directory.set_aside(self.directory, self._damaged)
      self._damaged = {}
      self._handler().save(self._path(step), args=ocp.args.Composite(**items))
    except Exception as error:
      self._fail(error)
    return True

  def restore(self, target, step: int | None = None) -> _step.Restored | None:
    """Reads the newest good checkpoint, verified against its digests.

    A damaged step is named in a warning and the one before it is tried. The next
    `save` moves it aside, to `damaged.<step>`.

    Args:
      target: a freshly initialised state, or `jax.ShapeDtypeStruct`s: it gives tree,
        dtypes, shapes, shardings and devices. These devices need not be those, nor
        as many as those, that the state was saved from.
      step: this step and no other.

    Returns:
      `Restored(step, state, extra)`; None where the directory holds no checkpoint.

    Raises:
      ValueError: the checkpoint has other leaves, dtypes, shapes, config or
        fingerprint than the target, or there is no such step.
      CheckpointError: the step asked for, or every step, is damaged; or the save
        under way failed.
    """
    self.wait()
    steps = self.steps() if step is None else (operator.index(step),)
    if step is not None and steps[0] not in self.steps():
      there = _listed(self.steps())
      raise ValueError(f'step: {self.directory} holds no step {step}; there: {there}.')
    bad = {}
    for candidate in reversed(steps):
      try:
        restored = _step.read(self._path(candidate), target, self._identity)
      except _manifest.Damaged as error:
        bad[candidate] = str(error)
        if step is None:
          _warn(f'Checkpoint {self._path(candidate)} is damaged: {error}.')
        continue
      self._damaged, self._current = self._damaged | bad, candidate
      if bad:
        _warn(f'Restored the older checkpoint {self._path(candidate)}.')
      return restored
    if not bad:
      return None
    reasons = '; '.join(f'step {s}: {reason}' for s, reason in bad.items())
    raise CheckpointError(f'{self.directory} holds no good checkpoint: {reasons}.')

  def steps(self) -> tuple[int, ...]:
    """The steps in the directory, oldest first; whether they are good is not read."""
    return _directory.steps(self.directory)

  def latest_step(self) -> int | None:
    """The newest step in the directory; None without one."""
    return max(self.steps(), default=None)

  def best_step(self) -> int | None:
    """The step with the best metric (the newest of equals); None without one."""
    if self._best is None:
      raise ValueError("best_step needs open_dir(..., best='max') or 'min'.")
    sign = 1 if self._best == 'max' else -1
    scored = {s: self._metric(s) for s in self.steps()}
    scored = {s: sign * m for s, m in scored.items() if m is not None}
    return max(scored, key=lambda s: (scored[s], s), default=None)

  def wait(self) -> None:
    """Waits for the save under way; raises CheckpointError where it failed."""
    if self._pending is None:
      return
    try:
      self._handler().wait_until_finished()
    except Exception as error:
      self._fail(error)
    self._current, self._pending = self._pending, None
    self._prune()

  def close(self) -> None:
    """Waits, raising what went wrong, and frees Orbax's threads."""
    try:
      self.wait()
    finally:
      if self._orbax is not None:
        self._orbax.close()
        self._orbax = None

  def _handler(self) -> ocp.AsyncCheckpointer:
    if self._orbax is None:
      _noise.ignore_closed_loops()
      # Made in the background, a directory that cannot be made leaves threads that
      # wait for it and hold up the exit of the process for ten minutes.
      self._orbax = ocp.AsyncCheckpointer(
        ocp.CompositeCheckpointHandler(),
        async_options=ocp.options.AsyncOptions(create_directories_asynchronously=False),
      )
    return self._orbax

  def _path(self, step: int) -> pathlib.Path:
    return self.directory / str(step)

  def _read_directory(self) -> None:
    # Metrics are read now, by every process, so that pruning reads nothing later.
    for step in self.steps() if self._best else ():
      self._metric(step)
    for step in reversed(self.steps()):
      try:
        manifest = _step.read_manifest(self._path(step))
        _step.check_identity(self._path(step), manifest, self._identity)
      except _manifest.Damaged:
        continue
      return

  def _metric(self, step: int) -> float | None:
    if step not in self._metrics:
      with contextlib.suppress(_manifest.Damaged):
        self._metrics[step] = _step.read_manifest(self._path(step))['metric']
    return self._metrics.get(step)

  def _fail(self, error: Exception):
    step, self._pending = self._pending, None
    # A handler that failed may hold the error, and its half-written files the room.
    with contextlib.suppress(Exception):
      self._orbax.close()
    self._orbax = None
    _directory.clean(self.directory)
    raise CheckpointError(
      f'The checkpoint of step {step} could not be written to {self.directory}:'
      f' {_step.reason(error)}. Complete checkpoints there: {_listed(self.steps())}.'
    ) from error

  def _prune(self) -> None:
    if self._keep is None:
      return
    kept = {*self.steps()[-self._keep :], self.best_step() if self._best else None}
    _directory.delete(self.directory, [s for s in self.steps() if s not in kept])


def _listed(steps) -> str:
  return ', '.join(map(str, steps)) or 'none'


def _warn(message: str) -> None:
  logging.warning(message)
  warnings.warn(message, stacklevel=3)

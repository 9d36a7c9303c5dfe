"""One run of a sweep: its command, its directory, and how it is done as a job."""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

_FINISHED = 'finished.json'
_LOCK = 'sweep.lock'
_LOG = 'output.log'
# Of the time that a cluster leaves between its signal and the end.
_TO_SAVE = 60
# The experiment of this process, for the handler of that signal.
_children: list[subprocess.Popen] = []


@dataclasses.dataclass(frozen=True)
class Run:
  """A command of a sweep, which submitit calls.

  Attributes:
    script: of the experiment.
    arguments: its flags, without `--workdir`.
    variant: what tells it from the other runs of a table, its seed apart.
    seed: None for the seeds of the config.
    root: the directory of the sweep.
    source: the digest of the config file.
  """

  script: str
  arguments: tuple[str, ...]
  variant: str
  seed: int | None
  root: pathlib.Path
  source: str

  @property
  def name(self) -> str:
    """Readable, a name for a file, and unlike those of other commands."""
    words = [self.variant, '' if self.seed is None else f'seed={self.seed}']
    text = re.sub(r'[^\w.=+-]+', '_', ' '.join(filter(None, words)))
    whole = json.dumps([self.script, *self.arguments])
    return f'{text[:100]}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}'

  @property
  def directory(self) -> pathlib.Path:
    return self.root / self.name

  @property
  def command(self) -> list[str]:
    return [
      sys.executable, self.script, *self.arguments, f'--workdir={self.directory}',
    ]  # fmt: skip

  def __call__(self) -> None:
    """Runs the experiment to its end; goes on where its directory is.

    Raises:
      RuntimeError: it failed, was stopped, or runs already.
    """
    self.directory.mkdir(parents=True, exist_ok=True)
    lock = _locked(self.directory)
    if lock is None:
      raise RuntimeError(f'{self.directory}: this run is under way already.')
    with lock, (self.directory / _LOG).open('a') as log:
      print('$', *self.command, file=log, flush=True)
      # A session of its own: only `checkpoint` and the sweep stop it. The lock goes with
      # it, so that it shows a run whose sweep and whose job were killed.
      with _signals_of_the_cluster_ignored():
        child = subprocess.Popen(
          self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
          start_new_session=True, pass_fds=(lock.fileno(),),
        )  # fmt: skip
      _children[:] = [child]
      lock.truncate(0)
      print(child.pid, file=lock, flush=True)
      try:
        code = _waited(child)
      except BaseException:
        child.terminate()
        raise
    if code:
      raise RuntimeError(f'status {code}: {self.last_words()}')
    self._mark()

  def checkpoint(self):
    """For submitit, near the end of a cluster's patience: saves, and is queued again."""
    from submitit.helpers import DelayedSubmission

    for child in _children:
      child.terminate()
      _waited(child, _TO_SAVE)
    return DelayedSubmission(self)

  def _mark(self) -> None:
    part = self.directory / f'{_FINISHED}.part'
    part.write_text(json.dumps({'command': self.command, 'source': self.source}))
    os.replace(part, self.directory / _FINISHED)

  def finished(self) -> bool:
    """Whether it has been run to its end.

    Raises:
      ValueError: it has, with another text of the config file.
    """
    path = self.directory / _FINISHED
    if not path.exists():
      return False
    if json.loads(path.read_text())['source'] != self.source:
      raise ValueError(
        f'{self.directory}: its config file has changed since it was finished. Use'
        ' another --workdir, or remove that directory.'
      )
    return True

  def under_way(self) -> bool:
    """Whether a process on this machine, or any that shares the disk, is at it."""
    if not self.directory.exists():
      return False
    lock = _locked(self.directory)
    if lock is None:
      return True
    lock.close()
    return False

  def last_words(self) -> str:
    """The end of what it printed."""
    path = self.directory / _LOG
    lines = path.read_text(errors='replace').splitlines() if path.exists() else []
    lines = [line.strip() for line in lines if line.strip()]
    return lines[-1][:300] if lines else 'it said nothing'

  def stop(self) -> None:
    """Tells the experiment, on this machine, to save and to end."""
    if self.under_way():
      held = (self.directory / _LOCK).read_text().strip()
      with contextlib.suppress(ProcessLookupError):
        if held:
          os.kill(int(held), signal.SIGTERM)


@contextlib.contextmanager
def _signals_of_the_cluster_ignored():
  """For what is started meanwhile: they go to all processes of a job, whose experiment
  is told by its parent."""
  numbers = (signal.SIGUSR1, signal.SIGUSR2)
  old = [signal.signal(number, signal.SIG_IGN) for number in numbers]
  try:
    yield
  finally:
    for number, handler in zip(numbers, old):
      signal.signal(number, handler)


def _waited(child: subprocess.Popen, seconds: float = float('inf')) -> int | None:
  """The exit status. A loop: a handler that waits as well would find `wait` locked."""
  deadline = time.monotonic() + seconds
  while child.poll() is None and time.monotonic() < deadline:
    time.sleep(0.2)
  return child.returncode


def _locked(directory: pathlib.Path):
  """A file that no other process has; None where one has it."""
  file = (directory / _LOCK).open('a')
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    file.close()
    return None
  except OSError:
    pass  # A file system without locks.
  return file

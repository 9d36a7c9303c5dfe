"""CSV files that a killed run can go on writing."""

import csv
import errno
import fcntl
import io
import json
import os
import pathlib
import tempfile
import time

from experiments import _environment, _processes, _settings


class Table:
  """A CSV file with fixed columns; rows are appended, one write each.

  A row that a kill cut off, with no end of line, is dropped when the file is opened
  again. Of several processes the first one writes, and all hold the same rows when they
  open it, together.

  Args:
    path: the file.
    columns: the names of the columns.

  Raises:
    ValueError: the file has other columns.
  """

  def __init__(self, path, columns):
    self.path, self.columns = pathlib.Path(path), list(columns)
    self._writes = _processes.is_first()
    rows = self._read() if self._writes else None
    self.rows = _processes.from_first(rows)

  def _read(self) -> list[dict]:
    text = self.path.read_text() if self.path.exists() else ''
    text = text[: text.rfind('\n') + 1]
    reader = csv.DictReader(io.StringIO(text))
    rows = [r for r in reader if None not in r and None not in r.values()]
    if text and reader.fieldnames != self.columns:
      raise ValueError(
        f'{self.path}: has the columns {reader.fieldnames}, wanted {self.columns};'
        ' use another --workdir.'
      )
    self._write_all(rows)
    return rows

  def append(self, row: dict) -> None:
    """Adds a row and hands it to the operating system at once."""
    row = {c: _cell(row.get(c, '')) for c in self.columns}
    self.rows.append(row)
    if self._writes:
      with self.path.open('a', newline='') as file:
        file.write(self._text([row]))

  def rewind(self, method: str, seed, step: int) -> None:
    """Drops the rows of a method and seed after a step: they are made again."""
    pair = (method, str(seed))
    later = lambda r: (r['method'], r['seed']) == pair and int(r['step']) > step
    kept = [row for row in self.rows if not later(row)]
    if len(kept) < len(self.rows):
      self.rows = kept
      if self._writes:
        self._write_all(kept)

  def _write_all(self, rows):
    # A new file takes the place of the old one whole, whenever a kill comes.
    part = self.path.with_suffix('.part')
    header = ','.join(self.columns) + '\n'
    part.write_text(header + self._text(rows))
    os.replace(part, self.path)

  def _text(self, rows) -> str:
    out = io.StringIO()
    csv.DictWriter(out, self.columns, lineterminator='\n').writerows(rows)
    return out.getvalue()


def _cell(value) -> str:
  return f'{value:.6g}' if isinstance(value, float) else str(value)


def _begun(workdir: pathlib.Path) -> bool:
  """Whether a run directory holds any result that another config could spoil."""
  tables = [workdir / name for name in ('metrics.csv', 'results.csv')]
  if any(t.exists() and len(t.read_text().splitlines()) > 1 for t in tables):
    return True
  if any((workdir / 'checkpoints').glob('*/*/manifest')):
    return True
  # A command that failed before its first step leaves headers, maybe of other leaves.
  for table in tables:
    table.unlink(missing_ok=True)
  return False


def _lock(workdir: pathlib.Path):
  """An open file that no other process can have; a kill frees it too."""
  file = (workdir / 'lock').open('a')
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as error:
    file.close()
    raise ValueError(
      f'--workdir: another process trains in {workdir} just now. Wait for its end, or'
      ' use another directory.'
    ) from error
  except OSError:
    pass  # A file system without locks.
  return file


def is_read_only(workdir: pathlib.Path) -> bool:
  """Whether a run directory is there, and its table can be read but nothing written."""
  if not (workdir / 'results.csv').exists():
    return False
  try:
    tempfile.TemporaryFile(dir=workdir).close()
  except OSError as error:
    return error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
  return False


def _check_same(workdir: pathlib.Path, theirs: dict, ours: dict) -> None:
  """Raises ValueError, naming the keys, if a run directory is of another config."""
  other = [k for k in ours if k not in _settings.FREE_KEYS and ours[k] != theirs.get(k)]
  specs = {m['name']: m for m in theirs['methods']}
  other += [m['name'] for m in ours['methods'] if specs.get(m['name'], m) != m]
  if other:
    raise ValueError(
      f'--workdir: {workdir} was begun with another config; {", ".join(other)}'
      ' differ. Use another directory, or the same config.'
    )


def check_finished(workdir: pathlib.Path, config, methods) -> None:
  """Checks that a directory that cannot be written to needs no more training.

  Args:
    workdir: the run directory.
    config: of this command.
    methods: the names of those that this command asks for.

  Raises:
    ValueError: the directory is of another config, or lacks a result.
  """
  theirs = json.loads((workdir / 'config.json').read_text())
  _check_same(workdir, theirs, _settings.plain(config))
  with (workdir / 'results.csv').open(newline='') as file:
    done = {(row['method'], int(row['seed'])) for row in csv.DictReader(file)}
  missing = [f'{m}-{s}' for m in methods for s in config.seeds if (m, s) not in done]
  if missing:
    raise ValueError(
      f'--workdir: {workdir} is read-only, and {", ".join(missing)} not trained yet.'
    )


def run_directory(given: str | None, name: str) -> pathlib.Path:
  """What `--workdir` says, or a new directory; of several processes, the first's."""
  stamp = time.strftime('%Y%m%d-%H%M%S')
  return pathlib.Path(_processes.from_first(given or f'runs/{name}-{stamp}'))


def claim(workdir: pathlib.Path, config):
  """Makes the run directory, or checks that it is one of this config.

  Of several processes the first one does.

  Returns:
    A file to keep open for as long as the directory is written to.

  Raises:
    ValueError: the directory is of another config, or another process is using it.
  """
  if not _processes.is_first():
    return open(os.devnull)
  path = workdir / 'config.json'
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=workdir).close()
  except OSError as error:
    why = 'it is a file' if workdir.is_file() else error.strerror
    raise ValueError(
      f'--workdir: {workdir} cannot be written to ({why}). Give a directory where you'
      ' may write.'
    ) from error
  lock = _lock(workdir)
  ours = _settings.plain(config)
  if path.exists() and _begun(workdir):
    theirs = json.loads(path.read_text())
    try:
      _check_same(workdir, theirs, ours)
    except ValueError:
      lock.close()
      raise
    # Methods of earlier commands stay known, so that none is mistaken for another.
    names = {m['name'] for m in ours['methods']}
    ours['methods'] += [m for m in theirs['methods'] if m['name'] not in names]
  path.write_text(json.dumps(ours, indent=2))
  _environment.record(workdir)
  return lock

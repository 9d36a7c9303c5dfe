"""A run directory as it is read again: for its report, and beside other runs."""

import csv
import json
import pathlib
from typing import NamedTuple

from experiments import _environment, _traces

# Which experiment leaves a column of this name, first match.
_KINDS = {
  'rmse': 'regression',
  'nll_ts': 'bayesian',
  'selection_seconds': 'data_subset',
  'propagated_density': 'recommend',
  'test_loss': 'classify',
}


class Score(NamedTuple):
  """A number that methods are compared by.

  Attributes:
    column: of results.csv.
    label: what a table calls it.
    scale: what its values are multiplied by.
    digits: after the point.
  """

  column: str
  label: str
  scale: float = 1
  digits: int = 4


class Run(NamedTuple):
  """What a run directory holds.

  Attributes:
    workdir: the directory.
    kind: which experiment it is of.
    config: as JSON gives it back.
    results, metrics: the rows of the two tables; metrics may be empty.
    traces: of the trained networks; empty for a run of an older version.
    environment: of each command.
    times: method -> seconds per step.
  """

  workdir: pathlib.Path
  kind: str
  config: dict
  results: list[dict]
  metrics: list[dict]
  traces: list[_traces.Trace]
  environment: list[dict]
  times: dict[str, float]


def load(workdir: pathlib.Path) -> Run:
  """Reads a run directory.

  Raises:
    ValueError: it is none, it is damaged, or nothing in it has been tested yet.
  """
  if not workdir.is_dir():
    raise ValueError(f'{workdir}: no such folder; wanted the --workdir of a run.')
  for name in ('config.json', 'results.csv'):
    if not (workdir / name).exists():
      raise ValueError(
        f'{workdir}: no run, for it has no {name}; wanted the --workdir of an experiment.'
      )
  try:
    config = _json(workdir / 'config.json', {})
    results, metrics = (_rows(workdir / f'{n}.csv') for n in ('results', 'metrics'))
    if not results:
      raise ValueError('no network has been tested yet; let the run go on to its end')
    kind = kind_of(results[0])
    order = {m: i for i, m in enumerate(groups(results))}
    traces = _traces.load(workdir)
    # A trace may be there whose test a kill has cut off.
    traces = [t for t in traces if t.method in order]
    traces.sort(key=lambda t: order[t.method])
    return Run(
      workdir, kind, config, results, metrics, traces,
      _environment.load(workdir), _json(workdir / 'timing.json', {}),
    )  # fmt: skip
  except ValueError as error:
    raise ValueError(f'{workdir}: {str(error).rstrip(".")}.') from error


def _json(path, default):
  if not path.exists():
    return default
  try:
    return json.loads(path.read_text())
  except ValueError as error:
    raise ValueError(f'{path.name} is damaged ({error})') from error


def _rows(path) -> list[dict]:
  if not path.exists():
    return []
  with path.open(newline='') as file:
    return [r for r in csv.DictReader(file) if None not in r and None not in r.values()]


def kind_of(columns) -> str:
  """Which experiment leaves a results.csv with these columns.

  Raises:
    ValueError: none does.
  """
  for column, kind in _KINDS.items():
    if column in columns:
      return kind
  if any('/psnr_y_' in c for c in columns):
    return 'superres'
  raise ValueError(f'results.csv has the columns of no experiment: {list(columns)}')


def scores(run: Run) -> list[Score]:
  """What a reader looks at first, of each experiment."""
  columns = list(run.results[0])
  if run.kind == 'superres':
    return [Score(c, f'{c}, dB', 1, 2) for c in columns if '/psnr_y_' in c]
  if run.kind == 'recommend':
    most = max(int(c.split('@')[1]) for c in columns if c.startswith('ndcg@'))
    return [Score(f'{name}@{most}', f'{name}@{most}') for name in ('recall', 'ndcg')]
  if run.kind == 'regression':
    return [Score('rmse', 'RMSE'), Score('nll', 'NLL')]
  if run.kind == 'bayesian':
    return [Score('accuracy', 'accuracy, %', 100, 2), Score('nll', 'NLL')]
  return [Score('test_accuracy', 'test accuracy, %', 100, 2)]


def curve(run: Run) -> str | None:
  """The column of metrics.csv that is drawn over steps; None where there is none."""
  psnr = [c for c in (run.metrics or [{}])[0] if c.startswith('val_psnr')]
  column = {
    'bayesian': 'nll',
    'classify': 'val_accuracy',
    'data_subset': 'test_accuracy',
    'recommend': f'val_{run.config.get("select_by")}',
    'superres': psnr[0] if psnr else 'train_loss',
  }.get(run.kind)
  return column if any(_is_number(r.get(column)) for r in run.metrics) else None


def _is_number(cell) -> bool:
  return cell not in (None, '', 'nan')


def method_of(row: dict) -> str:
  """The name of a method, of a set where there are several."""
  return f'{row["dataset"]} {row["method"]}' if 'dataset' in row else row['method']


def seed_of(row: dict) -> str:
  """The seed of a row, or its split."""
  return row.get('seed') or row.get('split', '')


def kept_of(row: dict) -> float | None:
  """The weights that a tested network has."""
  cell = row.get('kept') or row.get('active_weights')
  return float(cell) if cell else None


def groups(results: list[dict]) -> dict[str, list[dict]]:
  """The rows of each method, in order of first appearance."""
  found: dict[str, list[dict]] = {}
  for row in results:
    found.setdefault(method_of(row), []).append(row)
  return found

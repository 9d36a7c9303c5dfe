"""The tables and plots of `experiments/data_subset.py`."""

import csv
import pathlib
import statistics

import numpy as np

from experiments import _clock, _names, _page, _time_to_accuracy
import jaxsparse as js

TIME_COLUMNS = ('seconds', *(f'{kind}_seconds' for kind in _clock.KINDS))
METRIC_COLUMNS = (
  'method', 'seed', 'step', 'examples', 'train_loss', 'train_accuracy', 'test_loss',
  'test_accuracy', *TIME_COLUMNS,
)  # fmt: skip
_HONESTY = (
  'Seconds are measured on this machine, by the wall clock: choosing the data, waiting for'
  ' batches and training count (what a plan draws on the device, in training); evaluating'
  ' and compiling stand apart, programs are compiled once for all seeds. "To" an accuracy: seconds until the test accuracy, evaluated along'
  ' the run and interpolated between, first reaches it; mean and 95 % interval over seeds'
  ' (Student), and no mean where a seed never does. The methods of a ratio take equal'
  ' steps, with a learning rate that is annealed to them.'
)


def result_columns(thresholds) -> tuple[str, ...]:
  """The columns of results.csv, for the accuracies that the curve is watched for."""
  return (
    'method', 'seed', 'ratio', 'steps', 'examples', 'likelihood_size', 'test_accuracy',
    'test_nll', 'target_sparsity', 'active_weights', 'stored_floats', *TIME_COLUMNS,
    *(f'{kind}_to_{t:g}' for kind in ('seconds', 'steps') for t in thresholds),
  )  # fmt: skip


def progress(row: dict) -> str:
  """What is printed at an evaluation."""
  return (
    f'step {row["step"]:>6}  loss {row["train_loss"]:.3f}, test acc'
    f' {row["test_accuracy"]:.2%}, {row["seconds"]:.2f} s'
  )


def write(workdir: pathlib.Path, config: dict) -> str:
  """Writes the plots and report.md; returns the tables as text."""
  results, metrics = (_read(workdir / f'{n}.csv') for n in ('results', 'metrics'))
  text = table(results)
  page = _page.Page(
    title=config['name'],
    about=f'{config["model"]["name"]} on {config["dataset"]}, batches of'
    f' {config["batch_size"]} examples or of a whole round, seeds'
    f' {", ".join(map(str, config["seeds"]))}, back end {config["backend"]}. Test accuracy'
    ' of the final weights, mean ± sample standard deviation.',
    tables=text,
    note=_HONESTY,
    figures=_plots(workdir, metrics, results),
  )
  return _page.write(workdir, page)


def _plots(workdir, metrics, results) -> dict[str, str]:
  """Accuracy against time and against steps, one pair of plots per ratio."""
  shown = {}
  for ratio in sorted({float(row['ratio']) for row in results}):
    methods = {row['method'] for row in results if float(row['ratio']) == ratio}
    rows = on_mean_times([row for row in metrics if row['method'] in methods])
    rows = [{**row, 'method': _names.way(row['method'], ratio)} for row in rows]
    for column, what in (('seconds', 'time'), ('step', 'steps')):
      name = f'accuracy_over_{what}_{100 * ratio:g}.png'
      js.plots.learning_curves(rows, workdir / name, x=column, y='test_accuracy')
      shown[name] = f'Test accuracy over {what}, {100 * ratio:g} % of the data a round'
  return shown


def on_mean_times(rows: list[dict]) -> list[dict]:
  """The evaluated rows, each at the mean seconds of its method and step over seeds."""
  rows = [row for row in rows if row['test_accuracy'] != '']
  times: dict[tuple[str, str], list[float]] = {}
  for row in rows:
    times.setdefault((row['method'], row['step']), []).append(float(row['seconds']))
  mean = {key: float(np.mean(values)) for key, values in times.items()}
  return [{**row, 'seconds': mean[row['method'], row['step']]} for row in rows]


def table(rows: list[dict], brief: bool = False) -> str:
  """Markdown tables of results.csv: accuracies of all ratios, then times of each one.

  Args:
    rows: of results.csv.
    brief: whether only the accuracies are wanted.
  """
  ratios = sorted({float(row['ratio']) for row in rows})
  if brief:
    return _accuracies(rows, ratios)
  return '\n\n'.join([_accuracies(rows, ratios), *(_times(rows, r) for r in ratios)])


def _accuracies(rows, ratios) -> str:
  steps = {
    r: sorted({int(row['steps']) for row in rows if float(row['ratio']) == r})
    for r in ratios
  }
  head = ['test accuracy, %']
  head += [f'{100 * r:g} % ({"/".join(map(str, steps[r]))} steps)' for r in ratios]
  cells: dict[str, dict[float, list[float]]] = {}
  for row in rows:
    ratio = float(row['ratio'])
    way = _names.way(row['method'], ratio)
    found = cells.setdefault(way, {}).setdefault(ratio, [])
    found.append(100 * float(row['test_accuracy']))
  lines = [head, ['---', *['---:'] * len(ratios)]]
  for way, found in cells.items():
    lines.append([way.replace('_', ' '), *(_mean(found.get(r, [])) for r in ratios)])
  return _markdown(lines)


def _mean(values) -> str:
  if not values:
    return ''
  spread = f' ± {statistics.stdev(values):.2f}' if len(values) > 1 else ''
  return f'{statistics.mean(values):.2f}{spread}'


def _times(rows, ratio: float) -> str:
  """One line per method of a ratio: what it took, and when it reached what."""
  rows = [row for row in rows if float(row['ratio']) == ratio]
  prefix = 'seconds_to_'
  targets = [column for column in rows[0] if column.startswith(prefix)]
  # An accuracy that no run reaches is a column of nothing.
  targets = [c for c in targets if any(row[c] for row in rows)]
  to = [f'seconds to {100 * float(c.removeprefix(prefix)):g} %' for c in targets]
  head = [
    f'at {100 * ratio:g} %', 'seconds', 'selection', 'data', 'training', '(evaluation)',
    '(compilation)', *to,
  ]  # fmt: skip
  lines = [head, ['---', *['---:'] * (len(head) - 1)]]
  for name in dict.fromkeys(row['method'] for row in rows):
    mine = [row for row in rows if row['method'] == name]
    # Whoever compiled did it for all seeds.
    compiled = max(float(row['compile_seconds']) for row in mine)
    spent = [statistics.mean(float(r[c]) for r in mine) for c in TIME_COLUMNS[:-1]]
    reached = [_time_to_accuracy.cell([row[c] for row in mine]) for c in targets]
    way = _names.way(name, ratio).replace('_', ' ')
    lines.append([way, *(f'{s:.2f}' for s in (*spent, compiled)), *reached])
  return _markdown(lines)


def _markdown(lines) -> str:
  return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def _read(path: pathlib.Path) -> list[dict]:
  with path.open(newline='') as file:
    return list(csv.DictReader(file))

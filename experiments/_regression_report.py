"""The tables of regression results: errors and densities in the units of the sets."""

import csv
import math
import pathlib

import numpy as np

from experiments import _page

COLUMNS = (
  'dataset', 'method', 'split', 'chosen', 'rmse', 'nll', 'nll_learned_noise',
  'target_sparsity', 'active_weights', 'stored_floats',
)  # fmt: skip
_HONESTY = (
  'Mean ± standard error over the splits; RMSE and NLL (nats per example) in the units'
  ' of the targets, on the test rows of each split. A setting that a method chooses is'
  ' chosen by each split on a part of its training rows.'
)


def progress(rows: list[dict], seconds: float) -> str:
  """What is printed when a method has been trained on a set."""
  rmse, nll = (
    np.array([float(row[column]) for row in rows]) for column in ('rmse', 'nll')
  )
  return (
    f'{rows[0]["dataset"]:>9} {rows[0]["method"]:>16}: RMSE {rmse.mean():.4g}, NLL'
    f' {nll.mean():.4g}, {len(rows)} splits in {seconds:.0f} s'
  )


def write(workdir: pathlib.Path, config: dict) -> str:
  """Writes report.md; returns its tables."""
  with (workdir / 'results.csv').open(newline='') as file:
    text = table(list(csv.DictReader(file)))
  sizes = ', '.join(map(str, config['model']['features']))
  page = _page.Page(
    title=config['name'],
    about=f'Networks of {sizes} hidden units on {", ".join(config["datasets"])},'
    f' {config["num_steps"]:,} steps unless a set has its own number.',
    tables=text,
    note=_HONESTY,
    figures={},
  )
  return _page.write(workdir, page)


def table(rows: list[dict], brief: bool = False) -> str:
  """Two Markdown tables of results.csv, a line per method and a column per set.

  Args:
    rows: of results.csv.
    brief: whether only that of the likelihood is wanted.
  """
  return '\n\n'.join(_table(rows, what) for what in ('rmse', 'nll')[brief:])


def _table(rows, what: str) -> str:
  names = list(dict.fromkeys(row['dataset'] for row in rows))
  lines = [[f'test {what.upper()}', *names], ['---', *('---:' for _ in names)]]
  cells: dict[tuple[str, str], list[float]] = {}
  for row in rows:
    cells.setdefault((row['method'], row['dataset']), []).append(float(row[what]))
  # A log density is no ratio: hundredths of a nat do for all sets.
  of_set = lambda name: [v for (_, d), v in cells.items() if d == name]
  digits = {n: _digits(of_set(n)) if what == 'rmse' else 2 for n in names}
  for method in dict.fromkeys(row['method'] for row in rows):
    found = [_cell(cells.get((method, n), ()), digits[n]) for n in names]
    lines.append([method.replace('_', ' '), *found])
  return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def _digits(columns) -> int:
  """Decimals for which the smallest mean of a set has three figures, at most five."""
  smallest = min(abs(np.mean(values)) for values in columns)
  return min(max(2 - math.floor(math.log10(max(smallest, 1e-9))), 0), 5)


def _cell(values, digits: int) -> str:
  if not len(values):
    return ''
  text = f'{np.mean(values):.{digits}f}'
  if len(values) < 2:
    return text
  error = np.std(values, ddof=1) / math.sqrt(len(values))
  return f'{text} ± {error:.{digits}f}'

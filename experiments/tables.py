"""Prints the tables of the documentation from the results of finished runs.

    python -m experiments.tables experiments/results/fashion_mnist_lenet300.csv
    python -m experiments.tables --brief FILE   # the main columns, for some of them

A results file is what `experiments/classify.py`, `superres.py`, `bayesian.py`,
`data_subset.py` or `recommend.py` leaves in its run directory; its columns say which. For
the first two rows are ways to a network, columns the sparsities; mean and sample standard
deviation over seeds of the test accuracy, or of the PSNR on each test set, and how many
seeds there are when they differ.
"""

import argparse
import csv
import pathlib
import statistics

from experiments import (
  _bayesian_report,
  _names,
  _recommend_report,
  _regression_report,
  _subset_report,
  _superres_report,
)


def table(rows: list[dict], brief: bool = False) -> str:
  """The Markdown tables of the rows of any results.csv."""
  if 'rmse' in rows[0]:
    return _regression_report.table(rows, brief)
  if 'nll_ts' in rows[0]:
    return _bayesian_report.table(rows, brief)
  if 'selection_seconds' in rows[0]:
    return _subset_report.table(rows, brief)
  if 'propagated_density' in rows[0]:
    return _recommend_report.table(rows)
  psnr = [column for column in rows[0] if '/psnr_y_' in column]
  if psnr and brief:
    return _superres_report.brief_table(rows)
  if psnr:
    return '\n\n'.join(by_sparsity(rows, c, f'{c}, dB', 1) for c in psnr)
  return by_sparsity(rows, 'test_accuracy', 'test accuracy, %', 100)


def by_sparsity(rows: list[dict], column: str, label: str, unit: float) -> str:
  """A Markdown table of one column of results.

  Args:
    rows: of results.csv: `method` is `<way>_<percent>`, or `<way>` for one column.
    column: what is shown.
    label: what the table calls it.
    unit: what its values are multiplied by.

  Returns:
    The table; the dense network stands in its own column.
  """
  cells: dict[tuple[str, float], list[float]] = {}
  for row in rows:
    sparsity = float(row['target_sparsity'])
    way = _names.way(row['method'], sparsity)
    cells.setdefault((way, sparsity), []).append(unit * float(row[column]))
  ways = list(dict.fromkeys(way for way, _ in cells))
  sparsities = sorted({s for _, s in cells})
  most = max(map(len, cells.values()))
  head = [label, *(f'{100 * s:g} % sparse' for s in sparsities)]
  lines = [head, ['---', *('---:' for _ in sparsities)]]
  for way in ways:
    values = (cells.get((way, s), []) for s in sparsities)
    lines.append([way.replace('_', ' '), *(_cell(v, most) for v in values)])
  return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def _cell(values, most) -> str:
  if not values:
    return ''
  text = f'{statistics.mean(values):.2f}'
  if len(values) > 1:
    text += f' ± {statistics.stdev(values):.2f}'
  return text if len(values) == most else f'{text} ({len(values)} seeds)'


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('files', nargs='+', type=pathlib.Path)
  parser.add_argument('--brief', action='store_true', help='the main columns only')
  args = parser.parse_args()
  for path in args.files:
    with path.open(newline='') as file:
      rows = list(csv.DictReader(file))
    print(f'{path.stem}\n\n{table(rows, args.brief)}\n')


if __name__ == '__main__':
  main()

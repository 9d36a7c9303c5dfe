"""The tables, the plots and the report of `experiments/recommend.py`."""

import csv
import json
import pathlib

import numpy as np

from experiments import _page, _ranking
import jaxsparse as js

_SIZES = (
  'density', 'kept', 'shipped_bytes', 'propagated_density', 'param_bytes',
  'mask_bytes', 'state_bytes', 'seconds',
)  # fmt: skip
_HONESTY = (
  'Full ranking unless a number of candidates is given; recall@K is hits / |test items|,'
  ' recall@K_min is hits / min(K, |test items|); coverage@K is the share of items that'
  ' stand in any list. Mean ± sample standard deviation over seeds, each with its own split'
  ' unless told otherwise. "Shipped bytes" are measured: packed rows of values, column'
  ' numbers and counts for sparse tables, arrays for dense ones. Training is with masks:'
  ' it holds dense arrays and saves neither time nor memory. The chosen weights are the'
  ' best on validation.'
)


def metric_columns(ks, densities) -> tuple[str, ...]:
  """The columns of metrics.csv, with those of the densities of leaves."""
  found = [f'val_{name}' for name in _ranking.metric_names(ks)]
  return ('method', 'seed', 'step', 'train_loss', 'density', *found, *densities)


def result_columns(ks) -> tuple[str, ...]:
  """The columns of results.csv."""
  first = ('method', 'seed', 'split', 'step', 'target_sparsity', 'chosen_by')
  return (*first, *_ranking.metric_names(ks), *_SIZES)


def about(ratings, source, workdir) -> str:
  """What is printed of the data."""
  split = source.split
  repeated = (
    f', {ratings.repeated:,} rows left out as repeated' if ratings.repeated else ''
  )
  learned = len(np.unique(split.train[:, 1]))
  return (
    f'{ratings.name}: {split.num_users:,} users, {split.num_items:,} items'
    f' ({split.num_items - learned:,} of them never in training), {len(split.train):,} +'
    f' {len(split.validation):,} + {len(split.test):,} pairs, split {split.digest}'
    f'{repeated}; {source.num_steps:,} steps; {workdir}/'
  )


def progress(row: dict, config) -> str:
  """What is printed at an evaluation."""
  value = row[f'val_{config.select_by}']
  return (
    f'loss {row["train_loss"]:.4f}, val {config.select_by} {value:.4f}, density'
    f' {row["density"]:.4f}'
  )


def tested(row: dict, config) -> str:
  """What is printed of a test."""
  most = max(config.ks)
  return (
    f'step {row["step"]}, recall@{most} {row[f"recall@{most}"]:.4f}, ndcg@{most}'
    f' {row[f"ndcg@{most}"]:.4f}, {row["kept"]:,} weights, {row["shipped_bytes"]:,} bytes'
  )


def read_times(workdir: pathlib.Path) -> dict[str, float]:
  """method -> seconds per step, of earlier commands."""
  path = workdir / 'timing.json'
  return json.loads(path.read_text()) if path.exists() else {}


def write(workdir: pathlib.Path, config: dict, times: dict[str, float]) -> str:
  """Writes the plot and report.md; returns the table."""
  with (workdir / 'results.csv').open(newline='') as file:
    results = list(csv.DictReader(file))
  with (workdir / 'metrics.csv').open(newline='') as file:
    metrics = list(csv.DictReader(file))
  column = f'val_{config["select_by"]}'
  js.plots.learning_curves(metrics, workdir / 'learning_curves.png', y=column)
  text = table(results, times)
  page = _page.Page(
    title=config['name'],
    about=f'{config["model"]["name"]} on {config["dataset"]}, split {config["split"]}.',
    tables=text,
    note=_HONESTY,
    figures={'learning_curves.png': f'{column.replace("_", " ")} over steps'},
  )
  return _page.write(workdir, page)


def table(rows: list[dict], times: dict[str, float] | None = None) -> str:
  """A Markdown table of results.csv: a line per method, measured sizes beside metrics.

  Args:
    rows: of results.csv; methods are called `<way>_<percent>`.
    times: method -> seconds per step; None leaves all times out.

  Returns:
    The table. Differences to the narrow dense table with as many parameters are of equal
    splits.
  """
  most = max(int(c.split('@')[1]) for c in rows[0] if c.startswith('ndcg@'))
  shown = [f'recall@{most}', f'ndcg@{most}', f'coverage@{most}']
  groups: dict[str, list[dict]] = {}
  for row in rows:
    groups.setdefault(row['method'], []).append(row)
  propagated = any(_numbers(rows, 'propagated_density'))
  head = ['method', 'density', 'weights kept', 'shipped bytes', *shown]
  head.append(f'{shown[0]} - narrow, paired')
  head += ['density after propagation'] if propagated else []
  head += ['s/run', 'ms/step'] if times else []
  lines = [head, ['---', *('---:' for _ in head[1:])]]
  for name, found in groups.items():
    line = [name.replace('_', ' ')]
    mean = lambda c, found=found: np.mean(_numbers(found, c) or [np.nan])
    line += [f'{mean("density"):.3f}', f'{mean("kept"):,.0f}']
    line += [f'{mean("shipped_bytes"):,.0f}', *(_spread(found, c) for c in shown)]
    narrow = f'narrow_parameters_{name.rpartition("_")[2]}'
    line.append(_difference(paired(rows, narrow, shown[0]).get(name)))
    line += [f'{mean("propagated_density"):.3f}'] if propagated else []
    if times:
      line.append(f'{mean("seconds"):.0f}')
      line.append(f'{1e3 * times[name]:.2f}' if name in times else '-')
    lines.append(line)
  return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def paired(
  rows: list[dict], against: str, column: str
) -> dict[str, tuple[float, float]]:
  """`{method: (mean, sample sd)}` of the difference to a method, over equal splits.

  Args:
    rows: of results.csv.
    against: the method that is subtracted.
    column: of what.

  Returns:
    Methods that share a split with it; the sd is NaN for one split.
  """
  key_of = lambda row: (row['split'], row['seed'])
  base = {key_of(r): float(r[column]) for r in rows if r['method'] == against}
  found: dict[str, list[float]] = {}
  for row in rows:
    key = key_of(row)
    if row['method'] != against and key in base:
      found.setdefault(row['method'], []).append(float(row[column]) - base[key])
  spread = lambda v: float(np.std(v, ddof=1)) if len(v) > 1 else float('nan')
  return {name: (float(np.mean(v)), spread(v)) for name, v in found.items()}


def _difference(found) -> str:
  if found is None:
    return ''
  mean, spread = found
  return f'{mean:+.4f}' if np.isnan(spread) else f'{mean:+.4f} ± {spread:.4f}'


def _numbers(rows, column) -> list[float]:
  values = [float(row[column]) for row in rows if row.get(column)]
  return [v for v in values if np.isfinite(v)]


def _spread(rows, column) -> str:
  values = _numbers(rows, column)
  text = f'{np.mean(values):.4f}'
  return text if len(values) < 2 else f'{text} ± {np.std(values, ddof=1):.4f}'

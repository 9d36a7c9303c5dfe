r"""Puts runs of one experiment side by side: what differs, one table, curves over another.

    python -m experiments.compare runs/digits runs/digits-adam --out=runs/compared
    python -m experiments.compare runs/rates/*/

RUN is what an experiment was given as --workdir. compare.md and compare.html, which is one
file by itself, hold the keys of the configs that differ, a line for each method of each run
with means, sample standard deviations and the number of seeds, and the curves of a method
in all runs that have it.
"""

import argparse
import json
import os
import pathlib
import sys

import numpy as np

from experiments import _account, _page, _runs
import jaxsparse as js

_NOTE = (
  'Mean ± sample standard deviation over seeds (of regression: splits). Densities, FLOPs'
  ' and seconds are explained in the report of each run.'
)


def main(argv=None) -> int:
  """Returns the exit status: 1 for runs that cannot be compared."""
  parser = argparse.ArgumentParser(
    prog='compare', description=__doc__.partition('\n')[0]
  )
  parser.add_argument('runs', nargs='+', type=pathlib.Path, metavar='RUN')
  parser.add_argument(
    '--out', type=pathlib.Path, default=pathlib.Path('runs/compared'),
    help='where compare.md and compare.html go; default %(default)s',
  )  # fmt: skip
  args = parser.parse_args(argv)
  try:
    runs = load(args.runs)
    print(write(args.out, runs))
  except (OSError, ValueError) as error:
    print(f'compare: {error}', file=sys.stderr)
    return 1
  return 0


def load(paths) -> dict[str, _runs.Run]:
  """`{label: run}`; a label is the part of a path that tells it from the others.

  Raises:
    ValueError: fewer than two runs, one of them twice or unreadable, or runs of
      different experiments.
  """
  whole = [path.resolve() for path in paths]
  if len(whole) < 2:
    raise ValueError(f'RUN: got {len(whole)} run, wanted two or more.')
  if twice := [str(p) for p in whole if whole.count(p) > 1]:
    raise ValueError(f'RUN: {twice[0]} is given twice.')
  runs = [_runs.load(path) for path in whole]
  kinds = {run.kind: path for run, path in zip(runs, paths)}
  if len(kinds) > 1:
    found = ', '.join(f'{path} of {kind}' for kind, path in kinds.items())
    raise ValueError(f'RUN: wanted runs of one experiment, got {found}.')
  shared = pathlib.Path(os.path.commonpath(whole))
  return {str(p.relative_to(shared)): run for p, run in zip(whole, runs)}


def write(folder: pathlib.Path, runs: dict[str, _runs.Run]) -> str:
  """Writes compare.md and compare.html; returns what the terminal shows."""
  folder.mkdir(parents=True, exist_ok=True)
  first = next(iter(runs.values()))
  text = table(runs)
  parts = [f'# {first.kind}: {", ".join(runs)}', *_warning(runs)]
  parts += ['## Results', text, _NOTE]
  parts += [f'![{about}]({name})' for name, about in _curves(folder, runs).items()]
  parts += ['## What differs in the configurations', differences(runs)]
  environments = {n: (r.environment or [{}])[-1] for n, r in runs.items()}
  parts += ['## What differs in the environments', _table_of(environments)]
  _page.save(folder / 'compare', '\n\n'.join(parts) + '\n')
  return f'{text}\n\n{_NOTE}\n{folder / "compare.html"}, compare.md'


def _warning(runs) -> list[str]:
  """A sentence where numbers cannot be compared."""
  keys = ('dataset', 'datasets', 'tests', 'split', 'scale')
  differing = [
    k for k in keys if len({json.dumps(r.config.get(k)) for r in runs.values()}) > 1
  ]
  if not differing:
    return []
  return [f'**Not of the same data: {", ".join(differing)} differ.**']


def table(runs: dict[str, _runs.Run]) -> str:
  """A Markdown table: a line per method and run, the runs of a method together."""
  scores = {s.column: s for r in runs.values() for s in _runs.scores(r)}
  head = [
    'method', 'run', *(s.label for s in scores.values()), 'seeds', 'target sparsity',
    'weights', 'training FLOPs', 'FLOPs of a prediction', 'bytes', 's/run', 'ms/step',
  ]  # fmt: skip
  lines = [head, ['---', ':---', *['---:'] * (len(head) - 2)]]
  groups = {label: _runs.groups(run.results) for label, run in runs.items()}
  for method in dict.fromkeys(m for found in groups.values() for m in found):
    for label, run in runs.items():
      rows = groups[label].get(method)
      if rows:
        cells = [_score(rows, score) for score in scores.values()]
        lines.append([method, label, *cells, *_costs(run, method, rows)])
  kept = [i for i in range(len(head)) if any(line[i] != '-' for line in lines[2:])]
  return '\n'.join('| ' + ' | '.join(line[i] for i in kept) + ' |' for line in lines)


def _numbers(rows, column) -> np.ndarray:
  found = [float(r[column]) for r in rows if r.get(column) not in (None, '')]
  return np.array([x for x in found if np.isfinite(x)])


def _score(rows, score: _runs.Score) -> str:
  values = score.scale * _numbers(rows, score.column)
  if not values.size:
    return '-'
  text = f'{values.mean():.{score.digits}f}'
  return f'{text} ± {values.std(ddof=1):.{score.digits}f}' if values.size > 1 else text


def _costs(run: _runs.Run, method: str, rows) -> list[str]:
  traces = [t for t in run.traces if t.method == method]
  spec = _account.spec_of(method, run.config)
  seconds = run.times.get(method)
  weights = [w for w in map(_runs.kept_of, rows) if w is not None]
  target = _numbers(rows, 'target_sparsity')
  return [
    str(len({_runs.seed_of(r) for r in rows})),
    f'{100 * target[0]:.4g} %' if target.size else '-',
    f'{np.mean(weights):,.0f}' if weights else '-',
    *_account.costs(traces, spec, run.metrics),
    f'{1e3 * seconds:.2f}' if seconds else '-',
  ]


def _flat(value, prefix='') -> dict[str, str]:
  """`{dotted key: value}` of a config; methods are told apart by their names."""
  if prefix == 'methods':
    value = {
      spec['name']: {k: v for k, v in spec.items() if k != 'name'} for spec in value
    }
  if not isinstance(value, dict) or not value:
    return {prefix: value if isinstance(value, str) else json.dumps(value)}
  found: dict[str, str] = {}
  for key, inside in value.items():
    found.update(_flat(inside, f'{prefix}.{key}' if prefix else key))
  return found


def differences(runs: dict[str, _runs.Run]) -> str:
  """A Markdown table of the keys of the configs whose values differ."""
  configs = {label: _flat(run.config) for label, run in runs.items()}
  # What a command left out is no difference of the networks that are there.
  return _table_of(
    {n: {k: v for k, v in c.items() if k != 'only'} for n, c in configs.items()}
  )


def _table_of(columns: dict[str, dict[str, str]]) -> str:
  keys = dict.fromkeys(k for found in columns.values() for k in found)
  lines = [['key', *columns], ['---'] * (len(columns) + 1)]
  for key in keys:
    values = [found.get(key) for found in columns.values()]
    if len(set(values)) > 1:
      lines.append([key, *('-' if v is None else _page.code(v) for v in values)])
  if len(lines) == 2:
    return 'Nothing.'
  return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def _curves(folder, runs) -> dict[str, str]:
  """Draws each method of several runs, and all others together."""
  column = _runs.curve(next(iter(runs.values())))
  if column is None:
    return {}
  rows = [
    {**row, 'run': label, 'line': f'{label}: {row["method"]}'}
    for label, run in runs.items()
    for row in run.metrics
    if row.get(column) not in (None, '', 'nan')
  ]
  of_method: dict[str, list[dict]] = {}
  for row in rows:
    of_method.setdefault(row['method'], []).append(row)
  shown, alone = {}, []
  for method, own in of_method.items():
    if len({row['run'] for row in own}) < 2:
      alone += own
      continue
    name = f'compare_{method}.png'
    js.plots.learning_curves(own, folder / name, y=column, group='run')
    shown[name] = f'{method}: {column.replace("_", " ")} over steps'
  if alone:
    name = 'compare_others.png'
    js.plots.learning_curves(alone, folder / name, y=column, group='line')
    shown[name] = f'What one run alone has: {column.replace("_", " ")} over steps'
  return shown


if __name__ == '__main__':
  sys.exit(main())

"""The table, the plots and the report of a classification run."""

import csv
import json
import pathlib

import jax
import numpy as np

from experiments import _execution, _names, _page, _records, _settings
import jaxsparse as js

RESULT_COLUMNS = (
  'method',
  'seed',
  'step',
  'target_sparsity',
  'val_accuracy',
  'test_accuracy',
  'test_loss',
  'nominal_sparsity',
  'whole_sparsity',
  'weights',
  'kept',
  'execution',
  'param_bytes',
  'mask_bytes',
  'state_bytes',
  'dense_flops',
  'sparse_flops',
)
_SCALARS = (
  'train_loss',
  'train_accuracy',
  'val_loss',
  'val_accuracy',
  'sparsity',
  'whole_sparsity',
  'steps_per_second',
)
_HONESTY = (
  'Masked execution keeps dense arrays and saves no time and no memory: FLOPs are'
  ' what a sparse execution would need (theoretical). Compact execution holds nonzeros,'
  ' and the places of their masks; `--config.execution=compact` trains so, methods that'
  ' only prune once their masks are final. Step times are measured, all methods in turn'
  ' in one process, over the first steps of a run (of what becomes compact later: the'
  ' first steps of that): mask updates that fall among them count.'
)


def metric_columns(leaves) -> tuple[str, ...]:
  """The columns of metrics.csv, for the leaves whose density is recorded."""
  return ('method', 'seed', 'step', *_SCALARS, *(f'density/{n}' for n in leaves))


def progress(row: dict) -> str:
  """What the progress bar says at an evaluation."""
  text = (
    f'loss {row["train_loss"]:.3f}, acc {row["train_accuracy"]:.2%},'
    f' val acc {row["val_accuracy"]:.2%}, sparsity {row["sparsity"]:.1%}'
  )
  rate = row['steps_per_second']
  # The first call compiles, so an evaluation right after it has no rate yet.
  return text if np.isnan(rate) else f'{text}, {rate:.0f} steps/s'


def leaf_choices(methods, batch_size: int) -> str:
  """Which leaves are pruned and which stay dense, and who computes the nonzeros."""
  choices: dict[str, list[str]] = {}
  for method in (m for m in methods if m.sparse):
    masks = js.get_masks(jax.eval_shape(method.init, 0).opt_state)
    choices.setdefault(leaf_choice(masks), []).append(method.name)
  lines = [f'pruned by {", ".join(n)}: {c}' for c, n in choices.items()]
  for method in (m for m in methods if m.execution.name == 'compact'):
    state = method.execution.held(method.init(0))
    held = _execution.backends(state, batch_size)
    lines.append(f'{method.name} on its nonzeros: {held}')
  return '\n'.join(lines)


def leaf_choice(masks, most: int = 12) -> str:
  """The leaves that a tree of masks prunes, and those that stay dense.

  Args:
    masks: arrays, or `jax.ShapeDtypeStruct`s.
    most: names beyond so many are counted only.

  Returns:
    One line.
  """
  names, values, _ = js.core.named_leaves(masks)
  groups: tuple[list[str], list[str]] = ([], [])
  for name, mask in zip(names, values):
    groups[not mask.shape].append(name)  # A scalar mask is that of a dense leaf.
  pruned, dense = (
    ', '.join(g[:most]) + (f' and {len(g) - most} more' if g[most:] else '')
    for g in groups
  )
  return f'{pruned or "nothing"}; dense: {dense or "nothing"}'


def identity(config: dict, name: str, seed: int) -> dict:
  """What a checkpoint must agree with: all that moves its numbers."""
  fixed = {k: v for k, v in config.items() if k not in _settings.FREE_KEYS}
  spec = next(m for m in config['methods'] if m['name'] == name)
  return {**fixed, 'method': spec, 'seed': seed}


def write(workdir: pathlib.Path, config: dict, times: dict[str, float]) -> str:
  """Writes the plots and report.md of a run directory.

  Args:
    workdir: with metrics.csv and results.csv.
    config: of the run.
    times: method -> seconds per step.

  Returns:
    The table, as text.
  """
  results = _read(workdir / 'results.csv')
  metrics = _read(workdir / 'metrics.csv')
  shown = plots(workdir, metrics, results, times)
  text = table(results, times)
  seeds = sorted({int(row['seed']) for row in results})
  steps = max(int(row['step']) for row in results)
  chosen = {'final': 'the final weights', 'best': 'the best weights on validation'}
  return _page.write(
    workdir,
    _page.Page(
      title=config['name'],
      about=f'{config["model"]["name"]} ({config["model"]["api"]}) on'
      f' {config["dataset"]}, {steps:,} steps of {config["batch_size"]} images, seeds'
      f' {", ".join(map(str, seeds))}. Test accuracy of {chosen[config["select"]]},'
      ' looked at once; mean ± standard deviation over seeds.',
      tables=text,
      note=_HONESTY,
      figures=shown,
    ),
  )


def plots(workdir: pathlib.Path, metrics, results, times) -> dict[str, str]:
  """Draws what there is to draw; `{file name: what it shows}`."""
  js.plots.learning_curves(metrics, workdir / 'learning_curves.png')
  shown = {'learning_curves.png': 'Validation accuracy over steps'}
  rows = [
    {
      'method': _names.way(row['method'], float(row['target_sparsity'])),
      'sparsity': row['target_sparsity'],
      'test_accuracy': row['test_accuracy'],
    }
    for row in results
  ]
  # One sparsity is a column of the table; only several make a curve.
  if len({row['sparsity'] for row in rows if float(row['sparsity'])}) > 1:
    js.plots.accuracy_vs_sparsity(rows, workdir / 'accuracy_vs_sparsity.png')
    shown['accuracy_vs_sparsity.png'] = 'Test accuracy over sparsities'
  if times:
    against = 'dense' if 'dense' in times else next(iter(times))
    js.plots.step_times(
      [{'method': n, 'ratio': s / times[against]} for n, s in times.items()],
      workdir / 'step_times.png',
      label=f'step time / step time of {against} (ratio)',
    )
    shown['step_times.png'] = f'Step times over that of {against}'
  return shown


def reprint(workdir: pathlib.Path, config, specs) -> str:
  """The table of a finished run whose directory cannot be written to.

  Raises:
    ValueError: the directory is of another config, or a method is not trained yet.
  """
  _records.check_finished(workdir, config, [spec['name'] for spec in specs])
  timing = workdir / 'timing.json'
  times = json.loads(timing.read_text()) if timing.exists() else {}
  text = table(_read(workdir / 'results.csv'), times)
  return f'\n{text}\n\n{_HONESTY}\n{workdir} is read-only: nothing was written.'


def table(results: list[dict], times: dict[str, float]) -> str:
  """The table of a report, in Markdown that also reads as text."""
  header = (
    'method', 'execution', 'test accuracy', 'sparsity', 'whole model', 'kept weights',
    'FLOPs/image (theory)', 'param bytes', 'optimizer bytes', 'mask bytes',
    'ms/step', 'ratio',
  )  # fmt: skip
  groups: dict[str, list[dict]] = {}
  for row in results:
    groups.setdefault(row['method'], []).append(row)
  dense = next((times[n] for n in groups if n == 'dense' and n in times), None)
  rows = [_row(name, rows, times, dense) for name, rows in groups.items()]
  # Timed only, beside the same method with masks.
  rows += [_timed(n, times[n], dense, len(header)) for n in times if n not in groups]
  widths = [max(len(r[i]) for r in [header, *rows]) for i in range(len(header))]
  line = lambda cells: (
    '| '
    + ' | '.join(
      c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(cells, widths))
    )
    + ' |'
  )
  rule = [('-' * (w - 1) + ':' if i else '-' * w) for i, w in enumerate(widths)]
  return '\n'.join([line(header), line(rule), *map(line, rows)])


def _row(name, rows, times, dense):
  number = lambda column: np.array([float(r[column]) for r in rows])
  mean = lambda column: number(column).mean()
  accuracy = number('test_accuracy') * 100
  spread = f' ± {accuracy.std(ddof=1):.2f}' if len(rows) > 1 else ''
  seconds = times.get(name)
  ratio = seconds / dense if seconds and dense else None
  return (
    name,
    rows[0].get('execution') or '-',
    f'{accuracy.mean():.2f}{spread} %',
    f'{mean("nominal_sparsity"):.2%}',
    f'{mean("whole_sparsity"):.2%}',
    f'{mean("kept"):,.0f}',
    f'{mean("sparse_flops"):,.0f}',
    f'{mean("param_bytes"):,.0f}',
    f'{mean("state_bytes"):,.0f}',
    f'{mean("mask_bytes"):,.0f}',
    f'{seconds * 1e3:.2f}' if seconds else '-',
    f'{ratio:.2f}' if ratio else '-',
  )


def _timed(name, seconds, dense, columns):
  method, _, execution = name.rpartition(', ')
  ratio = f'{seconds / dense:.2f}' if dense else '-'
  blank = ('-',) * (columns - 4)
  return (method, execution, *blank, f'{seconds * 1e3:.2f}', ratio)


def _read(path: pathlib.Path) -> list[dict]:
  with path.open(newline='') as file:
    return list(csv.DictReader(file))

"""The table, the plots and the report of a run of super-resolution."""

import csv
import json
import pathlib

import numpy as np
from PIL import Image, ImageDraw

from experiments import _names, _page, _superres_evaluation
import jaxsparse as js

_ENLARGED = 3
_SIZES = (
  'weights', 'kept', 'nominal_sparsity', 'whole_sparsity', 'dense_flops', 'sparse_flops',
  'state_bytes', 'dense_bytes', 'nonzeros_bytes', 'dense_ms', 'nonzeros_ms',
)  # fmt: skip
_HONESTY = (
  'Scores are means over images, of 8-bit results without a border as wide as the scale:'
  " Y is MATLAB's luma, images of low resolution are MATLAB's bicubic. Sparsity is that"
  ' of the pruned layers, and of the whole model with its biases. FLOPs are theoretical,'
  ' for one patch. ms/image is measured on the first test image, with dense arrays and on'
  ' the nonzeros; ms/step as trained, all methods in turn, over the first steps of a run.'
  ' No number is chosen on a test set: the last weights are tested once.'
)


def result_columns(config) -> list[str]:
  """The columns of results.csv."""
  fixed = ['method', 'seed', 'step', 'target_sparsity', 'execution']
  return [*fixed, *_superres_evaluation.score_columns(config), *_SIZES]


def metric_columns(config, leaves) -> list[str]:
  """The columns of metrics.csv, for the leaves whose sparsity is recorded."""
  scalars = [
    'method', 'seed', 'step', 'train_loss', f'val_psnr_y_border{config.scale}',
    'learning_rate', 'sparsity', 'whole_sparsity', 'steps_per_second', 'ceiling',
  ]  # fmt: skip
  kinds = ('density', 'threshold', 'changed')
  return [*scalars, *(f'{kind}/{name}' for kind in kinds for name in leaves)]


def progress(row: dict, scale: int) -> str:
  """What the progress bar says at an evaluation."""
  text = f'loss {row["train_loss"]:.4f}, sparsity {row["sparsity"]:.1%}'
  psnr = row.get(f'val_psnr_y_border{scale}', float('nan'))
  if np.isfinite(psnr):
    text += f', val psnr_y {psnr:.2f} dB'
  rate = row['steps_per_second']
  return text if np.isnan(rate) else f'{text}, {rate:.0f} steps/s'


def write(workdir: pathlib.Path, config, tests, times: dict[str, float]) -> str:
  """Writes the plots and report.md of a run directory.

  Args:
    workdir: with metrics.csv, results.csv and crops/.
    config: of the run.
    tests: `{name: Photographs}`.
    times: method -> seconds per step.

  Returns:
    The table, as text.
  """
  with (workdir / 'results.csv').open(newline='') as file:
    results = list(csv.DictReader(file))
  text = table(results, times)
  shown = plots(workdir, config, results)
  shown.update(panels(workdir, config, tests, results))
  seeds = ', '.join(sorted({r['seed'] for r in results if r['method'] != 'bicubic'}))
  page = _page.Page(
    title=config.name,
    about=f'{config.model["name"]} x{config.scale} on {", ".join(config.train)}:'
    f' {config.num_steps:,} steps of {config.batch_size} patches of'
    f' {config.patch}x{config.patch} pixels, seeds {seeds}; mean ± standard deviation'
    ' over seeds.',
    tables=text,
    note=_HONESTY,
    figures=shown,
  )
  return _page.write(workdir, page)


def plots(workdir, config, results) -> dict[str, str]:
  """Draws what there is to draw; `{file name: what it shows}`."""
  with (workdir / 'metrics.csv').open(newline='') as file:
    metrics = list(csv.DictReader(file))
  shown = {}
  psnr = f'val_psnr_y_border{config.scale}'
  if any(row[psnr] not in ('', 'nan') for row in metrics):
    js.plots.learning_curves(metrics, workdir / 'learning_curves.png', y=psnr)
    shown['learning_curves.png'] = 'PSNR on validation over steps'
  for name in config.tests:
    column = f'{name}/psnr_y_border{config.scale}'
    shown_as = f'{column} (dB)'
    rows = [
      {
        'method': _names.way(row['method'], float(row['target_sparsity'])),
        'sparsity': row['target_sparsity'],
        shown_as: row[column],
      }
      for row in results
    ]
    file_name = f'psnr_vs_sparsity_{name}.png'
    js.plots.accuracy_vs_sparsity(rows, workdir / file_name, y=shown_as)
    shown[file_name] = f'PSNR on {name} over sparsities'
  return shown


def panels(workdir, config, tests, results) -> dict[str, str]:
  """Puts the crops of all methods side by side; `{file name: what it shows}`."""
  first: dict[str, str] = {}
  for row in results:
    first.setdefault(row['method'], row['seed'])
  shown = {}
  for name, photographs in tests.items():
    for index, truth in enumerate(photographs.high[: config.num_crops]):
      folder = workdir / 'crops' / f'{name}-{index}'
      images = {'truth': truth[_superres_evaluation.window(truth, config.crop)]}
      for method, seed in first.items():
        path = folder / f'{method}-{seed}.png'
        if path.exists():
          with Image.open(path) as image:
            images[method] = np.asarray(image)
      file_name = f'crops_{name}_{index}.png'
      panel(images, workdir / file_name)
      shown[file_name] = f'Crops of {photographs.names[index].rsplit("/", 1)[-1]}'
  return shown


def panel(images: dict[str, np.ndarray], path: pathlib.Path, columns: int = 5) -> None:
  """Writes images of one size with their names in a grid."""
  height, width = (n * _ENLARGED for n in next(iter(images.values())).shape[:2])
  rows = -(-len(images) // columns)
  page = Image.new(
    'RGB', (min(columns, len(images)) * (width + 4), rows * (height + 16)), 'white'
  )
  draw = ImageDraw.Draw(page)
  for index, (name, image) in enumerate(images.items()):
    left, top = index % columns * (width + 4), index // columns * (height + 16)
    draw.text((left + 2, top + 2), name, fill='black')
    # Not interpolated: what is to be seen are the pixels.
    large = Image.fromarray(image).resize((width, height), Image.Resampling.NEAREST)
    page.paste(large, (left, top + 16))
  page.save(path)


def table(results: list[dict], times: dict[str, float]) -> str:
  """The table of a report, in Markdown that also reads as text."""
  scores = [c for c in results[0] if '/' in c]
  header = [
    'method', 'execution', *scores, 'sparsity', 'whole model', 'weights kept',
    'FLOPs (theory)', 'optimizer bytes', 'dense bytes', 'nonzeros bytes', 'ms/image, dense',
    'ms/image, nonzeros', 'ms/step',
  ]  # fmt: skip
  groups: dict[str, list[dict]] = {}
  for row in results:
    groups.setdefault(row['method'], []).append(row)
  rows = [_row(name, group, scores, times) for name, group in groups.items()]
  widths = [max(len(r[i]) for r in [header, *rows]) for i in range(len(header))]
  line = lambda cells: '| ' + ' | '.join(map(str.rjust, cells, widths)) + ' |'
  rule = ['-' * (w - 1) + ':' for w in widths]
  return '\n'.join([line(header), line(rule), *map(line, rows)])


def brief_table(results: list[dict]) -> str:
  """The table of the documentation: PSNR on luma, and what the network costs."""
  scores = [c for c in results[0] if '/psnr_y_' in c]
  costs = {
    'whole model sparse': ('whole_sparsity', '.2%'), 'weights kept': ('kept', ',.0f'),
    'bytes, dense': ('dense_bytes', ',.0f'),
    'bytes, nonzeros': ('nonzeros_bytes', ',.0f'), 'ms/image, dense': ('dense_ms', '.1f'),
    'ms/image, nonzeros': ('nonzeros_ms', '.1f'),
  }  # fmt: skip
  lines = [['method', *(f'{c}, dB' for c in scores), *costs]]
  lines.append(['---', *('---:' for _ in lines[0][1:])])
  for name in dict.fromkeys(row['method'] for row in results):
    rows = [row for row in results if row['method'] == name]
    cells = [_cell(rows, c, '.2f', spread=True) for c in scores]
    cells += [_cell(rows, *form) for form in costs.values()]
    lines.append([name.replace('_', ' '), *cells])
  return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def _row(name, rows, scores, times) -> list[str]:
  scored = [
    _cell(rows, c, '.4f' if 'ssim' in c else '.2f', spread=True) for c in scores
  ]
  forms = [
    ('nominal_sparsity', '.2%'), ('whole_sparsity', '.2%'), ('kept', ',.0f'),
    ('sparse_flops', ',.0f'), ('state_bytes', ',.0f'), ('dense_bytes', ',.0f'),
    ('nonzeros_bytes', ',.0f'), ('dense_ms', '.1f'), ('nonzeros_ms', '.1f'),
  ]  # fmt: skip
  seconds = times.get(name)
  step = f'{1e3 * seconds:.1f}' if seconds else '-'
  execution = rows[0].get('execution') or '-'
  costs = (_cell(rows, *form) for form in forms)
  return [name, execution, *scored, *costs, step]


def _cell(rows, column, form, spread=False) -> str:
  """The mean of a column, with the sample deviation if that is wanted."""
  values = [float(r[column]) for r in rows if r[column] not in ('', 'nan')]
  if not values:
    return '-'
  text = f'{np.mean(values):{form}}'
  many = spread and len(values) > 1
  return f'{text} ± {np.std(values, ddof=1):{form}}' if many else text


def read_times(workdir: pathlib.Path) -> dict[str, float]:
  """Seconds per step that an earlier command has measured."""
  path = workdir / 'timing.json'
  return json.loads(path.read_text()) if path.exists() else {}

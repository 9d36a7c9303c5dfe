"""Draws the figures of the documentation: `python -m docs.figures [NAME...]`.

They show what is committed: the results in `experiments/results`, the tables of
`docs/speed.md`, and tiny runs on the digits that scikit-learn ships, which are the same
every time. Commit what changes.
"""

import csv
import pathlib
import sys

from matplotlib import colors
import numpy as np
from PIL import Image

from docs import figure_runs
from experiments import _subset_report
import jaxsparse as js
from jaxsparse.plots import _style

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_FOLDER = _ROOT / 'docs' / 'figures'
_RESULTS = _ROOT / 'experiments' / 'results'
_SHOWN = ('gmp', 'rigl', 'set', 'static_erk', 'small_dense')


def main(names):
  figures = {'overview': overview, 'time_to_accuracy': time_to_accuracy}
  figures |= {name: lambda n=name: method(n) for name in figure_runs.names()}
  figures |= {name: lambda n=name: plan(n) for name in figure_runs.plans()}
  for name in names or figures:
    figures[name]()
    print(f'docs/figures/{name}.png')


def method(name):
  """The weights of one leaf over a run, and how many of them there are."""
  trace = figure_runs.trace(name)
  figure, axes = _style.new_figure(1, 2, (9, 3))
  axis = axes[0, 0]
  shown = np.abs(np.where(trace.kept, trace.weights, 0))[:, _chosen(trace.kept)].T
  # Pruned weights are white, whatever their size was.
  active = np.ma.masked_equal(shown, 0)
  high = float(np.quantile(active.compressed(), 0.99))
  norm = colors.LogNorm(high / 300, high, clip=True)
  image = axis.imshow(
    active, norm=norm, cmap='viridis_r', aspect='auto', interpolation='none',
    extent=(0, len(trace.kept), len(shown), 0),
  )  # fmt: skip
  axis.grid(False)
  axis.set(xlabel='step', ylabel='weight', title='weights of one layer; pruned: white')
  figure.colorbar(image, ax=axis, label=trace.label, pad=0.02)
  axis = axes[0, 1]
  steps = np.arange(1, len(trace.kept) + 1)
  for i, (leaf, density) in enumerate(trace.density.items()):
    axis.plot(steps, 100 * density, label=f'{leaf}: kept', **_style.line_style(i))
  ever = np.maximum.accumulate(trace.kept, axis=0).mean(axis=1)
  axis.plot(steps, 100 * ever, color='0.4', linestyle=':', label='ever kept, left')
  axis.set(xlabel='step', ylabel='share of weights (%)', ylim=(0, 104))
  axis.set_title('how many are kept')
  axis.legend(frameon=False, fontsize=8)
  _save(figure, name)


def plan(name):
  """Which of 60 records each of 60 steps sees, and how many have been seen."""
  found = figure_runs.plans()[name]
  seen = np.zeros((60, 60))
  for step in range(60):
    indices, weights = found.batch(step)
    np.add.at(seen[:, step], np.asarray(indices), np.asarray(weights))
  figure, axes = _style.new_figure(1, 2, (9, 3))
  axis = axes[0, 0]
  image = axis.imshow(
    np.ma.masked_equal(seen, 0), cmap='viridis_r', aspect='auto', vmin=0, vmax=3,
    interpolation='none', extent=(0, 60, 60, 0),
  )  # fmt: skip
  axis.grid(False)
  axis.set(xlabel='step', ylabel='record', title='what each batch holds')
  figure.colorbar(image, ax=axis, label='weight in the batch', pad=0.02)
  axis = axes[0, 1]
  ever = (np.maximum.accumulate(seen, axis=1) > 0).mean(axis=0)
  axis.plot(np.arange(1, 61), 100 * ever, **_style.line_style(0))
  axis.set(xlabel='step', ylabel='records seen so far (%)', ylim=(0, 104))
  axis.set_title('how much of the data is seen')
  _save(figure, name)


def _chosen(kept, count=48):
  """Columns of weights that were ever kept, by when that began and ended."""
  ever = np.flatnonzero(kept.any(axis=0))
  first = kept.argmax(axis=0)
  last = len(kept) - kept[::-1].argmax(axis=0)
  ordered = sorted(ever, key=lambda i: (first[i], -last[i], i))
  return [ordered[round(i)] for i in np.linspace(0, len(ordered) - 1, count)]


def overview():
  """Accuracy and speed by sparsity, side by side: the picture of the README."""
  figure, axes = _style.new_figure(1, 2, (9, 3.3))
  _accuracy(axes[0, 0])
  _speed(axes[0, 1])
  _save(figure, 'overview')


def time_to_accuracy():
  """Accuracy over the seconds of choosing the data and of training."""
  with (_RESULTS / 'curves' / 'data_subset_fashion_mnist_10.csv').open() as file:
    rows = _subset_report.on_mean_times(list(csv.DictReader(file)))
  rows = [{**row, 'method': row['method'].removesuffix('_10')} for row in rows]
  figure = js.plots.learning_curves(rows, x='seconds', y='test_accuracy')
  # All data for 42,000 steps go on for longer than all others.
  figure.axes[0].set(xlim=(0, 25), ylim=(55, 91))
  _save(figure, 'time_to_accuracy')


def _accuracy(axis):
  rows = _rows('fashion_mnist_lenet300')
  at = lambda row: _style.number(row, 'target_sparsity')
  dense = [r for r in rows if r['method'] == 'dense']
  _, level, _ = _style.over_seeds(dense, 'target_sparsity', 'test_accuracy')
  axis.axhline(100 * level[0], color='0.4', linestyle=':', label='dense')
  for i, way in enumerate(_SHOWN):
    own = [r for r in rows if r['method'] == f'{way}_{100 * at(r):g}']
    x, mean, sd = _style.over_seeds(own, 'target_sparsity', 'test_accuracy')
    axis.errorbar(
      range(len(x)), 100 * mean, 100 * sd, marker=_style.MARKERS[i], capsize=2,
      label=way.replace('_', ' '), **_style.line_style(i),
    )  # fmt: skip
  axis.set(
    xticks=range(3), xticklabels=['90', '95', '98'], ylim=(83, 90.5),
    xlabel='sparsity (%)', ylabel='test accuracy (%)',
    title='LeNet-300-100 on Fashion-MNIST',
  )  # fmt: skip
  axis.legend(frameon=False, fontsize=8, loc='lower left')


def _speed(axis):
  table = _table_of('speed.md', 'RigL, an ordinary step')
  sparsity = [cell.strip(' %') for cell in table[0][1:]]
  for i, (name, *cells) in enumerate(table[1:]):
    axis.plot(
      range(len(sparsity)), [float(c) for c in cells], marker=_style.MARKERS[i],
      label='bytes' if name.startswith('bytes') else name, **_style.line_style(i),
    )  # fmt: skip
  axis.axhline(1, color='0.4', linestyle=':', label='dense')
  axis.set(
    xticks=range(len(sparsity)), xticklabels=sparsity, yscale='log',
    xlabel='sparsity (%)', ylabel='times less than dense',
    title='A whole training step, 3×1024 MLP, one core',
  )  # fmt: skip
  ticks = [0.5, 1, 2, 5, 10, 20, 50]
  axis.set_yticks(ticks, [str(t) for t in ticks])
  axis.minorticks_off()
  axis.legend(frameon=False, fontsize=8, loc='upper left')


def _rows(name):
  with (_RESULTS / f'{name}.csv').open(newline='') as file:
    return list(csv.DictReader(file))


def _table_of(page, row):
  """The cells of the first Markdown table of a page that has such a row."""
  for block in (_ROOT / 'docs' / page).read_text('utf-8').split('\n\n'):
    if f'\n| {row} |' in block:
      lines = [line.strip('| ').split(' | ') for line in block.splitlines()]
      return [lines[0], *lines[2:]]
  raise ValueError(f'docs/{page}: found no table with a row {row!r}.')


def _save(figure, name):
  """Few colours make small files, and the same ones every time."""
  figure.set_dpi(140)
  figure.canvas.draw()
  pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]
  image = Image.fromarray(pixels).quantize(96, dither=Image.Dither.NONE)
  image.save(_FOLDER / f'{name}.png', optimize=True)


if __name__ == '__main__':
  main(sys.argv[1:])

"""Draws the figures of the documentation: `python docs/figures.py [NAME...]`.

They show what is committed: the results in `experiments/results`, the tables of
`docs/speed.md`, and tiny runs on the digits that scikit-learn ships, which are the same
every time. Commit what changes.
"""

import csv
import pathlib
import sys

import matplotlib

from jaxsparse.plots import _style

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_FOLDER = _ROOT / 'docs' / 'figures'
_RESULTS = _ROOT / 'experiments' / 'results'
_SHOWN = ('gmp', 'rigl', 'set', 'static_erk', 'small_dense')


def main(names):
  # Text stays text, and names of clip paths do not change from run to run.
  matplotlib.rcParams |= {'svg.fonttype': 'none', 'svg.hashsalt': 'jaxsparse'}
  figures = {'overview': overview}
  for name in names or figures:
    figures[name]()
    print(f'{_FOLDER / name}.svg')


def overview():
  """Accuracy and speed by sparsity, side by side: the picture of the README."""
  figure, axes = _style.new_figure(1, 2, (9, 3.3))
  _accuracy(axes[0, 0])
  _speed(axes[0, 1])
  _save(figure, 'overview')


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
  figure.savefig(_FOLDER / f'{name}.svg', metadata={'Date': None})


if __name__ == '__main__':
  main(sys.argv[1:])

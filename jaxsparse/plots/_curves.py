"""Curves over steps and over sparsities."""

import math
import os
import pathlib
from typing import Any

import numpy as np

from jaxsparse.plots import _style


def learning_curves(
  rows: _style.Rows,
  path: str | os.PathLike | None = None,
  x: str = 'step',
  y: str = 'val_accuracy',
  group: str = 'method',
) -> pathlib.Path | Any:
  """Draws one curve per group, the mean over seeds in a band of one sd.

  Args:
    rows: dicts; cells may be numbers or strings, empty ones are left out.
    path: the PNG file to write, whose folder is made; None for the figure itself,
      which a notebook shows.
    x: the column along the horizontal axis.
    y: the column to draw; accuracies and sparsities are shares in [0, 1], drawn in
      percent.
    group: the column that tells curves apart; rows equal in it and in `x` are seeds.

  Returns:
    The path; without one a matplotlib Figure.

  Raises:
    ValueError: no rows, or no such column.

  Example:
    >>> import tempfile, jaxsparse as js
    >>> rows = [{'step': s, 'val_accuracy': s / 10, 'method': 'set'} for s in range(9)]
    >>> js.plots.learning_curves(rows, tempfile.mkdtemp() + '/curves.png').name
    'curves.png'
  """
  _style.check(rows, (x, y, group))
  figure, axes = _style.new_figure(1, 1, (8, 4.5))
  axis, scale, num_seeds = axes[0, 0], _style.scale_of(y), 1
  for i, (name, members) in enumerate(_style.groups(rows, group).items()):
    at, mean, sd = _style.over_seeds(members, x, y)
    if not at.size:
      continue
    mean, sd = scale(mean), scale(sd)
    # A line through a single point would be invisible.
    dot = 'o' if at.size == 1 else None
    axis.plot(at, mean, linewidth=1.8, label=name, marker=dot, **_style.line_style(i))
    axis.fill_between(
      at, mean - sd, mean + sd, color=_style.line_style(i)['color'], alpha=0.15, lw=0
    )
    num_seeds = max(num_seeds, len({row.get('seed') for row in members}))
  axis.set_xlabel(_style.label_of(x))
  axis.set_ylabel(_style.label_of(y))
  if num_seeds > 1:
    axis.set_title(f'mean ± sd over {num_seeds} seeds', fontsize=10, color='0.3')
  _style.outside_legend(figure, axis)
  return _style.finish(figure, path)


def density_over_time(
  rows: _style.Rows,
  path: str | os.PathLike | None = None,
  x: str = 'step',
  prefix: str = 'density/',
  group: str = 'method',
) -> pathlib.Path | Any:
  """Draws the density of every layer over steps, a panel per group.

  Args:
    rows: dicts with a column `density/<leaf name>` per pruned leaf, a share in
      [0, 1]; several seeds are averaged.
    path: the PNG file to write, whose folder is made; None for the figure itself,
      which a notebook shows.
    x: the column along the horizontal axis.
    prefix: how the columns of densities begin; the rest is the layer's name.
    group: the column that tells panels apart; a group without densities has none.

  Returns:
    The path; without one a matplotlib Figure.

  Raises:
    ValueError: no rows, no such column, or no density at all.

  Example:
    >>> import tempfile, jaxsparse as js
    >>> rows = [{'step': s, 'density/a': 1 / (1 + s), 'method': 'gmp'} for s in range(9)]
    >>> js.plots.density_over_time(rows, tempfile.mkdtemp() + '/density.png').name
    'density.png'
  """
  _style.check(rows, (x, group))
  columns = list(dict.fromkeys(c for row in rows for c in row if c.startswith(prefix)))
  panels = {
    name: members
    for name, members in _style.groups(rows, group).items()
    if any(math.isfinite(_style.number(row, c)) for row in members for c in columns)
  }
  if not panels:
    raise ValueError(f'rows: no number in any column that begins with {prefix!r}.')
  across = min(len(panels), 3)
  down = -(-len(panels) // across)
  size = (2.2 + 3.2 * across, 0.8 + 2.9 * down)
  figure, axes = _style.new_figure(down, across, size, sharey=True)
  colours = _layer_colours(len(columns))
  dashes = _style.DASHES if len(columns) <= len(_style.COLOURS) else ('-',)
  for axis, (name, members) in zip(axes.flat, panels.items()):
    for i, column in enumerate(columns):
      at, mean, _ = _style.over_seeds(members, x, column)
      style = {'color': colours[i], 'linestyle': dashes[i % len(dashes)]}
      axis.plot(at, 100 * mean, linewidth=1.6, label=column[len(prefix) :], **style)
    axis.set_title(name, fontsize=11)
    axis.set_ylim(0, 103)
  for axis in axes.flat[len(panels) :]:
    axis.set_visible(False)
  figure.supxlabel(_style.label_of(x), fontsize=10)
  figure.supylabel('density: weights kept (%)', fontsize=10)
  _layer_legend(figure, axes[0, 0], len(columns))
  return _style.finish(figure, path)


def _layer_colours(count: int):
  if count <= len(_style.COLOURS):
    return _style.COLOURS
  import matplotlib

  # Many layers: a sequence from first to last says more than arbitrary colours.
  return matplotlib.colormaps['viridis'](np.linspace(0, 0.92, count))


def _layer_legend(figure, axis, count: int) -> None:
  handles, labels = axis.get_legend_handles_labels()
  if count > 24:
    # A legend of dozens of lines is read by nobody: the ends and the middle do.
    chosen = np.unique(np.linspace(0, count - 1, 12).round().astype(int))
    handles, labels = [handles[i] for i in chosen], [labels[i] for i in chosen]
  title = 'layer' if len(handles) == count else f'layer (12 of {count})'
  figure.legend(
    handles,
    labels,
    loc='outside right upper',
    frameon=False,
    fontsize=8 if count > 8 else 9,
    title=title,
    alignment='left',
  )


def accuracy_vs_sparsity(
  rows: _style.Rows,
  path: str | os.PathLike | None = None,
  x: str = 'sparsity',
  y: str = 'test_accuracy',
  group: str = 'method',
) -> pathlib.Path | Any:
  """Draws accuracy against sparsity, with one sd over seeds as bars.

  The horizontal axis is logarithmic in density, so that 90, 95 and 98 % stand apart;
  a group that is nowhere sparse becomes a horizontal line with a band.

  Args:
    rows: one dict per finished run.
    path: the PNG file to write, whose folder is made; None for the figure itself,
      which a notebook shows.
    x: the column of sparsities, in [0, 1).
    y: the column to draw; accuracies are shares in [0, 1], drawn in percent.
    group: the column that tells methods apart.

  Returns:
    The path; without one a matplotlib Figure.

  Raises:
    ValueError: no rows, no such column, or a sparsity outside [0, 1).

  Example:
    >>> import tempfile, jaxsparse as js
    >>> rows = [{'method': 'set', 'sparsity': s, 'test_accuracy': 1 - s} for s in (.5, .9)]
    >>> js.plots.accuracy_vs_sparsity(rows, tempfile.mkdtemp() + '/curve.png').name
    'curve.png'
  """
  _style.check(rows, (x, y, group))
  given = {s for s in (_style.number(row, x) for row in rows) if not math.isnan(s)}
  if 1 in given:
    raise ValueError(f'rows: {x} is 1 in some row; wanted less, for a log axis.')
  figure, axes = _style.new_figure(1, 1, (8, 4.5))
  axis, scale = axes[0, 0], _style.scale_of(y)
  for i, (name, members) in enumerate(_style.groups(rows, group).items()):
    at, mean, sd = _style.over_seeds(members, x, y)
    mean, sd, style = scale(mean), scale(sd), _style.line_style(i)
    if not np.any(at) and at.size:
      axis.axhline(mean[0], linewidth=1.8, label=name, **style)
      axis.axhspan(mean[0] - sd[0], mean[0] + sd[0], color=style['color'], alpha=0.12)
      continue
    # A small shift by group keeps error bars at one sparsity apart.
    shift = 1 + 0.012 * (i % 5 - 2)
    axis.errorbar(
      (1 - at) * shift,
      mean,
      sd,
      marker=_style.MARKERS[i % len(_style.MARKERS)],
      capsize=3,
      linewidth=1.8,
      label=name,
      **style,
    )
  _density_axis(axis, given)
  axis.set_xlabel(_style.label_of(x))
  axis.set_ylabel(_style.label_of(y))
  _style.outside_legend(figure, axis)
  return _style.finish(figure, path)


def _density_axis(axis, sparsities) -> None:
  ticks = sorted(s for s in sparsities if s > 0) or [0.0]
  axis.set_xscale('log')
  axis.minorticks_off()
  # Density falls to the right, so that sparsity rises.
  axis.set_xlim((1 - ticks[0]) * 1.2, (1 - ticks[-1]) / 1.2)
  axis.set_xticks([1 - s for s in ticks], [f'{100 * s:g}' for s in ticks])

"""Bars of measured times."""

import os
import pathlib
from typing import Any

import numpy as np

from jaxsparse.plots import _style


def step_times(
  rows: _style.Rows,
  path: str | os.PathLike | None = None,
  y: str = 'ratio',
  group: str = 'method',
  kind: str | None = None,
  label: str = 'step time / step time of the dense network (ratio)',
) -> pathlib.Path | Any:
  """Draws step times as ratios, bars with one sd, and a line at 1.

  Args:
    rows: one dict per measurement; repeated ones are averaged.
    path: the PNG file to write, whose folder is made; None for the figure itself,
      which a notebook shows.
    y: the column of ratios.
    group: the column with the names of the bars.
    kind: a column that splits every bar (say, ordinary and update steps).
    label: what the ratio is of, for the axis.

  Returns:
    The path; without one a matplotlib Figure.

  Raises:
    ValueError: no rows, or no such column.

  Example:
    >>> import tempfile, jaxsparse as js
    >>> rows = [{'method': 'set', 'ratio': 1.1}, {'method': 'rigl', 'ratio': 1.2}]
    >>> js.plots.step_times(rows, tempfile.mkdtemp() + '/times.png').name
    'times.png'
  """
  _style.check(rows, [c for c in (y, group, kind) if c is not None])
  names = list(_style.groups(rows, group))
  kinds = _style.groups(rows, kind) if kind is not None else {'': rows}
  thick = 0.8 / len(kinds)
  figure, axes = _style.new_figure(1, 1, (8, 1.2 + 0.28 * len(names) * len(kinds)))
  # 1 is among the ends, so that its line is always in sight.
  axis, ends = axes[0, 0], [1.0]
  for i, (which, members) in enumerate(kinds.items()):
    colour = _style.COLOURS[i % len(_style.COLOURS)]
    # An empty bar carries the legend: the first group may lack this kind.
    axis.barh(0, 0, color=colour, label=which)
    for name, measured in _style.groups(members, group).items():
      place = names.index(name) + (i - (len(kinds) - 1) / 2) * thick
      ends.append(
        _bar(axis, place, [_style.number(r, y) for r in measured], colour, thick)
      )
  axis.axvline(1, color='0.2', linestyle='--', linewidth=1.2)
  axis.set_xlim(0, 1.12 * max(ends))
  axis.set_ylim(len(names) - 0.5, -0.5)
  axis.set_yticks(range(len(names)), names)
  axis.grid(False, axis='y')
  axis.set_xlabel(label)
  if kind is not None:
    _style.outside_legend(figure, axis)
  return _style.finish(figure, path)


def _bar(axis, place: float, values, colour: str, thick: float) -> float:
  """Draws one bar with its number beside it; returns where it ends."""
  values = np.array([v for v in values if np.isfinite(v)])
  if not values.size:
    return 0.0
  mean, sd = values.mean(), values.std(ddof=1) if values.size > 1 else 0.0
  # None where there is no spread: an error of 0 would still draw its caps.
  bars = {'color': colour, 'capsize': 3, 'xerr': sd or None}
  axis.barh(place, mean, 0.9 * thick, **bars)
  end = mean + sd
  text = {'textcoords': 'offset points', 'va': 'center', 'fontsize': 9}
  axis.annotate(f'{mean:.2f}', (end, place), (5, 0), **text)
  return end

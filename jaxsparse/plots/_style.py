"""What the plots share: rows, colours, labels, figures."""

from collections.abc import Callable, Mapping, Sequence
import math
import os
import pathlib
from typing import Any

import numpy as np

Rows = Sequence[Mapping[str, Any]]

# Okabe and Ito's colours, told apart under every form of colour blindness; the last is a
# violet in the place of their yellow, which is hardly seen on white.
COLOURS = (
  '#0072B2',
  '#D55E00',
  '#009E73',
  '#CC79A7',
  '#E69F00',
  '#56B4E9',
  '#000000',
  '#8B6BB1',
)
MARKERS = 'os^Dv<>P'
DASHES = ('-', '--', '-.', ':')
_LABELS = {
  'step': 'step (optimizer updates)',
  'epoch': 'epoch (passes over the data)',
  'loss': 'training loss (nats per example)',
  'train_loss': 'training loss (nats per example)',
  'val_loss': 'validation loss (nats per example)',
  'seconds': 'selection, data and training (seconds)',
  'sparsity': 'nominal sparsity (%)',
  'steps_per_second': 'steps per second',
}


def number(row: Mapping[str, Any], column: str) -> float:
  """The number in a cell; NaN where it is empty or absent."""
  cell = row.get(column)
  return float('nan') if cell in (None, '') else float(cell)


def check(rows: Rows, columns: Sequence[str]) -> None:
  """Raises ValueError for no rows, or a column that none of them has."""
  if not rows:
    raise ValueError('rows: got none; there is nothing to plot.')
  known = sorted({name for row in rows for name in row})
  for column in columns:
    if column not in known:
      raise ValueError(f'rows: no column {column!r}; there are {", ".join(known)}.')
    if is_share(column):
      cells = [number(row, column) for row in rows]
      if wrong := [c for c in cells if c < 0 or c > 1]:
        raise ValueError(f'rows: {column} must be a share in [0, 1], got {wrong[0]:g}.')


def groups(rows: Rows, group: str) -> dict[str, list[Mapping[str, Any]]]:
  """Rows by the value of a column, in order of first appearance."""
  found: dict[str, list[Mapping[str, Any]]] = {}
  for row in rows:
    found.setdefault(str(row.get(group, '')), []).append(row)
  return found


def over_seeds(rows: Rows, x: str, y: str):
  """Mean and sample sd of `y` at each `x`: three arrays, sorted by `x`."""
  values: dict[float, list[float]] = {}
  for row in rows:
    at, value = number(row, x), number(row, y)
    if math.isfinite(at) and math.isfinite(value):
      values.setdefault(at, []).append(value)
  places = sorted(values)
  means = [np.mean(values[a]) for a in places]
  # One seed has no spread to show.
  sds = [np.std(values[a], ddof=1) if len(values[a]) > 1 else 0.0 for a in places]
  return np.array(places), np.array(means), np.array(sds)


def new_figure(
  num_rows: int,
  num_columns: int,
  size: tuple[float, float],
  sharey=False,
  sharex=False,
  heights: Sequence[float] | None = None,
):
  """A figure of the house's style and its array of axes."""
  # The object interface: pyplot would keep global state and may want a display.
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure
  from matplotlib.layout_engine import ConstrainedLayoutEngine

  layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
  figure = Figure(figsize=size, dpi=150, layout=layout)
  FigureCanvasAgg(figure)
  shared = {'squeeze': False, 'sharey': sharey, 'sharex': sharex}
  axes = figure.subplots(num_rows, num_columns, height_ratios=heights, **shared)
  for axis in axes.flat:
    axis.spines[['top', 'right']].set_visible(False)
    axis.grid(color='0.9', linewidth=0.8)
    axis.set_axisbelow(True)
  return figure, axes


def finish(figure, path: str | os.PathLike | None) -> pathlib.Path | Any:
  """Writes a PNG, making its folder, and returns the path; without one the figure."""
  if path is None:
    return figure
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(path, format='png')
  return path


def line_style(i: int) -> dict[str, Any]:
  """Colour and dashes of the i-th group."""
  # Dashes tell the ninth group from the first.
  return {
    'color': COLOURS[i % len(COLOURS)],
    'linestyle': DASHES[(i // len(COLOURS)) % len(DASHES)],
  }


def label_of(column: str) -> str:
  """The axis label of a column, with its unit."""
  if column in _LABELS:
    return _LABELS[column]
  words = column.replace('/', ' ').replace('_', ' ')
  words = words.replace('val ', 'validation ').replace('acc ', 'accuracy ')
  return f'{words} (%)' if is_share(column) else words


def is_share(column: str) -> bool:
  """Whether a column holds shares in [0, 1], by its name."""
  return any(word in column for word in ('accuracy', 'sparsity', 'density'))


def scale_of(column: str) -> Callable[[np.ndarray], np.ndarray]:
  """Shares in [0, 1] are shown in percent."""
  return (lambda v: 100 * v) if is_share(column) else (lambda v: v)


# How many names stand below one another in a figure of 4.5 inches.
_LEGEND_ROWS = 20
_COLUMN_INCHES = 2.5


def outside_legend(figure, axis) -> None:
  """Puts the legend of an axis beside the plot, where it hides no line."""
  handles, labels = axis.get_legend_handles_labels()
  columns = -(-len(labels) // _LEGEND_ROWS)
  if columns > 1:
    # The plot keeps its room.
    width, height = figure.get_size_inches()
    figure.set_size_inches(width + _COLUMN_INCHES * (columns - 1), height)
  figure.legend(
    handles, labels, loc='outside right upper', frameon=False, ncols=max(columns, 1)
  )

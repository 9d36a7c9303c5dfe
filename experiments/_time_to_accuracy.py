"""When a run first reaches an accuracy: measured, by interpolation, with intervals."""

import math

import numpy as np
from scipy import stats


def crossing(at, values, threshold: float) -> float | None:
  """Where a curve first reaches a threshold.

  Args:
    at: numbers in rising order, seconds or steps.
    values: the curve there.
    threshold: to be reached.

  Returns:
    The place, on the line between the last point below and the first one that is not;
    the first point, if it is there already; None if no point is.
  """
  reached = np.flatnonzero(np.asarray(values) >= threshold)
  if not reached.size:
    return None
  i = int(reached[0])
  if i == 0:
    return float(at[0])
  share = (threshold - values[i - 1]) / (values[i] - values[i - 1])
  return float(at[i - 1] + share * (at[i] - at[i - 1]))


def crossings(curve, thresholds) -> dict[str, float | str]:
  """The columns `seconds_to_<threshold>` and `steps_to_<threshold>` of one run.

  Args:
    curve: rows of metrics.csv, of one method and one seed; those without a test accuracy
      are left out.
    thresholds: accuracies.

  Returns:
    Column -> number, or '' where the accuracy is never reached.
  """
  points = [row for row in curve if row['test_accuracy'] not in ('', None)]
  values = [float(row['test_accuracy']) for row in points]
  columns = {}
  for threshold in thresholds:
    for name, column in (('seconds', 'seconds'), ('steps', 'step')):
      at = [float(row[column]) for row in points]
      place = crossing(at, values, threshold)
      columns[f'{name}_to_{threshold:g}'] = '' if place is None else place
  return columns


def interval(values, confidence: float = 0.95) -> tuple[float, float, float]:
  """Mean, and the ends of Student's interval for it; the mean thrice for one value."""
  values = np.asarray(values, float)
  mean = float(values.mean())
  if values.size < 2:
    return mean, mean, mean
  quantile = stats.t.ppf((1 + confidence) / 2, values.size - 1)
  half = float(quantile * values.std(ddof=1) / math.sqrt(values.size))
  return mean, mean - half, mean + half


def cell(values, digits: int = 2) -> str:
  """'mean [low, high]', if every seed has a value; else how many of them have one.

  A mean over those that made it would flatter a method that seldom does.
  """
  found = [float(v) for v in values if v not in ('', None)]
  if len(found) < len(values):
    return f'{len(found)} of {len(values)} seeds' if found else 'never'
  mean, low, high = interval(found)
  text = f'{mean:.{digits}f}'
  return text if len(found) < 2 else f'{text} [{low:.{digits}f}, {high:.{digits}f}]'

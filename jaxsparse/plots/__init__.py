"""Plots of runs, written as PNG files from rows such as those of `metrics.csv`."""

from jaxsparse.plots._bars import step_times
from jaxsparse.plots._curves import (
  accuracy_vs_sparsity,
  density_over_time,
  learning_curves,
)

__all__ = (
  'accuracy_vs_sparsity',
  'density_over_time',
  'learning_curves',
  'step_times',
)

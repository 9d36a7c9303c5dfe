"""Plots of runs and of uncertainties, as PNG files or figures."""

from jaxsparse.plots._bars import step_times
from jaxsparse.plots._curves import (
  accuracy_vs_sparsity,
  density_over_time,
  learning_curves,
)
from jaxsparse.plots._uncertainty import entropy_histograms, reliability_diagram

__all__ = (
  'accuracy_vs_sparsity',
  'density_over_time',
  'entropy_histograms',
  'learning_curves',
  'reliability_diagram',
  'step_times',
)

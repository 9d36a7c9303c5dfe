"""Plots of how far predictions can be trusted."""

from collections.abc import Mapping
import os
import pathlib
from typing import Any

import numpy as np

from jaxsparse import bayes
from jaxsparse.plots import _style


def reliability_diagram(
  probs, labels, path: str | os.PathLike | None = None, bins: int = 15, title: str = ''
) -> pathlib.Path | Any:
  r"""Draws accuracy against confidence, bin by bin, and how many predictions are there.

  A bar ends at the accuracy of a bin; the hatched part reaches to its mean confidence:
  above the bar for overconfidence, inside it for underconfidence. The legend has the
  error that `js.bayes.ece_top_label_l1` gives for the same bins.

  Args:
    probs: (N, C) probabilities.
    labels: (N,) integers in [0, C).
    path: the PNG file to write, whose folder is made; None for the figure itself,
      which a notebook shows.
    bins: bins of equal width over [0, 1].
    title: what was predicted, and by what.

  Returns:
    The path; without one a matplotlib Figure.

  Raises:
    ValueError: as `js.bayes.ece_top_label_l1`.

  Example:
    >>> import tempfile, numpy as np, jaxsparse as js
    >>> probs, labels = np.array([[0.8, 0.2], [0.4, 0.6]]), np.array([0, 0])
    >>> path = tempfile.mkdtemp() + '/reliability.png'
    >>> js.plots.reliability_diagram(probs, labels, path).name
    'reliability.png'

  Guo et al., On Calibration of Modern Neural Networks, ICML 2017, figure 1.
  """
  error = float(bayes.ece_top_label_l1(probs, labels, bins))
  probs, labels = np.asarray(probs, np.float32), np.asarray(labels)
  confidence, correct = probs.max(1), probs.argmax(1) == labels
  # In float32, as the error in the legend has them: both bin alike.
  edges = np.arange(1, bins, dtype=np.float32) / np.float32(bins)
  place = np.searchsorted(edges, confidence, side='left')
  counts = np.bincount(place, minlength=bins)
  share = lambda values: np.bincount(place, values, bins) / np.maximum(counts, 1)
  accuracy, mean = 100 * share(correct), 100 * share(confidence)
  figure, axes = _style.new_figure(2, 1, (5.4, 6), sharex=True, heights=(3, 1))
  upper, lower = axes[:, 0]
  # Both panels share the places of the bars; an empty bin has none.
  style = {'width': 100 / bins, 'align': 'edge', 'edgecolor': 'white'}
  left, filled = 100 * np.arange(bins) / bins, counts > 0
  colours = _style.COLOURS
  upper.bar(left[filled], accuracy[filled], color=colours[0], label='accuracy', **style)
  gap = {'fill': False, 'hatch': '////', 'edgecolor': colours[1], 'linewidth': 0}
  bottom, height = np.minimum(accuracy, mean), np.abs(accuracy - mean)
  upper.bar(
    left[filled],
    height[filled],
    bottom=bottom[filled],
    label=f'gap to confidence\n(top-label ECE {100 * error:.2f} %)',
    **{**style, **gap},
  )
  upper.plot([0, 100], [0, 100], color='0.2', linestyle='--', label='calibrated')
  lower.bar(left, 100 * counts / len(labels), color='0.6', **style)
  upper.set(ylabel='accuracy (%)', xlim=(0, 100), ylim=(0, 100), title=title)
  lower.set(xlabel='confidence: top probability (%)', ylabel='predictions (%)')
  upper.legend(frameon=False, loc='upper left', fontsize=9)
  return _style.finish(figure, path)


def entropy_histograms(
  entropies: Mapping[str, np.ndarray],
  path: str | os.PathLike | None = None,
  bins: int = 40,
  label: str = 'predictive entropy (nats)',
  title: str = '',
) -> pathlib.Path | Any:
  """Draws the distribution of an uncertainty over several data sets.

  The less two data sets overlap, the better the uncertainty tells them apart.

  Args:
    entropies: name of a data set to (N,) uncertainties, one per example, such as
      `Prediction.predictive_entropy`; the first is the data that was trained on.
    path: the PNG file to write, whose folder is made; None for the figure itself,
      which a notebook shows.
    bins: how many, all of one width, the same for every data set.
    label: what the uncertainty is, with its unit.
    title: what was predicted, and by what.

  Returns:
    The path; without one a matplotlib Figure.

  Raises:
    ValueError: no data set, or one without examples, of another shape, or with a
      number that is not finite.

  Example:
    >>> import tempfile, numpy as np, jaxsparse as js
    >>> found = {'digits': np.array([0.1, 0.2]), 'noise': np.array([1.5, 2.0])}
    >>> js.plots.entropy_histograms(found, tempfile.mkdtemp() + '/entropy.png').name
    'entropy.png'
  """
  if not entropies:
    raise ValueError('entropies: got none; there is nothing to plot.')
  values = {name: np.asarray(x, float) for name, x in entropies.items()}
  for name, x in values.items():
    if x.ndim != 1 or not x.size or not np.isfinite(x).all():
      raise ValueError(
        f'entropies: {name} has shape {x.shape} and {(~np.isfinite(x)).sum()} numbers'
        ' that are not finite; wanted (examples,), all finite.'
      )
  both = np.concatenate(list(values.values()))
  edges = np.histogram_bin_edges(both, bins, (min(both.min(), 0), both.max()))
  figure, axes = _style.new_figure(1, 1, (8, 4.5))
  axis = axes[0, 0]
  for i, (name, x) in enumerate(values.items()):
    # Shares, so that data sets of different sizes compare.
    weights = np.full(x.size, 100 / x.size)
    options = {'bins': edges, 'weights': weights}
    style = _style.line_style(i)
    axis.hist(x, histtype='stepfilled', color=style['color'], alpha=0.15, **options)
    shown = f'{name} (mean {x.mean():.2f})'
    axis.hist(x, histtype='step', label=shown, linewidth=1.8, **style, **options)
  axis.set(xlabel=label, ylabel='examples of the data set (%)', title=title)
  axis.set_xlim(edges[0], edges[-1])
  _style.outside_legend(figure, axis)
  return _style.finish(figure, path)

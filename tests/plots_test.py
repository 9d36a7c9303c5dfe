"""Plots: what they draw, told from the figure's own objects."""

import subprocess
import sys

import matplotlib.figure
import numpy as np
import pytest

import jaxsparse as js


@pytest.fixture
def figures(monkeypatch):
  """The figures that a plot saves."""
  saved = []
  original = matplotlib.figure.Figure.savefig

  def savefig(figure, *args, **options):
    saved.append(figure)
    return original(figure, *args, **options)

  monkeypatch.setattr(matplotlib.figure.Figure, 'savefig', savefig)
  return saved


def _runs(methods=('dense', 'rigl'), seeds=(0, 1, 2), steps=(0, 10, 20)):
  # Strings, as `csv.DictReader` gives them.
  return [
    {
      'method': method,
      'seed': str(seed),
      'step': str(step),
      'val_accuracy': str(0.5 + 0.01 * step + 0.1 * seed),
      'density/a/kernel': '' if method == 'dense' else str(0.2 - 0.005 * step),
      'density/b/kernel': '' if method == 'dense' else '0.4',
    }
    for method in methods
    for seed in seeds
    for step in steps
  ]


def _labels(figure):
  return [text.get_text() for text in figure.legends[0].get_texts()]


def _no_clipped_text(figure):
  box = figure.get_tightbbox(figure.canvas.get_renderer())
  width, height = figure.get_size_inches()
  assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, box


def _is_png(path):
  return path.read_bytes()[:8] == b'\x89PNG\r\n\x1a\n'


def test_learning_curves_show_mean_and_sample_sd(tmp_path, figures):
  path = js.plots.learning_curves(_runs(), tmp_path / 'new' / 'curves.png')
  assert _is_png(path)
  (axis,) = figures[0].axes
  assert _labels(figures[0]) == ['dense', 'rigl']
  np.testing.assert_allclose(axis.lines[0].get_xdata(), [0, 10, 20])
  np.testing.assert_allclose(axis.lines[0].get_ydata(), [60, 70, 80])
  # Seeds at 50, 60 and 70 %: the sample sd is 10.
  band = axis.collections[0].get_paths()[0].vertices
  at_start = band[band[:, 0] == 0][:, 1]
  np.testing.assert_allclose([at_start.min(), at_start.max()], [50, 70])
  assert '(%)' in axis.get_ylabel() and 'updates' in axis.get_xlabel()
  assert '3 seeds' in axis.get_title()
  _no_clipped_text(figures[0])


def test_learning_curves_skip_empty_cells_and_groups(tmp_path, figures):
  rows = _runs(methods=('set',), seeds=(0,))
  rows[1]['val_accuracy'] = ''
  rows.append({'method': 'never evaluated', 'step': '5', 'val_accuracy': 'nan'})
  js.plots.learning_curves(rows, tmp_path / 'curves.png')
  (axis,) = figures[0].axes
  np.testing.assert_allclose(axis.lines[0].get_xdata(), [0, 20])
  assert _labels(figures[0]) == ['set'] and not axis.get_title()


def test_the_names_of_many_groups_are_all_there(tmp_path, figures):
  rows = [
    {'step': s, 'val_accuracy': 0.5, 'method': f'a_method_of_a_long_name_{i}'}
    for s in range(2)
    for i in range(37)
  ]
  js.plots.learning_curves(rows, tmp_path / 'many.png')
  assert len(_labels(figures[0])) == 37
  figures[0].canvas.draw()
  (legend,) = figures[0].legends
  box, page = legend.get_window_extent(), figures[0].bbox
  assert box.y0 >= page.y0 and box.x1 <= page.x1
  assert figures[0].axes[0].get_window_extent().width > page.width / 3


def test_learning_curves_of_a_loss_are_not_in_percent(tmp_path, figures):
  rows = [{'step': s, 'loss': 2.5, 'method': 'set'} for s in range(3)]
  js.plots.learning_curves(rows, tmp_path / 'loss.png', y='loss')
  (axis,) = figures[0].axes
  np.testing.assert_allclose(axis.lines[0].get_ydata(), 2.5)
  assert 'nats' in axis.get_ylabel()


def test_density_over_time_has_a_panel_per_sparse_method(tmp_path, figures):
  rows = _runs(methods=('dense', 'rigl', 'gmp', 'set', 'static'))
  path = js.plots.density_over_time(rows, tmp_path / 'density.png')
  assert _is_png(path)
  shown = [axis for axis in figures[0].axes if axis.get_visible()]
  assert [axis.get_title() for axis in shown] == ['rigl', 'gmp', 'set', 'static']
  assert _labels(figures[0]) == ['a/kernel', 'b/kernel']
  np.testing.assert_allclose(shown[0].lines[0].get_ydata(), [20, 15, 10])
  _no_clipped_text(figures[0])


def test_density_over_time_names_some_of_many_layers(tmp_path, figures):
  layers = {f'density/stage/block{i:02d}/conv/kernel': 0.01 * i for i in range(40)}
  rows = [{'step': s, 'method': 'rigl', **layers} for s in range(3)]
  js.plots.density_over_time(rows, tmp_path / 'density.png')
  (axis,) = figures[0].axes
  assert len(axis.lines) == 40
  assert len({tuple(line.get_color()) for line in axis.lines}) == 40
  labels = _labels(figures[0])
  assert len(labels) == 12
  assert labels[0] == 'stage/block00/conv/kernel'
  assert labels[-1] == 'stage/block39/conv/kernel'
  assert figures[0].legends[0].get_title().get_text() == 'layer (12 of 40)'
  _no_clipped_text(figures[0])


def test_accuracy_vs_sparsity_spreads_high_sparsities(tmp_path, figures):
  rows = [{'method': 'dense', 'sparsity': 0.0, 'test_accuracy': 0.9}]
  rows += [
    {'method': 'rigl', 'sparsity': s, 'test_accuracy': a + d}
    for s, a in ((0.9, 0.88), (0.95, 0.87), (0.98, 0.8))
    for d in (-0.01, 0.01)
  ]
  path = js.plots.accuracy_vs_sparsity(rows, tmp_path / 'accuracy.png')
  assert _is_png(path)
  (axis,) = figures[0].axes
  assert [t.get_text() for t in axis.get_xticklabels()] == ['90', '95', '98']
  left, middle, right = axis.transData.transform([(0.1, 0), (0.05, 0), (0.02, 0)])[:, 0]
  assert left < middle < right
  np.testing.assert_allclose(axis.lines[0].get_ydata(), 90)  # Across the whole axis.
  (bars,) = axis.containers
  np.testing.assert_allclose(bars.lines[0].get_ydata(), [88, 87, 80])
  ends = bars.lines[2][0].get_segments()[0][:, 1]
  np.testing.assert_allclose(ends, [88 - 2**0.5, 88 + 2**0.5])
  assert _labels(figures[0]) == ['dense', 'rigl']
  _no_clipped_text(figures[0])


def test_accuracy_vs_sparsity_of_dense_runs_only(tmp_path):
  rows = [{'method': 'dense', 'sparsity': 0.0, 'test_accuracy': 0.9}]
  assert _is_png(js.plots.accuracy_vs_sparsity(rows, tmp_path / 'accuracy.png'))


def test_step_times_writes_every_ratio(tmp_path, figures):
  rows = [
    {'method': m, 'step_kind': k, 'ratio': str(r + d)}
    for m, k, r in (
      ('dense', 'ordinary', 1.0),
      ('a rather long name of a method', 'ordinary', 1.05),
      ('a rather long name of a method', 'update', 2.5),
    )
    for d in (-0.1, 0.1)
  ]
  path = js.plots.step_times(rows, tmp_path / 'times.png', kind='step_kind')
  assert _is_png(path)
  (axis,) = figures[0].axes
  assert [t.get_text() for t in axis.texts] == ['1.00', '1.05', '2.50']
  assert _labels(figures[0]) == ['ordinary', 'update']
  widths = [bar.get_width() for bar in axis.patches]
  np.testing.assert_allclose([w for w in widths if w], [1, 1.05, 2.5])
  assert 'ratio' in axis.get_xlabel()
  _no_clipped_text(figures[0])


def test_reliability_diagram_shows_accuracy_gap_and_counts(tmp_path, figures):
  # Confidence 0.9: right in 3 of 4; confidence 0.6: right in 1 of 1.
  probs = np.array([[0.9, 0.1]] * 4 + [[0.4, 0.6]])
  labels = np.array([0, 0, 0, 1, 1])
  path = js.plots.reliability_diagram(
    probs, labels, tmp_path / 'new' / 'reliability.png', bins=5, title='a network'
  )
  assert _is_png(path)
  upper, lower = figures[0].axes
  accuracy, gap = upper.containers
  np.testing.assert_allclose([bar.get_x() for bar in accuracy], [40, 80])
  np.testing.assert_allclose([bar.get_height() for bar in accuracy], [100, 75])
  np.testing.assert_allclose([bar.get_y() for bar in gap], [60, 75], rtol=1e-6)
  np.testing.assert_allclose([bar.get_height() for bar in gap], [40, 15], rtol=1e-5)
  counts = [bar.get_height() for bar in lower.patches]
  np.testing.assert_allclose(counts, [0, 0, 20, 0, 80])
  error = 100 * js.bayes.ece_top_label_l1(probs, labels, bins=5)
  texts = [text.get_text() for text in upper.get_legend().get_texts()]
  assert any(f'ECE {error:.2f} %' in text for text in texts)
  assert upper.get_title() == 'a network' and '(%)' in upper.get_ylabel()
  assert 'confidence' in lower.get_xlabel() and '(%)' in lower.get_ylabel()
  _no_clipped_text(figures[0])
  with pytest.raises(ValueError, match='wanted probabilities'):
    js.plots.reliability_diagram(2 * probs, labels, path)


def test_entropy_histograms_are_shares_of_each_data_set(tmp_path, figures):
  rng = np.random.default_rng(0)
  found = {'inside': rng.random(300), 'outside': 1 + rng.random(70)}
  path = js.plots.entropy_histograms(found, tmp_path / 'entropy.png', bins=10)
  assert _is_png(path)
  (axis,) = figures[0].axes
  for i, x in enumerate(found.values()):
    outline = axis.patches[2 * i + 1].get_xy()
    heights = np.histogram(x, 10, (0, max(found['outside'])))[0] / len(x)
    np.testing.assert_allclose(sorted(set(outline[:, 1])), sorted({0, *100 * heights}))
  assert [name.split()[0] for name in _labels(figures[0])] == ['inside', 'outside']
  assert 'nats' in axis.get_xlabel() and '(%)' in axis.get_ylabel()
  _no_clipped_text(figures[0])
  alike = {'sure': np.zeros(3)}
  assert _is_png(js.plots.entropy_histograms(alike, tmp_path / 'alike.png'))
  bad = [({}, 'got none'), ({'a': [np.nan]}, 'a has shape'), ({'a': []}, 'a has shape')]
  for entropies, message in bad:
    with pytest.raises(ValueError, match=message):
      js.plots.entropy_histograms(entropies, path)


def test_colours_differ_for_eight_groups_and_dashes_after(tmp_path, figures):
  rows = _runs(methods=tuple('abcdefghij'), seeds=(0,))
  js.plots.learning_curves(rows, tmp_path / 'curves.png')
  lines = figures[0].axes[0].lines
  assert len({(x.get_color(), x.get_linestyle()) for x in lines}) == 10


def test_matplotlib_is_imported_late_and_pyplot_never(tmp_path):
  script = f"""
import sys
from jaxsparse import plots
assert 'matplotlib' not in sys.modules
plots.step_times([dict(method='set', ratio=1.1)], {str(tmp_path / 'times.png')!r})
assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules
"""
  subprocess.run([sys.executable, '-c', script], check=True)


@pytest.mark.parametrize(
  ('plot', 'rows', 'message'),
  [
    (js.plots.learning_curves, [], 'rows: got none'),
    (
      js.plots.learning_curves,
      [{'step': 1, 'method': 'a'}],
      "no column 'val_accuracy'",
    ),
    (
      js.plots.learning_curves,
      [{'step': 1, 'method': 'a', 'val_accuracy': 91.5}],
      r'val_accuracy must be a share in \[0, 1\], got 91.5',
    ),
    (
      js.plots.density_over_time,
      [{'step': 1, 'method': 'a'}],
      "begins with 'density/'",
    ),
    (
      js.plots.accuracy_vs_sparsity,
      [{'sparsity': 1.0, 'method': 'a', 'test_accuracy': 0.1}],
      'sparsity is 1',
    ),
    (js.plots.step_times, [{'method': 'a'}], "no column 'ratio'"),
  ],
)
def test_bad_rows_are_named(tmp_path, plot, rows, message):
  with pytest.raises(ValueError, match=message):
    plot(rows, tmp_path / 'plot.png')
  assert not list(tmp_path.iterdir())


def test_without_a_path_the_figure_itself_comes_back(tmp_path, figures):
  figure = js.plots.learning_curves(_runs())
  assert isinstance(figure, matplotlib.figure.Figure) and not figures
  js.plots.learning_curves(_runs(), tmp_path / 'curves.png')
  assert [t.get_text() for t in figures[0].legends[0].get_texts()] == _labels(figure)

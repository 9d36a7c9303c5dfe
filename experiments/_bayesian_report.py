"""The tables and plots of `experiments/bayesian.py`."""

import csv
import pathlib

import numpy as np

from experiments import _page, _processes
import jaxsparse as js

METRIC_COLUMNS = (
  'method', 'seed', 'step', 'loss', 'accuracy', 'nll', 'kl', 'sigma_median',
  'snr_median',
)  # fmt: skip
_FIGURES = (
  'accuracy', 'nll', 'nll_ts', 'brier', 'ece_top_label_l1_15',
  'ece_top_label_l1_15_ts', 'ece_marginal_l2_debiased_15',
)  # fmt: skip
_SCORES = ('predictive_entropy', 'mutual_information', 'energy')
_HONESTY = (
  'NLL in nats per image; ECE is ece_top_label_l1_15, in %; TS: after temperature'
  ' scaling on validation. Corrupted: the mean over all corruptions and severities.'
  ' AUROC in %, of telling images of no class by predictive entropy / mutual information'
  ' / energy. "Floats" are those that prediction needs: two per weight of a posterior,'
  ' all members of an ensemble. With masks, sparsity saves no time; execution=compact'
  ' trains on nonzeros.'
)


def result_columns(outside) -> tuple[str, ...]:
  """The columns of results.csv, for data sets out of distribution."""
  return (
    'method', 'seed', 'members', 'target_sparsity', 'active_weights', 'stored_floats',
    'temperature', 'validation_nll', *_FIGURES, 'mean_nll', 'one_nll',
    *(f'corrupted_{name}' for name in _FIGURES),
    *(f'auroc_{score}/{name}' for name in outside for score in _SCORES),
  )  # fmt: skip


def progress(row: dict) -> str:
  """What is printed at an evaluation."""
  text = f'step {row["step"]:>6}  loss {row["loss"]:.3f}, acc {row["accuracy"]:.1%}'
  if 'sigma_median' in row:
    text += f', sigma {row["sigma_median"]:.2g}, |mu|/sigma {row["snr_median"]:.2g}'
  return text


def summary(row: dict) -> str:
  """One line on a tested network."""
  return (
    f'acc {row["accuracy"]:.2%}, NLL {row["nll"]:.4f} (TS {row["nll_ts"]:.4f}, mean'
    f' weights {row["mean_nll"]:.4f}, one draw {row["one_nll"]:.4f}), ECE'
    f' {row["ece_top_label_l1_15"]:.2%}, corrupted NLL {row["corrupted_nll"]:.3f}'
  )


def keep(workdir: pathlib.Path, row: dict, seen: dict) -> None:
  """Keeps the predictions of a tested network for the plots of the report."""
  if not _processes.is_first():
    return
  path = _kept_at(workdir, row)
  path.parent.mkdir(exist_ok=True)
  np.savez_compressed(path, **seen)


# Of the table: the head, the column of results.csv, its scale, and digits.
_COLUMNS = (
  ('floats', 'stored_floats', 1, 0),
  ('accuracy, %', 'accuracy', 100, 2),
  ('NLL', 'nll', 1, 4),
  ('NLL, TS', 'nll_ts', 1, 4),
  ('NLL, mean weights', 'mean_nll', 1, 4),
  ('NLL, one draw', 'one_nll', 1, 4),
  ('ECE, %', 'ece_top_label_l1_15', 100, 2),
  ('ECE, TS', 'ece_top_label_l1_15_ts', 100, 2),
  ('corrupted NLL', 'corrupted_nll', 1, 3),
  ('corrupted ECE, %', 'corrupted_ece_top_label_l1_15', 100, 1),
)
_BRIEF = ('floats', 'accuracy, %', 'NLL, TS', 'corrupted NLL', 'corrupted ECE, %')


def _kept_at(workdir, row):
  return workdir / 'predictions' / f'{row["method"]}-{row["seed"]}.npz'


def _plot(workdir, rows) -> dict[str, str]:
  """Two plots per method, of its first seed; `{file name: what it shows}`."""
  shown = {}
  for name in dict.fromkeys(row['method'] for row in rows):
    path = _kept_at(workdir, next(r for r in rows if r['method'] == name))
    if not path.exists():  # Of a run that an older version made.
      continue
    with np.load(path) as seen:
      title = f'{name.replace("_", " ")}, test images'
      reliability, entropy = f'reliability_{name}.png', f'entropy_{name}.png'
      js.plots.reliability_diagram(
        seen['probs'], seen['labels'], workdir / reliability, title=title
      )
      entropies = {
        key.partition('/')[2]: seen[key] for key in seen if key.startswith('entropy/')
      }
      js.plots.entropy_histograms(entropies, workdir / entropy, title=title)
    shown[reliability] = f'Confidence and accuracy of {title}'
    shown[entropy] = f'Entropies of {title}, and of images of no class'
  return shown


def write(workdir: pathlib.Path, config: dict) -> str:
  """Writes report.md; returns its table."""
  with (workdir / 'results.csv').open(newline='') as file:
    rows = list(csv.DictReader(file))
  text = table(rows)
  page = _page.Page(
    title=config['name'],
    about=f'{config["model"]["name"]} on {config["dataset"]}, seeds'
    f' {", ".join(map(str, config["seeds"]))}; {config["samples"]} draws. Mean ± sample'
    ' standard deviation.',
    tables=text,
    note=_HONESTY,
    figures={**_curves(workdir), **_plot(workdir, rows)},
  )
  return _page.write(workdir, page)


def _curves(workdir) -> dict[str, str]:
  with (workdir / 'metrics.csv').open(newline='') as file:
    metrics = list(csv.DictReader(file))
  if not metrics:
    return {}
  js.plots.learning_curves(metrics, workdir / 'learning_curves.png', y='nll')
  return {'learning_curves.png': 'NLL of the training batches over steps'}


def table(rows: list[dict], brief: bool = False) -> str:
  """A Markdown table of results.csv, a line per method.

  Args:
    rows: of results.csv.
    brief: whether only the main columns are wanted.
  """
  outside = [c.split('/')[1] for c in rows[0] if c.startswith('auroc_energy/')]
  columns = [c for c in _COLUMNS if c[0] in _BRIEF] if brief else _COLUMNS
  outside = outside[:1] if brief else outside
  head = ['method', *(c[0] for c in columns), *(f'AUROC {n}, %' for n in outside)]
  lines = [head, ['---', *['---:'] * (len(head) - 1)]]
  for name in dict.fromkeys(row['method'] for row in rows):
    own = [r for r in rows if r['method'] == name]
    cells = [_cell(own, *column) for _, *column in columns]
    aurocs = [
      ' / '.join(_cell(own, f'auroc_{score}/{where}', 100, 1) for score in _SCORES)
      for where in outside
    ]
    lines.append([name.replace('_', ' '), *cells, *aurocs])
  return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def _cell(rows, column, scale, digits) -> str:
  values = scale * np.array([float(row[column]) for row in rows])
  if not digits:
    return f'{values.mean():,.0f}'
  if column.startswith('auroc_mutual') and all(r['one_nll'] == r['nll'] for r in rows):
    return '-'  # One deterministic network: its mutual information is rounding.
  text = f'{values.mean():.{digits}f}'
  return text if len(values) < 2 else f'{text} ± {values.std(ddof=1):.{digits}f}'

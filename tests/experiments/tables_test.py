"""The tables of the documentation."""

import csv
import pathlib

import pytest

from experiments import tables

_RESULTS = pathlib.Path(tables.__file__).parent / 'results'


def test_cells_are_mean_and_sample_deviation_over_seeds():
  row = lambda method, sparsity, accuracy: {
    'method': method, 'target_sparsity': sparsity, 'test_accuracy': accuracy,
  }  # fmt: skip
  rows = [
    row('dense', '0', '0.9'),
    row('dense', '0', '0.92'),
    row('rigl_90', '0.9', '0.8'),
  ]
  assert tables.table(rows).splitlines() == [
    '| test accuracy, % | 0 % sparse | 90 % sparse |',
    '| --- | ---: | ---: |',
    '| dense | 91.00 ± 1.41 |  |',
    '| rigl |  | 80.00 (1 seeds) |',
  ]


def test_psnr_has_a_table_for_each_test_set():
  row = lambda method, sparsity, a, b: {
    'method': method, 'target_sparsity': sparsity,
    'set5/psnr_y_border2': a, 'b100/psnr_y_border2': b, 'b100/ssim_y_border2': '0.9',
  }  # fmt: skip
  rows = [row('bicubic', '0', '33.67', '29.56'), row('iss_p_95', '0.95', '35', '30.5')]
  first, second = tables.table(rows).split('\n\n')
  assert first.splitlines()[0].startswith('| set5/psnr_y_border2, dB | 0 % sparse |')
  assert second.splitlines()[-1] == '| iss p |  | 30.50 |'


def test_psnr_and_costs_stand_in_one_brief_table():
  costs = ('whole_sparsity', 'kept', 'dense_bytes', 'nonzeros_bytes', 'dense_ms')
  row = lambda psnr, *values: {
    'method': 'iss_p_95', 'set5/psnr_y_border2': psnr, 'nonzeros_ms': '',
    **dict(zip(costs, values)),
  }  # fmt: skip
  rows = [row('35', '0.94', '1159', '85136', '17635', ms) for ms in ('4', '6')]
  rows[1]['set5/psnr_y_border2'] = '36'
  assert tables.table(rows, brief=True).splitlines()[2] == (
    '| iss p 95 | 35.50 ± 0.71 | 94.00% | 1,159 | 85,136 | 17,635 | 5.0 | - |'
  )


@pytest.mark.parametrize('path', sorted(_RESULTS.glob('*.csv')), ids=lambda p: p.stem)
def test_the_pages_show_the_committed_results(path):
  with path.open(newline='') as file:
    rows = list(csv.DictReader(file))
  pages = (_RESULTS.parents[1] / 'docs').rglob('*.md')
  shown = '\n'.join(page.read_text('utf-8') for page in pages)
  whole, brief = tables.table(rows), tables.table(rows, brief=True)
  assert brief in shown
  # What is too wide for there stands beside the files.
  assert whole in shown or whole in (_RESULTS / 'README.md').read_text('utf-8')

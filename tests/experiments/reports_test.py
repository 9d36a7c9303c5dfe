"""Reports: what they say of a run that is small enough to be counted by hand."""

import csv
import html.parser
import json
import re
import shutil

import numpy as np
from PIL import Image
import pytest

from experiments import (
  _account,
  _checklist,
  _environment,
  _page,
  _runs,
  _traces,
  compare,
)

_SHAPES = {'a/kernel': (2, 5), 'b/kernel': (5, 2)}
_METHODS = [
  dict(name='dense', transform='dense'),
  dict(name='small', transform='small_dense', sparsity=0.5),
  dict(name='static', transform='static', sparsity=0.5),
  dict(
    name='rigl', transform='rigl', sparsity=0.5,
    kwargs=dict(when=dict(schedule='every', n=4, start=0)),
  ),
  dict(name='gmp', transform='gmp', sparsity=dict(schedule='cubic', final=0.5)),
]  # fmt: skip


def _mask(shape, *kept):
  mask = np.zeros(shape, bool)
  mask.ravel()[list(kept)] = True
  return mask


def _masks(*kept):
  return {name: _mask(shape, *kept) for name, shape in _SHAPES.items()}


def _trace(method, seed, start=None, end=None, **about):
  given = dict(steps=8, examples=4, seconds=2.0, bytes={'param_bytes': 80})
  flops = {'a/kernel': 20, 'b/kernel': 20, '': 3}
  return _traces.Trace(
    method, seed, _SHAPES if end else {}, start or {}, end or {},
    **{**given, 'flops': flops, **about},
  )  # fmt: skip


def _results(method, kept, seeds='01', target='0.5'):
  return [
    dict(
      method=method, seed=seed, step='8', test_accuracy='0.9', test_loss='0.1',
      target_sparsity=target, kept=str(kept), execution='masked',
    )
    for seed in seeds
  ]  # fmt: skip


def _write_csv(path, rows):
  with path.open('w', newline='') as file:
    writer = csv.DictWriter(file, list(dict.fromkeys(k for r in rows for k in r)))
    writer.writeheader()
    writer.writerows(rows)


@pytest.fixture
def workdir(tmp_path):
  """A run of five methods with two seeds, whose masks keep 5 of 10 weights."""
  config = dict(name='tiny', methods=_METHODS, select='final', note='a | b')
  (tmp_path / 'config.json').write_text(json.dumps(config))
  rows = _results('dense', 20, target='0') + _results('small', 9)
  for method in ('static', 'rigl', 'gmp'):
    rows += _results(method, 10)
  _write_csv(tmp_path / 'results.csv', rows)
  full, half, other = _masks(*range(10)), _masks(0, 1, 2, 3, 4), _masks(3, 4, 5, 6, 7)
  for seed, end in (('0', half), ('1', other)):
    _traces.write(tmp_path, _trace('dense', seed))
    _traces.write(tmp_path, _trace('small', seed, flops={'': 20}))
    _traces.write(tmp_path, _trace('static', seed, end, end))
    _traces.write(tmp_path, _trace('rigl', seed, half, other))
    _traces.write(tmp_path, _trace('gmp', seed, full, end))
  metrics = []
  for method in ('rigl', 'gmp'):
    for seed in '01':
      for step, density in ((4, 0.5), (8, 0.5)):
        metrics.append(
          {'method': method, 'seed': seed, 'step': step}
          | {f'density/{name}': density for name in _SHAPES}
        )
  _write_csv(tmp_path / 'metrics.csv', metrics)
  (tmp_path / 'timing.json').write_text('{"dense": 0.001}')
  return tmp_path


def test_a_trace_comes_back_as_it_was(tmp_path):
  trace = _trace('rigl', '3', _masks(0, 9), _masks(4), seconds=None, draws=7)
  # A mask of channels is smaller than its parameter.
  trace.end['a/kernel'] = _mask((1, 5), 2)
  trace.start['a/kernel'] = _mask((1, 5), 0, 1)
  _traces.write(tmp_path, trace)
  (again,) = _traces.load(tmp_path)
  for when in ('start', 'end'):
    for name, mask in getattr(trace, when).items():
      np.testing.assert_array_equal(getattr(again, when)[name], mask)
  assert again._replace(start={}, end={}) == trace._replace(start={}, end={})


def test_densities_and_flops_are_those_counted_by_hand(workdir):
  run = _runs.load(workdir)
  groups = _account.by_method(run.traces)
  spent = lambda method: _account.training_flops(
    groups[method][0], _account.spec_of(method, run.config), run.metrics
  )
  # 8 steps of 4 examples, 3 passes: 43 FLOPs dense, half of 40 and 3 at half density.
  assert spent('dense') == 4 * 8 * 3 * 43
  assert spent('static') == 4 * 8 * 3 * 23
  # Dense gradients at steps 0 and 4 cost the other 20.
  assert spent('rigl') == 4 * (8 * 3 * 23 + 2 * 20)
  # The density falls from 1 to 0.5 within 4 of 8 steps: 0.625 in the mean.
  gmp = groups['gmp'][0]
  assert _account.in_time(gmp, run.metrics) == dict.fromkeys(_SHAPES, 0.625)
  assert spent('gmp') == pytest.approx(4 * 8 * 3 * (40 * 0.625 + 3))
  assert _account.in_time(gmp, []) is None  # It moved, nobody saw how.
  assert _account.inference_flops(gmp) == 23
  assert _account.inference_flops(gmp._replace(draws=10)) == 230
  assert _account.training_flops(gmp._replace(flops=None), {}, run.metrics) is None


def test_overlap_is_held_against_chance():
  a, b = (_trace('x', s, end=_masks(*k)) for s, k in (('0', (0, 1)), ('1', (1, 2))))
  found = _account.overlap([a, b])
  # One of three in each layer; 0.04 of 0.36 by chance.
  assert found == pytest.approx((1 / 3, 0.04 / 0.36))
  assert _account.overlap([a]) is None
  moved = _trace('x', '0', _masks(0, 1), _masks(1, 2))
  assert _account.kept_from_start(moved) == 0.5 and not _account.is_static(moved)


def test_the_table_follows_the_order_of_the_results(workdir):
  run = _runs.load(workdir)
  lines = _account.table(run.config, run.metrics, run.traces).splitlines()
  cells = [[c.strip() for c in line.strip('|').split('|')] for line in lines]
  assert [c[0] for c in cells[2:]] == ['dense', 'small', 'static', 'rigl', 'gmp']
  rigl = dict(zip(cells[0], cells[5]))
  assert rigl['kept from the start'] == '40 %' and rigl['training FLOPs'] == '2.37 k'
  # Both seeds end with the same five weights.
  assert rigl['overlap of seeds'] == '100 %' and rigl['by chance'] == '33.33 %'
  assert dict(zip(cells[0], cells[2]))['overlap of seeds'] == '-'


def test_the_checklist_answers_from_the_run(workdir):
  said = _checklist.answers(_runs.load(workdir))
  assert said['Dense-to-sparse or sparse-to-sparse?'] == (
    'sparse-to-sparse: static, rigl; dense-to-sparse: gmp'
  )
  assert said['Static or dynamic masks?'] == 'static: static; dynamic: rigl, gmp'
  assert said['Which structure?'] == 'unstructured: static, rigl, gmp'
  # GMP's own default is another one.
  assert said['Which sparsity in which layer?'].startswith('erk: static, rigl; ')
  assert 'gmp 37.5% in time, 50.0%' in said['Sparsity in time and at the end?']
  assert said['Several seeds?'] == 'yes: 2 for each method'
  assert said['Equal budgets of steps and examples?'].startswith('yes: 8 steps of 4')
  assert said['A dense baseline?'] == 'yes: dense'
  assert said['A small dense baseline with as many weights?'].startswith('yes: small')
  assert said['A random pruning baseline at the same sparsity?'] == 'yes: static'
  assert said['Is time measured, beside FLOPs?'].startswith('yes: ms/step of all')


@pytest.mark.parametrize(
  ('question', 'change', 'answer'),
  [
    ('Several seeds?', lambda r: r._replace(results=r.results[::2]), 'no: one seed'),
    (
      'A small dense baseline with as many weights?',
      lambda r: r._replace(results=_results('rigl', 10)),
      'no: nothing in this run is dense',
    ),
    (
      'A small dense baseline with as many weights?',
      lambda r: r._replace(results=_results('small', 9) + _results('rigl', 5)),
      r'no: small \(9 weights\) has not as many weights as rigl',
    ),
    (
      'A random pruning baseline at the same sparsity?',
      lambda r: r._replace(
        results=_results('static', 10) + _results('rigl', 5, target='0.75')
      ),
      'no: static has not the sparsity of rigl',
    ),
    (
      'A random pruning baseline at the same sparsity?',
      lambda r: r._replace(traces=[t for t in r.traces if t.method != 'static']),
      'no: no method of this run keeps random weights',
    ),
    (
      'Equal budgets of steps and examples?',
      lambda r: r._replace(traces=[r.traces[0], r.traces[-1]._replace(steps=9)]),
      'no: 8 steps of 4 examples: dense; 9 steps of 4 examples: gmp',
    ),
    (
      'Equal budgets of steps and examples?',
      lambda r: r._replace(
        config={'methods': [*_METHODS, dict(name='two', ensemble='rigl', members=2)]},
        results=r.results + _results('two', 20),
      ),
      'no: 8 steps of 4 examples: .*gmp; 2 networks like rigl: two',
    ),
    ('A dense baseline?', lambda r: r._replace(results=r.results[2:]), 'no: every'),
    (
      'Sparsity in time and at the end?',
      lambda r: r._replace(metrics=[]),
      'gmp: not recorded on the way',
    ),
    (
      'Training FLOPs and inference FLOPs apart?',
      lambda r: r._replace(metrics=[]),
      'yes: .* but not of gmp',
    ),
    ('Static or dynamic masks?', lambda r: r._replace(traces=[]), 'no sparse network'),
    (
      'Which structure?',
      lambda r: r._replace(
        config={
          'methods': [
            {
              **m,
              'kwargs': {
                **m.get('kwargs', {}), 'structure': {'name': 'Block', 'shape': [4, 4]},
              },
            }
            for m in _METHODS
          ]
        }
      ),
      r'Block\(shape=\[4, 4\]\): static, rigl, gmp',
    ),
  ],
)  # fmt: skip
def test_the_checklist_says_what_is_missing(workdir, question, change, answer):
  said = _checklist.answers(change(_runs.load(workdir)))[question]
  assert re.search(answer, said), said


class _Resources(html.parser.HTMLParser):
  """What a page would load, and the tags that it leaves open."""

  def __init__(self):
    super().__init__()
    self.loaded, self.open, self.text = [], [], ''

  def handle_starttag(self, tag, attrs):
    self.loaded += [v for k, v in attrs if k in ('src', 'href')]
    if tag not in ('img', 'meta'):
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.text += data


def test_the_page_needs_nothing_but_itself(workdir):
  Image.new('RGB', (3, 2)).save(workdir / 'plot.png')
  _environment.record(workdir)
  page = _page.Page(
    'tiny & small', 'Of `x <y>`.', '| method | n |\n| --- | ---: |\n| a_b | 1 |',
    'A note.', {'plot.png': 'A <plot>'},
  )  # fmt: skip
  shown = _page.write(workdir, page)
  assert shown.endswith(f'{workdir}/report.html, report.md')
  text = (workdir / 'report.html').read_text('utf-8')
  found = _Resources()
  found.feed(text)
  assert not found.open
  assert all(r.startswith(('data:image/png;base64,', '#')) for r in found.loaded)
  assert sum(r.startswith('data:') for r in found.loaded) == 2  # And the densities.
  assert not re.search(r'https?://|@import|url\(', text)
  for said in ('tiny & small', 'Of x <y>.', 'a_b', 'A <plot>', 'a | b', 'jaxlib'):
    assert said in found.text
  assert '<td class="yes">yes: dense</td>' in text and 'lang="en"' in text
  # Both files are of one text.
  markdown = (workdir / 'report.md').read_text('utf-8')
  for head in ('Sparsity and cost', 'Checklist', 'Configuration', 'Environment'):
    assert f'\n## {head}\n' in markdown and f'">{head}</h2>' in text
  assert '![A <plot>](plot.png)' in markdown


def test_commands_are_added_up_and_the_same_one_counts_once(tmp_path, monkeypatch):
  monkeypatch.setattr('sys.argv', ['/x/train.py', '--config.only=a b'])
  _environment.record(tmp_path)
  _environment.record(tmp_path)
  monkeypatch.setattr('sys.argv', [str(_environment._ROOT / 'experiments/classify.py')])
  _environment.record(tmp_path)
  first, second = _environment.load(tmp_path)
  assert first['command'] == "python /x/train.py '--config.only=a b'"
  assert second['command'] == 'python -m experiments.classify'
  assert re.fullmatch('-|[0-9a-f]{40}(, with changes)?', first['commit'])
  text = _page.environment([first, second])
  assert "'--config.only=a b'`, then `python -m" in text
  assert text.count(first['jax']) == 1 + (first['jax'] == first['jaxlib'])
  assert 'older version' in _page.environment([])


@pytest.mark.parametrize(
  ('name', 'text', 'message'),
  [
    ('config.json', None, 'no run, for it has no config.json'),
    ('config.json', '{', 'config.json is damaged'),
    ('results.csv', 'method,seed\n', 'no network has been tested yet'),
    ('results.csv', 'a,b\n1,2\n', 'columns of no experiment'),
  ],
)
def test_what_is_no_run_is_refused(workdir, name, text, message):
  path = workdir / name
  path.unlink() if text is None else path.write_text(text)
  with pytest.raises(ValueError, match=message) as caught:
    _runs.load(workdir)
  assert str(workdir) in str(caught.value)


@pytest.fixture
def pair(workdir, tmp_path_factory):
  """The run, and another one of it with other settings and fewer methods."""
  other = tmp_path_factory.mktemp('runs') / 'other'
  shutil.copytree(workdir, other)
  config = json.loads((workdir / 'config.json').read_text())
  config.update(
    select='best', methods=[*_METHODS[:3], {**_METHODS[3], 'sparsity': 0.25}]
  )
  (other / 'config.json').write_text(json.dumps(config))
  _write_csv(other / 'results.csv', _results('rigl', 10, '0', '0.25'))
  return workdir, other


def test_runs_stand_side_by_side(pair, tmp_path, capsys):
  for path in pair:
    rows = [
      dict(method='rigl', seed='0', step=s, val_accuracy=0.5 + s / 20) for s in (4, 8)
    ]
    _write_csv(path / 'metrics.csv', rows)
  out = tmp_path / 'a' / 'b'
  assert compare.main([*map(str, pair), f'--out={out}']) == 0
  text = (out / 'compare.md').read_text('utf-8')
  first, second = (line.split() for line in text.splitlines() if line[:6] == '| rigl')
  assert first[4:9] == ['|', '90.00', '±', '0.00', '|'] and first[9] == '2'
  assert second[5:8] == ['90.00', '|', '1']
  differing = text.partition('## What differs in the conf')[2].splitlines()
  assert [line for line in differing if line.startswith('| methods')] == [
    '| methods.rigl.sparsity | `0.5` | `0.25` |',
    '| methods.gmp.transform | `gmp` | - |',
    '| methods.gmp.sparsity.schedule | `cubic` | - |',
    '| methods.gmp.sparsity.final | `0.5` | - |',
  ]
  assert '| select | `final` | `best` |' in text and '| note |' not in text
  found = _Resources()
  found.feed((out / 'compare.html').read_text('utf-8'))
  assert sum(r.startswith('data:') for r in found.loaded) == 1
  assert 'compare.html' in capsys.readouterr().out


def test_runs_of_the_same_data_only_are_comparable(pair):
  runs = compare.load(pair)
  assert compare._warning(runs) == []
  runs = {n: r._replace(config={'dataset': n, 'methods': []}) for n, r in runs.items()}
  assert compare._warning(runs) == ['**Not of the same data: dataset differ.**']


def test_what_cannot_be_compared_is_one_sentence(pair, tmp_path, capsys):
  first, second = pair
  (tmp_path / 'empty').mkdir()

  def said(*runs):
    assert compare.main([*map(str, runs), f'--out={tmp_path / "out"}']) == 1
    return capsys.readouterr().err

  assert 'got 1 run, wanted two or more' in said(first)
  assert 'is given twice' in said(first, first)
  assert 'no run, for it has no config.json' in said(first, tmp_path / 'empty')
  assert 'no such folder' in said(first, tmp_path / 'nowhere')
  _write_csv(second / 'results.csv', [{'method': 'a', 'rmse': 1}])
  assert 'wanted runs of one experiment' in said(first, second)
  assert not (tmp_path / 'out').exists()

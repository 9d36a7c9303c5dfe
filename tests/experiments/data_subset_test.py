"""Training on parts of the data: plans, feeds, clocks, crossings, and a whole job."""

import csv
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tensorflow_datasets as tfds

from experiments import (
  _clock,
  _coresets,
  _plans,
  _posteriors,
  _subset_report,
  _time_to_accuracy,
  datasets,
  tables,
)
from experiments.configs import (
  _data_subset,
  _data_subset_defaults,
  data_subset_cifar10,
  data_subset_digits,
  data_subset_fashion_mnist,
  data_subset_mnist1d,
)
import jaxsparse as js

_ROOT = pathlib.Path(__file__).resolve().parents[2]


# --- when an accuracy is reached ---------------------------------------------------------


@pytest.mark.parametrize(
  'threshold, wanted', [(0.1, 2.0), (0.5, 3.0), (0.6, 3.25), (0.9, 4.0), (0.95, None)]
)
def test_a_crossing_lies_on_the_line_between_two_evaluations(threshold, wanted):
  at, values = [2.0, 3.0, 4.0, 5.0], [0.2, 0.5, 0.9, 0.7]
  assert _time_to_accuracy.crossing(at, values, threshold) == wanted


def test_crossings_are_columns_and_empty_where_never_reached():
  row = lambda step, seconds, accuracy: {
    'step': step, 'seconds': seconds, 'test_accuracy': accuracy,
  }  # fmt: skip
  curve = [row('10', '1.5', '0.2'), row('15', '1.8', ''), row('20', '2.5', '0.6')]
  assert _time_to_accuracy.crossings(curve, (0.4, 0.7)) == {
    'seconds_to_0.4': 2.0, 'steps_to_0.4': 15.0, 'seconds_to_0.7': '',
    'steps_to_0.7': '',
  }  # fmt: skip


def test_intervals_are_those_of_student():
  # Student's 0.975 quantile with 4 degrees of freedom is 2.776, and sd 1.581.
  mean, low, high = _time_to_accuracy.interval([1, 2, 3, 4, 5])
  assert (mean, round(low, 3), round(high, 3)) == (3.0, 1.037, 4.963)
  assert _time_to_accuracy.interval([7.0]) == (7.0, 7.0, 7.0)
  assert _time_to_accuracy.cell(['1', '2', '3', '4', '5']) == '3.00 [1.04, 4.96]'
  assert _time_to_accuracy.cell(['1', '']) == '1 of 2 seeds'
  assert _time_to_accuracy.cell(['', '']) == 'never'
  assert _time_to_accuracy.cell(['1.234']) == '1.23'


def test_a_clock_counts_training_apart_from_what_comes_between():
  clock = _clock.Clock()
  wait = lambda seconds, value=None: (time.sleep(seconds), value)[1]
  step_fn = lambda state, batch, data: (state, wait(0.02, batch))
  step_fn.devices = 'all'
  step, batches = clock.step(step_fn), clock.batches(lambda step: wait(0.01, step))
  for _ in range(2):
    batch = [batches(0), batches(1)]
    time.sleep(0.01)  # Stacking them.
    step(0, batch, None)
    time.sleep(0.05)  # Saving, printing: nobody's.
  with clock.counts('eval'):
    time.sleep(0.01)
  row, slack = clock.row(), 0.04
  assert 0.06 <= row['data_seconds'] < 0.06 + slack
  assert 0.04 <= row['train_seconds'] < 0.04 + slack
  assert 0.01 <= row['eval_seconds'] < 0.01 + slack
  assert row['seconds'] == row['data_seconds'] + row['train_seconds']
  assert step.devices == 'all'
  again = _clock.Clock()
  again.go_on({k: str(v) for k, v in row.items()})
  assert again.row() == row


# --- from a config to plans and batches --------------------------------------------------


def _config(**changes):
  config = _data_subset_defaults.get_config()
  with config.unlocked():
    config.methods = (dict(name='m', plan='rs2', transform='dense'),)
    for key, value in changes.items():
      config[key] = value
  return config


LABELS = np.arange(400) % 10


@pytest.mark.parametrize('make', [data_subset_digits, data_subset_mnist1d])
def test_the_methods_of_a_ratio_take_equal_steps(make):
  config = _plans.check(make.get_config())
  config.rounds, labels = 20, np.arange(1300) % 10
  plans = {s['name']: _plans.make(config, s, labels, 0) for s in config.methods}
  for ratio in _data_subset.RATIOS:
    percent = f'_{100 * ratio:g}'
    steps = {p.total_steps for name, p in plans.items() if name.endswith(percent)}
    size = round(1300 * ratio)
    batch_size = min(size, config.batch_size)
    assert steps == {20 * (size // batch_size)}, ratio
  assert plans['full'].total_steps == 20 * (1300 // config.batch_size)
  assert len(config.seeds) >= 6
  # The short full schedule stands in every table, also in that of sparse networks.
  for kind in ('', '_rigl', '_ssvi'):
    assert f'short_full{kind}_10' in plans
  indices = lambda name: plans[name].batch(np.arange(10))[0]
  np.testing.assert_array_equal(indices('rs2_10'), indices('short_full_10'))


def test_the_images_have_the_methods_of_the_table_of_fashion():
  names = lambda make, *argument: {
    m['name'] for m in _plans.check(make.get_config(*argument)).methods
  }
  dense = {n for n in names(data_subset_fashion_mnist, '0.1') if n.endswith('_10')}
  dense -= {m['name'] for m in _data_subset.sparse_methods(0.1, every=100)}
  assert names(data_subset_cifar10) == dense
  assert {'importance_10', 'curriculum_10', 'ccs_10', 'short_full_10'} <= dense


def test_a_config_names_its_ratio():
  names = [m['name'] for m in data_subset_digits.get_config('0.05').methods]
  assert 'rs2_5' in names and 'full' in names and 'rs2_10' not in names
  with pytest.raises(ValueError, match="config argument: got '2'"):
    data_subset_digits.get_config('2')


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'backend': 'tf'}, "config.backend: unknown name 'tf'"),
    ({'workers': -1}, 'config.workers: got -1'),
    ({'thresholds': (80,)}, 'config.thresholds: got 80'),
    ({'rounds': 0}, 'config.rounds: got 0'),
    (
      {'methods': (dict(name='m', plan='rs3', transform='dense'),)},
      "plan of method m: .*'rs3'.*mean rs2",
    ),
    ({'methods': (dict(name='m', plan='rs2'),)}, 'method m: got .*transform'),
  ],
)
def test_a_config_that_cannot_be_is_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    _plans.check(_config(**changes))


@pytest.mark.parametrize(
  'spec, message',
  [
    ({'ratio': 0}, 'method m: ratio=0'),
    ({'ratio': 1.5}, 'method m: ratio=1.5'),
    ({'plan_kwargs': {'replace': True}}, "method m: .*'replace'"),
  ],
)
def test_a_plan_that_cannot_be_names_its_method(spec, message):
  config = _plans.check(_config())
  with pytest.raises(ValueError, match=message):
    _plans.make(config, {'name': 'm', 'plan': 'rs2', **spec}, LABELS, 0)


@pytest.mark.parametrize(
  'total, per_call, evaluations, wanted',
  [(800, 100, 40, (20, 20)), (8000, 100, 40, (100, 200)), (7, 100, 40, (1, 1)),
   (200, 8, 10, (8, 16)), (13, 100, 1, (13, 13))],
)  # fmt: skip
def test_calls_divide_the_run_and_end_at_evaluations(
  total, per_call, evaluations, wanted
):
  assert _plans.cadence(total, per_call, evaluations) == wanted


def test_both_back_ends_feed_the_same_examples_from_any_step():
  images = np.arange(400 * 4, dtype=np.uint8).reshape(400, 2, 2, 1)
  config = _plans.check(_config(batch_size=8, rounds=4))
  spec = dict(name='m', plan='rs2', plan_kwargs=dict(stratified=True))
  plan = _plans.make(config, spec, LABELS, 5)
  on_devices = {'images': jnp.asarray(images), 'labels': jnp.asarray(LABELS)}
  take = jax.jit(_plans.take)
  for start in (0, 7):
    feeds = []
    for config.backend in ('device', 'grain'):
      feeds.append(_plans.feed(config, plan, (images, LABELS), on_devices))
    for step in range(start, start + 3):
      ours, theirs = (take(f.batches(step), f.data) for f in feeds)
      np.testing.assert_array_equal(theirs['labels'], LABELS[plan.batch(step)[0]])
      for key in ('images', 'labels', 'weights'):
        np.testing.assert_array_equal(ours[key], theirs[key])
  assert take._cache_size() == 2


def test_weights_of_a_coreset_are_shares_of_the_batch():
  batch = {'labels': 0, 'weights': jnp.array([1.0, 3.0, 0.0, 4.0])}
  shares = _plans.take(batch, None, shares=True)['weights']
  assert shares.tolist() == [0.5, 1.5, 0.0, 2.0]
  assert _plans.take(batch, None) is batch


def test_one_program_serves_all_seeds_of_a_method():
  images = np.zeros((400, 1, 1, 1), np.uint8)
  arrays = {'images': jnp.asarray(images), 'labels': jnp.asarray(LABELS)}
  config = _plans.check(_config(batch_size=8, rounds=2))
  spec = {'name': 'm', 'plan': 'static_subset'}

  def loss_fn(params, model_state, batch, key):
    loss = jnp.mean(batch['weights'] * (params - batch['labels']) ** 2)
    return loss, (model_state, {'labels': jnp.sum(batch['labels'])})

  step = js.training.make_step(
    loss_fn, optax.sgd(0.1), prepare=lambda batch, data, key: _plans.take(batch, data)
  )
  step_fn = js.training.shard_step(step, jax.devices()[:1], 'jit', scan=True)
  for seed in range(3):
    plan = _plans.make(config, spec, LABELS, seed)
    feed = _plans.feed(config, plan, (images, LABELS), arrays)
    state = js.training.init_state(optax.sgd(0.1), jnp.zeros(()), seed=seed)
    seen = []
    js.training.run(
      step_fn, state, feed.batches, plan.total_steps, data=feed.data, steps_per_call=5,
      on_steps=lambda _, v, seen=seen: seen.extend(v['labels'].tolist()),
    )  # fmt: skip
    wanted = LABELS[plan.batch(np.arange(plan.total_steps))[0]].sum(-1)
    assert seen == wanted.tolist()
  assert step_fn.compiled._cache_size() == 1


def test_grain_reads_a_data_source_of_tfds(tmp_path):
  whole = datasets.load('digits', data_dir=str(tmp_path), validation=0.0)
  source = tfds.data_source('digits', split='train', data_dir=str(tmp_path))
  plan = js.data.rs2(len(source), 16, ratio=0.1, rounds=3, seed=0)
  records = js.data.grain_dataset(plan, source, start=4).batch(16)
  for step, batch in enumerate(list(records.to_iter_dataset())[:2], 4):
    indices, _ = plan.batch(step)
    np.testing.assert_array_equal(batch.record['image'], whole.train[0][indices])
    np.testing.assert_array_equal(batch.record['label'], whole.train[1][indices])


def test_weights_multiply_the_losses_of_their_examples():
  model = types.SimpleNamespace(
    apply=lambda params, state, images, train, key: (images @ params, state)
  )
  config = types.SimpleNamespace()
  loss = _posteriors.loss(config, model, None, 10, 10)
  batch = {'images': jnp.array([[1.0, 0.0], [0.0, 2.0]]), 'labels': jnp.array([0, 0])}
  params, losses = jnp.eye(2), np.log(1 + np.exp([-1.0, 2.0]))
  state = types.SimpleNamespace(opt_state=())
  value = lambda batch: float(loss(params, (), batch, None, state)[0])
  assert value(batch) == pytest.approx(losses.mean(), rel=1e-6)
  batch['weights'] = jnp.array([0.5, 3.0])
  assert value(batch) == pytest.approx((losses @ [0.5, 3.0]) / 2, rel=1e-6)


# --- coresets ----------------------------------------------------------------------------


@pytest.fixture(scope='module')
def coresets():
  """Of 90 images in three classes, the mean of which tells the class."""
  rng = np.random.default_rng(0)
  labels = np.arange(90, dtype=np.int32) % 3
  images = rng.integers(0, 80, (90, 4, 4, 1)) + 80 * labels[:, None, None, None]
  split = images.astype(np.uint8), labels
  data = datasets.Data(
    'three',
    split,
    tuple(x[:30] for x in split),
    split,
    3,
    ('a', 'b', 'c'),
    (0.5,),
    (0.3,),
  )
  config = _plans.check(_config(batch_size=10, proxy_epochs=3))
  config.model = dict(name='MLP', api='linen', options=dict(features=(8,)))
  train = {'images': jnp.asarray(split[0]), 'labels': jnp.asarray(labels)}
  return _coresets.Coresets(config, data, train)


def _select(coresets, name, seed=1):
  spec = {'name': f'{name}_10', 'plan': 'coreset', 'select': name}
  return coresets.select(spec, 12, seed)


def test_a_coreset_is_chosen_by_what_the_proxy_knows(coresets):
  (indices, weights), seconds, compiling = _select(coresets, 'el2n')
  evidence = coresets._evidence
  errors = np.asarray(evidence.probs) - np.eye(3)[evidence.labels]
  norms = np.linalg.norm(errors, axis=1)
  for label in range(3):
    members = np.flatnonzero(np.arange(90) % 3 == label)
    best = members[np.argsort(-norms[members])[:4]]
    assert set(best) <= set(indices.tolist())
  assert weights is None and seconds > 0 and compiling > 0
  again, _, compiling = _select(coresets, 'el2n')
  np.testing.assert_array_equal(again[0], indices)
  assert compiling == 0
  # CRAIG's weights count all records.
  (indices, weights), _, _ = _select(coresets, 'craig')
  assert len(set(indices.tolist())) == 12 and weights.sum() == 90


def test_draws_by_score_ask_the_same_proxy_and_weigh_what_they_draw(coresets):
  config = _plans.check(_config(batch_size=10, rounds=30, ratio=0.2))
  labels = np.arange(90) % 3
  made = {}
  for spec in _data_subset.by_score(0.2):
    scores, seconds, _ = coresets.select(spec, 18, 1)
    assert scores.shape == (90,) and seconds > 0
    shape, made[spec['plan']] = (
      _plans.make(config, spec, labels, 1, chosen) for chosen in (None, scores)
    )
    # What is compiled before the proxy is trained serves the real plan.
    assert jax.tree.structure(shape) == jax.tree.structure(made[spec['plan']])
    assert shape.total_steps == 30 and shape.likelihood_size == 90
  evidence, steps = coresets._evidence, np.arange(30)
  errors = np.linalg.norm(np.asarray(evidence.probs) - np.eye(3)[labels], axis=1)
  # w = 1 / (N q) with q halfway between the errors' shares and 1 / N: at most 2.
  indices, weights = made['importance'].batch(steps)
  wanted = 1 / (45 * errors / errors.sum() + 0.5)
  np.testing.assert_allclose(weights, wanted[indices], rtol=1e-5)
  # A fifth of each class is 6 records, those of the largest margins.
  margins = np.asarray(evidence.aum.total / evidence.aum.seen)
  for label in range(3):
    best = sorted(np.flatnonzero(labels == label), key=lambda i: -margins[i])[:6]
    drawn = made['curriculum'].batch(0)[0]
    assert set(drawn[labels[drawn] == label].tolist()) <= set(best)
  # The step takes the weights as they are: shares of a batch would be biased.
  train = {'images': jnp.zeros((90, 1)), 'labels': jnp.asarray(labels)}
  feed = _plans.feed(config, made['importance'], (None, None), train)
  batch = jax.jit(_plans.take)(feed.batches(3), feed.data)
  np.testing.assert_array_equal(batch['weights'], weights[3])


def test_the_features_are_the_inputs_of_the_last_layer(coresets):
  _select(coresets, 'el2n')
  evidence = coresets._evidence
  assert evidence.features.shape == (90, 8) and (evidence.features >= 0).all()
  # Logits are an affine map of them: a fit of 9 numbers per class leaves nothing.
  x = np.column_stack([evidence.features, np.ones(90)]).astype(np.float64)
  logits = np.asarray(evidence.logits, np.float64)
  left = logits - x @ np.linalg.lstsq(x, logits, rcond=None)[0]
  assert np.abs(left).max() < 1e-4
  assert (np.argmax(logits, -1) == evidence.labels).mean() > 0.8
  assert [len(part) for part in evidence.held] == [30, 30, 30]


@pytest.mark.long
@pytest.mark.parametrize('name', sorted(_coresets._SELECTIONS))
def test_every_selection_keeps_as_many_as_are_asked_for(coresets, name):
  (indices, weights), _, _ = _select(coresets, name)
  assert len(set(indices.tolist())) == 12
  assert (weights is not None) == (name in _coresets.WEIGHTED)
  plan = js.data.subset(
    indices, weights, num_examples=90, batch_size=6, rounds=2, seed=0
  )
  assert plan.likelihood_size == (12 if weights is None else 90)


@pytest.mark.parametrize('plan, key, wrong, meant', [
  ('coreset', 'select', 'herdin', 'herding'), ('importance', 'score', 'el2', 'el2n'),
])  # fmt: skip
def test_an_unknown_selection_or_score_is_refused(plan, key, wrong, meant):
  method = {'name': 'm', 'plan': plan, key: wrong, 'transform': 'dense'}
  with pytest.raises(ValueError, match=f"{key} of method m: .*'{wrong}'.*mean {meant}"):
    _plans.check(_config(methods=(method,)))


# --- the report --------------------------------------------------------------------------


def _result(method, ratio, seed, accuracy, reached):
  times = dict.fromkeys(_subset_report.TIME_COLUMNS, '1')
  return {
    **times, 'method': method, 'ratio': ratio, 'seed': seed, 'steps': '40',
    'test_accuracy': accuracy, 'compile_seconds': str(9 * (seed == '0')),
    'seconds_to_0.5': reached, 'seconds_to_0.9': '',
  }  # fmt: skip


def test_a_table_has_accuracies_of_all_ratios_and_times_of_each():
  rows = [
    _result('rs2_10', '0.1', '0', '0.5', '2'),
    _result('rs2_10', '0.1', '1', '0.7', ''),
    _result('full', '1.0', '0', '0.8', '3'),
  ]
  parts = tables.table(rows).split('\n\n')
  assert tables.table(rows, brief=True) == parts[0]
  assert parts == [
    '| test accuracy, % | 10 % (40 steps) | 100 % (40 steps) |\n'
    '| --- | ---: | ---: |\n'
    '| rs2 | 60.00 ± 14.14 |  |\n'
    '| full |  | 80.00 |',
    '| at 10 % | seconds | selection | data | training | (evaluation) | (compilation)'
    ' | seconds to 50 % |\n'
    '| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n'
    '| rs2 | 1.00 | 1.00 | 1.00 | 1.00 | 1.00 | 9.00 | 1 of 2 seeds |',
    '| at 100 % | seconds | selection | data | training | (evaluation) | (compilation)'
    ' | seconds to 50 % |\n'
    '| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n'
    '| full | 1.00 | 1.00 | 1.00 | 1.00 | 1.00 | 9.00 | 3.00 |',
  ]


def test_curves_over_time_stand_at_the_mean_time_of_the_seeds():
  row = lambda seed, seconds, accuracy: {
    'method': 'a', 'step': '5', 'seed': seed, 'seconds': seconds,
    'test_accuracy': accuracy,
  }  # fmt: skip
  rows = [row('0', '1', '0.5'), row('1', '3', '0.6'), row('1', '9', '')]
  found = [(r['seed'], r['seconds']) for r in _subset_report.on_mean_times(rows)]
  assert found == [('0', 2.0), ('1', 2.0)]


# --- a whole job -------------------------------------------------------------------------

_TINY = """
from experiments.configs import data_subset_digits

def get_config():
  config = data_subset_digits.get_config('0.1')
  config.model = dict(name='MLP', api='linen', options=dict(features=(16,)))
  config.rounds = 10
  config.evaluations = 4
  config.seeds = (0,)
  config.samples = 2
  config.methods = tuple(
    m for m in config.methods if m['name'] in ('rs2_10', 'short_full_10'))
  config.thresholds = (0.3, 0.99)
  return config
"""


@pytest.fixture(scope='module')
def job(tmp_path_factory):
  """`workdir -> a finished process` of a tiny job; data is prepared once."""
  folder = tmp_path_factory.mktemp('job')
  config = folder / 'tiny.py'
  config.write_text(_TINY)
  environment = {
    'JAX_COMPILATION_CACHE_DIR': str(folder / 'cache'),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    **os.environ,
    'PYTHONPATH': os.pathsep.join([str(_ROOT), os.environ.get('PYTHONPATH', '')]),
    'JAX_PLATFORMS': 'cpu',
    'JAX_NUM_CPU_DEVICES': '1',
    'XDG_CACHE_HOME': str(folder / 'xdg'),
    'TFDS_DATA_DIR': str(folder / 'tfds'),
  }

  def start(workdir, *arguments):
    script = str(_ROOT / 'experiments' / 'data_subset.py')
    return subprocess.Popen(
      [sys.executable, script, f'--config={config}', f'--workdir={workdir}', *arguments],
      env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip

  return start


def _rows(path):
  with path.open(newline='') as file:
    rows = list(csv.DictReader(file))
  return [{k: v for k, v in row.items() if 'seconds' not in k} for row in rows]


@pytest.fixture(scope='module')
def whole(job, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('whole') / 'run'
  process = job(workdir)
  output = process.communicate()[0]
  assert process.returncode == 0, output
  return workdir, output


def test_a_run_leaves_its_tables_curves_and_times(whole):
  workdir, output = whole
  with (workdir / 'results.csv').open(newline='') as file:
    rs2, short = csv.DictReader(file)
  # RS2 without replacement is the short full schedule, to the last bit of the loss.
  for column in ('test_accuracy', 'test_nll', 'steps', 'examples', 'likelihood_size'):
    assert rs2[column] == short[column]
  assert (rs2['steps'], rs2['examples']) == ('40', '1280')
  for row in (rs2, short):
    parts = [float(row[f'{kind}_seconds']) for kind in _clock.KINDS]
    assert float(row['seconds']) == pytest.approx(sum(parts[:3]), rel=1e-4)
    # Programs take longer to compile than 40 steps of them.
    assert parts[4] > parts[2] > 0
    assert float(row['seconds_to_0.3']) <= float(row['seconds'])
    assert row['seconds_to_0.99'] == ''
  for name in ('accuracy_over_time_10.png', 'accuracy_over_steps_10.png'):
    assert (workdir / name).stat().st_size > 0
    assert f']({name})' in (workdir / 'report.md').read_text()
  assert (workdir / 'report.html').stat().st_size > 0
  assert '| short full |' in output and 'measured on this machine' in output
  steps = [r['step'] for r in _rows(workdir / 'metrics.csv') if r['test_accuracy']]
  assert steps == ['10', '20', '30', '40'] * 2


def test_a_stopped_run_goes_on_bit_for_bit_and_keeps_its_clock(job, whole, tmp_path):
  workdir = tmp_path / 'run'
  process = job(workdir)
  while process.poll() is None:
    rows = (workdir / 'metrics.csv').exists() and _rows(workdir / 'metrics.csv')
    if rows and any(r['method'] == 'short_full_10' for r in rows):
      process.send_signal(signal.SIGTERM)
      break
    time.sleep(0.01)
  output = process.communicate()[0]
  assert process.returncode in (0, 143), output
  again = job(workdir)
  output = again.communicate()[0]
  assert again.returncode == 0, output
  for name in ('metrics.csv', 'results.csv'):
    assert _rows(workdir / name) == _rows(whole[0] / name)
  with (workdir / 'metrics.csv').open(newline='') as file:
    seconds = [float(r['seconds']) for r in csv.DictReader(file)][4:]
  assert seconds == sorted(seconds)
  manifests = [
    json.loads((path / 'checkpoints/short_full_10-0/40/manifest/metadata').read_text())
    for path in (workdir, whole[0])
  ]
  assert manifests[0]['leaves'] == manifests[1]['leaves']

r"""Trains on parts of the data, and measures which way to choose them is worth its time.

    python -m experiments.data_subset                    # RS2 on the digits
    python -m experiments.data_subset --data_dir=DIR --workdir=runs/subset \
        --config=experiments/configs/data_subset_fashion_mnist.py:0.1
    python -m experiments.data_subset --config.backend=grain --config.workers=2

Every method is trained with every seed from the same starting weights; those of one
ratio take equal steps, with the schedule of the learning rate fitted to them. Selection,
waiting for data and training are measured and counted; compiling and evaluating are
measured apart. Kill it whenever you like; the same --workdir goes on where it was.
"""

import pathlib
import sys
from typing import Any, NamedTuple

from absl import app, flags, logging
import jax
import jax.numpy as jnp
import numpy as np

from experiments import (
  _clock,
  _commands,
  _coresets,
  _measure,
  _plans,
  _posteriors,
  _processes,
  _records,
  _report,
  _settings,
  _subset_report,
  _time_to_accuracy,
  _traces,
  _uncertainty,
  datasets,
  models,
)
import jaxsparse as js

_HERE = pathlib.Path(__file__).resolve().parent
_CONFIG = _commands.define_config(
  _HERE / 'configs' / 'data_subset_digits.py',
  'Config file; configs/_data_subset_defaults.py has the keys.',
)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Run directory; default runs/<name>-<time>. Goes on if it exists.'
)
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, "Where TFDS data sets lie; default $TFDS_DATA_DIR or TFDS's own."
)


class Method(NamedTuple):
  """One method of the config, compiled once for all seeds.

  Attributes:
    name, spec: of the config.
    model: the network.
    posterior: None for deterministic weights.
    plan: that of the first seed, its shape only where a proxy has a say; all seeds have
      as many steps.
    cadence: how the run is cut into calls and evaluations.
    init: `seed -> TrainState`.
    step_fn: the compiled step.
    evaluate: `(state, split) -> (loss, accuracy)`, of the mean weights.
    predict: `(members, images, key) -> js.bayes.Prediction`.
  """

  name: str
  spec: dict
  model: models.Model
  posterior: Any
  plan: js.data.Plan
  cadence: _plans.Cadence
  init: Any
  step_fn: Any
  evaluate: Any
  predict: Any


class Source(NamedTuple):
  """The data, on the host and on the devices, and what chooses fixed subsets of it."""

  data: datasets.Data
  train: Any
  test: Any
  coresets: _coresets.Coresets


def main(argv):
  if len(argv) > 1:
    raise ValueError(f'arguments that no flag takes: {argv[1:]}')
  config = _plans.check(_CONFIG.value)
  logging.set_verbosity(logging.FATAL)  # Orbax logs what is raised here anyway.
  data = datasets.load(
    config.dataset, _DATA_DIR.value, config.validation, config.data_seed
  )
  train_split, test_split = map(_on_devices, (data.train, data.test))
  coresets = _coresets.Coresets(config, data, train_split)
  source = Source(data, train_split, test_split, coresets)
  chosen = list(filter(None, config.only.split(',')))
  specs = [s for s in config.methods if not chosen or s['name'] in chosen]
  methods = [build_method(config, spec, source) for spec in specs]
  workdir = _records.run_directory(_WORKDIR.value, config.name)
  lock = _records.claim(workdir, config)
  columns = (*_subset_report.METRIC_COLUMNS, *_posteriors.density_columns(methods[0]))
  metrics = _records.Table(workdir / 'metrics.csv', columns)
  columns = _subset_report.result_columns(config.thresholds)
  results = _records.Table(workdir / 'results.csv', columns)
  print(f'{len(data.train[1]):,} training examples; {workdir}/')

  done = {(row['method'], int(row['seed'])) for row in results.rows}
  warm = set()  # Methods whose programs this process has compiled.
  # Seeds outside, so that a busy hour of the machine is every method's.
  for seed in config.seeds:
    for method in (m for m in methods if (m.name, seed) not in done):
      if not train(config, method, seed, source, workdir, metrics, results, warm):
        print(f'Stopped and saved. To go on: the same command, --workdir={workdir}')
        sys.exit(143)  # What a shell reports of a process that SIGTERM ended.
  if _processes.is_first():
    print(_subset_report.write(workdir, _settings.plain(config)))
  lock.close()


def _on_devices(split):
  images, labels = split
  return js.training.replicate({'images': images, 'labels': labels.astype(np.int32)})


def build_method(config, spec, source: Source) -> Method:
  """The model, the initial state and the compiled step of one method."""
  sample = jnp.zeros((1, *source.data.image_shape))
  settings = _posteriors.settings(config, spec)
  model = _settings.model(settings, spec, source.data.num_classes, sample)
  plan = _plans.make(config, spec, source.data.train[1], config.seeds[0])
  lengths = (plan.total_steps,)
  posterior, _ = _posteriors.optimizer(settings, spec, 0, lengths)

  # A record that stands for a hundred others would make a step a hundred times as long.
  shares = spec.get('select') in _coresets.WEIGHTED

  def prepare(batch, data, key):
    batch = _plans.take(batch, data, shares)
    images = datasets.augment(key, batch['images'], **config.augment)
    return {
      **batch, 'images': datasets.normalize(images, source.data.mean, source.data.std),
    }  # fmt: skip

  # The plan says of how many examples the posterior is: fewer for a fixed subset.
  loss_fn = _posteriors.loss(
    settings, model, posterior, plan.likelihood_size, plan.total_steps
  )

  @jax.jit
  def init(seed):
    model_key, mask_key, train_key, sigma_key = jax.random.split(
      jax.random.key(seed), 4
    )
    params, model_state = model.init(model_key, sample)
    if posterior is not None:
      params = posterior.init(sigma_key, params)
    _, tx = _posteriors.optimizer(settings, spec, mask_key, lengths)
    return js.training.init_state(tx, params, model_state, seed=train_key)

  # The state carries the mask's key, so the seed given here is never used to draw.
  _, tx = _posteriors.optimizer(settings, spec, 0, lengths)
  step = js.training.make_step(
    loss_fn, tx, prepare=prepare, accumulate=config.accumulate, sees_state=True
  )
  step_fn = js.training.shard_step(
    step, execution=config.execution, scan=config.steps_per_call > 1
  )
  predictor = _uncertainty.Predictor(
    model, posterior, '', config.samples, source.data.mean, source.data.std
  )
  return Method(
    spec['name'], spec, model, posterior, plan,
    _plans.cadence(plan.total_steps, config.steps_per_call, config.evaluations),
    init, step_fn, _evaluator(model, posterior, source.data),
    _uncertainty.prediction_fn(predictor),
  )  # fmt: skip


def _evaluator(model, posterior, data):
  evaluate = _measure.evaluator(model, data)
  if posterior is None:
    return evaluate
  return lambda state, split: evaluate(state._replace(params=state.params.mu), split)


def train(config, method, seed, source, workdir, metrics, results, warm) -> bool:
  """Trains one method with one seed; False when a signal ended it early."""
  label, total = f'{method.name}-{seed}', method.plan.total_steps
  per_call, eval_every = method.cadence
  # Calls of one step are too many for a row each.
  record_every = per_call if config.steps_per_call > 1 else max(1, eval_every // 10)
  clock = _clock.Clock()
  if method.name not in warm:
    with clock.counts('compile'):
      _compile(config, method, seed, source)
    warm.add(method.name)
  labels, chosen = source.data.train[1], None
  if method.spec['plan'] in _plans.BY_PROXY:
    size = _plans.size_of(config, method.spec, len(labels))
    chosen, selecting, compiling = source.coresets.select(method.spec, size, seed)
    clock.seconds['selection'] += selecting
    clock.seconds['compile'] += compiling
  with clock.counts('selection'):
    plan = _plans.make(config, method.spec, labels, seed, chosen)
    feed = _plans.feed(config, plan, source.data.train, source.train)
  identity = _report.identity(_settings.plain(config), method.name, seed)

  def on_start(state):
    # Rows of steps that the checkpoint does not know are about to be made again.
    metrics.rewind(method.name, seed, int(state.step))
    mine = lambda row: (row['method'], row['seed']) == (method.name, str(seed))
    for row in [r for r in metrics.rows if mine(r)][-1:]:
      clock.go_on(row)

  def on_steps(state, values):
    step = int(state.step)
    if step % record_every and step % eval_every and step != total:
      return
    row = {
      'method': method.name,
      'seed': seed,
      'step': step,
      'examples': step * plan.batch_size,
      'train_loss': float(np.mean(values['loss'])),
      'train_accuracy': float(np.mean(values['accuracy'])),
    }
    if step % eval_every == 0 or step == total:
      with clock.counts('eval'):
        row['test_loss'], row['test_accuracy'] = method.evaluate(state, source.test)
        row.update(_traces.density_row(state, _traces.field_of(method.posterior)))
    row.update(clock.row())
    metrics.append(row)
    if step == total:
      print(f'{label:>24} {_subset_report.progress(row)}', flush=True)

  with js.checkpoint.open_dir(
    workdir / 'checkpoints' / label,
    keep=config.keep,
    config={**identity, 'plan': plan.fingerprint()},
  ) as checkpoints:
    run = js.training.run(
      clock.step(method.step_fn), method.init(seed), clock.batches(feed.batches),
      total, data=feed.data, checkpoints=checkpoints,
      steps_per_call=per_call if config.steps_per_call > 1 else None,
      save_every=eval_every * max(1, total // (4 * eval_every)),
      on_start=on_start, on_steps=on_steps,
    )  # fmt: skip
  if run.finished:
    curve = [
      r for r in metrics.rows if (r['method'], r['seed']) == (method.name, str(seed))
    ]
    trace = _posteriors.trace(config, method, seed, run.state, run.state, source.data)
    spent = dict(steps=total, seconds=sum(clock.seconds.values()))
    _traces.write(workdir, trace._replace(examples=plan.batch_size, **spent))
    results.append(test_row(config, method, plan, seed, source, run.state, curve))
  return not run.stopped


def _compile(config, method, seed, source) -> None:
  """Runs each program of a method once, on a state that is thrown away."""
  feed = _plans.feed(config, method.plan, source.data.train, source.train)
  batch = feed.batches(0)
  if config.steps_per_call > 1:
    batch = jax.tree.map(lambda x: np.stack([x] * method.cadence.per_call), batch)
  state = js.training.replicate(method.init(seed))
  state, _ = method.step_fn(state, batch, feed.data)
  method.evaluate(state, source.test)


def test_row(config, method, plan, seed, source, state, curve) -> dict:
  """What a trained network can, and what it took."""
  images, labels = source.data.test
  prediction = method.predict([state], images, jax.random.key(config.data_seed))
  nll = js.bayes.negative_log_likelihood_of_logits(prediction.logits, labels)
  return {
    'method': method.name,
    'seed': seed,
    'ratio': _plans.ratio_of(config, method.spec),
    'steps': plan.total_steps,
    'examples': plan.total_steps * plan.batch_size,
    'likelihood_size': plan.likelihood_size,
    'test_accuracy': float(np.mean(np.argmax(prediction.probs, -1) == labels)),
    'test_nll': float(nll),
    **_posteriors.size_row(method, [state]),
    **{column: curve[-1][column] for column in _subset_report.TIME_COLUMNS},
    **_time_to_accuracy.crossings(curve, config.thresholds),
  }


if __name__ == '__main__':
  app.run(_commands.guarded(main), flags_parser=_commands.parse_flags)

r"""Trains sparse Bayesian networks beside what they have to be held against.

    python -m experiments.bayesian                       # the digits
    python -m experiments.bayesian --data_dir=DIR --workdir=runs/bayes \
        --config=experiments/configs/fashion_mnist_bayesian.py --config.only=ssvi_95

    python -m experiments.bayesian --config=experiments/configs/uci.py   # regression

Every method is trained with every seed, with equal steps and batches. Then its
probabilities are measured: likelihood, calibration before and after temperature scaling
on validation, the same on corrupted images, and how well it tells images of no class.
Kill it whenever you like; the same --workdir goes on where it was.
"""

import functools
import pathlib
import sys
from typing import Any, NamedTuple

from absl import app, flags, logging
import jax
import jax.numpy as jnp
import numpy as np

from experiments import (
  _bayesian_report,
  _clock,
  _commands,
  _execution,
  _posteriors,
  _processes,
  _records,
  _regression,
  _report,
  _settings,
  _traces,
  _uncertainty,
  datasets,
  models,
)
import jaxsparse as js

_HERE = pathlib.Path(__file__).resolve().parent
_CONFIG = _commands.define_config(
  _HERE / 'configs' / 'bayesian_digits.py',
  'Config file; configs/_bayesian_defaults.py has the keys.',
)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Run directory; default runs/<name>-<time>. Goes on if it exists.'
)
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, "Where TFDS data sets lie; default $TFDS_DATA_DIR or TFDS's own."
)


class Method(NamedTuple):
  """One trained method of the config, compiled once for all seeds.

  Attributes:
    name, spec: of the config.
    model: the network.
    posterior: None for deterministic weights.
    init: `seed -> TrainState`.
    step_fn: the compiled step.
    execution: with masks, or on its nonzeros.
    harvest: the steps after which the network is a member of the ensemble that the
      run ends as; the last step only, unless the method has cycles.
  """

  name: str
  spec: dict
  model: models.Model
  posterior: Any
  init: Any
  step_fn: Any
  execution: _execution.Execution
  harvest: tuple[int, ...]


class Source(NamedTuple):
  """The data: on the devices for training, on the host for the end."""

  data: datasets.Data
  train: Any
  splits: _uncertainty.Splits
  num_steps: int


def main(argv):
  if len(argv) > 1:
    raise ValueError(f'arguments that no flag takes: {argv[1:]}')
  logging.set_verbosity(logging.FATAL)  # Orbax logs what is raised here anyway.
  if _CONFIG.value.get('task') == 'regression':
    _regression.run(_CONFIG.value, _WORKDIR.value, _DATA_DIR.value)
    return
  config = _posteriors.check(_CONFIG.value)
  data = datasets.load(
    config.dataset, _DATA_DIR.value, config.validation, config.data_seed
  )
  splits = _uncertainty.splits(config, data, _DATA_DIR.value)
  images, labels = data.train
  train = js.training.replicate({'images': images, 'labels': labels.astype(np.int32)})
  source = Source(data, train, splits, _settings.num_steps(config, len(labels)))

  specs = _posteriors.chosen(config)
  trained = [build_method(config, s, source) for s in specs if 'ensemble' not in s]
  workdir = _records.run_directory(_WORKDIR.value, config.name)
  lock = _records.claim(workdir, config)
  columns = (*_bayesian_report.METRIC_COLUMNS, *_posteriors.density_columns(trained[0]))
  metrics = _records.Table(workdir / 'metrics.csv', columns)
  results = _records.Table(
    workdir / 'results.csv', _bayesian_report.result_columns(splits.outside)
  )
  print(f'{len(labels):,} training images, {source.num_steps:,} steps; {workdir}/')

  for method in trained:
    predict = prediction_fn(config, method, source)
    for seed in config.seeds:
      if _done(results, method.name, str(seed)):
        continue
      if not train_one(config, method, seed, source, workdir, metrics):
        print(f'Stopped and saved. To go on: the same command, --workdir={workdir}')
        sys.exit(143)  # What a shell reports of a process that SIGTERM ended.
      members = load_members(config, method, seed, workdir)
      results.append(test_row(config, method, seed, members, predict, source, workdir))
  for spec in (s for s in specs if 'ensemble' in s):
    method = next(m for m in trained if m.name == spec['ensemble'])
    test_ensemble(config, spec, method, source, workdir, results)
  if _processes.is_first():
    print(_bayesian_report.write(workdir, _settings.plain(config)))
  lock.close()


def _done(results, name: str, seed: str) -> bool:
  return any(r['method'] == name and r['seed'] == seed for r in results.rows)


def build_method(config, spec, source: Source) -> Method:
  """The model, the posterior, the initial state and the compiled step of a method."""
  sample = jnp.zeros((1, *source.data.image_shape))
  settings = _posteriors.settings(config, spec)
  model = _settings.model(settings, spec, source.data.num_classes, sample)
  lengths, harvest = _posteriors.cycles(spec, source.num_steps, config.steps_per_call)
  num_train = len(source.data.train[1])

  def make_tx(seed):
    return _posteriors.optimizer(settings, spec, seed, lengths)

  posterior, _ = make_tx(0)

  def prepare(indices, train_split, key):
    images = train_split['images'][indices]
    images = datasets.augment(key, images, **config.augment)
    images = datasets.normalize(images, source.data.mean, source.data.std)
    return {'images': images, 'labels': train_split['labels'][indices]}

  loss_fn = _posteriors.loss(settings, model, posterior, num_train, source.num_steps)

  @jax.jit
  def init(seed):
    model_key, mask_key, train_key, sigma_key = jax.random.split(
      jax.random.key(seed), 4
    )
    params, model_state = model.init(model_key, sample)
    if posterior is not None:
      params = posterior.init(sigma_key, params)
    _, tx = make_tx(mask_key)
    # A posterior's deviations are relative to the fan-in that is kept anyhow.
    rescale = config.rescale and posterior is None
    return js.training.init_state(
      tx, params, model_state, seed=train_key, rescale=rescale
    )

  # The state carries the mask's key, so the seed given here is never used to draw.
  execution = _execution.Execution(
    config, spec, source.num_steps, lambda seed: make_tx(seed)[1], init
  )
  return Method(
    spec['name'], spec, model, posterior, init, execution.step(loss_fn, prepare),
    execution, harvest,
  )  # fmt: skip


def train_one(config, method, seed, source, workdir, metrics) -> bool:
  """Trains one method with one seed; False when a signal ended it early."""
  label = f'{method.name}-{seed}'
  per_call = config.steps_per_call
  eval_every = _settings.rounded(config.eval_every, per_call)
  num_train = len(source.data.train[1])
  identity = _report.identity(_settings.plain(config), method.name, seed)
  open_dir = functools.partial(js.checkpoint.open_dir, config=identity)
  span = _clock.Span(source.num_steps)

  def on_start(state):
    span.start(int(state.step))
    # Rows of steps that the checkpoint does not know are about to be made again.
    metrics.rewind(method.name, seed, int(state.step))

  def on_steps(state, values):
    step = int(state.step)
    if step in method.harvest and step not in members.steps():
      members.save(step, state)
      members.wait()
    if step % eval_every == 0 or step == source.num_steps:
      row = {k: float(np.mean(v)) for k, v in values.items() if k != 'finite'}
      row.update(method=method.name, seed=seed, step=step)
      dense = method.execution.dense(state)
      row.update(_posteriors.sigma_row(method.posterior, dense))
      row.update(_traces.density_row(dense, _traces.field_of(method.posterior)))
      metrics.append(row)
      print(f'{label:>24} {_bayesian_report.progress(row)}', flush=True)

  with (
    open_dir(workdir / 'members' / label, keep=len(method.harvest)) as harvested,
    open_dir(workdir / 'checkpoints' / label, keep=config.keep) as directory,
  ):
    members, checkpoints = map(method.execution.checkpoints, (harvested, directory))
    run = js.training.run(
      method.step_fn, method.execution.held(method.init(seed)),
      lambda step: datasets.batch_indices(num_train, config.batch_size, step, seed),
      source.num_steps, data=source.train,
      steps_per_call=per_call if per_call > 1 else None, checkpoints=checkpoints,
      save_every=_settings.rounded(config.checkpoint_every, per_call),
      on_start=on_start, on_steps=on_steps,
    )  # fmt: skip
  if run.finished:
    state = run.state
    dense, held = method.execution.dense(state), method.execution.held(state)
    trace = _posteriors.trace(config, method, seed, dense, held, source.data)
    trace = trace._replace(steps=source.num_steps, seconds=span.seconds())
    _traces.write(workdir, trace)
  return not run.stopped


def load_members(config, method: Method, seed, workdir) -> list:
  """The networks that a finished run is averaged over."""
  identity = _report.identity(_settings.plain(config), method.name, seed)
  path = workdir / 'members' / f'{method.name}-{seed}'
  with js.checkpoint.open_dir(
    path, keep=len(method.harvest), config=identity
  ) as directory:
    store = method.execution.checkpoints(directory)
    template = method.execution.held(method.init(seed))
    states = [store.restore(template, step=step).state for step in store.steps()]
    return [method.execution.dense(state) for state in states]


def prediction_fn(config, method: Method, source: Source):
  """How a method predicts; see `_uncertainty.prediction_fn`."""
  return _uncertainty.prediction_fn(
    _uncertainty.Predictor(
      method.model,
      method.posterior,
      method.spec.get('draws', ''),
      config.samples,
      source.data.mean,
      source.data.std,
    )  # fmt: skip
  )


def test_row(config, method, seed, members, predict, source, workdir) -> dict:
  """The one look at the test set; what plots need of it goes into a file."""
  row, seen = _uncertainty.figures(predict, members, source.splits, config.data_seed)
  row.update(_posteriors.size_row(method, members))
  row.update(method=method.name, seed=seed, members=len(members))
  _bayesian_report.keep(workdir, row, seen)
  print(f'{method.name}-{seed}: {_bayesian_report.summary(row)}', flush=True)
  return row


def test_ensemble(config, spec, method: Method, source, workdir, results) -> None:
  """One row per set of seeds: the sets of an ensemble may share members."""
  predict = prediction_fn(config, method, source)
  for seeds in _posteriors.groups(config.seeds, spec['members']):
    label = '+'.join(map(str, seeds))
    if _done(results, spec['name'], label):
      continue
    members = [m for s in seeds for m in load_members(config, method, s, workdir)]
    named = method._replace(name=spec['name'])
    results.append(test_row(config, named, label, members, predict, source, workdir))


if __name__ == '__main__':
  app.run(_commands.guarded(main), flags_parser=_commands.parse_flags)

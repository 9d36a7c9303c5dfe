r"""Trains dense and sparse networks on images, side by side, and writes a report.

    python -m experiments.classify                       # the digits, under 2 minutes
    python -m experiments.classify --config=experiments/configs/cifar10_resnet.py \
        --config.seeds='(0,)' --config.only=dense,rigl --workdir=runs/cifar
    python -m experiments.classify --config.optimizer.name=adam \
        --config.optimizer.kwargs='{}' --config.learning_rate.kwargs.init_value=1e-3

Every method is trained with every seed, with equal steps, batches and starting weights.
The run directory holds metrics.csv, results.csv, TensorBoard events, checkpoints, plots,
report.md and report.html. Kill it whenever you like; the same --workdir goes on where it was.
"""

from collections.abc import Callable
import contextlib
import copy
import json
import pathlib
import sys
from typing import Any, NamedTuple

from absl import app, flags, logging
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import (
  _commands,
  _criteria,
  _execution,
  _measure,
  _processes,
  _records,
  _report,
  _schedules,
  _settings,
  _traces,
  _watch,
  datasets,
  models,
)
import jaxsparse as js

_HERE = pathlib.Path(__file__).resolve().parent
_CONFIG = _commands.define_config(
  _HERE / 'configs' / 'digits.py',
  'Config file; --config.key=value changes one value; configs/_defaults.py has the keys.',
)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Run directory; default runs/<name>-<time>. Goes on if it exists.'
)
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, "Where TFDS data sets lie; default $TFDS_DATA_DIR or TFDS's own."
)


class Method(NamedTuple):
  """One method of the config, compiled once for all seeds."""

  name: str
  spec: dict
  model: models.Model
  init: Callable[[Any], js.training.TrainState]  # seed -> masked state
  step_fn: Callable[..., Any]
  evaluate: Callable[..., tuple[float, float]]
  sparse: bool
  execution: _execution.Execution


class Source(NamedTuple):
  """The data set on the devices, and how a step takes a batch from it."""

  data: datasets.Data
  train: Any
  validation: Any
  test: Any
  num_steps: int


def main(argv):
  if len(argv) > 1:
    raise ValueError(f'arguments that no flag takes: {argv[1:]}')
  config = _settings.check(_CONFIG.value)
  logging.set_verbosity(logging.FATAL)  # Orbax logs what is raised here anyway.

  chosen = list(filter(None, config.only.split(',')))
  specs = [s for s in config.methods if not chosen or s['name'] in chosen]
  workdir = _records.run_directory(_WORKDIR.value, config.name)
  if _records.is_read_only(workdir):
    return print(_report.reprint(workdir, config, specs))
  data = datasets.load(
    config.dataset, _DATA_DIR.value, config.validation, config.data_seed
  )
  num_steps = _settings.num_steps(config, len(data.train[1]))
  splits = data.train, data.validation, data.test
  source = Source(data, *map(_on_devices, splits), num_steps)
  methods = [build_method(config, spec, source) for spec in specs]
  lock = _records.claim(workdir, config)
  leaves = _measure.prunable_names(methods[0])
  metrics = _records.Table(workdir / 'metrics.csv', _report.metric_columns(leaves))
  results = _records.Table(workdir / 'results.csv', _report.RESULT_COLUMNS)
  print(f'{len(data.train[1]):,} training images, {num_steps:,} steps; {workdir}/')
  print(_report.leaf_choices(methods, config.batch_size))

  done = {(row['method'], int(row['seed'])) for row in results.rows}
  missing = [(m, s) for m in methods for s in config.seeds if (m.name, s) not in done]
  for method, seed in missing:
    finished = train(config, method, seed, source, workdir, metrics, results)
    if not finished:
      print(f'Stopped and saved. To go on: the same command, --workdir={workdir}')
      sys.exit(143)  # What a shell reports of a process that SIGTERM ended.

  timing = workdir / 'timing.json'
  if missing or not timing.exists():
    batches = lambda step: datasets.batch_indices(
      len(data.train[1]), config.batch_size, step, 0
    )
    timed = methods + twins(config, methods, source)
    times = _measure.step_times(config, timed, batches, source.train)
    if _processes.is_first():
      timing.write_text(json.dumps(times, indent=2))
  if _processes.is_first():
    times = json.loads(timing.read_text())
    print(_report.write(workdir, _settings.plain(config), times))
  lock.close()


def _on_devices(split):
  images, labels = split
  return js.training.replicate({'images': images, 'labels': labels.astype(np.int32)})


def build_method(config, spec, source: Source) -> Method:
  """The model, the initial state and the compiled step of one method."""
  sample = jnp.zeros((1, *source.data.image_shape))
  model = _settings.model(
    _execution.of_model(config, spec), spec, source.data.num_classes, sample
  )

  def make_tx(seed, probe=None):
    rate = _schedules.learning_rate(config.learning_rate, source.num_steps)
    inner = _settings.optimizer(config, source.num_steps, rate)
    return _settings.transform(spec, inner, seed, source.num_steps, probe, rate)

  def prepare(indices, train_split, key):
    images = train_split['images'][indices]
    images = datasets.augment(key, images, **config.augment)
    images = datasets.normalize(images, source.data.mean, source.data.std)
    return {'images': images, 'labels': train_split['labels'][indices]}

  def loss_fn(params, model_state, batch, key, state=None):
    if state is not None:
      params = _execution.joined(params, state.opt_state)
    logits, model_state = model.apply(
      params, model_state, batch['images'], train=True, key=key
    )
    targets = jax.nn.one_hot(batch['labels'], logits.shape[-1])
    targets = optax.smooth_labels(targets, config.label_smoothing)
    loss = jnp.mean(optax.softmax_cross_entropy(logits, targets))
    accuracy = jnp.mean(jnp.argmax(logits, -1) == batch['labels'])
    return loss, (model_state, {'accuracy': accuracy})

  def make_probe(key, model_state, train_split):
    examples = jax.random.choice(
      key, train_split['labels'].size, (config.batch_size,), replace=False
    )
    return _criteria.Probe(
      loss=lambda p, batch: loss_fn(p, model_state, batch, key)[0],
      apply_fn=lambda p, x: model.apply(p, model_state, x, train=False)[0],
      batch=prepare(examples, train_split, key),
    )

  # The seed is data, so one compilation serves all seeds. Starting weights depend on
  # it alone: methods with the same model start from the same weights.
  @jax.jit
  def init(seed, train_split):
    model_key, mask_key, train_key = jax.random.split(jax.random.key(seed), 3)
    params, model_state = model.init(model_key, sample)
    probe = None
    if _criteria.takes_probe(spec):
      probe = make_probe(jax.random.fold_in(mask_key, 1), model_state, train_split)
    return js.training.init_state(
      make_tx(mask_key, probe), params, model_state, seed=train_key,
      rescale=config.rescale,
    )  # fmt: skip

  # The state carries the mask's key, so the seed given there is never used to draw.
  init_seed = lambda seed: init(seed, source.train)
  execution = _execution.Execution(config, spec, source.num_steps, make_tx, init_seed)
  return Method(
    spec['name'], spec, model, init_seed, execution.step(loss_fn, prepare),
    evaluate=_measure.evaluator(model, source.data),
    sparse=spec['transform'] not in _settings.BASELINES, execution=execution,
  )  # fmt: skip


def twins(config, methods, source: Source) -> list[Method]:
  """What runs with masks and could run on its nonzeros, so that both are timed."""
  if config.execution == 'compact':
    return []
  compact = copy.copy(config)
  compact.execution = 'compact'
  built = []
  for method in (m for m in methods if m.execution.could_start_compact()):
    spec = {**method.spec, 'name': f'{method.name}, compact'}
    # What cannot be converted, an optimizer that is not elementwise, has no twin.
    with contextlib.suppress(ValueError):
      built.append(build_method(compact, spec, source))
  return built


def train(config, method, seed, source, workdir, metrics, results) -> bool:
  """Trains one method with one seed; False when a signal ended it early."""
  per_call = config.steps_per_call
  eval_every = _settings.rounded(config.eval_every, per_call)
  num_train = len(source.data.train[1])
  label = f'{method.name}-{seed}'
  target = _settings.final_sparsity(method.spec)
  state = method.execution.held(method.init(seed))
  watch = _watch.Watch(method.name, seed, source.num_steps, workdir, metrics)
  seen = ''

  def batches(step):
    return datasets.batch_indices(num_train, config.batch_size, step, seed)

  def on_steps(state, values):
    nonlocal seen
    step = int(state.step)
    loss, accuracy = (float(np.mean(values[k])) for k in ('loss', 'accuracy'))
    watch.advance(step, f'loss {loss:.3f}, acc {accuracy:.1%}{seen}')
    if step % eval_every and step != source.num_steps:
      return None
    row = evaluate_row(method, state, source)
    row.update(train_loss=loss, train_accuracy=accuracy)
    watch.record(row, step, _report.progress)
    seen = f', val acc {row["val_accuracy"]:.1%}, sparsity {row["sparsity"]:.1%}'
    # A network that is not sparse yet is no candidate.
    return row['val_accuracy'] if row['sparsity'] > target - 5e-3 else None

  save_every = config.checkpoint_every if config.select == 'final' else eval_every
  with js.checkpoint.open_dir(
    workdir / 'checkpoints' / label,
    keep=config.keep,
    best='max' if config.select == 'best' else None,
    config=_report.identity(_settings.plain(config), method.name, seed),
  ) as directory:
    checkpoints = method.execution.checkpoints(directory)
    run = js.training.run(
      method.step_fn, state, batches, source.num_steps, data=source.train,
      steps_per_call=per_call if per_call > 1 else None, checkpoints=checkpoints,
      save_every=_settings.rounded(save_every, per_call),
      on_start=lambda state: watch.start(int(state.step)), on_steps=on_steps,
    )  # fmt: skip
    watch.close()
    if run.finished:
      row, trace = test(config, method, seed, source, run.state, checkpoints)
      _traces.write(workdir, trace._replace(seconds=watch.span.seconds()))
      results.append(row)
  return not run.stopped


def evaluate_row(method: Method, state, source: Source) -> dict:
  """Validation loss and accuracy, sparsity and densities of a state."""
  state = method.execution.dense(state)
  row = _measure.sparsity_row(method, state)
  row['val_loss'], row['val_accuracy'] = method.evaluate(state, source.validation)
  return row


def test(config, method, seed, source, state, checkpoints):
  """The one look at the test set: a row of results, and what the masks did."""
  if config.select == 'best' and checkpoints.best_step() is not None:
    state = checkpoints.restore(state, step=checkpoints.best_step()).state
  # A state of the last step, read again, has its masks.
  row, held = evaluate_row(method, state, source), method.execution.held(state)
  state = method.execution.dense(state)
  loss, accuracy = method.evaluate(state, source.test)
  stats = js.summary.stats(state.params, state.opt_state if method.sparse else None)
  image = jnp.zeros((1, *source.data.image_shape))
  apply_fn = lambda p, x: method.model.apply(p, state.model_state, x, train=False)[0]
  masks = js.get_masks(state.opt_state) if method.sparse else None
  flops = js.summary.flops(apply_fn, state.params, image, masks=masks)
  trace = _traces.of_states(method.name, seed, method.init(seed), state, held)._replace(
    steps=source.num_steps, examples=config.batch_size, flops=_traces.flops_of(flops)
  )
  tested = dict(
    method=method.name, seed=seed, step=int(state.step),
    target_sparsity=_settings.final_sparsity(method.spec),
    val_accuracy=row['val_accuracy'], test_accuracy=accuracy, test_loss=loss,
    nominal_sparsity=stats.nominal_sparsity, whole_sparsity=stats.whole_model_sparsity,
    weights=stats.num_weights, kept=stats.num_kept,
    execution=method.execution.name, **_measure.held_bytes(held),
    dense_flops=int(flops.dense), sparse_flops=int(flops.sparse),
  )  # fmt: skip
  return tested, trace


if __name__ == '__main__':
  app.run(_commands.guarded(main), flags_parser=_commands.parse_flags)

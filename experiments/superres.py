r"""Trains dense and sparse networks to enlarge images, side by side; writes a report.

    python -m experiments.superres                       # two photographs, no download
    python -m experiments.superres --config=experiments/configs/superres_bsd_edsr.py \
        --data_dir=DIR --config.only=dense,one_shot_95,iss_p_95 --workdir=runs/bsd
    python -m experiments.superres --config.train='("/my/photos",)' \
        --config.tests.mine=/my/other/photos --config.num_steps=20000

Every method is trained with every seed, with equal steps, patches and starting weights.
The run directory holds metrics.csv, results.csv, TensorBoard events, checkpoints, crops,
plots, report.md and report.html. Kill it whenever you like; the same --workdir goes on where it was.
"""

from collections.abc import Callable
import json
import pathlib
import sys
from typing import Any, NamedTuple

from absl import app, flags, logging
import jax
import jax.numpy as jnp
import numpy as np

from experiments import (
  _commands,
  _execution,
  _measure,
  _processes,
  _records,
  _report,
  _settings,
  _superres_evaluation,
  _superres_report,
  _superres_settings,
  _traces,
  _watch,
  datasets,
  models,
)
import jaxsparse as js

_HERE = pathlib.Path(__file__).resolve().parent
_CONFIG = _commands.define_config(
  _HERE / 'configs' / 'superres_sample.py',
  'Config file; --config.key=value changes one value; configs/_superres_defaults.py has'
  ' the keys.',
)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Run directory; default runs/<name>-<time>. Goes on if it exists.'
)
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'Where the folders of images lie.')


class Method(NamedTuple):
  """One method of the config, compiled once for all seeds."""

  name: str
  spec: dict
  model: models.Model  # With dense arrays.
  init: Callable[[Any], js.training.TrainState]  # seed -> masked state
  step_fn: Callable[..., Any]
  enlarge: Callable[..., Any]  # (params, model_state, low) -> high, of the model
  masked_tx: Any
  sparse: bool
  execution: _execution.Execution


class Source(NamedTuple):
  """The photographs of a run."""

  train: datasets.Photographs
  validation: datasets.Photographs
  tests: dict[str, datasets.Photographs]


def main(argv):
  if len(argv) > 1:
    raise ValueError(f'arguments that no flag takes: {argv[1:]}')
  config = _superres_settings.check(_CONFIG.value)
  # Orbax logs three traces per failed write, whose error is raised here anyway.
  logging.set_verbosity(logging.FATAL)

  chosen = list(filter(None, config.only.split(',')))
  specs = [s for s in config.methods if not chosen or s['name'] in chosen]
  workdir = _records.run_directory(_WORKDIR.value, config.name)
  source = Source(*_superres_settings.load(config, _DATA_DIR.value))
  methods = [build_method(config, spec) for spec in specs]
  lock = _records.claim(workdir, config)
  leaves = _measure.prunable_names(methods[0])
  metrics = _records.Table(
    workdir / 'metrics.csv', _superres_report.metric_columns(config, leaves)
  )
  results = _records.Table(
    workdir / 'results.csv', _superres_report.result_columns(config)
  )
  print(f'{_count(len(source.train.names))}, {config.num_steps:,} steps; {workdir}/')
  print(_report.leaf_choices(methods, config.batch_size))
  if not results.rows:
    results.append(bicubic_row(config, source, workdir))

  done = {(row['method'], int(row['seed'])) for row in results.rows}
  missing = [(m, s) for m in methods for s in config.seeds if (m.name, s) not in done]
  for method, seed in missing:
    if not train(config, method, seed, source, workdir, metrics, results):
      print(f'Stopped and saved. To go on: the same command, --workdir={workdir}')
      sys.exit(143)  # What a shell reports of a process that SIGTERM ended.

  times = _superres_report.read_times(workdir)
  if any(m.name not in times for m in methods):
    batches = lambda step: batch_of(config, source, step, 0)
    times.update(_measure.step_times(config, methods, batches))
    if _processes.is_first():
      (workdir / 'timing.json').write_text(json.dumps(times, indent=2))
  if _processes.is_first():
    print(_superres_report.write(workdir, config, source.tests, times))
  lock.close()


def _count(images: int) -> str:
  return f'{images:,} training image{"s" if images != 1 else ""}'


def batch_of(config, source: Source, step: int, seed: int):
  """The patches of a step, a pure function of it."""
  return datasets.patches(
    source.train, config.batch_size, config.patch, step, seed, augment=config.mirror
  )


def build_method(config, spec) -> Method:
  """The model, the initial state and the compiled step of one method."""
  handler = getattr(_execution.of_model(config, spec), 'handler', None)
  model = _superres_settings.model(config, spec)
  trained = _superres_settings.model(config, spec, handler) if handler else model
  make_tx = lambda seed: _superres_settings.make_tx(config, spec, seed)
  shape = (1, config.patch, config.patch, _superres_settings.num_channels(config))

  def prepare(batch, data, key):
    del data, key
    return {k: _superres_settings.seen(config, images) for k, images in batch.items()}

  def loss_fn(params, model_state, batch, key, state):
    params = _execution.joined(params, state.opt_state)
    images, model_state = trained.apply(
      params, model_state, batch['low'], train=True, key=key
    )
    error = images - batch['high']
    loss = jnp.mean(jnp.abs(error) if config.loss == 'l1' else error**2)
    return loss, (model_state, {})

  # The seed is data, so one compilation serves all seeds. Starting weights depend on
  # it alone: methods with the same model start from the same weights.
  @jax.jit
  def init(seed):
    model_key, mask_key, train_key = jax.random.split(jax.random.key(seed), 3)
    params, model_state = model.init(model_key, jnp.zeros(shape))
    return js.training.init_state(
      make_tx(mask_key), params, model_state, seed=train_key
    )

  # The state carries the mask's key, so the seed given there is never used to draw.
  execution = _execution.Execution(config, spec, config.num_steps, make_tx, init)
  return Method(
    spec['name'], spec, model, init, execution.step(loss_fn, prepare),
    enlarge=_superres_evaluation.enlarger(config, model), masked_tx=make_tx(0),
    sparse=spec['transform'] not in _settings.BASELINES,
    execution=execution,
  )  # fmt: skip


def train(config, method, seed, source, workdir, metrics, results) -> bool:
  """Trains one method with one seed; False when a signal ended it early."""
  label = f'{method.name}-{seed}'
  # How many steps are a call moves no number, so that a checkpoint is good for any, except
  # where the form of the state changes between two calls.
  calls = config.steps_per_call if method.execution.changes else 1
  identity = _report.identity(
    {**_settings.plain(config), 'steps_per_call': calls}, method.name, seed
  )
  state = method.execution.held(method.init(seed))
  watch = _watch.Watch(method.name, seed, config.num_steps, workdir, metrics)
  support = None

  def on_steps(state, values):
    nonlocal support
    step, loss = int(state.step), float(np.mean(values['loss']))
    watch.advance(step, f'loss {loss:.4f}')
    if step % config.eval_every and step != config.num_steps:
      return
    row = evaluate_row(config, method, state, source, support)
    masked = method.execution.dense(state).opt_state
    support = jax.device_get(js.summary.support(masked))
    row['train_loss'] = loss
    watch.record(row, step, lambda r: _superres_report.progress(r, config.scale))

  with js.checkpoint.open_dir(
    workdir / 'checkpoints' / label,
    keep=config.keep,
    config=identity,
  ) as directory:
    run = js.training.run(
      method.step_fn, state, lambda step: batch_of(config, source, step, seed),
      config.num_steps, checkpoints=method.execution.checkpoints(directory),
      save_every=config.checkpoint_every,
      steps_per_call=config.steps_per_call if config.steps_per_call > 1 else None,
      on_start=lambda state: watch.start(int(state.step)), on_steps=on_steps,
    )  # fmt: skip
    watch.close()
  if run.finished:
    row, trace = test(config, method, seed, source, run.state, workdir)
    _traces.write(workdir, trace._replace(seconds=watch.span.seconds()))
    results.append(row)
  return not run.stopped


def evaluate_row(config, method: Method, state, source: Source, support) -> dict:
  """Validation, sparsity, and for soft shrinkage the ceiling and the thresholds."""
  state = method.execution.dense(state)
  rate = float(_superres_settings.learning_rate(config)(int(state.step) - 1))
  row = {'learning_rate': rate, **_measure.sparsity_row(method, state)}
  if js.summary.support(state.opt_state) is not None:
    alpha = method.spec['kwargs'].get('alpha', 0.95)
    is_iss_p = method.spec['transform'] == 'iss_p'
    found = js.summary.shrinkage(
      state.params, state.opt_state, alpha=alpha, learning_rate=rate, previous=support
    )
    row.update({f'threshold/{n}': s.threshold for n, s in found.items()})
    row.update({f'changed/{n}': s.changed for n, s in found.items()})
    # The ceiling is that of a multiplication; a penalty has another one.
    row['ceiling'] = next(iter(found.values())).ceiling if is_iss_p else ''
  if source.validation.names:
    border, enlarge = config.scale, bound(method, state)
    scores = _superres_evaluation.mean_scores(enlarge, source.validation, border)
    row[f'val_psnr_y_border{border}'] = scores[f'psnr_y_border{border}']
  return row


def bound(method: Method, state):
  """`low -> high` with the weights of a state that has its masks."""
  return lambda low: method.enlarge(state.params, state.model_state, low)


def test(config, method, seed, source, state, workdir):
  """The one look at the test sets: a row of results, and what the masks did."""
  # A state of the last step, read again, has its masks.
  held, state = method.execution.held(state), method.execution.dense(state)
  enlarge = bound(method, state)
  scores = _superres_evaluation.test_scores(config, enlarge, source.tests)
  label = f'{method.name}-{seed}'
  _superres_evaluation.save_crops(
    config, enlarge, source.tests, workdir / 'crops', label
  )
  stats = js.summary.stats(state.params, state.opt_state if method.sparse else None)
  shape = (1, config.patch, config.patch, _superres_settings.num_channels(config))
  apply_fn = lambda p, x: method.model.apply(p, state.model_state, x, train=False)[0]
  masks = js.get_masks(state.opt_state) if method.sparse else None
  flops = js.summary.flops(apply_fn, state.params, jnp.zeros(shape), masks=masks)
  first = next(iter(source.tests.values())).low[0]
  trace = _traces.of_states(method.name, seed, method.init(seed), state, held)._replace(
    steps=config.num_steps, examples=config.batch_size, flops=_traces.flops_of(flops)
  )
  tested = dict(
    method=method.name, seed=seed, step=int(state.step),
    target_sparsity=_settings.final_sparsity(method.spec),
    execution=method.execution.name, weights=stats.num_weights, kept=stats.num_kept,
    nominal_sparsity=stats.nominal_sparsity, whole_sparsity=stats.whole_model_sparsity,
    dense_flops=int(flops.dense), sparse_flops=int(flops.sparse),
    state_bytes=_measure.held_bytes(held)['state_bytes'], **scores,
    **_superres_evaluation.realised(config, method, state, first),
  )  # fmt: skip
  return tested, trace


def bicubic_row(config, source: Source, workdir) -> dict:
  """The scores and crops of the baseline without weights."""
  enlarge = lambda low: _superres_evaluation.bicubic(config, low)
  _superres_evaluation.save_crops(
    config, enlarge, source.tests, workdir / 'crops', 'bicubic-0'
  )
  scores = _superres_evaluation.test_scores(config, enlarge, source.tests)
  return dict(
    method='bicubic', seed=0, step=0, target_sparsity=0.0, execution='-', **scores
  )


if __name__ == '__main__':
  app.run(_commands.guarded(main), flags_parser=_commands.parse_flags)

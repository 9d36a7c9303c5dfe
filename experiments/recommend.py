r"""Trains recommenders, dense and sparse, side by side, and writes a report.

    python -m experiments.recommend                      # a synthetic set, no data needed
    python -m experiments.recommend --data_dir=DIR --workdir=runs/ml-100k \
        --config=experiments/configs/ml_100k.py:MF,0.2 --config.only=dense,dsl_20

Every method is trained with every seed, on the same splits and batches. Unseen items are
ranked among all items; the weights are chosen on validation, and the test items are looked
at once. The run directory holds metrics.csv, results.csv, checkpoints, plots,
report.md and report.html. Kill it whenever you like; the same --workdir goes on where it
was.
"""

import functools
import json
import pathlib
import sys
import time

from absl import app, flags, logging
import jax
import numpy as np
import tqdm

from experiments import (
  _clock,
  _commands,
  _measure,
  _processes,
  _recommend_method,
  _recommend_report,
  _recommend_sparsity,
  _records,
  _report,
  _settings,
  _traces,
  datasets,
)
import jaxsparse as js

_HERE = pathlib.Path(__file__).resolve().parent
_CONFIG = _commands.define_config(
  _HERE / 'configs' / 'synthetic_low_rank.py',
  'Config file; configs/_recommend_defaults.py has the keys.',
)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Run directory; default runs/<name>-<time>. Goes on if it exists.'
)
_DATA_DIR = flags.DEFINE_string(
  'data_dir',
  None,
  'Where rating files lie, for example DIR of DIR/ml-100k/ml-100k.inter.',
)
_DENSE = dict(name='dense', transform='dense')


def main(argv):
  if len(argv) > 1:
    raise ValueError(f'arguments that no flag takes: {argv[1:]}')
  config = _recommend_method.check(_CONFIG.value)
  logging.set_verbosity(logging.FATAL)  # Orbax logs what is raised here anyway.
  chosen = list(filter(None, config.only.split(',')))
  specs = [s for s in config.methods if not chosen or s['name'] in chosen]
  workdir = _records.run_directory(_WORKDIR.value, config.name)
  ratings = datasets.load_ratings(config.dataset, _DATA_DIR.value)
  source_of = functools.cache(
    lambda seed: _recommend_method.load(config, ratings, seed)
  )
  first = source_of(config.seeds[0])
  lock = _records.claim(workdir, config)
  metrics = _records.Table(
    workdir / 'metrics.csv',
    _recommend_report.metric_columns(config.ks, density_columns(config, first)),
  )
  results = _records.Table(
    workdir / 'results.csv', _recommend_report.result_columns(config.ks)
  )
  print(_recommend_report.about(ratings, first, workdir))
  done = {(row['method'], int(row['seed'])) for row in results.rows}
  times = _recommend_report.read_times(workdir)
  for spec in specs:
    method = None
    for seed in (s for s in config.seeds if (spec['name'], s) not in done):
      source = source_of(seed)
      if method is None or _recommend_sparsity.looks_at_data(spec):
        method = _recommend_method.build(config, spec, source)
      if not train(config, method, seed, source, workdir, metrics, results):
        print(f'Stopped and saved. To go on: the same command, --workdir={workdir}')
        sys.exit(143)  # What a shell reports of a process that SIGTERM ended.
    if spec['name'] not in times:
      method = method or _recommend_method.build(config, spec, first)
      times[spec['name']] = step_time(config, method, first)
      if _processes.is_first():
        (workdir / 'timing.json').write_text(json.dumps(times, indent=2))
  if _processes.is_first():
    print(_recommend_report.write(workdir, _settings.plain(config), times))
  lock.close()


def density_columns(config, source) -> list[str]:
  """The columns of the densities of all leaves that some method may prune."""
  method = _recommend_method.build(config, _DENSE, source)
  may = lambda leaf: js.kernels(leaf) or js.transforms.is_table(leaf)
  init = functools.partial(method.init, 0, source.train)
  return _traces.density_columns(init, may)


def train(config, method, seed, source, workdir, metrics, results) -> bool:
  """Trains one method with one seed; False when a signal ended it early."""
  per_call = config.steps_per_call
  eval_every = _settings.rounded(config.eval_every, per_call)
  label = f'{method.name}-{seed}'
  target = _settings.final_sparsity(method.spec)
  bar, span = None, _clock.Span(source.num_steps)

  def on_start(state):
    nonlocal bar
    before = int(state.step)
    span.start(before)
    # Rows of steps that the checkpoint does not know are about to be made again.
    metrics.rewind(method.name, seed, before)
    bar = tqdm.tqdm(
      total=source.num_steps, initial=before, desc=f'{label:>24}', unit='step',
      disable=not sys.stderr.isatty(), mininterval=0.2,
    )  # fmt: skip

  def on_steps(state, values):
    step = int(state.step)
    bar.update(step - bar.n)
    if step % eval_every and step != source.num_steps:
      return None
    found = method.evaluate(state.params, source.train, source.validation)
    density = _recommend_method.density_of(method, state)
    row = {f'val_{k}': v for k, v in found.items()}
    row.update(
      method=method.name, seed=seed, step=step, density=density,
      train_loss=float(np.mean(values['loss'])), **_traces.density_row(state),
    )  # fmt: skip
    metrics.append(row)
    if bar.disable:
      text = _recommend_report.progress(row, config)
      print(f'{label:>24} step {step:>6}  {text}', flush=True)
    # A table that is not sparse yet is no candidate; a random budget is not exact.
    return found[config.select_by] if density < 1.05 * (1 - target) + 5e-3 else None

  with js.checkpoint.open_dir(
    workdir / 'checkpoints' / label, keep=config.keep, best='max',
    config=_report.identity(_settings.plain(config), method.name, seed),
  ) as checkpoints:  # fmt: skip
    run = js.training.run(
      method.step_fn, method.init(seed, source.train),
      _recommend_method.batches(config, source, seed), source.num_steps,
      data=source.train, steps_per_call=per_call if per_call > 1 else None,
      checkpoints=checkpoints, save_every=eval_every, on_start=on_start,
      on_steps=on_steps,
    )  # fmt: skip
    bar.close()
    if run.finished:
      seconds = span.seconds()
      row, trace = test(config, method, seed, source, run.state, checkpoints)
      _traces.write(workdir, trace._replace(seconds=seconds))
      results.append({**row, 'seconds': '' if seconds is None else seconds})
      print(f'{label:>24} tested  {_recommend_report.tested(row, config)}', flush=True)
  return not run.stopped


def test(config, method, seed, source, state, checkpoints):
  """The one look at the test items: a row of results, and what the masks did."""
  if checkpoints.best_step() is not None:
    state = checkpoints.restore(state, step=checkpoints.best_step()).state
  chosen = method.evaluate(state.params, source.train, source.validation)
  shipped = _recommend_method.stored(method, state.params, state.opt_state)
  # No FLOPs: tables are looked up, and two of them multiplied.
  trace = _traces.of_states(
    method.name, seed, method.init(seed, source.train), state, state
  )._replace(steps=source.num_steps, examples=config.batch_size)
  tested = dict(
    _recommend_method.evaluate_shipped(config, method, state.params, shipped, source),
    method=method.name, seed=seed, step=int(state.step), split=source.split.digest,
    target_sparsity=_settings.final_sparsity(method.spec),
    chosen_by=chosen[config.select_by],
    density=_recommend_method.density_of(method, state),
    propagated_density=_recommend_method.propagated_density(method, state.params, source),
    **_recommend_method.sizes(shipped), **_measure.held_bytes(state),
  )  # fmt: skip
  return tested, trace


def step_time(config, method, source) -> float:
  """Median seconds per training step, compiled before."""
  per_call, state = config.steps_per_call, method.init(0, source.train)
  state = js.training.replicate(state)
  batch_of = _recommend_method.batches(config, source, 0)
  parts = [batch_of(step) for step in range(per_call)]
  batch = jax.tree.map(lambda *xs: np.stack(xs), *parts) if per_call > 1 else parts[0]
  seconds = []
  for _ in range(config.timing_rounds + 1):
    start = time.perf_counter()
    state, _ = jax.block_until_ready(method.step_fn(state, batch, source.train))
    seconds.append((time.perf_counter() - start) / per_call)
  # The first call may compile.
  return float(np.median(seconds[1:]))


if __name__ == '__main__':
  app.run(_commands.guarded(main), flags_parser=_commands.parse_flags)

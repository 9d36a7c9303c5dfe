r"""Runs an experiment over configs, settings and seeds, and makes one table of it.

    python -m experiments.sweep experiments/classify.py --workdir=runs/rates \
        --config experiments/configs/digits.py --seeds 0 1 2 \
        --set config.learning_rate.kwargs.init_value 0.02 0.05 --set config.batch_size 32 64 \
        -- --config.only=dense,rigl
    python -m experiments.sweep ... --executor=slurm --jobs=32 --gpus=1 --minutes=240 \
        --slurm partition=gpu

Every combination is a run of its own, in a directory of its own below `--workdir`; what
stands after `--` goes to all of them. With `--seeds` each seed is a run, otherwise a run has
the seeds of its config (as an ensemble of seeds needs them). At most `--jobs` run at once.

The same command again goes on: finished runs are left alone, those that failed or were
stopped are started again and go on from their checkpoints. Ctrl-C saves and ends those that
run here; jobs on SLURM go on. In the end results.csv and table.md hold all finished runs.
"""

import argparse
import csv
import hashlib
import itertools
import pathlib
import sys
import time

import submitit

from experiments import _sweep_run, tables

_POLL = 0.5


def main(argv=None) -> int:
  """Returns the exit status: 1 where a run failed, or nothing could be begun."""
  args, common = _parse(sys.argv[1:] if argv is None else argv)
  try:
    return _sweep(args, common)
  except (OSError, RuntimeError, ValueError) as error:
    print(f'sweep: {error}', file=sys.stderr)
    return 1


def _sweep(args, common) -> int:
  runs = grid(args, common)
  if args.dry_run:
    print(*(' '.join(run.command) for run in runs), sep='\n')
    return 0
  args.workdir.mkdir(parents=True, exist_ok=True)
  missing = [run for run in runs if not run.finished()]
  print(
    f'{len(runs)} runs, {len(runs) - len(missing)} finished, at most {args.jobs} at once;'
    f' {args.workdir}/',
    flush=True,
  )
  failed = {}
  try:
    failed = _complete(missing, args)
  except KeyboardInterrupt:
    _stop(runs, args)
    return 143
  text = write_table(args.workdir, runs)
  if text:
    print(f'\n{text}\n\n{args.workdir}/table.md')
  for name, why in failed.items():
    print(f'failed: {args.workdir / name}: {why}', file=sys.stderr)
  if failed:
    print(f'{len(failed)} failed; the same command tries again.', file=sys.stderr)
  return 1 if failed else 0


def _parse(argv):
  own, common = list(argv), []
  if '--' in own:
    cut = own.index('--')
    own, common = own[:cut], own[cut + 1 :]
  parser = argparse.ArgumentParser(
    prog='sweep', description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  add = parser.add_argument
  add('script', type=pathlib.Path, help='experiments/classify.py or another')
  add('--workdir', type=pathlib.Path, required=True, help='the directory of the sweep')
  add('--config', nargs='+', default=[], metavar='FILE', help='config files')
  add('--seeds', nargs='+', type=int, default=[None], help='a run for each of them')
  add('--set', nargs='+', action='append', default=[], metavar=('KEY', 'VALUE'),
      help='a key of the config and its values; may be given several times')  # fmt: skip
  add('--jobs', type=int, default=1, help='how many run at once; default 1')
  add('--executor', choices=('local', 'slurm'), default='local')
  add('--minutes', type=int, default=7 * 24 * 60, help='of a run, at most')
  add(
    '--gpus',
    type=int,
    default=0,
    help='of a run; runs on this machine share the first ones',
  )
  add('--cpus', type=int, default=None, help='of a run, on SLURM')
  add('--slurm', nargs='+', default=[], metavar='KEY=VALUE', help='for submitit')
  add('--dry_run', action='store_true', help='print the commands, and run none')
  args = parser.parse_args(own)
  try:
    return _checked(args), common
  except ValueError as error:
    parser.error(str(error))


def _checked(args):
  if args.jobs < 1 or args.minutes < 1:
    raise ValueError('--jobs, --minutes: wanted at least 1.')
  for path in [args.script, *(pathlib.Path(c.partition(':')[0]) for c in args.config)]:
    if not path.is_file():
      raise ValueError(f'{path}: there is no such file.')
  keys = [key for key, *_ in args.set]
  for key, *values in args.set:
    if not values:
      raise ValueError(f'--set {key}: wanted a value or more.')
    if not key.startswith('config.') or keys.count(key) > 1:
      raise ValueError(f'--set {key}: wanted config.KEY, each of them once.')
    if len(set(values)) < len(values):
      raise ValueError(f'--set {key}: got {values}, a value twice.')
  for pair in args.slurm:
    if '=' not in pair:
      raise ValueError(f'--slurm {pair}: wanted KEY=VALUE.')
  args.workdir = args.workdir.absolute()
  return args


def grid(args, common) -> list[_sweep_run.Run]:
  """Every combination of configs, values and seeds."""
  axes = [[(key, value) for value in values] for key, *values in args.set]
  runs = []
  for config, *settings, seed in itertools.product(
    args.config or [None], *axes, args.seeds
  ):
    flags = [] if config is None else [f'--config={config}']
    flags += [f'--{key}={value}' for key, value in settings]
    flags += [] if seed is None else [f'--config.seeds=({seed},)']
    words = [f'{key.rpartition(".")[2]}={value}' for key, value in settings]
    if config is not None and len(args.config) > 1:
      path, _, argument = config.partition(':')
      words.insert(0, pathlib.Path(path).stem + (f':{argument}' if argument else ''))
    runs.append(
      _sweep_run.Run(
        str(args.script),
        (*flags, *common),
        ' '.join(words),
        seed,
        args.workdir,
        _digest(config),
      )  # fmt: skip
    )
  return runs


def _digest(config: str | None) -> str:
  if config is None:
    return ''
  path = pathlib.Path(config.partition(':')[0])
  return hashlib.sha256(path.read_bytes()).hexdigest()


def _complete(runs, args) -> dict[str, str]:
  """Runs them; `{name: why}` of those that failed."""
  executor = submitit.AutoExecutor(args.workdir / 'jobs', cluster=args.executor)
  executor.update_parameters(
    timeout_min=args.minutes, gpus_per_node=args.gpus, cpus_per_task=args.cpus,
    name='sweep', slurm_array_parallelism=args.jobs,
    **{f'slurm_{k}': v for k, _, v in (pair.partition('=') for pair in args.slurm)},
  )  # fmt: skip
  waiting, jobs, failed, total = list(runs), {}, {}, len(runs)
  if args.executor == 'slurm':
    # The queue of the cluster keeps to the number at once.
    jobs, waiting = _queued(executor, waiting), []
  while waiting or jobs:
    _submit_some(executor, waiting, jobs, args.jobs)
    for run, job in list(jobs.items()):
      if job.done() if job else not run.under_way():
        del jobs[run]
        done = run.finished()
        if not done:
          failed[run.name] = _why(run, job)
        left = len(waiting) + len(jobs)
        how = 'finished' if done else 'FAILED'
        print(f'{how} {run.name} ({total - left} of {total})', flush=True)
    if jobs:
      time.sleep(_POLL)
  return failed


def _submit_some(executor, waiting, jobs, most: int) -> None:
  """Starts as many as there is room for; one that runs already is waited for."""
  for run in list(waiting):
    if run.under_way():
      waiting.remove(run)
      jobs[run] = None  # Of a sweep that was killed.
  while waiting and len(jobs) < most:
    run = waiting.pop(0)
    jobs[run] = executor.submit(run)
    print(f'started {run.name}', flush=True)


def _queued(executor, runs) -> dict:
  """A job for each run: that of an earlier command, if it is still in the queue."""
  jobs, new = {}, []
  for run in runs:
    note = run.directory / 'slurm_job'
    job = None
    if note.exists():
      job = submitit.SlurmJob(executor.folder, note.read_text().strip(), [0])
    if job is None or job.done(force_check=True):
      new.append(run)
    else:
      jobs[run] = job
  if not new:
    return jobs
  with executor.batch():
    pairs = [(run, executor.submit(run)) for run in new]
  for run, job in pairs:
    run.directory.mkdir(parents=True, exist_ok=True)
    (run.directory / 'slurm_job').write_text(job.job_id)
    print(f'queued {run.name} as {job.job_id}', flush=True)
  return {**jobs, **dict(pairs)}


def _why(run, job) -> str:
  error = None if job is None else job.exception()
  if error is None:
    return run.last_words()
  # submitit quotes the traceback of the job.
  lines = [
    line for line in str(error).splitlines() if line.startswith('RuntimeError: ')
  ]
  return lines[-1].removeprefix('RuntimeError: ') if lines else run.last_words()


def _stop(runs, args) -> None:
  if args.executor == 'slurm':
    return print('\nThe jobs go on; the same command waits for them again.')
  print('\nSaving and ending what runs ...', flush=True)
  for run in runs:
    run.stop()
  while any(run.under_way() for run in runs):
    time.sleep(_POLL)
  print('Stopped. To go on: the same command.')


def write_table(workdir: pathlib.Path, runs) -> str:
  """Writes results.csv and table.md of all finished runs; returns the table."""
  groups: dict[tuple[str, ...], list[dict]] = {}
  for run in (run for run in runs if run.finished()):
    path = run.directory / 'results.csv'
    if not path.exists():
      raise ValueError(f'{run.script}: it ended well, but has not written {path}.')
    with path.open(newline='') as file:
      for row in csv.DictReader(file):
        row['method'] = f'{run.variant} {row["method"]}'.strip()
        # What every run has, such as a baseline without seeds, counts once.
        rows = groups.setdefault(tuple(row), [])
        if row not in rows:
          rows.append(row)
  if not groups:
    return ''
  columns = list(dict.fromkeys(itertools.chain.from_iterable(groups)))
  with (workdir / 'results.csv').open('w', newline='') as file:
    writer = csv.DictWriter(file, columns, lineterminator='\n')
    writer.writeheader()
    writer.writerows(row for rows in groups.values() for row in rows)
  text = '\n\n'.join(map(tables.table, groups.values()))
  (workdir / 'table.md').write_text(text + '\n')
  return text


if __name__ == '__main__':
  sys.exit(main())

"""Times variants side by side: what the benchmarks of sparse products share."""

import argparse
import os
import statistics
import subprocess
import sys
import time

import jax

import jaxsparse as js

CALLS = 4
# Seconds that a variant computes before it is the turn of the next.
_TURN = 0.03


def parse(doc, seconds, sparse=True, check=True, **more):
  """The flags; pins the process to as many cores as it may use.

  With `sparse` there is one of sparsities, each of which gets a process of its own; with
  `check` one that makes a missed aim an error.
  """
  parser = argparse.ArgumentParser(description=doc.splitlines()[0])
  if sparse:
    parser.add_argument('--sparsities', default='80,90,95,99', help='percent')
  parser.add_argument('--seconds', type=float, default=seconds, help='per comparison')
  parser.add_argument('--threads', type=int, default=1)
  parser.add_argument('--clock', choices=('wall', 'cpu'), default='wall')
  if check:
    parser.add_argument('--check', action='store_true')
  for name, default in more.items():
    parser.add_argument(f'--{name}', type=type(default), default=default)
  args = parser.parse_args()
  if sparse:
    args.sparsities = [int(percent) for percent in args.sparsities.split(',')]
    if len(args.sparsities) > 1:
      sys.exit(max(map(_alone, args.sparsities)))
  if hasattr(os, 'sched_setaffinity'):
    # Jax starts its threads at the first computation, one per core that it sees.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
  print(f'kernels: {js.native.instruction_set() or js.native.why_not()}')
  return args


def _alone(percent) -> int:
  """The same command for one sparsity; its exit code.

  In a process of its own: what others leave on the heap decides whether memory is mapped
  anew in every step, where the launcher does not forbid that.
  """
  command = [sys.executable, *sys.argv, f'--sparsities={percent}']
  return subprocess.run(command, check=False).returncode


def measure(rows, args, calls=CALLS):
  """`{name: sorted seconds per call}` of functions without arguments."""
  clock = time.perf_counter if args.clock == 'wall' else time.process_time
  for function in rows.values():
    jax.block_until_ready(function())
  times, end = {name: [] for name in rows}, time.monotonic() + args.seconds
  while time.monotonic() < end or len(next(iter(times.values()))) < 5:
    for name, function in rows.items():
      # The first call finds the caches as another variant left them, and short ones are
      # repeated until they have theirs: a step of a training follows its own kind.
      jax.block_until_ready(function())
      start, taken, count = clock(), 0.0, 0
      while count < calls or taken < _TURN:
        jax.block_until_ready(function())
        count, taken = count + 1, clock() - start
      times[name].append(taken / count)
  return {name: sorted(values) for name, values in times.items()}


def report(times, peer_of):
  """Prints the times and their ratios to the peers; `{name: ratio}`."""
  low = {name: values[len(values) // 10] for name, values in times.items()}
  ratios = {}
  for name, values in times.items():
    peer = peer_of(name)
    ratios[name] = low[peer] / low[name]
    median = statistics.median(times[peer]) / statistics.median(values)
    print(
      f'  {name:30s} {1e6 * low[name]:8.0f} us  {ratios[name]:6.2f}  ({median:.2f})'
    )
  return ratios


def missed(ratios, aims, percent):
  """What is below half of its aim, in words."""
  return [
    f'{name} at {percent} %: {ratio:.2f}'
    for name, ratio in ratios.items()
    if ratio < aims.get(name, {}).get(percent, 0) / 2
  ]


def exit_code(args, failures):
  """1 with `--check` where something was missed, and says what."""
  if args.check and failures:
    print('below half of the aim:', *failures, sep='\n  ')
  return int(args.check and bool(failures))

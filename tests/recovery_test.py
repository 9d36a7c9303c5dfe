"""A run that is killed, stopped or damaged ends in the bits of the undisturbed one."""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

from tests import recovery_driver

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_NUM_STEPS = 160


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
  """Compiled programs for all runs of this file."""
  return tmp_path_factory.mktemp('compiled')


def _start(directory, cache, seconds_per_step=0.0) -> subprocess.Popen:
  environment = {
    **os.environ,
    'JAX_PLATFORMS': 'cpu',
    'JAX_NUM_CPU_DEVICES': '2',
    'JAX_COMPILATION_CACHE_DIR': str(cache),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    # Each run compiles its step anew: quickly is better than well.
    'XLA_FLAGS': '--xla_backend_optimization_level=0'
    ' --xla_llvm_disable_expensive_passes=true',
    'PYTHONPATH': os.pathsep.join([str(_ROOT), os.environ.get('PYTHONPATH', '')]),
  }
  arguments = [recovery_driver.__file__, directory, _NUM_STEPS, seconds_per_step]
  return subprocess.Popen(
    [sys.executable, *map(str, arguments)],
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def _finish(directory, cache):
  """Runs to the end; returns the step it began from, its last line, its warnings."""
  process = _start(directory, cache)
  output, errors = process.communicate(timeout=120)
  assert process.returncode == 0, errors
  lines = output.split()
  return int(lines[1]), lines[-1], errors


def _steps(directory):
  if not directory.exists():
    return []
  return sorted(int(p.name) for p in directory.iterdir() if p.name.isdecimal())


def _signal_after(directory, cache, step, number, delay=0.0):
  """Starts a run and signals it some time after it has saved `step`."""
  process = _start(directory, cache, seconds_per_step=0.01)
  deadline = time.monotonic() + 90
  try:
    while max(_steps(directory), default=0) < step:
      assert process.poll() is None, process.communicate()
      assert time.monotonic() < deadline
      time.sleep(0.002)
    time.sleep(delay)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
  finally:
    process.kill()
  return process.returncode, output, errors


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory, cache):
  """The digest of the run that nobody disturbed."""
  directory = tmp_path_factory.mktemp('undisturbed') / 'checkpoints'
  start, digest, _ = _finish(directory, cache)
  assert start == 0 and len(digest) == 64
  assert _steps(directory)[-1] == _NUM_STEPS
  return digest


def test_kill_9_at_random_moments(tmp_path, cache, undisturbed):
  draw, directory = random.Random(0), tmp_path / 'checkpoints'
  reached, during_a_save = 0, 0
  for _ in range(4):
    code, _, errors = _signal_after(
      directory, cache, reached + 8, signal.SIGKILL, draw.uniform(0, 0.15)
    )
    assert code == -signal.SIGKILL, errors
    during_a_save += any('tmp' in p.name for p in directory.iterdir())
    reached = _steps(directory)[-1]
    assert reached < _NUM_STEPS
  start, digest, errors = _finish(directory, cache)
  assert start == reached
  assert digest == undisturbed
  assert 'damaged' not in errors
  assert during_a_save, 'no kill came during a save: this test shows nothing'


def test_sigterm_saves_and_exits(tmp_path, cache, undisturbed):
  directory = tmp_path / 'checkpoints'
  code, output, errors = _signal_after(directory, cache, 8, signal.SIGTERM, 0.03)
  assert code == 0, errors
  assert output.split()[-1] == 'stopped'
  stopped_at = _steps(directory)[-1]
  assert 8 <= stopped_at < _NUM_STEPS
  start, digest, _ = _finish(directory, cache)
  assert start == stopped_at
  assert digest == undisturbed


def test_a_damaged_newest_checkpoint_costs_only_time(tmp_path, cache, undisturbed):
  directory = tmp_path / 'checkpoints'
  _signal_after(directory, cache, 12, signal.SIGTERM)
  older, newest = _steps(directory)[-2:]
  data = max((directory / f'{newest}' / 'arrays').rglob('*'), key=_size)
  content = bytearray(data.read_bytes())
  content[len(content) // 2] ^= 1
  data.write_bytes(content)
  start, digest, errors = _finish(directory, cache)
  assert start == older
  assert f'{directory}/{newest} is damaged' in errors
  assert digest == undisturbed
  assert (directory / f'damaged.{newest}').is_dir()


def _size(path) -> int:
  return path.stat().st_size if path.is_file() else 0

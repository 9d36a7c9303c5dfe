"""Checkpoints among real processes: killed ones, and others with other devices."""

import os
import pathlib
import random
import socket
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

import jaxsparse as js
from tests.checkpoint import driver

_ROOT = pathlib.Path(__file__).resolve().parents[2]


def _start(mode: str, *arguments, devices: int = 1) -> subprocess.Popen:
  environment = {
    **os.environ,
    'JAX_PLATFORMS': 'cpu',
    'JAX_NUM_CPU_DEVICES': str(devices),
    'PYTHONPATH': os.pathsep.join([str(_ROOT), os.environ.get('PYTHONPATH', '')]),
  }
  command = [sys.executable, '-W', 'error', driver.__file__, mode]
  return subprocess.Popen(
    [*command, *map(str, arguments)],
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def _wait_for(condition, process, seconds: float = 90.0):
  deadline = time.monotonic() + seconds
  while not condition():
    assert process.poll() is None, process.communicate()[0]
    assert time.monotonic() < deadline
    time.sleep(0.002)


def test_kill_9_at_any_moment_of_a_save(tmp_path):
  draw, reached, leftovers = random.Random(0), 0, 0
  steps = lambda: [int(p.name) for p in tmp_path.iterdir() if p.name.isdecimal()]
  for _ in range(6):
    process = _start('save_for_ever', tmp_path)
    try:
      wanted = reached + 2
      _wait_for(lambda n=wanted: max(steps(), default=0) >= n, process)
      time.sleep(draw.uniform(0, 0.15))
    finally:
      process.kill()
      output = process.communicate()[0]
    assert process.returncode == -9, output
    leftovers += len(list(tmp_path.glob('*tmp*')))
    newest = max(steps())
    assert newest >= reached + 2
    # A warning, which would be an error here, would mean a torn checkpoint.
    with js.checkpoint.open_dir(tmp_path, keep=2) as checkpoints:
      restored = checkpoints.restore(driver.state_of(0))
    assert restored.step == newest and not list(tmp_path.glob('*tmp*'))
    driver.check(restored)
    reached = newest
  assert leftovers, 'no kill came during a save: this test shows nothing'


@pytest.mark.parametrize('devices', [1, 2])
def test_eight_devices_to_fewer(tmp_path, devices):
  values = np.arange(64.0, dtype=np.float32).reshape(16, 4)
  mesh = Mesh(np.array(jax.devices()), ('i',))
  assert mesh.size == 8
  state = {
    'sharded': jax.device_put(values, NamedSharding(mesh, P('i'))),
    'replicated': jax.pmap(lambda _, x: x, in_axes=(0, None), out_axes=None)(
      jnp.zeros(8), values
    ),
    'plain': jnp.asarray(values),
  }
  with js.checkpoint.open_dir(tmp_path) as checkpoints:
    checkpoints.save(1, state)
  process = _start('restore_here', tmp_path, devices=devices)
  output = process.communicate(timeout=90)[0]
  assert process.returncode == 0, output
  assert output == f'{devices} devices restored\n'


def test_two_processes_save_and_restore_together(tmp_path):
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  both = [_start('one_of_two', tmp_path, port, i, devices=2) for i in (0, 1)]
  try:
    outputs = [process.communicate(timeout=90)[0] for process in both]
  finally:
    for process in both:
      process.kill()
  assert [p.returncode for p in both] == [0, 0], '\n'.join(outputs)
  assert all('both 4 devices restored' in output for output in outputs)

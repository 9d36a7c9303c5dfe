"""What several processes do together: the launcher by itself, then a real run."""

import csv
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import orbax.checkpoint as ocp
import pytest

from experiments import _processes

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_LAUNCHER = _ROOT / 'launch' / 'multiprocess.sh'

# Leaves its environment in a file, and then does what its number is told to do.
_WORKER = """
import os, pathlib, signal, sys, time
folder, number = pathlib.Path(sys.argv[1]), os.environ['JAX_PROCESS_ID']
here = folder / number
names = ('JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_LOCAL_DEVICE_IDS')
here.with_suffix('.part').write_text(' '.join([*map(os.environ.get, names), str(os.getpid())]))
here.with_suffix('.part').rename(here)
print('output of', number)
orders = dict(a.split('=') for a in sys.argv[2:])
def stop(*_):
  (folder / f'stopped{number}').touch()
  if orders.get(number) != 'stubborn':
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
if orders.get(number) == 'fail':
  sys.exit('something is wrong')
while number in orders:
  time.sleep(0.05)
"""


@pytest.fixture(scope='module')
def worker(tmp_path_factory):
  path = tmp_path_factory.mktemp('worker') / 'a worker.py'
  path.write_text(_WORKER)
  return path


def _environment(**changes):
  kept = {k: v for k, v in os.environ.items() if not k.startswith('JAX_')}
  cache = os.environ.get('JAX_COMPILATION_CACHE_DIR')
  if cache:
    kept['JAX_COMPILATION_CACHE_DIR'] = cache
    kept['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
  return {**kept, 'JAXSPARSE_PYTHON': sys.executable, 'JAX_PLATFORMS': 'cpu', **changes}


def _start(*arguments, script=_LAUNCHER, **changes):
  return subprocess.Popen(
    [script, *map(str, arguments)],
    cwd='/',
    env=_environment(**changes),
    stdin=subprocess.DEVNULL,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    start_new_session=True,
  )


def _end(process, seconds=300):
  """`(exit status, output, errors)`; nothing of a launcher outlives it."""
  try:
    output, errors = process.communicate(timeout=seconds)
  finally:
    process.terminate()
  return process.returncode, output, errors


def _wait_for(condition, process, seconds=300):
  deadline = time.monotonic() + seconds
  while not condition():
    if process.poll() is not None or time.monotonic() > deadline:
      raise AssertionError(_end(process, 5))
    time.sleep(0.02)


def _written(folder, number):
  return {i: (folder / str(i)).read_text().split() for i in range(number)}


def _gone(pid):
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return True
  # A zombie that nobody has waited for is gone as well.
  stat = pathlib.Path(f'/proc/{pid}/stat')
  return stat.exists() and stat.read_text().rpartition(')')[2].split()[0] == 'Z'


def _all_gone(pids):
  deadline = time.monotonic() + 5
  while not all(map(_gone, pids)) and time.monotonic() < deadline:
    time.sleep(0.02)
  return all(map(_gone, pids))


@pytest.mark.parametrize('number', ['', '0', 'experiments/classify.py'])
def test_the_number_of_processes_comes_first(number):
  code, _, errors = _end(_start(*filter(None, [number])))
  assert code == 1
  assert f"the first argument is the number of processes; got '{number}'" in errors


def test_every_process_learns_its_place_and_the_first_one_speaks(worker, tmp_path):
  code, output, errors = _end(_start(3, worker, tmp_path))
  assert (code, output, errors) == (0, 'output of 0\n', '')
  found = _written(tmp_path, 3)
  assert len({address for address, *_ in found.values()}) == 1
  assert found[0][0].startswith('127.0.0.1:')
  assert [words[1:3] for words in found.values()] == [['3', str(i)] for i in range(3)]


def test_one_that_fails_ends_all_and_is_named(worker, tmp_path):
  start = time.monotonic()
  code, _, errors = _end(_start(3, worker, tmp_path, '0=wait', '1=fail', '2=wait'))
  assert code == 1
  assert time.monotonic() - start < 20
  assert '[process 1] something is wrong\n' in errors
  assert 'error: process 1 of 3 ended with status 1; all others are stopped.' in errors
  found = [tmp_path / str(i) for i in range(3)]
  assert _all_gone([int(p.read_text().split()[-1]) for p in found if p.exists()])


def test_one_that_is_killed_ends_all_and_is_named(worker, tmp_path):
  process = _start(2, worker, tmp_path, '0=wait', '1=wait')
  _wait_for(lambda: all((tmp_path / str(i)).exists() for i in range(2)), process)
  pids = [int(words[-1]) for words in _written(tmp_path, 2).values()]
  os.kill(pids[0], signal.SIGKILL)
  code, _, errors = _end(process, 20)
  assert code == 137
  assert 'error: process 0 of 2 was ended by SIGKILL; all others' in errors
  assert _all_gone(pids)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_tells_all_to_stop(worker, tmp_path, number):
  process = _start(2, worker, tmp_path, '0=wait', '1=wait')
  _wait_for(lambda: all((tmp_path / str(i)).exists() for i in range(2)), process)
  process.send_signal(number)
  code, _, errors = _end(process, 20)
  assert (code, errors) == (143, '')
  assert all((tmp_path / f'stopped{i}').exists() for i in range(2))


def test_a_second_signal_ends_what_does_not_stop(worker, tmp_path):
  process = _start(2, worker, tmp_path, '0=stubborn', '1=stubborn')
  _wait_for(lambda: all((tmp_path / str(i)).exists() for i in range(2)), process)
  pids = [int(words[-1]) for words in _written(tmp_path, 2).values()]
  process.send_signal(signal.SIGINT)
  _wait_for(lambda: all((tmp_path / f'stopped{i}').exists() for i in range(2)), process)
  assert process.poll() is None
  process.send_signal(signal.SIGINT)
  assert _end(process, 20)[0] == 137
  assert _all_gone(pids)


def test_without_an_environment_a_process_is_alone(monkeypatch):
  for name in ('JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID'):
    monkeypatch.delenv(name, raising=False)
  with _processes.joined():
    assert _processes.is_first()
    assert _processes.from_first({'a': [1]}) == {'a': [1]}


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'JAX_NUM_PROCESSES': ''}, 'JAX_NUM_PROCESSES: not set'),
    ({'JAX_COORDINATOR_ADDRESS': ''}, 'JAX_COORDINATOR_ADDRESS: not set'),
    ({'JAX_PROCESS_ID': 'first'}, "JAX_PROCESS_ID: got 'first', wanted a whole number"),
    ({'JAX_PROCESS_ID': '2'}, 'JAX_PROCESS_ID: got 2, wanted less than .*: 2'),
  ],
)
def test_half_an_environment_is_refused(monkeypatch, changes, message):
  whole = {'JAX_COORDINATOR_ADDRESS': 'x:1', 'JAX_NUM_PROCESSES': '2'}
  for name, value in {**whole, 'JAX_PROCESS_ID': '0', **changes}.items():
    monkeypatch.setenv(name, value)
  with pytest.raises(ValueError, match=message), _processes.joined():
    pass


_CONFIG = """
from experiments.configs import _defaults

def get_config():
  config = _defaults.get_config()
  config.name = 'together'
  config.model = dict(name='MLP', api='linen', options=dict(features=(24,)))
  config.batch_size = 32
  config.num_steps = 300
  config.methods = (
    dict(name='rigl', transform='rigl', sparsity=0.5, kwargs=dict(
      when=dict(schedule='every', n=6, stop=0.75),
      drop_fraction=dict(schedule='cosine', initial=0.3, stop=0.75))),
  )
  config.eval_every = 20
  config.checkpoint_every = 20
  config.steps_per_call = 5
  config.timing_rounds = 1
  return config
"""


@pytest.fixture(scope='module')
def job(tmp_path_factory):
  """The arguments of a tiny job, and its environment."""
  folder = tmp_path_factory.mktemp('job')
  (folder / 'tiny.py').write_text(_CONFIG)
  places = {
    'XDG_CACHE_HOME': str(folder / 'xdg'),
    'TFDS_DATA_DIR': str(folder / 'tfds'),
  }
  return f'--config={folder / "tiny.py"}', places


@pytest.fixture(scope='module')
def alone(job, tmp_path_factory):
  """Run directories of one process, on one device and on two."""
  found = {}
  for devices in '12':
    found[devices] = tmp_path_factory.mktemp('alone') / devices
    arguments = job[0], f'--workdir={found[devices]}'
    script = _ROOT / 'launch' / 'local.sh'
    run = _start(*arguments, script=script, **job[1], JAX_NUM_CPU_DEVICES=devices)
    code, _, errors = _end(run)
    assert code == 0, errors
  return found


def _rows(workdir, name='metrics.csv'):
  with (workdir / name).open(newline='') as file:
    rows = list(csv.DictReader(file))
  return [{k: v for k, v in r.items() if k != 'steps_per_second'} for r in rows]


def _assert_same_rows(found, wanted):
  """Numbers within what the order of a sum changes, all else as it is."""
  assert len(found) == len(wanted)
  for row, other in zip(found, wanted, strict=True):
    assert row.keys() == other.keys()
    for column in row:
      try:
        np.testing.assert_allclose(float(row[column]), float(other[column]), rtol=2e-3)
      except ValueError:
        assert row[column] == other[column]


def _saved(workdir, step=300):
  path = workdir / 'checkpoints' / 'rigl-0' / str(step)
  args = ocp.args.Composite(arrays=ocp.args.PyTreeRestore())
  with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
    return reader.restore(path, args=args)['arrays']


def _assert_same_state(workdir, other, tolerance):
  found, wanted = _saved(workdir), _saved(other)
  assert found.keys() == wanted.keys()
  masks = [name for name in wanted if 'masks' in name]
  assert any(np.ndim(wanted[name]) for name in masks)
  for name, value in wanted.items():
    if name in masks or 'key' in name or np.asarray(value).dtype.kind != 'f':
      np.testing.assert_array_equal(found[name], value, name)
    else:
      np.testing.assert_allclose(found[name], value, tolerance, tolerance, err_msg=name)


@pytest.mark.long
def test_two_processes_take_the_steps_of_one(job, alone, tmp_path):
  workdir = tmp_path / 'run'
  code, output, errors = _end(_start(2, job[0], f'--workdir={workdir}', **job[1]))
  assert (code, errors) == (0, '')
  assert '| rigl ' in output
  for devices, tolerance in (('1', 1e-3), ('2', 1e-6)):
    _assert_same_state(workdir, alone[devices], tolerance)
    for table in ('metrics.csv', 'results.csv'):
      _assert_same_rows(_rows(workdir, table), _rows(alone[devices], table))
  # What one process leaves, and nothing twice.
  names = lambda folder: sorted(
    str(p.relative_to(folder))
    for p in folder.rglob('*')
    if 'tensorboard' not in p.parts and 'arrays' not in p.parts
  )
  assert names(workdir) == names(alone['2'])
  assert len(list(workdir.rglob('*tfevents*'))) == 1
  # A second start finds it finished, and trains nothing.
  code, again, errors = _end(_start(2, job[0], f'--workdir={workdir}', **job[1]))
  assert (code, errors) == (0, '')
  assert 'rigl-0 step' not in again and '| rigl ' in again


@pytest.mark.long
def test_a_killed_run_goes_on_with_any_number_of_processes(job, alone, tmp_path):
  workdir = tmp_path / 'run'
  arguments = job[0], f'--workdir={workdir}'
  steps = lambda: [
    int(p.name) for p in workdir.glob('checkpoints/rigl-0/*') if p.name.isdecimal()
  ]
  process = _start(2, *arguments, **job[1])
  _wait_for(lambda: max(steps(), default=0) >= 40, process)
  victim = _python_of(process.pid, '1')
  os.kill(victim, signal.SIGKILL)
  start = time.monotonic()
  code, _, errors = _end(process, 30)
  assert code == 137
  assert time.monotonic() - start < 10
  assert 'process 1 of 2 was ended by SIGKILL' in errors
  reached = max(steps())
  assert 40 <= reached < 300

  process = _start(2, *arguments, **job[1])
  _wait_for(lambda: max(steps()) > reached, process)
  process.send_signal(signal.SIGINT)
  code, output, errors = _end(process)
  assert (code, errors) == (143, '')
  assert f'Stopped and saved. To go on: the same command, --workdir={workdir}' in output
  assert reached < max(steps()) < 300

  local = _ROOT / 'launch' / 'local.sh'
  finish = _start(*arguments, script=local, **job[1], JAX_NUM_CPU_DEVICES='1')
  code, _, errors = _end(finish)
  assert code == 0, errors
  _assert_same_state(workdir, alone['1'], 1e-3)
  _assert_same_rows(_rows(workdir), _rows(alone['1']))


def _python_of(launcher: int, number: str) -> int:
  """The process of a launcher's session that has this JAX_PROCESS_ID."""
  for folder in pathlib.Path('/proc').glob('[0-9]*'):
    try:
      command = (folder / 'cmdline').read_bytes()
      variables = (folder / 'environ').read_bytes().split(b'\0')
      # Each group of processes is of the session of the launcher.
      session = os.getsid(int(folder.name))
    except OSError:
      continue
    if session == launcher and f'JAX_PROCESS_ID={number}'.encode() in variables:
      if b'classify.py' in command and b'local.sh' not in command:
        return int(folder.name)
  raise AssertionError(f'no process {number}')

"""Sweeps of a stand-in for an experiment, which says when it runs and takes no time."""

import csv
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from experiments import _sweep_run, sweep

_ROOT = pathlib.Path(__file__).resolve().parents[2]

# Its config file is a folder of orders: `slow` waits to be stopped, `broken` fails.
_EXPERIMENT = """
import csv, pathlib, signal, sys, time
flags = dict(a.removeprefix('--').split('=', 1) for a in sys.argv[1:])
orders = pathlib.Path(flags['config']).parent
workdir = pathlib.Path(flags['workdir'])
def note(what):
  with (orders / 'notes').open('a') as file:
    file.write(f'{what} {workdir.name.rpartition("-")[0]} {time.time()}\\n')
def stop(*_):
  note('stopped')
  sys.exit(143)
signal.signal(signal.SIGTERM, stop)
note('began')
while (orders / 'slow').exists():
  time.sleep(0.02)
if flags['config.rate'] == (orders / 'broken').read_text():
  sys.exit(f'experiment: no rate of {flags["config.rate"]}, please')
time.sleep(0.1)
seed = flags.get('config.seeds', '(0,)')[1:-2]
with (workdir / 'results.csv').open('w') as file:
  file.write('method,seed,target_sparsity,test_accuracy\\n')
  file.write(f'rigl_90,{seed},0.9,{float(flags["config.rate"]) + float(seed) / 10}\\n')
note('ended')
"""


@pytest.fixture
def job(tmp_path, monkeypatch):
  """The arguments of a sweep of four runs; jobs import the repository."""
  paths = [str(_ROOT), os.environ.get('PYTHONPATH', '')]
  monkeypatch.setenv('PYTHONPATH', os.pathsep.join(paths))
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'experiment.py').write_text(_EXPERIMENT)
  (tmp_path / 'config.py').write_text('')
  (tmp_path / 'broken').write_text('')
  yield [
    'experiment.py', '--workdir=sweep', '--config', 'config.py', '--seeds', '0', '1',
    '--set', 'config.rate', '0.5', '0.25', '--jobs=2',
  ]  # fmt: skip
  # What a failed test leaves behind ends by itself.
  (tmp_path / 'slow').unlink(missing_ok=True)


def _notes(folder, what):
  path = folder / 'notes'
  lines = path.read_text().splitlines() if path.exists() else []
  return [line.split()[1] for line in lines if line.split()[0] == what]


def _most_at_once(folder):
  count = most = 0
  for line in (folder / 'notes').read_text().splitlines():
    count += 1 if line.startswith('began') else -1
    most = max(most, count)
  return most


def _wait_for(condition, process, seconds=60):
  deadline = time.monotonic() + seconds
  while not condition():
    assert process.poll() is None, process.communicate()
    assert time.monotonic() < deadline
    time.sleep(0.02)


def _start(job, output=subprocess.DEVNULL):
  return subprocess.Popen(
    [sys.executable, _ROOT / 'experiments' / 'sweep.py', *job],
    stdout=output,
    stderr=output,
    text=True,
    start_new_session=True,
  )


def test_every_combination_is_a_run_of_its_own(job, capsys):
  job += ['--config', 'config.py', 'config.py:big', '--set', 'config.b.c', 'x y']
  assert sweep.main([*job, '--dry_run', '--', '--config.only=rigl']) == 0
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == len(set(lines)) == 8
  flags = '--config=config.py:big --config.rate=0.25 --config.b.c=x y'
  start = (
    f'{sys.executable} experiment.py {flags} --config.seeds=(1,) --config.only=rigl'
  )
  place = pathlib.Path('sweep').absolute() / 'config_big_rate=0.25_c=x_y_seed=1-'
  assert lines[-1].startswith(f'{start} --workdir={place}')
  assert not pathlib.Path('sweep').exists()


@pytest.mark.parametrize(
  'arguments, message',
  [
    (['nothing.py', '--workdir=x'], 'nothing.py: there is no such file'),
    (
      ['experiment.py', '--workdir=x', '--config', 'no.py:a'],
      'no.py: there is no such',
    ),
    (['experiment.py', '--workdir=x', '--jobs=0'], 'wanted at least 1'),
    (['experiment.py', '--workdir=x', '--set', 'config.a'], 'wanted a value or more'),
    (['experiment.py', '--workdir=x', '--set', 'rate', '1'], 'wanted config.KEY'),
    (['experiment.py', '--workdir=x', '--set', 'config.a', '1', '1'], 'a value twice'),
    (['experiment.py', '--workdir=x', '--slurm', 'gpu'], 'wanted KEY=VALUE'),
    (['experiment.py'], '--workdir'),
  ],
)
def test_mistakes_are_named(job, capsys, arguments, message):
  with pytest.raises(SystemExit, match='2'):
    sweep.main(arguments)
  assert message in capsys.readouterr().err


def test_broken_runs_are_started_again_and_finished_ones_are_not(job, tmp_path, capsys):
  (tmp_path / 'broken').write_text('0.25')
  assert sweep.main(job) == 1
  output = capsys.readouterr()
  assert '| rate=0.5 rigl | 55.00 ± 7.07 |' in output.out
  assert 'rate=0.25' not in output.out.partition('|')[2]
  assert output.err.count('status 1: experiment: no rate of 0.25, please') == 2
  assert _most_at_once(tmp_path) <= 2

  (tmp_path / 'broken').write_text('')
  (tmp_path / 'notes').unlink()
  assert sweep.main(job) == 0
  assert sorted(_notes(tmp_path, 'ended')) == ['rate=0.25_seed=0', 'rate=0.25_seed=1']
  wanted = ['| rate=0.5 rigl | 55.00 ± 7.07 |', '| rate=0.25 rigl | 30.00 ± 7.07 |']
  assert capsys.readouterr().out.strip().splitlines()[-4:-2] == wanted
  assert (tmp_path / 'sweep' / 'table.md').read_text().splitlines()[-2:] == wanted
  with (tmp_path / 'sweep' / 'results.csv').open(newline='') as file:
    rows = [(row['method'], row['seed']) for row in csv.DictReader(file)]
  ways = ('rate=0.5 rigl_90', 'rate=0.25 rigl_90')
  assert rows == [(way, seed) for way in ways for seed in '01']

  (tmp_path / 'config.py').write_text('other = 1')
  assert sweep.main(job) == 1
  said = capsys.readouterr().err
  assert said.startswith('sweep: ') and 'its config file has changed' in said


def test_what_is_no_experiment_is_named(job, capsys):
  pathlib.Path('other.py').write_text('')
  job = ['other.py' if word == 'experiment.py' else word for word in job]
  assert sweep.main(job) == 1
  assert 'sweep: other.py: it ended well, but has not' in capsys.readouterr().err


@pytest.mark.long
def test_ctrl_c_stops_what_runs_and_the_same_command_goes_on(job, tmp_path):
  (tmp_path / 'slow').touch()
  process = _start(job, subprocess.PIPE)
  _wait_for(lambda: len(_notes(tmp_path, 'began')) == 2, process)
  os.killpg(process.pid, signal.SIGINT)  # As a terminal does.
  output, errors = process.communicate(timeout=60)
  assert process.returncode == 143, errors
  assert output.endswith('Stopped. To go on: the same command.\n')
  assert len(_notes(tmp_path, 'stopped')) == 2
  (tmp_path / 'slow').unlink()
  assert sweep.main(job) == 0
  assert len(_notes(tmp_path, 'ended')) == 4


@pytest.mark.long
def test_what_outlives_a_killed_sweep_is_waited_for_and_not_started_twice(
  job, tmp_path
):
  job = [*job[: job.index('--seeds')], '--set', 'config.rate', '0.5']
  (tmp_path / 'slow').touch()
  process = _start(job)
  _wait_for(lambda: len(_notes(tmp_path, 'began')) == 1, process)
  process.kill()
  process.wait()
  (tmp_path / 'slow').unlink()
  sweep.main(job)
  assert _notes(tmp_path, 'began') == _notes(tmp_path, 'ended') == ['rate=0.5']


def test_the_signal_of_a_cluster_saves(tmp_path, monkeypatch):
  """submitit calls `checkpoint` from its handler while the run is waited for."""
  (tmp_path / 'experiment.py').write_text(_EXPERIMENT)
  (tmp_path / 'slow').touch()
  code = f"""
import pathlib, signal, sys
from experiments import _sweep_run
run = _sweep_run.Run({str(tmp_path / 'experiment.py')!r},
  ('--config={tmp_path / 'config.py'}', '--config.rate=1'), 'one', None,
  pathlib.Path({str(tmp_path)!r}), '')
def handler(*_):
  assert run.checkpoint().function == run
  sys.exit(7)
signal.signal(signal.SIGUSR2, handler)
run()
"""
  process = subprocess.Popen([sys.executable, '-c', code], cwd=_ROOT)
  _wait_for(lambda: len(_notes(tmp_path, 'began')) == 1, process)
  process.send_signal(signal.SIGUSR2)
  assert process.wait(30) == 7
  assert _notes(tmp_path, 'stopped') == ['one']


# A cluster that starts jobs at once: sbatch runs every task of an array.
_SBATCH = """\
#!/bin/sh
cat "$1" >>"$CLUSTER/scripts"
id=$((76 + $(grep -c '^#!/bin/bash' "$CLUSTER/scripts")))
last="$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$1")"
for i in $(seq 0 "$last"); do
  (
    export SLURM_JOB_ID=$id SLURM_ARRAY_JOB_ID=$id SLURM_ARRAY_TASK_ID=$i
    sh "$1"
    touch "$CLUSTER/over_${id}_$i"
  ) >>"$CLUSTER/log" 2>&1 &
done
echo Submitted batch job $id
"""
_SRUN = """\
#!/bin/sh
while [ "${1#-}" != "$1" ]; do
  case "$1" in --output | --error) shift ;; esac
  shift
done
exec "$@"
"""
_SACCT = """\
#!/bin/sh
echo 'JobID|State|NodeList'
for job in 77_0 77_1 77_2 77_3 78_0 78_1; do
  if [ -e "$CLUSTER/over_$job" ]; then echo "$job|COMPLETED|here"
  else echo "$job|RUNNING|here"; fi
done
"""


@pytest.mark.long
def test_slurm_queues_what_is_missing_as_one_array(job, tmp_path, monkeypatch):
  programs = tmp_path / 'bin'
  programs.mkdir()
  for name, text in {'sbatch': _SBATCH, 'srun': _SRUN, 'sacct': _SACCT}.items():
    (programs / name).write_text(text)
    (programs / name).chmod(0o755)
  monkeypatch.setenv('PATH', f'{programs}:{os.environ["PATH"]}')
  monkeypatch.setenv('CLUSTER', str(tmp_path))
  (tmp_path / 'broken').write_text('0.25')
  job += ['--executor=slurm', '--slurm', 'partition=long', '--gpus=1', '--minutes=60']
  assert sweep.main(job) == 1, (tmp_path / 'log').read_text()
  script = (tmp_path / 'scripts').read_text()
  wanted = ('array=0-3%2', 'partition=long', 'gpus-per-node=1', 'time=60')
  for line in wanted:
    assert f'#SBATCH --{line}\n' in script
  assert len(_notes(tmp_path, 'ended')) == 2
  (tmp_path / 'broken').write_text('')
  assert sweep.main(job) == 0
  assert '#SBATCH --array=0-1%2\n' in (tmp_path / 'scripts').read_text()
  assert len(_notes(tmp_path, 'ended')) == 4
  notes = sorted((tmp_path / 'sweep').glob('*/slurm_job'))
  assert [note.read_text() for note in notes] == ['78_0', '78_1', '77_0', '77_1']


def test_a_run_has_one_process(tmp_path):
  run = _sweep_run.Run('x.py', (), '', 0, tmp_path, '')
  run.directory.mkdir()
  assert not run.under_way() and not run.finished()
  with _sweep_run._locked(run.directory):
    assert run.under_way()
    with pytest.raises(RuntimeError, match='under way already'):
      run()
  (run.directory / 'finished.json').write_text(json.dumps({'source': ''}))
  assert run.finished()

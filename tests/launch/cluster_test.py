"""The launchers for SLURM and for TPU slices, with their programs replaced by others."""

import os
import pathlib
import subprocess
import sys
import time

import pytest

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_SBATCH = _ROOT / 'launch' / 'slurm.sbatch'
_POD = _ROOT / 'launch' / 'tpu_pod.sh'

# In the place of Python: what it was called with.
_PYTHON = """\
#!/bin/sh
echo "ran $* in $PWD; cluster=$JAXSPARSE_CLUSTER extras=$JAXSPARSE_EXTRAS"
exit ${CODE:-0}
"""
_RECORDER = """\
#!/bin/sh
echo "{name} $*" >>"{log}"
"""
# As srun does, on a cluster of one node.
_SRUN = """\
while [ "${1#-}" != "$1" ]; do shift; done
i=0
while [ $i -lt ${SLURM_NTASKS:-1} ]; do
  SLURM_PROCID=$i SLURM_LOCALID=$i SLURM_STEP_NODELIST=localhost "$@" &
  i=$((i + 1))
  tasks="$tasks $!"
done
for task in $tasks; do wait $task || code=$?; done
exit ${code:-0}
"""
# As gcloud does, with a slice of one worker, whose home is $WORKER.
_GCLOUD = """\
shift 3
case "$1" in
  scp) cp "$2" "$WORKER/${3#*:}" ;;
  ssh) for word; do
    case "$word" in --command=*) cd "$WORKER" && exec sh -c "${word#--command=}" ;; esac
  done ;;
esac
"""


@pytest.fixture
def programs(tmp_path):
  """A folder for PATH in which each program writes its calls to `calls`."""
  folder = tmp_path / 'bin'
  folder.mkdir()
  for name, body in {'srun': _SRUN, 'scontrol': '', 'gcloud': _GCLOUD}.items():
    head = _RECORDER.format(name=name, log=tmp_path / 'calls')
    (folder / name).write_text(head + body)
  (folder / 'fake_python').write_text(_PYTHON)
  for path in folder.iterdir():
    path.chmod(0o755)
  return folder


def _run(script, *arguments, programs, **changes):
  kept = {k: v for k, v in os.environ.items() if not k.startswith(('SLURM', 'JAX'))}
  environment = {
    **kept,
    'PATH': f'{programs}:{os.environ["PATH"]}',
    'JAXSPARSE_PYTHON': str(programs / 'fake_python'),
    **changes,
  }
  return subprocess.run(
    ['bash', script, *map(str, arguments)],
    cwd=programs.parent,
    env=environment,
    stdin=subprocess.DEVNULL,
    capture_output=True,
    text=True,
  )


def _calls(programs):
  path = programs.parent / 'calls'
  return path.read_text().splitlines() if path.exists() else []


_JOB = {'SLURM_SUBMIT_DIR': str(_ROOT), 'SLURM_JOB_ID': '4711'}


def test_slurm_runs_every_task_in_the_directory_of_the_job(programs, tmp_path):
  # SLURM runs a copy of the script.
  copy = tmp_path / 'slurm_script'
  copy.write_bytes(_SBATCH.read_bytes())
  run = _run(copy, '--config.batch_size=8', programs=programs, **_JOB, SLURM_NTASKS='2')
  assert (run.returncode, run.stderr) == (0, '')
  job = 'experiments/classify.py --config.batch_size=8 --workdir=runs/slurm-4711'
  ran = f'ran {job} in {_ROOT}; cluster=auto extras='
  assert run.stdout.splitlines() == [ran, ran]
  local = _ROOT / 'launch' / 'local.sh'
  assert _calls(programs) == [f'srun --kill-on-bad-exit=1 {local} {job}']


def test_slurm_keeps_a_directory_and_a_script_that_are_given(programs):
  arguments = 'experiments/bayesian.py', '--workdir=/shared/x y'
  run = _run(_SBATCH, *arguments, programs=programs, **_JOB)
  assert f'ran {" ".join(arguments)} in' in run.stdout


@pytest.mark.parametrize(
  'code, requeue, wanted',
  [('143', '1', True), ('143', '', False), ('1', '1', False)],
)
def test_slurm_queues_again_what_was_stopped_if_asked_to(
  programs, code, requeue, wanted
):
  changes = {**_JOB, 'CODE': code, 'JAXSPARSE_REQUEUE': requeue}
  run = _run(_SBATCH, programs=programs, **changes)
  assert run.returncode == int(code)
  assert ('scontrol requeue 4711' in _calls(programs)) == wanted


def test_slurm_outside_of_the_repository_or_of_a_job(programs, tmp_path):
  run = _run(_SBATCH, programs=programs, SLURM_SUBMIT_DIR=str(tmp_path))
  assert run.returncode == 1
  assert f'{tmp_path} is not the repository' in run.stderr
  run = _run(_SBATCH, programs=programs, SLURM_SUBMIT_DIR=str(_ROOT))
  assert run.returncode == 1
  assert 'this is for sbatch' in run.stderr
  assert not _calls(programs)


def test_a_pod_gets_the_files_and_runs_them(programs, tmp_path):
  worker = tmp_path / 'worker'
  worker.mkdir()
  arguments = 'my-pod', 'us-east1-d', '--config.name=a b', '--workdir=/mnt/x'
  run = _run(_POD, *arguments, programs=programs, WORKER=str(worker))
  assert (run.returncode, run.stderr) == (0, '')
  flags = '--config.name=a b --workdir=/mnt/x'
  there = worker / 'jaxsparse'
  ran = f'ran experiments/classify.py {flags} in {there}; cluster=auto extras=tpu'
  assert run.stdout == ran + '\n'
  assert (there / 'jaxsparse' / '__init__.py').exists()
  assert (there / '.process').read_text().strip().isdecimal()
  scp, ssh = _calls(programs)
  assert scp.startswith('gcloud compute tpus tpu-vm scp /')
  assert scp.endswith(' my-pod:jaxsparse.tgz --zone=us-east1-d --worker=all')
  assert ssh.startswith('gcloud compute tpus tpu-vm ssh my-pod --command=')
  assert ssh.endswith(' --zone=us-east1-d --worker=all')


def test_a_pod_is_told_to_stop(programs, tmp_path):
  victim = subprocess.Popen(['sleep', '60'])
  (tmp_path / 'jaxsparse').mkdir()
  (tmp_path / 'jaxsparse' / '.process').write_text(f'{victim.pid}\n')
  arguments = '--stop', 'my-pod', 'us-east1-d'
  run = _run(_POD, *arguments, programs=programs, WORKER=str(tmp_path))
  assert run.returncode == 0, run.stderr
  assert victim.wait(10) == -15


@pytest.mark.parametrize(
  'arguments, message',
  [
    (['--workdir=/mnt/x'], 'NAME ZONE [SCRIPT] --flags'),
    (['my-pod', 'zone'], '--workdir: wanted an absolute path'),
    (['my-pod', 'zone', '--workdir=runs/x'], '--workdir: wanted an absolute path'),
  ],
)
def test_a_pod_refuses_what_cannot_work(programs, arguments, message):
  run = _run(_POD, *arguments, programs=programs)
  assert run.returncode == 1
  assert message in run.stderr
  assert not _calls(programs)


_TOGETHER = """\
import sys
sys.path.insert(0, {root!r})
import jax
from experiments import _processes
with _processes.joined():
  told = _processes.from_first(f'process {{jax.process_index()}} says hello')
  print(told, 'to', jax.process_count(), flush=True)
  if not _processes.is_first():
    print(told, file=sys.stderr, flush=True)
"""


def test_the_tasks_of_slurm_find_each_other(programs, tmp_path):
  script = tmp_path / 'together.py'
  script.write_text(_TOGETHER.format(root=str(_ROOT)))
  # The port of the job is made of its number: two tests at once must not share it.
  job = {**_JOB, 'SLURM_JOB_ID': str(int(time.time())), 'JAX_PLATFORMS': 'cpu'}
  run = _run(
    _SBATCH, script, programs=programs, **job, SLURM_NTASKS='2',
    JAXSPARSE_PYTHON=sys.executable,
  )  # fmt: skip
  assert run.returncode == 0, run.stderr
  assert 'process 0 says hello to 2\n' in run.stdout
  assert run.stderr == 'process 0 says hello\n'

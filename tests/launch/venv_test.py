"""The launchers on a tiny project: install once, start at once, survive a kill.

The project has no dependencies and brings its own build backend, so that pip needs no
network; the launchers are the real ones.
"""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

_ROOT = pathlib.Path(__file__).resolve().parents[2]

_PYPROJECT = """\
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""

_BACKEND = """\
import os, time, zipfile

def build_editable(folder, config_settings=None, metadata_directory=None):
  open('builds', 'a').write('x')
  time.sleep(float(os.environ.get('SLOW', 0)))
  if os.environ.get('BREAK'):
    raise RuntimeError('broken on purpose')
  name = 'jaxsparse-1-py3-none-any.whl'
  info = 'jaxsparse-1.dist-info/'
  with zipfile.ZipFile(os.path.join(folder, name), 'w') as wheel:
    wheel.writestr('jaxsparse.pth', os.getcwd())
    wheel.writestr(info + 'METADATA', 'Metadata-Version: 2.1\\nName: jaxsparse\\n'
                   'Version: 1\\nProvides-Extra: experiments\\nProvides-Extra: more\\n')
    wheel.writestr(info + 'WHEEL', 'Wheel-Version: 1.0\\nGenerator: x\\n'
                   'Root-Is-Purelib: true\\nTag: py3-none-any\\n')
    wheel.writestr(info + 'RECORD', '')
  return name
"""

_JOB = 'import jaxsparse, sys; print("ran", *sys.argv)\n'


@pytest.fixture(scope='module')
def template(tmp_path_factory):
  """A repository with a space in its path, and an environment that is installed."""
  repo = tmp_path_factory.mktemp('a b') / 'my repo'
  shutil.copytree(_ROOT / 'launch', repo / 'launch')
  for name, text in {
    'pyproject.toml': _PYPROJECT,
    'backend.py': _BACKEND,
    'setup.py': '',
    'constraints.txt': '',
    'jaxsparse/__init__.py': "__version__ = '1'\n",
    'experiments/classify.py': _JOB,
    'experiments/other.py': _JOB,
  }.items():
    (repo / name).parent.mkdir(exist_ok=True)
    (repo / name).write_text(text)
  run = _launch(repo)
  assert run.returncode == 0, run.stderr
  return repo


@pytest.fixture
def repo(template):
  """The template as it was: one environment serves all tests, since it cannot move."""
  (template / 'builds').write_text('')
  yield template
  (template / 'constraints.txt').write_text('')
  assert _launch(template).returncode == 0


def _environment(**changes):
  mine = {k: v for k, v in os.environ.items() if not k.startswith('JAXSPARSE')}
  return {**mine, 'PYTHON': sys.executable, 'PIP_NO_INDEX': '1', **changes}


def _launch(repo, *args, cwd='/', **changes):
  return subprocess.run(
    [repo / 'launch' / 'local.sh', *args],
    cwd=cwd,
    env=_environment(**changes),
    stdin=subprocess.DEVNULL,
    capture_output=True,
    text=True,
  )


def _builds(repo):
  return len((repo / 'builds').read_text())


def test_a_second_start_installs_nothing(repo, tmp_path):
  start = time.perf_counter()
  run = _launch(repo, cwd=tmp_path)
  assert run.stdout == 'ran experiments/classify.py\n'
  assert run.stderr == ''
  assert _builds(repo) == 0
  # 0.1 s on an idle machine; the rest is for a busy one.
  assert time.perf_counter() - start < 2


@pytest.mark.parametrize(
  'args, ran',
  [
    (['--x=1', 'a b'], 'experiments/classify.py --x=1 a b'),
    (['experiments/other.py', '--x'], 'experiments/other.py --x'),
  ],
)
def test_arguments_reach_the_job(repo, args, ran):
  assert _launch(repo, *args).stdout == f'ran {ran}\n'


def test_new_constraints_install_again(repo):
  (repo / 'constraints.txt').write_text('# other\n')
  assert _launch(repo).returncode == 0
  assert _builds(repo) == 1
  assert _launch(repo).stderr == ''


def test_another_extra_is_added(repo):
  assert 'jaxsparse[experiments,more]' in _launch(repo, JAXSPARSE_EXTRAS='more').stderr
  assert _launch(repo, JAXSPARSE_EXTRAS='more').stderr == ''
  assert _launch(repo).stderr == ''
  assert _builds(repo) == 1


def test_a_failing_pip_shows_the_end_of_its_log(repo):
  (repo / 'constraints.txt').write_text('# other\n')
  run = _launch(repo, BREAK='1')
  assert run.returncode != 0
  assert run.stdout == ''
  assert 'broken on purpose' in run.stderr
  assert run.stderr.splitlines()[-1].startswith('error: pip could not install')


def test_an_install_that_was_killed_is_made_anew(repo):
  (repo / 'constraints.txt').write_text('# other\n')
  victim = subprocess.Popen(
    [repo / 'launch' / 'local.sh'],
    env=_environment(SLOW='60'),
    stderr=subprocess.DEVNULL,
    start_new_session=True,
  )
  while not _builds(repo):
    assert victim.poll() is None
    time.sleep(0.05)
  os.killpg(victim.pid, signal.SIGKILL)
  victim.wait()
  run = _launch(repo)
  assert run.stdout == 'ran experiments/classify.py\n'
  assert 'Making .venv' in run.stderr
  assert _builds(repo) == 2


def test_two_launchers_at_once_install_once(repo):
  (repo / 'constraints.txt').write_text('# other\n')
  command, environment = [repo / 'launch' / 'local.sh'], _environment(SLOW='1')
  pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.DEVNULL, 'text': True}
  pair = [subprocess.Popen(command, env=environment, **pipes) for _ in range(2)]
  outputs = [process.communicate()[0] for process in pair]
  assert outputs == ['ran experiments/classify.py\n'] * 2
  assert _builds(repo) == 1


def test_a_foreign_environment_is_never_deleted(repo, tmp_path):
  theirs = tmp_path / 'theirs'
  theirs.mkdir()
  (theirs / 'precious').write_text('x')
  run = _launch(repo, JAXSPARSE_VENV=str(theirs))
  assert run.returncode != 0
  assert 'remove it by hand' in run.stderr
  assert (theirs / 'precious').exists()


def test_a_python_that_cannot_be_used_is_named(repo):
  run = _launch(repo, PYTHON='/no/such/python')
  assert run.returncode != 0
  assert 'PYTHON=/no/such/python' in run.stderr
  assert len(run.stderr.splitlines()) == 1


def test_without_any_python_the_message_says_which(template, tmp_path):
  # On this PATH are the shell's tools, and a shim that fails as pyenv's do.
  for tool in ('bash', 'dirname', 'cat', 'grep', 'cut', 'sha256sum', 'flock', 'env'):
    if found := shutil.which(tool):
      (tmp_path / tool).symlink_to(found)
  shim = tmp_path / 'python3.12'
  shim.write_text('#!/bin/sh\necho not installed >&2\nexit 127\n')
  shim.chmod(0o755)
  run = _launch(
    template, PYTHON='', PATH=str(tmp_path), JAXSPARSE_VENV=str(tmp_path / 'new')
  )
  assert run.returncode != 0
  assert run.stderr.startswith('error: found no Python 3.11, 3.12 or 3.13')
  assert not (tmp_path / 'new').exists()

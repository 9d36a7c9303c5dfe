"""What is handed out builds and installs, with a compiler and without one."""

import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

_ROOT = pathlib.Path(__file__).resolve().parents[2]

# What a user sees first: twice, since what is said must be said once.
_FIRST_USE = """\
import jaxsparse as js, jax.numpy as jnp, optax
print(js.__file__)
print(js.native.available(), js.native.available())
tx = js.transforms.static(optax.sgd(0.1), sparsity=0.5, seed=0)
params, _ = js.init(tx, {'dense': {'kernel': jnp.ones((8, 8))}})
print(int((params['dense']['kernel'] != 0).sum()))
"""


@pytest.fixture(scope='module')
def archive(tmp_path_factory):
  """The source archive of this tree."""
  folder = tmp_path_factory.mktemp('archive')
  # The build writes an egg-info: not into the tree that is tested.
  command = [sys.executable, 'setup.py', '-q', 'egg_info', '-e', str(folder)]
  command += ['sdist', '-d', str(folder)]
  subprocess.run(command, cwd=_ROOT, check=True, capture_output=True)
  (path,) = folder.glob('*.tar.gz')
  return path


def test_the_source_archive_holds_the_kernels_and_the_mark_of_types(archive):
  with tarfile.open(archive) as file:
    held = {name.partition('/')[2] for name in file.getnames()}
  kernels = [*_ROOT.glob('jaxsparse/native/csrc/*.cc')]
  kernels += _ROOT.glob('jaxsparse/native/csrc/*.h')
  wanted = {str(path.relative_to(_ROOT)) for path in kernels}
  assert len(wanted) > 10
  assert wanted | {'jaxsparse/py.typed', 'LICENSE', 'README.md', 'setup.py'} <= held


@pytest.mark.long
@pytest.mark.parametrize('compiler', [True, False])
def test_the_archive_becomes_a_wheel_that_works(archive, tmp_path, compiler):
  pytest.importorskip('setuptools', minversion='70.1')  # Older ones need `wheel` too.
  if compiler and not (shutil.which('c++') or shutil.which('g++')):
    pytest.skip('no compiler here')
  nowhere = {} if compiler else {'CC': '/nowhere/cc', 'CXX': '/nowhere/c++'}
  pip = [sys.executable, '-m', 'pip', '--disable-pip-version-check', '--no-cache-dir']
  # The build needs nothing but what is here, and no network.
  alone = ['--no-deps', '--no-build-isolation', '--no-index']
  _run([*pip, 'wheel', *alone, '-w', tmp_path, archive], **nowhere)
  (wheel,) = tmp_path.glob('*.whl')
  with zipfile.ZipFile(wheel) as file:
    held = file.namelist()
  assert 'jaxsparse/py.typed' in held
  libraries = [name for name in held if name.endswith(('.so', '.pyd'))]
  assert len(libraries) == compiler
  assert not [name for name in held if name.startswith(('tests', 'experiments'))]

  _run([*pip, 'install', *alone, '--target', tmp_path / 'site', wheel])
  run = _run(
    [sys.executable, '-c', _FIRST_USE],
    cwd=tmp_path,
    PYTHONPATH=str(tmp_path / 'site'),
    JAX_PLATFORMS='cpu',
  )
  place, available, kept = run.stdout.splitlines()
  assert pathlib.Path(place).is_relative_to(tmp_path)
  assert kept == '32'
  said = run.stderr.count('jaxsparse runs without its compiled kernels')
  if compiler:
    # The headers of the build are those of the running jax.
    assert (available, said) == ('True True', 0)
  else:
    assert (available, said) == ('False False', 1)


def _run(command, cwd=None, **changes):
  environment = {k: v for k, v in os.environ.items() if k != 'JAXSPARSE_NATIVE'}
  run = subprocess.run(
    list(map(str, command)),
    cwd=cwd,
    env={**environment, **changes},
    capture_output=True,
    text=True,
  )
  assert run.returncode == 0, run.stderr
  return run

"""What a run was made with: versions, devices, threads, the commit, the command."""

import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
import time

import jax

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_FILE = 'environment.json'
_PACKAGES = ('jaxsparse', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')
# What changes how fast a program is, or what it computes.
_VARIABLES = ('JAX_PLATFORMS', 'OMP_NUM_THREADS', 'XLA_FLAGS')


def describe() -> dict[str, str]:
  """The environment of this process, in words; nothing of it is needed to run."""
  devices = jax.devices()
  kinds = ', '.join(sorted({d.device_kind for d in devices}))
  found = {
    'date': time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime()),
    'command': f'python {_program()} {shlex.join(sys.argv[1:])}'.rstrip(),
    'commit': commit(),
    'python': platform.python_version(),
    **{name: _version(name) for name in _PACKAGES},
    'system': f'{platform.system()} {platform.release()}, {platform.machine()}',
    'processor': _processor(),
    'threads': f'{_threads()} of {os.cpu_count()} cores',
    'devices': f'{len(devices)} x {devices[0].platform} ({kinds})',
  }
  if jax.process_count() > 1:
    found['processes'] = str(jax.process_count())
  found.update({n: os.environ[n] for n in _VARIABLES if n in os.environ})
  return found


def _program() -> str:
  path = pathlib.Path(sys.argv[0]).absolute()
  if not path.is_relative_to(_ROOT):
    return str(path)
  inside = path.relative_to(_ROOT)
  # `python -m` gives the whole path of the module.
  return f'-m {".".join(inside.with_suffix("").parts)}'


def _version(name: str) -> str:
  if name == 'jaxsparse':
    import jaxsparse as js

    return js.__version__  # It runs from a checkout too, without being installed.
  try:
    return importlib.metadata.version(name)
  except importlib.metadata.PackageNotFoundError:
    return '-'


def _processor() -> str:
  try:
    lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
    named = (s.partition(':')[2].strip() for s in lines if s.startswith('model name'))
    return next(named, platform.processor() or '-')
  except OSError:  # Not a Linux.
    return platform.processor() or '-'


def _threads() -> int:
  # A container may be given fewer cores than the machine has.
  own = getattr(os, 'sched_getaffinity', None)
  return len(own(0)) if own else os.cpu_count() or 1


def commit() -> str:
  """The commit of this checkout, and whether files differ from it; '-' without one."""
  git = ['git', '-C', str(_ROOT)]
  run = lambda *args: subprocess.run(
    [*git, *args], capture_output=True, text=True, check=True, timeout=10
  ).stdout.strip()
  try:
    # The root of another repository is no commit of this one.
    if pathlib.Path(run('rev-parse', '--show-toplevel')) != _ROOT:
      return '-'
    changed = ', with changes' if run('status', '--porcelain', '-uno') else ''
    return run('rev-parse', 'HEAD') + changed
  except (OSError, subprocess.SubprocessError):
    return '-'


def record(workdir: pathlib.Path) -> None:
  """Adds this command to those that a run directory was made by."""
  known, own = load(workdir), describe()
  same = lambda a: {k: v for k, v in a.items() if k != 'date'}
  if same(own) not in map(same, known):
    (workdir / _FILE).write_text(json.dumps([*known, own], indent=2))


def load(workdir: pathlib.Path) -> list[dict[str, str]]:
  """What `record` wrote, the last command last; empty for a run without it."""
  path = workdir / _FILE
  return json.loads(path.read_text()) if path.exists() else []

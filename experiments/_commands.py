"""A user's mistake on the command line is one sentence, not a traceback."""

import errno
import os
import pathlib
import re
import sys

from absl import flags
import jax
from ml_collections import config_flags

from experiments import _processes
import jaxsparse as js

# ml_collections raises all but the first for a key that no config has.
_FLAG_ERRORS = (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError)

_INTERRUPTED = (
  'Interrupted. Checkpoints and tables are whole; the same command, with the same'
  ' --workdir, goes on.'
)
_FULL = 'Make room there; the same command, with the same --workdir, goes on.'
_FORBIDDEN = 'Give a directory where you may write.'
_ADVICE = {
  errno.EACCES: _FORBIDDEN,
  errno.EDQUOT: _FULL,
  errno.EFBIG: _FULL,
  errno.ENOSPC: _FULL,
  errno.EPERM: _FORBIDDEN,
  errno.EROFS: _FORBIDDEN,
}


def define_config(default, help_text: str):
  """The flag `--config`, whose default is the config file `default`."""
  try:
    # Not every option of every model is in every config; what no model or config
    # knows is refused later, by name.
    return config_flags.DEFINE_config_file(
      'config', str(default), help_text, lock_config=False, accept_new_attributes=True
    )
  except _FLAG_ERRORS as error:
    # What the command line changes in the default is looked up already here.
    _exit(sys.argv, error)


def parse_flags(args):
  """For `app.run(flags_parser=...)`: says which flag or key is wrong, and exits."""
  try:
    return flags.FLAGS(args)
  except _FLAG_ERRORS as error:
    _exit(args, error)


def guarded(main):
  """Wraps `main(argv)`: errors about what the user gave end it with their message.

  Several processes of one run, which the environment names, are joined before.
  """

  def run(argv):
    with _processes.joined():
      try:
        _check_devices()
        main(argv)
      except KeyboardInterrupt:
        # A signal while it trains is caught there, and saved; this one came elsewhere.
        print(_INTERRUPTED, file=sys.stderr)
        sys.exit(130)
      except (
        ValueError,
        OSError,
        FloatingPointError,
        js.checkpoint.CheckpointError,
      ) as error:
        _exit(argv, error)

  return run


def _check_devices():
  """Raises ValueError where jax has no device to compute on."""
  try:
    jax.devices()
  # jax asserts that a platform is there which the environment asked for.
  except (AssertionError, RuntimeError) as error:
    asked = os.environ.get('JAX_PLATFORMS', '')
    why = ' '.join(str(error).split()) or 'jax found no such device'
    raise ValueError(
      f'JAX_PLATFORMS={asked}: {why}. Unset it to take what is there, or set it to cpu;'
      " a GPU needs jax's wheels for it: pip install 'jax[cuda12]'."
    ) from error


def _exit(argv, error):
  # ml_collections wraps the KeyError of an unknown key in an AttributeError.
  while error.args and isinstance(error.args[0], Exception):
    error = error.args[0]
  unknown = isinstance(error, KeyError)
  text = f'--config: unknown key {error.args[0]}' if unknown else str(error)
  if isinstance(error, OSError) and error.filename:
    text = f'{error.filename}: {error.strerror}.'
  if isinstance(error, OSError) and error.errno in _ADVICE:
    text = f'{text.rstrip(".")}. {_ADVICE[error.errno]}'
  lines = text.strip().splitlines() or [type(error).__name__]
  # The trace of a config file that failed is text within the message.
  if any('Traceback' in line for line in lines):
    lines = [re.sub(r'^\s*\w+(Error|Exception): ', '', lines[-1])]
  sentence = ' '.join(' '.join(lines).split())
  sys.exit(f'{pathlib.Path(argv[0]).name}: {sentence}')

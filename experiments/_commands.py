"""A user's mistake on the command line is one sentence, not a traceback."""

import pathlib
import re
import sys

from absl import flags
from ml_collections import config_flags

from experiments import _processes
import jaxsparse as js

# ml_collections raises all but the first for a key that no config has.
_FLAG_ERRORS = (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError)


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
        main(argv)
      except (
        ValueError,
        OSError,
        FloatingPointError,
        js.checkpoint.CheckpointError,
      ) as error:
        _exit(argv, error)

  return run


def _exit(argv, error):
  # ml_collections wraps the KeyError of an unknown key in an AttributeError.
  while error.args and isinstance(error.args[0], Exception):
    error = error.args[0]
  unknown = isinstance(error, KeyError)
  text = f'--config: unknown key {error.args[0]}' if unknown else str(error)
  if isinstance(error, OSError) and error.filename:
    text = f'{error.filename}: {error.strerror}.'
  lines = text.strip().splitlines() or [type(error).__name__]
  # The trace of a config file that failed is text within the message.
  if any('Traceback' in line for line in lines):
    lines = [re.sub(r'^\s*\w+(Error|Exception): ', '', lines[-1])]
  sentence = ' '.join(' '.join(lines).split())
  sys.exit(f'{pathlib.Path(argv[0]).name}: {sentence}')

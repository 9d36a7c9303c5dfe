"""A user's mistake on the command line is one sentence, not a traceback."""

import pathlib
import sys

from absl import app

import jaxsparse as js


def parse_flags(args):
  """For `app.run(flags_parser=...)`: says which config key is wrong, and exits."""
  try:
    return app.parse_flags_with_usage(args)
  except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
    # ml_collections raises these for a key that no config has.
    _exit(args, error)


def guarded(main):
  """Wraps `main(argv)`: errors about what the user gave end it with their message."""

  def run(argv):
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
  lines = str(error).strip('"\' \n').splitlines()
  # The trace of a config file that failed is text within the message.
  said = lines[-1:] if any('Traceback' in line for line in lines) else lines
  sentence = ' '.join(' '.join(said).split())
  sys.exit(f'{pathlib.Path(argv[0]).name}: {sentence}')

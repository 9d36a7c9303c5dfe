"""Silences one message of Orbax that is noise after a failed read or write."""

import functools
import sys


@functools.cache
def ignore_closed_loops() -> None:
  """Drops TensorStore's reports that an event loop is closed, once per process.

  When one array cannot be read or written, Orbax closes its event loop while
  TensorStore still works on the others; these then fail to report back, after the
  real error was raised. Everything else goes to the hook that was there before.
  """
  report = sys.unraisablehook

  def filtered(unraisable):
    # TensorStore calls from C++, so no Python object is named: a user's coroutine is.
    error = unraisable.exc_value
    is_noise = type(error) is RuntimeError and str(error) == 'Event loop is closed'
    if not (is_noise and unraisable.object is None):
      report(unraisable)

  sys.unraisablehook = filtered

"""A flag for the training loop that SIGTERM and Ctrl-C set."""

import signal
import threading

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class SignalGuard:
  """Catches the first SIGTERM or SIGINT; see `sigterm_guard`.

  Attributes:
    triggered: whether a signal came since the guard was entered.
  """

  def __init__(self):
    self.triggered = False
    self._old = {}

  def __enter__(self):
    # Python runs handlers in the main thread only and refuses to set them elsewhere.
    if threading.current_thread() is threading.main_thread():
      self._old = {s: signal.signal(s, self._handle) for s in _SIGNALS}
    return self

  def __exit__(self, *exception):
    del exception
    for number, old in self._old.items():
      # None: set from C, which Python cannot put back.
      signal.signal(number, signal.SIG_DFL if old is None else old)
    self._old = {}

  def _handle(self, number, frame):
    if self.triggered and number == signal.SIGINT:
      signal.default_int_handler(number, frame)
    self.triggered = True


def sigterm_guard() -> SignalGuard:
  """A context manager that turns SIGTERM and Ctrl-C into a flag.

  Without it SIGTERM kills the process and nothing is saved. The loop looks at
  `triggered` after each step, saves and leaves. A second Ctrl-C raises
  KeyboardInterrupt as usual; further SIGTERMs change nothing. The old handlers come
  back on exit. Outside the main thread the guard does nothing.

  With several processes the signal may reach one of them first, or only one: let
  them agree with `jax.experimental.multihost_utils.reached_preemption_sync_point`
  instead.

  Returns:
    A `SignalGuard`; its `triggered` is False until the first signal.

  Example:
    >>> import os, signal
    >>> import jaxsparse as js
    >>> with js.checkpoint.sigterm_guard() as guard:
    ...   for step in range(100):
    ...     if step == 3:
    ...       os.kill(os.getpid(), signal.SIGTERM)
    ...     if guard.triggered:
    ...       break
    >>> step
    3
  """
  return SignalGuard()

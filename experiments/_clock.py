"""What the seconds of a run went into."""

import contextlib
import time

import jax

# Evaluation and compilation are no part of training: they have columns of their own.
COUNTED = ('selection', 'data', 'train')
KINDS = (*COUNTED, 'eval', 'compile')


class Span:
  """The seconds of a whole run, those of an earlier process guessed from its steps.

  Args:
    num_steps: of the run.
  """

  def __init__(self, num_steps: int):
    self._num_steps, self._first, self._began = num_steps, 0, time.monotonic()

  def start(self, step: int) -> None:
    """Says at which step this process goes on."""
    self._first = step

  def seconds(self) -> float | None:
    """Until now; None for a run of which this process has trained nothing."""
    own = self._num_steps - self._first
    elapsed = time.monotonic() - self._began
    return elapsed * self._num_steps / own if own > 0 else None


class Clock:
  """Seconds of a run, by kind; it can go on from those of a row of metrics.csv."""

  def __init__(self):
    self.seconds = dict.fromkeys(KINDS, 0.0)
    self._waiting = None

  def row(self) -> dict[str, float]:
    """`<kind>_seconds` of each kind, and `seconds`: selection, data and training."""
    columns = {f'{kind}_seconds': self.seconds[kind] for kind in KINDS}
    return {'seconds': sum(self.seconds[k] for k in COUNTED), **columns}

  def go_on(self, row: dict) -> None:
    """Takes over what a row of an earlier process had counted."""
    self.seconds = {kind: float(row[f'{kind}_seconds']) for kind in KINDS}

  @contextlib.contextmanager
  def counts(self, kind: str):
    """Counts what happens inside as `kind`."""
    start = time.perf_counter()
    try:
      yield
    finally:
      self.seconds[kind] += time.perf_counter() - start

  def batches(self, batches):
    """`batches`, from whose first call on the seconds are data, until a step begins."""

    def waited(step):
      if self._waiting is None:
        self._waiting = time.perf_counter()
      return batches(step)

    return waited

  def step(self, step_fn):
    """`step_fn`, whose seconds are training; it returns when they are over."""

    def timed(state, batch, data=None):
      now = time.perf_counter()
      if self._waiting is not None:
        # Whatever came between the two calls made the batch: also stacking it.
        self.seconds['data'] += now - self._waiting
        self._waiting = None
      with self.counts('train'):
        return jax.block_until_ready(step_fn(state, batch, data))

    timed.devices = step_fn.devices  # type: ignore[attr-defined]
    return timed

"""A run as it is watched: a bar, TensorBoard, and the rows of metrics.csv."""

import sys
import time

import numpy as np
import tensorboardX
import tqdm

from experiments import _clock, _processes


class Watch:
  """Follows the training of one method with one seed.

  Args:
    method: its name.
    seed: of the run.
    num_steps: of the whole run.
    workdir: the run directory.
    metrics: the table whose rows `record` adds; it has method, seed, step and
      steps_per_second.

  Attributes:
    span: the seconds of the run.
  """

  def __init__(self, method: str, seed: int, num_steps: int, workdir, metrics):
    self._method, self._seed, self._num_steps = method, seed, num_steps
    self._label, self._metrics = f'{method}-{seed}', metrics
    self._events = str(workdir / 'tensorboard' / self._label)
    self._bar = self._writer = self._clock = self._now = None
    self.span = _clock.Span(num_steps)

  def start(self, step: int) -> None:
    """Begins, or goes on, at a step."""
    self.span.start(step)
    self._metrics.rewind(self._method, self._seed, step)
    if _processes.is_first():
      self._writer = tensorboardX.SummaryWriter(self._events, purge_step=step + 1)
    self._bar = tqdm.tqdm(
      total=self._num_steps, initial=step, desc=f'{self._label:>16}', unit='step',
      disable=not sys.stderr.isatty(), mininterval=0.2,
    )  # fmt: skip

  def advance(self, step: int, text: str) -> None:
    """Moves the bar, with a text behind it."""
    self._bar.update(step - self._bar.n)
    self._bar.set_postfix_str(text, refresh=False)
    self._now = time.time()
    if self._clock is None:
      self._clock = self._now, step  # The first call compiles.

  def record(self, row: dict, step: int, progress) -> None:
    """Writes what an evaluation found at the step of the last `advance`.

    Args:
      row: of metrics.csv; the columns that every row has are added to it.
      step: of the run.
      progress: `row -> text`, for where there is no bar.
    """
    seconds, steps = self._now - self._clock[0], step - self._clock[1]
    rate = steps / max(seconds, 1e-9) or float('nan')
    row.update(method=self._method, seed=self._seed, step=step, steps_per_second=rate)
    self._metrics.append(row)
    if self._writer is not None:
      for name, value in row.items():
        if isinstance(value, float) and np.isfinite(value):
          self._writer.add_scalar(name, value, step)
      self._writer.flush()
    if self._bar.disable:
      print(f'{self._label:>16} step {step:>6}  {progress(row)}', flush=True)
    # Evaluations are no part of the next rate.
    self._clock = time.time(), step

  def close(self) -> None:
    """Ends the bar and the events."""
    self._bar.close()
    if self._writer is not None:
      self._writer.close()

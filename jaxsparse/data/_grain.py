"""Batches from any source with random access, read by Grain, with or without workers."""

import threading
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxsparse.data import _checks, _plan

_BLOCK = 8192  # Slots that are drawn at once: one alone costs as much as hundreds.


class Example(NamedTuple):
  """What `grain_dataset` gives for one slot, or, after `.batch`, for many.

  Attributes:
    record: as the source has it.
    index: int32, which record it is.
    weight: float32, what its loss is multiplied by.
  """

  record: Any
  index: Any
  weight: Any


def grain_dataset(
  plan: _plan.Plan, source, *, start: int = 0, host: int = 0, num_hosts: int = 1
):
  """A Grain dataset of the records of a plan, in the plan's order.

  What comes after is Grain: `.map` what a record needs, `.batch(plan.batch_size //
  num_hosts)`, `.to_iter_dataset()`, and `.mp_prefetch(...)` for worker processes. The
  stream is that of `plan.batch`, and of `js.data.gather`, with any number of them. A run
  goes on with `start`, the step that its checkpoint is of, also with other numbers of
  workers and hosts: nothing else has to be saved. Grain's own state knows neither ratio
  nor seed, so keep `plan.fingerprint()` too and compare it with `check_resume`.

  Args:
    plan: any plan.
    source: N records by `len` and `[]`, such as `tfds.data_source(...)`, a
      `datasets.Dataset`, or a list. Worker processes need one that can be pickled.
    start: the first step that is read.
    host: which of `num_hosts`, from 0; it reads its part of every batch.
    num_hosts: how many hosts share a batch, in equal parts.

  Returns:
    A `grain.MapDataset` of `Example`s, `plan.batch_size // num_hosts` for each step from
    `start` to the last.

  Raises:
    ImportError: Grain is not installed.
    ValueError: a source of another size, hosts that do not divide the batch, a start
      beyond the last step; when read, a record that the source raises at, by its index.

  Example:
    >>> import jaxsparse as js
    >>> plan = js.data.rs2(100, 4, ratio=0.2, rounds=3, seed=0)
    >>> records = js.data.grain_dataset(plan, range(0, 1000, 10), start=5).batch(4)
    >>> first = next(iter(records))
    >>> bool((first.index == plan.batch(5)[0]).all())
    True
    >>> bool((first.record == 10 * first.index).all())
    True
  """
  try:
    import grain
  except ImportError as error:
    raise ImportError(
      'js.data.grain_dataset needs Grain: pip install grain, or the extra'
      ' jaxsparse[grain].'
    ) from error
  return grain.MapDataset.source(_Records(plan, source, start, host, num_hosts))


class _Records:
  """Slot by slot what the plan wants of a source; pickled to Grain's workers."""

  def __init__(self, plan, source, start, host, num_hosts):
    if len(source) != plan.num_examples:
      raise ValueError(
        f'source: has {len(source)} records, wanted the {plan.num_examples} of the plan.'
      )
    self.num_hosts = _checks.count('num_hosts', num_hosts)
    if plan.batch_size % num_hosts:
      raise ValueError(
        f'num_hosts={num_hosts}: wanted a divisor of batch_size={plan.batch_size}.'
      )
    self.host = _checks.count('host', host, 0, num_hosts)
    self.start = _checks.count('start', start, 0, plan.total_steps + 1)
    self.per_step = plan.batch_size // num_hosts
    # On the host, so that no worker asks for a device.
    self.plan = jax.tree.map(np.asarray, plan)
    self.source = source
    self._block, self._drawn, self._lock = -1, None, threading.Lock()

  def __len__(self):
    return (self.plan.total_steps - self.start) * self.per_step

  def __getitem__(self, position):
    position = int(position)
    if not 0 <= position < len(self):
      raise IndexError(f'{position} of {len(self)} records')
    step, place = divmod(position, self.per_step)
    step += self.start
    # A host's part of a batch is a run of slots, so hosts never meet.
    slot = step * self.plan.batch_size + self.host * self.per_step + place
    index, weight = self._draw(slot)
    try:
      record = self.source[int(index)]
    except Exception as error:  # Sources raise whatever their readers raise.
      raise ValueError(
        f'source: record {index} of step {step} cannot be read'
        f' ({type(error).__name__}: {error}).'
      ) from error
    return Example(record, index, weight)

  def _draw(self, slot):
    block, offset = divmod(slot, _BLOCK)
    # Grain reads with many threads; one of them draws for all.
    with self._lock:
      if block != self._block:
        slots = np.arange(block * _BLOCK, (block + 1) * _BLOCK, dtype=np.int64)
        self._drawn, self._block = self.plan.at(slots), block
      indices, weights = self._drawn
    return indices[offset], weights[offset]

  def __repr__(self):
    # Grain shows it, and its DataLoader compares it with that of a saved state.
    return f'_Records({self.plan.fingerprint()}, {self.source!r})'

  def __getstate__(self):
    # A lock cannot be pickled, and a drawn block is drawn again from the plan.
    return {**self.__dict__, '_lock': None, '_block': -1, '_drawn': None}

  def __setstate__(self, state):
    self.__dict__.update(state)
    self._lock = threading.Lock()

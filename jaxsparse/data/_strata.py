"""Classes: every pass and every round has each in its share."""

from typing import Any

import numpy as np

from jaxsparse.core import bits as _bits
from jaxsparse.data import _checks, _plan


def tables_of(labels, num_examples: int) -> dict[str, np.ndarray]:
  """The records by class: `order` (N,), and of each class its `start` and `size`.

  Raises:
    ValueError: labels that are no integers (N,) from 0, or a class without an example.
  """
  labels = _checks.vector('labels', labels, num_examples, np.int64)
  if labels.min() < 0:
    raise ValueError(
      f'labels[{int(np.argmin(labels))}]={labels.min()}: wanted classes 0, 1, ...'
    )
  sizes = np.bincount(labels)
  if not sizes.all():
    raise ValueError(
      f'labels: class {int(np.argmin(sizes))} of {len(sizes)} has no example; wanted'
      ' classes 0, 1, ... with at least one each.'
    )
  order = np.argsort(labels, kind='stable').astype(np.uint32)
  starts = (np.cumsum(sizes) - sizes).astype(np.uint32)
  return {'order': order, 'start': starts, 'size': sizes.astype(np.uint32)}


def pass_tables(labels, num_examples: int) -> dict[str, np.ndarray]:
  """Of each position of a pass, its class and its rank there, (N,) each.

  The r-th of n examples of a class stands where the share (r + 1/2) / n of the pass is
  over, so that any window has every class about in its share.
  """
  tables = tables_of(labels, num_examples)
  sizes = tables['size'].astype(np.int64)
  classes = np.repeat(np.arange(len(sizes)), sizes)
  ranks = np.arange(num_examples) - np.repeat(tables['start'].astype(np.int64), sizes)
  places = np.argsort((ranks + 0.5) / sizes[classes], kind='stable')
  return {
    **tables,
    'class': classes[places].astype(np.uint32),
    'rank': ranks[places].astype(np.uint32),
  }


def draw_pass(plan: _plan.Plan, cycle, position):
  """Without replacement: the pattern of classes stays, who stands for them does not."""
  tables = plan.tables
  which = tables['class'][position]
  key = _bits.fold(_bits.fold(plan.key(_plan.PASS), cycle), which)
  return _member(plan, which, tables['rank'][position], key)


def round_tables(labels, num_examples: int, round_size: int) -> dict[str, Any]:
  """How a round divides its slots among the classes.

  Class c has q_c = m n_c / N slots on average: the whole part in every round (`whole`,
  cumulated), the rest (`part`, cumulated, in units of 1/N) by systematic sampling. So
  every record is in a round with the probability m / N exactly.

  Raises:
    ValueError: fewer slots than classes, or too many classes for 32 bits.
  """
  tables = tables_of(labels, num_examples)
  sizes = tables['size'].astype(np.int64)
  if round_size < len(sizes):
    raise ValueError(
      f'ratio: a round has {round_size} examples, wanted at least one for each of the'
      f' {len(sizes)} classes of labels.'
    )
  whole, part = np.divmod(round_size * sizes, num_examples)
  if part.sum() + num_examples >= 2**32:
    raise ValueError(
      f'labels: {len(sizes)} classes of {num_examples} examples are too many; wanted'
      ' fewer than 2**32 / num_examples classes.'
    )
  return {
    **tables,
    'whole': np.cumsum(whole).astype(np.uint32),
    'part': np.cumsum(part).astype(np.uint32),
    'slots': np.array([round_size], np.uint32),
  }


def draw_round(plan: _plan.Plan, cycle, position):
  """With replacement between rounds: the slots of a round by class, in random order."""
  tables = plan.tables
  xp = _bits.namespace(cycle, *tables.values())
  key = _bits.fold(plan.key(_plan.ORDER), cycle)
  place = _bits.permute(position, tables['slots'], key, plan.num_examples)

  ends, parts = tables['whole'], tables['part']
  total = ends[-1:]
  # Slots beyond the whole parts: one point each, a whole unit apart, from a random
  # start. A class with a part below one unit meets one point or none.
  shift = _bits.below(
    _bits.fold(plan.key(_plan.SHIFT), cycle), np.uint32(plan.num_examples)
  )
  extra = place >= total
  point = xp.where(extra, place - total, 0) * np.uint32(plan.num_examples) + shift
  # From the right, which passes over classes that have no slots of this kind.
  by_part = xp.searchsorted(parts, point, side='right')
  by_whole = xp.searchsorted(ends, place, side='right')
  which = xp.where(extra, by_part, by_whole)
  begins = xp.concatenate([xp.zeros(1, np.uint32), ends])
  # The extra slot of a class follows those of its whole part.
  rank = xp.where(extra, begins[which + 1] - begins[which], place - begins[which])
  key = _bits.fold(_bits.fold(plan.key(_plan.ROUND), cycle), which.astype(np.uint32))
  return _member(plan, which, rank, key)


def _member(plan, which, rank, key):
  tables, largest = plan.tables, plan.num_examples
  inside = _bits.permute(rank, tables['size'][which], key, largest)
  indices = tables['order'][tables['start'][which] + inside]
  return indices, _plan.ones(indices)

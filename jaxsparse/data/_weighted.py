"""Plans that follow a score: importance sampling, and a curriculum."""

import numpy as np

from jaxsparse.core import bits as _bits
from jaxsparse.data import _checks, _plan

_UNITS = 2**32


def importance(
  probabilities,
  batch_size: int,
  *,
  num_steps: int,
  floor: float = 0.1,
  seed,
) -> _plan.Plan:
  r"""Draws records by given probabilities, and weights them so that nothing is biased.

  .. math:: q_i = (1 - f) \, p_i / \textstyle\sum_j p_j + f / N, \qquad
    w_i = \frac{1}{N q_i}, \qquad E_q[w_i \ell_i] = \frac1N \sum_i \ell_i

  The draws are independent. Probabilities are held as whole multiples of 2**-32, and
  the weights are those of the multiples, so that the mean is exact. Scores that move
  during a run make a new plan of the same shapes, which `jit` does not compile again:
  PA&DA draws each epoch with `floor = 1 - epoch / epochs` from the running mean of
  |softmax - onehot|, though its code leaves the weights out.

  Source: Lu et al. 2023, PA&DA: Jointly Sampling PAth and DAta for Consistent NAS (arXiv
  2302.14772), section 3.3, of which this is the half about data.

  Args:
    probabilities: (N,) numbers >= 0, in any unit: a score per record.
    batch_size: examples per step, over all devices.
    num_steps: of the run.
    floor: f in [0, 1], the share of uniform draws: no weight exceeds 1 / f.
    seed: int below 2**63, integer scalar or typed key, traced or not.

  Returns:
    A `Plan`; a round is one step.

  Raises:
    ValueError: probabilities that are negative, not finite or all 0; some record that
      would be drawn with a probability above 0 and below 2**-32, or never.

  Example:
    >>> import jaxsparse as js, numpy as np
    >>> plan = js.data.importance([1, 1, 2, 4], 8, num_steps=10, floor=0.0, seed=0)
    >>> indices, weights = plan.batch(3)
    >>> np.unique(weights[indices == 3]).tolist()
    [0.5]
  """
  given = _checks.vector('probabilities', probabilities, None, np.float64)
  batch_size = _checks.count('batch_size', batch_size)
  num_steps = _checks.count('num_steps', num_steps)
  if isinstance(floor, bool) or not 0 <= floor <= 1:
    raise ValueError(f'floor={floor!r}: wanted a number in [0, 1].')
  if given.min() < 0 or not given.sum():
    raise ValueError(
      f'probabilities: from {given.min()} to {given.max()}; wanted numbers >= 0, some'
      ' above.'
    )
  mixed = (1 - floor) * given / given.sum() + floor / given.size
  ends = np.rint(np.cumsum(mixed) / mixed.sum() * _UNITS).astype(np.uint64)
  # Rounding must leave no 32-bit word without a record.
  ends[-1] = _UNITS
  units = np.diff(ends, prepend=np.uint64(0))
  if not units.all():
    where = int(np.argmin(units))
    raise ValueError(
      f'probabilities[{where}]={given[where]}: would be drawn with probability'
      f' {mixed[where]:.3g}, wanted 2**-32 or more; raise floor={floor}, or leave the'
      ' record out by js.data.subset.'
    )
  weights = _UNITS / (given.size * units.astype(np.float64))
  return _plan.make(
    'importance', _draw_importance, num_examples=given.size, batch_size=batch_size,
    steps_per_round=1, rounds=num_steps, cycle=batch_size, seed=seed,
    settings={'floor': float(floor)},
    # The last end, 2**32, is no uint32, and no word reaches it.
    tables={'ends': ends[:-1].astype(np.uint32), 'weights': np.float32(weights)},
  )  # fmt: skip


def _draw_importance(plan, cycle, position):
  ends = plan.tables['ends']
  # One word of a key is a uniform number of 32 bits.
  word, _ = _bits.fold(_bits.fold(plan.key(_plan.DRAW), cycle), position)
  indices = _bits.namespace(word, ends).searchsorted(ends, word, side='right')
  return indices, plan.tables['weights'][indices]


def effective_sample_size(weights) -> float:
  r"""Of how many equal weights a weighted mean is worth (Kish).

  .. math:: (\sum_i w_i)^2 / \sum_i w_i^2

  Args:
    weights: array of numbers >= 0, such as the weights of a batch.

  Returns:
    A number between 1 and the number of weights.

  Raises:
    ValueError: no weight above 0.

  Example:
    >>> import jaxsparse as js
    >>> js.data.effective_sample_size([1, 1, 1, 0])
    3.0
  """
  weights = np.asarray(weights, np.float64)
  if not np.any(weights > 0):
    raise ValueError('weights: none is above 0.')
  return float(weights.sum() ** 2 / (weights**2).sum())


def curriculum(
  scores,
  batch_size: int,
  *,
  ratio: float,
  rounds: int,
  start: float = 0.2,
  stop: float = 0.5,
  labels=None,
  seed,
) -> _plan.Plan:
  r"""Draws each round from the records with the smallest scores, from ever more of them.

  .. math:: g(t) = s + (1 - s) \min(1, t / (u X)), \qquad
    S_t \subset \text{the } \max(m, \mathrm{round}(g(t) N)) \text{ smallest scores}

  A round is a uniform subset of the pool without replacement, as in `rs2` with
  replacement between rounds, which is what it becomes from round u X on. Before that,
  hard records are left out and no weight makes up for it: the schedule is biased.

  Source: Wu, Dyer, Neyshabur 2021, When Do Curricula Work? (arXiv 2012.03107), section
  2, with the linear pacing function; negated scores give an anti-curriculum.

  Args:
    scores: (N,) numbers, small for what comes first; ties in the order of the records.
    batch_size: examples per step, over all devices.
    ratio: r in (0, 1], the share of the data in a round; m = round(r N).
    rounds: X.
    start: s in (0, 1], the share of the data that the first round draws from.
    stop: u in [0, 1], the share of the rounds after which all data are drawn from.
    labels: int (N,) classes, each of which then gives the same share of its records to
      the pool; None for the smallest scores of all. The easiest fifth of a data set may
      lack whole classes, and a network that has not seen them at a large learning rate
      need not recover.
    seed: int below 2**63, integer scalar or typed key, traced or not.

  Returns:
    A `Plan`.

  Raises:
    ValueError: a share out of range, scores that are not finite, labels that are not one
      per score, fewer examples than a batch.

  Example:
    >>> import jaxsparse as js, numpy as np
    >>> plan = js.data.curriculum(np.arange(100), 10, ratio=0.1, rounds=20, seed=0)
    >>> int(plan.batch(0)[0].max()) < 20
    True
  """
  scores = _checks.vector('scores', scores, None, np.float64)
  if labels is not None:
    scores = _ranks_in_class(
      scores, _checks.vector('labels', labels, scores.size, np.int64)
    )
  batch_size = _checks.count('batch_size', batch_size)
  rounds = _checks.count('rounds', rounds)
  size = _checks.round_size(scores.size, ratio, batch_size)
  if isinstance(start, bool) or not 0 < start <= 1:
    raise ValueError(f'start={start!r}: wanted a number in (0, 1].')
  if isinstance(stop, bool) or not 0 <= stop <= 1:
    raise ValueError(f'stop={stop!r}: wanted a number in [0, 1].')
  over = np.arange(rounds) / (stop * rounds) if stop else np.ones(rounds)
  share = start + (1 - start) * np.minimum(1, over)
  pools = np.maximum(size, np.rint(share * scores.size)).astype(np.uint32)
  steps = size // batch_size
  return _plan.make(
    'curriculum', _draw_curriculum, num_examples=scores.size, batch_size=batch_size,
    steps_per_round=steps, rounds=rounds, cycle=steps * batch_size, seed=seed,
    settings={
      'ratio': float(ratio), 'rounds': rounds, 'start': float(start),
      'stop': float(stop),
    },
    tables={
      'order': np.argsort(scores, kind='stable').astype(np.int32), 'pools': pools,
    },
  )  # fmt: skip


def _ranks_in_class(scores, labels):
  """The share of a record's class that comes before it."""
  ranks = np.empty(scores.size)
  for label in np.unique(labels):
    (members,) = np.nonzero(labels == label)
    order = np.argsort(scores[members], kind='stable')
    ranks[members[order]] = np.arange(members.size) / members.size
  return ranks


def _draw_curriculum(plan, cycle, position):
  pools = plan.tables['pools']
  xp = _bits.namespace(cycle, pools)
  # Steps past the last are defined too: they draw from the last pool.
  size = pools[xp.minimum(cycle, np.uint32(pools.size - 1))]
  key = _bits.fold(plan.key(_plan.ROUND), cycle)
  place = _bits.permute(position, size, key, plan.num_examples)
  indices = plan.tables['order'][place]
  return indices, _plan.ones(indices)

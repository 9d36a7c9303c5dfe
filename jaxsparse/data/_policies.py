"""What RS2 is held against: all data, the same steps on it, a fixed subset, i.i.d. draws."""

import numpy as np

from jaxsparse.core import bits as _bits
from jaxsparse.data import _checks, _plan, _rs2


def full(num_examples: int, batch_size: int, *, epochs: int, seed) -> _plan.Plan:
  """Shuffled passes over all data.

  An epoch is `N // batch_size` steps; what is left of a pass begins the next epoch, so
  that every record is seen.

  Args:
    num_examples: N.
    batch_size: examples per step, over all devices.
    epochs: of the run.
    seed: int below 2**63, integer scalar or typed key, traced or not.

  Returns:
    A `Plan`.

  Raises:
    ValueError: fewer examples than a batch.

  Example:
    >>> import jaxsparse as js
    >>> js.data.full(1000, 32, epochs=10, seed=0).total_steps
    310
  """
  num_examples = _checks.count('num_examples', num_examples)
  batch_size = _checks.count('batch_size', batch_size)
  epochs = _checks.count('epochs', epochs)
  _checks.round_size(num_examples, 1.0, batch_size, 'an epoch')
  return _passes(
    'full', num_examples, batch_size, num_examples // batch_size, epochs, seed, {}
  )


def short_full(
  num_examples: int, batch_size: int, *, ratio: float, rounds: int, seed
) -> _plan.Plan:
  """Shuffled passes over all data, in as many steps as `rs2` would take.

  The baseline without which a subset method's gain is that of a shorter schedule:
  `ratio * rounds` epochs, the learning-rate schedule fitted to them. RS2 without
  replacement draws this very stream.

  Args:
    num_examples: N.
    batch_size: examples per step, over all devices.
    ratio: in (0, 1], of the plan that it is held against.
    rounds: of that plan.
    seed: int below 2**63, integer scalar or typed key, traced or not.

  Returns:
    A `Plan`.

  Raises:
    ValueError: as `rs2`.

  Example:
    >>> import jaxsparse as js, numpy as np
    >>> short = js.data.short_full(1000, 32, ratio=0.1, rounds=50, seed=0)
    >>> same = js.data.rs2(1000, 32, ratio=0.1, rounds=50, seed=0)
    >>> bool((short.batch(99)[0] == same.batch(99)[0]).all())
    True
  """
  num_examples = _checks.count('num_examples', num_examples)
  batch_size = _checks.count('batch_size', batch_size)
  rounds = _checks.count('rounds', rounds)
  size = _checks.round_size(num_examples, ratio, batch_size)
  settings = {'ratio': float(ratio), 'rounds': rounds}
  return _passes(
    'short_full', num_examples, batch_size, size // batch_size, rounds, seed, settings
  )


def _passes(policy, num_examples, batch_size, steps, rounds, seed, settings):
  return _plan.make(
    policy, _rs2.draw_pass, num_examples=num_examples, batch_size=batch_size,
    steps_per_round=steps, rounds=rounds, cycle=num_examples, seed=seed,
    settings=settings,
  )  # fmt: skip


def static_subset(
  num_examples: int, batch_size: int, *, ratio: float, rounds: int, labels=None, seed
) -> _plan.Plan:
  """One random subset, drawn once: what every coreset has to beat.

  The first round of `rs2(..., replacement=True)` of the same seed, and shuffled passes
  over it in as many steps.

  Args:
    num_examples: N.
    batch_size: examples per step, over all devices.
    ratio: in (0, 1], the share of the data that is ever seen.
    rounds: passes over the subset.
    labels: (N,) integers from 0: the subset has each class in its share.
    seed: int below 2**63, integer scalar or typed key, traced or not.

  Returns:
    A `Plan`; its `likelihood_size` is the size of the subset.

  Raises:
    ValueError: as `rs2`.

  Example:
    >>> import jaxsparse as js
    >>> plan = js.data.static_subset(1000, 32, ratio=0.1, rounds=50, seed=0)
    >>> int((plan.exposures(plan.total_steps) > 0).sum())
    100
  """
  num_examples = _checks.count('num_examples', num_examples)
  size = _checks.round_size(num_examples, ratio, batch_size, 'the subset')
  # One batch of the whole subset, so that no record of it is left out.
  first = _rs2.rs2(
    num_examples,
    size,
    ratio=ratio,
    rounds=1,
    replacement=True,
    labels=labels,
    seed=seed,
  )
  settings = {'ratio': float(ratio), 'stratified': labels is not None}
  return _of_subset(
    'static_subset', first.batch(0)[0], None, num_examples, batch_size, rounds, seed,
    settings,
  )  # fmt: skip


def subset(
  indices, weights=None, *, num_examples: int, batch_size: int, rounds: int, seed
) -> _plan.Plan:
  r"""Shuffled passes over a subset that is already chosen, such as a coreset.

  .. math:: L = \frac1B \sum_b \tilde w_b \, \ell_b,
    \qquad \tilde w_i = w_i \, m / \textstyle\sum_j w_j

  Args:
    indices: (m,) integers below `num_examples`, each once.
    weights: (m,) numbers >= 0, of how many records each one stands for, in any unit;
      they are scaled to a mean of 1, so that the learning rate keeps its meaning. With
      None all count alike.
    num_examples: N, of the whole data set.
    batch_size: examples per step, over all devices.
    rounds: passes over the subset, of `m // batch_size` steps.
    seed: int below 2**63, integer scalar or typed key, traced or not.

  Returns:
    A `Plan`; its `likelihood_size` is N with weights, m without: a posterior given an
    unweighted subset is that of m examples.

  Raises:
    ValueError: an index twice or out of range, negative weights or none above 0, fewer
      records than a batch.

  Example:
    >>> import jaxsparse as js
    >>> plan = js.data.subset([3, 14, 15, 92], [1, 1, 2, 4], num_examples=100,
    ...                       batch_size=4, rounds=10, seed=0)
    >>> indices, weights = plan.batch(0)
    >>> sorted(zip(indices.tolist(), weights.tolist()))
    [(3, 0.5), (14, 0.5), (15, 1.0), (92, 2.0)]
  """
  num_examples = _checks.count('num_examples', num_examples)
  indices = _checks.vector('indices', indices, None, np.int64)
  outside = (indices < 0) | (indices >= num_examples)
  if outside.any():
    where = int(np.argmax(outside))
    raise ValueError(
      f'indices[{where}]={indices[where]}: wanted 0 <= index < {num_examples}.'
    )
  counts = np.bincount(indices, minlength=num_examples)
  if counts.max() > 1:
    raise ValueError(
      f'indices: {int(np.argmax(counts))} is there {counts.max()} times; wanted each'
      ' once, and weights for what counts more.'
    )
  if weights is not None:
    weights = _checks.vector('weights', weights, indices.size, np.float64)
    if weights.min() < 0 or not weights.sum():
      raise ValueError(
        f'weights: from {weights.min()} to {weights.max()}; wanted numbers >= 0, some'
        ' above.'
      )
    weights = weights * (weights.size / weights.sum())
  return _of_subset(
    'subset', indices.astype(np.int32), weights, num_examples, batch_size, rounds, seed,
    {},
  )  # fmt: skip


def _of_subset(
  policy, indices, weights, num_examples, batch_size, rounds, seed, settings
):
  batch_size = _checks.count('batch_size', batch_size)
  rounds = _checks.count('rounds', rounds)
  if indices.size < batch_size:
    raise ValueError(
      f'indices: got {indices.size} records, fewer than batch_size={batch_size};'
      ' wanted at least one batch.'
    )
  weighted = weights is not None
  if weights is None:
    weights = np.ones(indices.size)
  return _plan.make(
    policy, _draw_subset, num_examples=num_examples, batch_size=batch_size,
    steps_per_round=indices.size // batch_size, rounds=rounds, cycle=indices.size,
    seed=seed, settings={**settings, 'rounds': rounds, 'weighted': weighted},
    tables={'indices': indices, 'weights': np.float32(weights)},
    likelihood_size=num_examples if weighted else indices.size,
  )  # fmt: skip


def _draw_subset(plan, cycle, position):
  key = _bits.fold(plan.key(_plan.PASS), cycle)
  place = _bits.permute(position, plan.cycle, key, plan.cycle)
  return plan.tables['indices'][place], plan.tables['weights'][place]


def iid(num_examples: int, batch_size: int, *, num_steps: int, seed) -> _plan.Plan:
  """Every example of every batch is drawn from all data, independently.

  Args:
    num_examples: N.
    batch_size: examples per step, over all devices; it may be larger than N.
    num_steps: of the run.
    seed: int below 2**63, integer scalar or typed key, traced or not.

  Returns:
    A `Plan`; a round is one step.

  Raises:
    ValueError: a size below 1.

  Example:
    >>> import jaxsparse as js
    >>> js.data.iid(3, 5, num_steps=10, seed=0).batch(0)[0].shape
    (5,)
  """
  num_examples = _checks.count('num_examples', num_examples)
  batch_size = _checks.count('batch_size', batch_size)
  num_steps = _checks.count('num_steps', num_steps)
  return _plan.make(
    'iid', _draw_iid, num_examples=num_examples, batch_size=batch_size,
    steps_per_round=1, rounds=num_steps, cycle=batch_size, seed=seed,
  )  # fmt: skip


def _draw_iid(plan, cycle, position):
  # A cycle is one step, so each slot has a key of its own: draws may repeat.
  key = _bits.fold(_bits.fold(plan.key(_plan.DRAW), cycle), position)
  indices = _bits.below(key, np.uint32(plan.num_examples))
  return indices, _plan.ones(indices)

"""RS2: repeated random subsets (Okanovic et al. 2024)."""

from jaxsparse.core import bits as _bits
from jaxsparse.data import _checks, _plan, _strata


def rs2(
  num_examples: int,
  batch_size: int,
  *,
  ratio: float,
  rounds: int,
  replacement: bool = False,
  labels=None,
  seed,
) -> _plan.Plan:
  r"""Trains each round on another small random subset of the data.

  .. math:: m = \mathrm{round}(r N), \quad S_t \subset \{0, \dots, N-1\}, \quad
    |S_t| = m, \quad t = 1, \dots, X

  A round is `m // batch_size` steps, and the run `rounds` of them; fit the whole
  learning-rate schedule to `plan.total_steps`, which is where the method gets its
  accuracy from. Without replacement the subsets are consecutive windows of shuffled
  passes over all data: after any number of steps the most and the least seen record
  differ by at most one exposure, for any ratio, and the stream is that of `short_full`.
  With replacement every round draws a subset anew; what a batch does not fill is left
  out of the round, and a batch never holds a record twice.

  Source: Okanovic et al. 2024, Repeated Random Sampling for Minimizing the
  Time-to-Accuracy of Learning (arXiv 2305.18424), section 3. There, without replacement,
  a round that runs over the end of a pass takes the front of the same pass again.

  Args:
    num_examples: N.
    batch_size: examples per step, over all devices.
    ratio: r in (0, 1], the share of the data in a round.
    rounds: X, as many as training on all data would have epochs.
    replacement: whether rounds are drawn independently of each other.
    labels: (N,) integers from 0: every round has each class in its share. Without
      replacement any window has, about; with it exactly, up to rounding at random.
    seed: int below 2**63, integer scalar or typed key, traced or not.

  Returns:
    A `Plan`.

  Raises:
    ValueError: a ratio outside (0, 1], fewer examples than a batch, an empty class.

  Example:
    >>> import jaxsparse as js
    >>> plan = js.data.rs2(1000, 32, ratio=0.1, rounds=50, seed=0)
    >>> plan.steps_per_round, plan.total_steps
    (3, 150)
    >>> indices, weights = plan.batch(7)
    >>> indices.shape, float(weights.mean())
    ((32,), 1.0)
    >>> set(plan.exposures(100).tolist())
    {3, 4}
  """
  num_examples = _checks.count('num_examples', num_examples)
  batch_size = _checks.count('batch_size', batch_size)
  rounds = _checks.count('rounds', rounds)
  size = _checks.round_size(num_examples, ratio, batch_size)
  steps = size // batch_size
  if replacement:
    # A cycle ends with the last full batch, so that no batch spans two subsets.
    cycle, tables, draw = steps * batch_size, {}, draw_round
    if labels is not None:
      tables = _strata.round_tables(labels, num_examples, size)
      draw = _strata.draw_round
  else:
    cycle, tables, draw = num_examples, {}, draw_pass
    if labels is not None:
      tables = _strata.pass_tables(labels, num_examples)
      draw = _strata.draw_pass
  settings = {
    'ratio': float(ratio),
    'rounds': rounds,
    'replacement': bool(replacement),
    'stratified': labels is not None,
  }
  return _plan.make(
    'rs2', draw, num_examples=num_examples, batch_size=batch_size,
    steps_per_round=steps, rounds=rounds, cycle=cycle, seed=seed, settings=settings,
    tables=tables,
  )  # fmt: skip


def draw_pass(plan: _plan.Plan, cycle, position):
  """Every record once in each pass, in an order of its own."""
  key = _bits.fold(plan.key(_plan.PASS), cycle)
  indices = _bits.permute(position, plan.num_examples, key, plan.num_examples)
  return indices, _plan.ones(indices)


def draw_round(plan: _plan.Plan, cycle, position):
  """The first places of a permutation of all records, one for each round."""
  key = _bits.fold(plan.key(_plan.ROUND), cycle)
  indices = _bits.permute(position, plan.num_examples, key, plan.num_examples)
  return indices, _plan.ones(indices)

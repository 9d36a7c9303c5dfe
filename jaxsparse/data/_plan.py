"""The one type of every way to choose data: from a step to records and weights."""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsparse.core import bits as _bits
from jaxsparse.data import _checks

# What a key is folded with first, so that no two uses of it share random numbers.
PASS, ROUND, DRAW, ORDER, SHIFT = (np.uint32(i) for i in range(1, 6))


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=('words', 'tables'),
  meta_fields=(
    'policy',
    'num_examples',
    'batch_size',
    'total_steps',
    'steps_per_round',
    'likelihood_size',
    'settings',
    'cycle',
    'draw',
  ),
)
# No `==`, as that of arrays is no single bool: `fingerprint` compares plans.
@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
  """Which records, with which weights, make up each batch of a run.

  A plan is a pure function of a seed and a slot: slot `step * batch_size + i` is the
  i-th example of the batch of `step`. Nothing is remembered between steps, so a run goes
  on anywhere, and every worker and host finds its part alone. It is a pytree whose
  leaves are the seed and the plan's tables: given to `jit` as an argument, one program
  serves all seeds. Steps past the last are defined too.

  Attributes:
    policy: the name of the function that made it.
    num_examples: N, of the whole data set.
    batch_size: examples of a step, over all devices and hosts; it never changes.
    total_steps: of the whole run. Schedules of rates and of masks count these.
    steps_per_round: steps on one subset; of one pass, where there are no subsets.
    likelihood_size: how many examples the mean loss stands for: N where every record
      is as likely as any other or is weighted, fewer for an unweighted fixed subset,
      whose posterior is that of the subset. What `js.bayes.negative_elbo` takes as
      `num_examples`.
    settings: `(name, value)` pairs that were given, for `fingerprint`.
    cycle: slots until the policy draws anew.
    draw: `(plan, cycle, position) -> (indices, weights)`, uint32 (n,) to uint32 (n,)
      and float32 (n,).
    words: uint32 (2,), the seed.
    tables: arrays of the policy, such as labels in order.
  """

  policy: str
  num_examples: int
  batch_size: int
  total_steps: int
  steps_per_round: int
  likelihood_size: int
  settings: tuple[tuple[str, Any], ...]
  cycle: int
  draw: Callable[..., tuple[Any, Any]]
  words: Any
  tables: Mapping[str, Any]

  @property
  def num_rounds(self) -> int:
    """The rounds, or passes, of the whole run."""
    return self.total_steps // self.steps_per_round

  @property
  def likelihood_scale(self) -> float:
    """What a batch's summed weighted loss is multiplied by: likelihood_size / B."""
    return self.likelihood_size / self.batch_size

  def key(self, purpose) -> _bits.Key:
    """The key of one use of the seed."""
    return _bits.fold((self.words[:1], self.words[1:]), purpose)

  def at(self, slots):
    """The records of any slots.

    Args:
      slots: int or integer array of any shape, below 2**32; on the host or traced.

    Returns:
      `(indices, weights)`, int32 and float32 in the shape of `slots`: NumPy arrays where
      the slots and the plan lie on the host, else jax arrays of the same bits.
    """
    xp = _bits.namespace(slots, self.words, *self.tables.values())
    slots = xp.asarray(slots)
    flat = slots.reshape(-1).astype(np.uint32)
    length = np.uint32(self.cycle)
    # A traced index takes nothing from an array of NumPy.
    plan = self if xp is np else jax.tree.map(jnp.asarray, self)
    indices, weights = self.draw(plan, flat // length, flat % length)
    return indices.astype(np.int32).reshape(slots.shape), weights.reshape(slots.shape)

  def batch(self, step):
    """The records of the batch of a step, or of those of several steps.

    Args:
      step: int, or an integer array of steps of any shape; on the host or traced.

    Returns:
      `(indices, weights)`, int32 and float32 `(*shape of step, batch_size)`. The mean
      of weights times losses is what training minimises.

    Raises:
      ValueError: a negative int.
    """
    if isinstance(step, (int, np.integer)) and step < 0:
      raise ValueError(f'step={step}: wanted at least 0.')
    xp = _bits.namespace(step, self.words, *self.tables.values())
    first = xp.asarray(step).astype(np.uint32)[..., None] * np.uint32(self.batch_size)
    offsets = xp.arange(self.batch_size, dtype=np.uint32)
    return self.at(first + offsets.reshape((1,) * (first.ndim - 1) + (-1,)))

  def exposures(self, num_steps: int) -> np.ndarray:
    """How often each record is drawn in the first steps, int64 (num_examples,)."""
    counts = np.zeros(self.num_examples, np.int64)
    chunk = max(1, 2**16 // self.batch_size)
    for start in range(0, num_steps, chunk):
      steps = np.arange(start, min(start + chunk, num_steps))
      indices = np.asarray(self.batch(steps)[0]).reshape(-1)
      counts += np.bincount(indices, minlength=self.num_examples)
    return counts

  def fingerprint(self) -> dict[str, Any]:
    """All that the stream depends on, as JSON can hold it.

    Returns:
      A flat dict; arrays are there as digests. Save it beside `step`, and let
      `js.data.check_resume` compare it before a run goes on.

    Raises:
      ValueError: a seed or table that is traced.
    """
    arrays = {'seed': self.words, **self.tables}
    if any(isinstance(a, jax.core.Tracer) for a in arrays.values()):
      raise ValueError('fingerprint: the plan is traced; take it outside of jit.')
    low, high = (int(w) for w in np.asarray(self.words))
    digests = {f'{k}_digest': _digest(v) for k, v in sorted(self.tables.items())}
    return {
      'policy': self.policy,
      'num_examples': self.num_examples,
      'batch_size': self.batch_size,
      'total_steps': self.total_steps,
      'seed': low + (high << 32),
      **dict(self.settings),
      **digests,
    }


def _digest(array) -> str:
  array = np.ascontiguousarray(array)
  header = f'{array.dtype.str}{array.shape}'.encode()
  return hashlib.sha256(header + array.tobytes()).hexdigest()[:16]


def check_resume(plan: Plan, saved: Mapping[str, Any]) -> None:
  """Refuses to go on with another plan than the one that a run was begun with.

  Args:
    plan: of now.
    saved: the `fingerprint()` of then.

  Raises:
    ValueError: what differs, with both values.

  Example:
    >>> import jaxsparse as js
    >>> make = lambda ratio: js.data.rs2(100, 5, ratio=ratio, rounds=4, seed=0)
    >>> js.data.check_resume(make(0.1), make(0.1).fingerprint())
    >>> js.data.check_resume(make(0.2), make(0.1).fingerprint())
    Traceback (most recent call last):
    ...
    ValueError: plan: ratio was 0.1 and is 0.2; total_steps was 8 and is 16. Go on with \
the plan that the run was begun with, or begin another run.
  """
  ours = plan.fingerprint()
  missing = object()
  names = [
    n for n in {**ours, **saved} if ours.get(n, missing) != saved.get(n, missing)
  ]
  if names:
    changes = '; '.join(
      f'{n} was {saved.get(n, "absent")} and is {ours.get(n, "absent")}'
      for n in sorted(names)
    )
    raise ValueError(
      f'plan: {changes}. Go on with the plan that the run was begun with, or begin'
      ' another run.'
    )


def make(
  policy: str,
  draw,
  *,
  num_examples: int,
  batch_size: int,
  steps_per_round: int,
  rounds: int,
  cycle: int,
  seed,
  settings: Mapping[str, Any] | None = None,
  tables: Mapping[str, Any] | None = None,
  likelihood_size: int | None = None,
) -> Plan:
  """A plan from checked numbers; `likelihood_size` is N by default."""
  total_steps = rounds * steps_per_round
  _checks.steps(total_steps, batch_size)
  return Plan(
    policy=policy,
    num_examples=num_examples,
    batch_size=batch_size,
    total_steps=total_steps,
    steps_per_round=steps_per_round,
    likelihood_size=num_examples if likelihood_size is None else likelihood_size,
    # As pairs: what is static in a pytree has to be hashable.
    settings=tuple((settings or {}).items()),
    cycle=cycle,
    draw=draw,
    words=_bits.words_of(seed),
    tables=dict(tables or {}),
  )


def ones(like):
  """Weights of one, on the host or traced as `like` is."""
  return _bits.namespace(like).ones(like.shape, np.float32)

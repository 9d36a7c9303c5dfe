"""From which step on the masks of a transform allow training on nonzeros."""

import math

import numpy as np

from jaxsparse import core, rules, schedules

# Steps in which the decision is looked for that makes masks final.
_LOOK_AHEAD = 100_000
# How a structure may grow without dense scores.
_GROWTHS = ('gradient', 'random')


def first_step(tx) -> int | None:
  """The first step whose state `convert` takes.

  Args:
    tx: what a transform of this library returned.

  Returns:
    0 for masks that are fixed or that rewire; otherwise the step after the decision that
    makes them final. None where no step is known: a rule that keeps something dense
    (STE), growth that wants dense scores, decisions at times without an end.

  Raises:
    ValueError: a `tx` that is none of this library's.

  Example:
    >>> import jaxsparse as js, optax
    >>> adam = optax.adam(1e-3)
    >>> js.compact.first_step(js.transforms.one_shot(adam, 0.9, step=100))
    101
    >>> js.compact.first_step(js.transforms.static(adam, 0.9, seed=0))
    0
  """
  parts = rules.parts_of(tx)
  rewiring = parts.rule.rewiring
  dense_growth = rewiring is not None and rewiring.growth not in _GROWTHS
  first = math.inf if dense_growth else _first_step(parts, 0)
  known = math.isfinite(first) and not _kept_dense(parts.rule)
  return int(first) if known else None


def check(parts: rules.Parts, step: int) -> None:
  """Refuses what cannot be converted at a step.

  Raises:
    ValueError: with the step at which it can be, if that is known.
  """
  dense = _kept_dense(parts.rule)
  if dense:
    raise ValueError(
      f'tx: its rule has {dense[0]} of its own (a dense latent, gathered gradients, an'
      ' edit of every step); such a rule is never compact in training.'
    )
  if parts.rule.rewiring is not None:
    _check_rewiring(parts.rule.rewiring)
  first = _first_step(parts, step)
  if first <= step:
    return
  known = math.isfinite(first)
  after = (
    f'after step {int(first) - 1}' if known else 'once they are (give `when` a stop)'
  )
  raise ValueError(
    f'tx: at step {step} its masks are not final; convert {after}, and train masked'
    ' until then.'
  )


def _kept_dense(rule: core.MaskRule) -> list[str]:
  """What a rule does that its nonzeros alone do not allow."""
  plain = core.MaskRule._field_defaults
  # Edits that end with the last decision are no obstacle after it.
  edits = {'edit_grads', 'edit_updates', 'observe'}
  own = {'inner_params', 'fields', *(() if rule.settled_memory else edits)}
  own -= {'fields', 'edit_grads'} if rule.rewiring else set()
  return [what for what in sorted(own) if getattr(rule, what) is not plain[what]]


def _first_step(parts: rules.Parts, step: int) -> float:
  """The first step with final masks, or 0 for what rewires; infinity if unknown."""
  rule, when = parts.rule, parts.when
  if rule.rewiring is not None or rule.update is None or when is None:
    return 0
  last = schedules.last_step(when)
  final = math.inf if last is None else last
  if rule.settled_at is not None:
    # Nothing is left to decide after the first decision at the final sparsity.
    first = rule.settled_at
    times = np.arange(first, min(final, max(step, first) + _LOOK_AHEAD) + 1)
    due = times[np.asarray(when(times))]
    final = due[0] if due.size else final
  return final + 1


def _check_rewiring(rewiring: core.Rewiring) -> None:
  if rewiring.growth not in _GROWTHS:
    raise ValueError(
      f'tx: it grows by {rewiring.growth}, on dense scores; wanted growth by the'
      ' gradient or at random, or masked training.'
    )

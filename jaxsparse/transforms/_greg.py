"""Pruning by a growing L2 penalty (GReg-1; SRP in super-resolution)."""

from collections.abc import Callable
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsparse import core, criteria, distributions, rules
from jaxsparse import masks as masks_lib


class GregMemory(NamedTuple):
  """What a growing penalty remembers.

  Attributes:
    support: the weights without a growing penalty, a tree like the masks.
    penalty: float32 lambda of each weight, of the shapes of the support; 0 once the
      mask is hard.
  """

  support: core.Masks
  penalty: Any


@dataclasses.dataclass(frozen=True)
class Growth:
  """How a penalty grows.

  Attributes:
    num_pruning_steps: the updates before the mask is hard.
    penalty: lambda at the end of the growth.
    every: steps from one growth to the next.
    start: the updates before the weights are chosen.
    num_growing_steps: the updates over which lambda grows; None for all between
      `start` and `num_pruning_steps`.
    reselect: whether the weights are chosen anew with each growth.
  """

  num_pruning_steps: int
  penalty: float = 0.5
  every: int = 20
  start: int = 0
  num_growing_steps: int | None = None
  reselect: bool = False

  @property
  def increment(self) -> float:
    """What lambda grows by at a time."""
    steps = self.num_growing_steps or self.num_pruning_steps - self.start
    return self.penalty * self.every / steps


def growing_rule(
  budget: rules.Budget, growth: Growth, criterion: core.Criterion, who: str
) -> core.MaskRule:
  """The rule of `greg` and `iss_r`.

  Args:
    budget: what is pruned, and how much.
    growth: of the penalty.
    criterion: scores of the updated parameters.
    who: the name of the method, for errors.

  Returns:
    A MaskRule whose masks are all True until the update of the last pruning step.

  Raises:
    ValueError: a sparsity that moves, a penalty that is not positive, steps that do
      not fit.
  """
  check(budget, growth.num_pruning_steps, who)
  _check_growth(growth, who)
  last = growth.num_pruning_steps - 1

  def init(evidence):
    support = budget.masks(evidence.params[0], criteria.magnitude(evidence))
    penalty = jax.tree.map(lambda m: jnp.zeros(m.shape, jnp.float32), support)
    return jax.tree.map(jnp.ones_like, support), GregMemory(support, penalty)

  def update(evidence, memory):
    step = evidence.step
    found = budget.masks(evidence.updated_params[0], criterion(evidence))
    # Steps count from 0: the update of `start - 1` is the last before the growth.
    chooses = (step <= last) if growth.reselect else (step == growth.start - 1)
    support = jax.tree.map(
      lambda old, new: jnp.where(chooses, new, old), memory.support, found
    )
    grows = (step >= growth.start) & (step < last)

    def grown(value, kept):
      more = jnp.minimum(value + growth.increment, growth.penalty)
      value = jnp.where(grows & ~kept, more, value)
      # A weight that came back still has a penalty, which ends with the hard mask.
      return jnp.where(step >= last, jnp.zeros_like(value), value)

    penalty = jax.tree.map(grown, memory.penalty, support)
    masks = harden(evidence, support, last)
    return core.Decision(masks, None, GregMemory(support, penalty))

  def edit_grads(grads, params, masks, memory):
    def penalised(g, w, m, penalty):
      pulled = g + (penalty * w).astype(g.dtype)
      # A rule that edits gradients masks them itself, in the place of the default.
      return jnp.where(m, pulled, jnp.zeros_like(g))

    return jax.tree.map(penalised, grads, params, masks, memory.penalty)

  def settled_memory(masks):
    penalty = jax.tree.map(lambda m: jnp.zeros(m.shape, jnp.float32), masks)
    # A copy: a state that is donated must not hold one array twice.
    return GregMemory(jax.tree.map(jnp.copy, masks), penalty)

  return core.MaskRule(
    init=init,
    update=update,
    edit_grads=edit_grads,
    grown_value=None,
    decides_on_update=True,
    budget=budget,
    settled_at=last,
    settled_memory=settled_memory,
  )


def greg(
  inner: optax.GradientTransformation,
  sparsity,
  *,
  num_pruning_steps: int,
  start: int = 0,
  num_growing_steps: int | None = None,
  penalty: float = 0.5,
  every: int = 20,
  criterion: core.Criterion = criteria.magnitude,
  seed=None,
  distribution: core.Distribution = distributions.uniform,
  structure=masks_lib.Unstructured(),
  prunable: core.Prunable = core.kernels,
  leaves: core.LeafOverrides | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Chooses once what to prune, and drives it to 0 by a growing L2 penalty.

  The weights that are smallest after `start` updates get, each `every` steps,

      lambda <- min(lambda + penalty every / num_growing_steps, penalty)

  and in each step `lambda w` is added to their gradient. After `num_pruning_steps` they
  are pruned, and training goes on. Masks are all True until then.

  Source: Wang et al. 2021, Neural Pruning via Growing Regularization (arXiv
  2012.09243), section 3, GReg-1; for super-resolution without the filters' scales as in
  SRP. Published are 1e-4 every 20 steps up to 0.5, then 43,150 steps at that penalty.

  Args:
    inner: the optimizer.
    sparsity: fraction removed in [0, 1), or a mapping path pattern -> fraction, or ->
      weights kept (an int): what a distribution returned is one.
    num_pruning_steps: the updates before the mask is hard.
    start: the updates before the weights are chosen; 0 chooses among the first ones.
    num_growing_steps: the updates over which lambda grows, the rest stabilises; None
      for all between `start` and `num_pruning_steps`.
    penalty: the largest lambda.
    every: steps from one growth to the next.
    criterion: `Evidence -> scores`; of `start=0`, magnitude.
    seed: for a criterion that draws.
    distribution: shares the sparsity out among the leaves.
    structure: which weights go together; may be a mapping from path pattern.
    prunable: which leaves, see `js.kernels`.
    leaves: overrides of `js.leaves_of`.

  Returns:
    An optax transformation; its state holds a float32 penalty per weight.

  Raises:
    ValueError: a sparsity outside [0, 1), or one that moves; a penalty that is not
      positive; counts of steps that do not fit.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js, optax
    >>> tx = js.transforms.greg(
    ...     optax.sgd(1.0), 0.5, num_pruning_steps=3, penalty=0.6, every=1)
    >>> params, opt_state = js.init(tx, {'kernel': jnp.array([[8.], [4.]])})
    >>> grads = {'kernel': jnp.zeros((2, 1))}
    >>> for _ in range(3):
    ...   updates, opt_state = tx.update(grads, opt_state, params)
    ...   params = optax.apply_updates(params, updates)
    ...   print([round(float(w), 3) for w in params['kernel'][:, 0]])
    [8.0, 4.0]
    [8.0, 3.2]
    [8.0, 0.0]
  """
  budget = rules.Budget(sparsity, distribution, structure, prunable, leaves)
  growth = Growth(num_pruning_steps, penalty, every, start, num_growing_steps)
  rule = growing_rule(budget, growth, criterion, 'greg')
  # The first growth comes `every` updates after the choice.
  when = ticks(every, num_pruning_steps, first=start + every - 1, also=start - 1)
  return rules.keep_sparse(inner, rule, when, seed=seed)


def harden(evidence: core.Evidence, support: core.Masks, last: int) -> core.Masks:
  """The masks as they are, and from the update of step `last` on the support."""
  return jax.tree.map(
    lambda old, new: jnp.where(evidence.step >= last, new, old), evidence.masks, support
  )


def ticks(every: int, num_steps: int, first: int, also: int = -1) -> Callable:
  """True at `also`, at `first`, `first + every`, ..., and at the last of `num_steps`.

  And once more, where nothing is decided any more: so that the wrapper sees whether
  what was pruned has stayed at 0.
  """

  def when(step):
    step = jnp.asarray(step).astype(jnp.int32)
    regular = (step >= first) & (step < num_steps) & ((step - first) % every == 0)
    return regular | (step == also) | (step == num_steps - 1) | (step == num_steps)

  when.last_step = num_steps  # type: ignore[attr-defined]
  return when


def check(budget: rules.Budget, num_pruning_steps: int, who: str) -> None:
  """Raises ValueError for a sparsity that moves, or no pruning step."""
  budget.require_constant(who)
  check_step(who, 'num_pruning_steps', num_pruning_steps)


def check_step(who: str, name: str, value, least: int = 1) -> None:
  """Raises ValueError for what is no int of at least `least`."""
  is_int = isinstance(value, int | np.integer) and not isinstance(value, bool)
  if not is_int or not least <= value < 2**31:
    raise ValueError(f'{who}: {name}={value!r}: wanted an int of at least {least}.')


def _check_growth(growth: Growth, who: str) -> None:
  if not growth.penalty > 0:
    raise ValueError(f'{who}: penalty={growth.penalty!r}: wanted a positive number.')
  check_step(who, 'every', growth.every)
  check_step(who, 'start', growth.start, least=0)
  if growth.num_growing_steps is not None:
    check_step(who, 'num_growing_steps', growth.num_growing_steps)
  end = growth.start + (growth.num_growing_steps or 1)
  if end > growth.num_pruning_steps:
    raise ValueError(
      f'{who}: start={growth.start}, num_growing_steps={growth.num_growing_steps}:'
      f' wanted their sum within num_pruning_steps={growth.num_pruning_steps}.'
    )

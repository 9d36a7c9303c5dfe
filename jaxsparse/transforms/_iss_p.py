"""Iterative soft shrinkage, by a percentage (ISS-P) and by regularisation (ISS-R)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsparse import core, criteria, distributions, rules
from jaxsparse import masks as masks_lib
from jaxsparse.transforms import _greg

# Where a schedule is looked at for a decay; more would not be seen by anybody.
_MOST_LOOKS = 4096


class IssPMemory(NamedTuple):
  """What ISS-P remembers.

  Attributes:
    support: the weights that are not shrunk, a tree like the masks; those of the final
      mask once it is hard.
  """

  support: core.Masks


def iss_p_rule(
  budget: rules.Budget,
  num_pruning_steps: int,
  alpha: float = 0.95,
  criterion: core.Criterion = criteria.magnitude,
) -> core.MaskRule:
  """The rule of `iss_p`: shrink what is below the threshold, prune it at the end.

  Args:
    budget: what is pruned, and how much.
    num_pruning_steps: the updates before the mask is hard.
    alpha: the share of a shrunk weight that is kept in each step.
    criterion: scores of the updated parameters.

  Returns:
    A MaskRule whose masks are all True until the update of the last pruning step; its
    memory holds the support.

  Raises:
    ValueError: a sparsity that moves, an alpha outside [0, 1], no pruning step.
  """
  _greg.check(budget, num_pruning_steps, 'iss_p')
  if not 0 <= alpha <= 1:
    raise ValueError(f'iss_p: alpha={alpha!r}: wanted a share that is kept in [0, 1].')
  last = num_pruning_steps - 1

  def init(evidence):
    support = budget.masks(evidence.params[0], criteria.magnitude(evidence))
    # Dense by design: what has been shrunk has a gradient, and may come back.
    return jax.tree.map(jnp.ones_like, support), IssPMemory(support)

  def update(evidence, memory):
    found = budget.masks(evidence.updated_params[0], criterion(evidence))
    # The one decision after the end (see `ticks`) changes nothing that is hard.
    hard = evidence.step > last
    support = jax.tree.map(lambda o, n: jnp.where(hard, o, n), memory.support, found)
    masks = _greg.harden(evidence, support, last)
    return core.Decision(masks, None, IssPMemory(support))

  def edit_updates(updates, params, masks, memory):
    del masks
    if alpha == 1:
      return updates, memory

    def shrink(update, param, kept):
      wide = jnp.promote_types(update.dtype, param.dtype)
      moved = param.astype(wide) + update.astype(wide)
      # The wrapper's user adds it to the parameter, which cancels: to one rounding.
      return jnp.where(kept, update.astype(wide), alpha * moved - param.astype(wide))

    return jax.tree.map(shrink, updates, params, memory.support), memory

  return core.MaskRule(
    init=init,
    update=update,
    edit_updates=edit_updates,
    grown_value=None,
    decides_on_update=True,
    budget=budget,
    settled_at=last,
    settled_memory=lambda masks: IssPMemory(jax.tree.map(jnp.copy, masks)),
  )


def iss_p(
  inner: optax.GradientTransformation,
  sparsity,
  *,
  num_pruning_steps: int,
  learning_rate,
  alpha: float = 0.95,
  refresh_every: int = 1,
  allow_decay: bool = False,
  criterion: core.Criterion = criteria.magnitude,
  seed=None,
  distribution: core.Distribution = distributions.uniform,
  structure=masks_lib.Unstructured(),
  prunable: core.Prunable = core.kernels,
  leaves: core.LeafOverrides | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Shrinks the smallest weights by a percentage in every step; prunes them at the end.

  With the updated weights w and tau_l the magnitude at the sparsity of layer l:

      w <- w if |w| >= tau_l, else alpha w          in the first `num_pruning_steps`
      w <- m w, with the m of the last shrinkage    from then on

  Training starts dense, from random weights, and gradients are dense until the mask is
  hard: a shrunk weight may come back. `alpha=0` is iterative hard thresholding,
  `alpha=1` trains dense and prunes once. The shrinkage follows the whole update and
  does not depend on the learning rate; until the mask is hard, masks are all True.

  A shrunk weight settles at `alpha d / (1 - alpha)` if each update adds d to it, and
  with Adam d is at most the learning rate. So it comes back only if
  `alpha lr / (1 - alpha)` reaches tau_l (`js.summary.shrinkage` shows both), and a rate
  that decays freezes the support: it is refused before the mask is hard. Let the decay
  wait with `js.schedules.hold(schedule, num_pruning_steps)`.

  Source: Wang et al. 2023, Iterative Soft Shrinkage Learning for Efficient Image
  Super-Resolution (arXiv 2303.09650), section 3. Unlike the authors' program, counts
  are met over all layers together, N:M groups lie along the contracted axis, and
  gradients are masked once the mask is hard.

  Args:
    inner: the optimizer, the whole chain.
    sparsity: fraction removed in [0, 1), or a mapping path pattern -> fraction, or ->
      weights kept (an int): what a distribution returned is one.
    num_pruning_steps: the updates before the mask is hard (paper: about 100,000).
    learning_rate: that of `inner`, a number or a schedule; only looked at.
    alpha: the share of a shrunk weight that is kept in each step, in [0, 1].
    refresh_every: steps from one choice of the shrunk weights to the next; they are
      shrunk in every step.
    allow_decay: whether the learning rate may fall before the mask is hard.
    criterion: `Evidence -> scores`.
    seed: for a criterion that draws.
    distribution: shares the sparsity out; `js.distributions.global_pool` has one
      threshold for all leaves.
    structure: which weights go together; may be a mapping from path pattern.
    prunable: which leaves, see `js.kernels`.
    leaves: overrides of `js.leaves_of`.

  Returns:
    An optax transformation.

  Raises:
    ValueError: a sparsity outside [0, 1), or one that moves; an alpha outside [0, 1];
      counts of steps below 1; a learning rate that decays too early.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js, optax
    >>> tx = js.transforms.iss_p(
    ...     optax.sgd(1.0), 0.5, num_pruning_steps=2, learning_rate=1.0, alpha=0.5)
    >>> params, opt_state = js.init(tx, {'kernel': jnp.array([[8.], [4.]])})
    >>> grads = {'kernel': jnp.zeros((2, 1))}
    >>> for _ in range(2):
    ...   updates, opt_state = tx.update(grads, opt_state, params)
    ...   params = optax.apply_updates(params, updates)
    ...   print(params['kernel'].tolist())
    [[8.0], [2.0]]
    [[8.0], [0.0]]
  """
  budget = rules.Budget(sparsity, distribution, structure, prunable, leaves)
  rule = iss_p_rule(budget, num_pruning_steps, alpha, criterion)
  _greg.check_step('iss_p', 'refresh_every', refresh_every)
  if alpha < 1 and not allow_decay:
    _check_rate(learning_rate, num_pruning_steps)
  when = _greg.ticks(refresh_every, num_pruning_steps, first=0)
  return rules.keep_sparse(inner, rule, when, seed=seed)


def iss_r(
  inner: optax.GradientTransformation,
  sparsity,
  *,
  num_pruning_steps: int,
  penalty: float = 0.5,
  every: int = 20,
  criterion: core.Criterion = criteria.magnitude,
  seed=None,
  distribution: core.Distribution = distributions.uniform,
  structure=masks_lib.Unstructured(),
  prunable: core.Prunable = core.kernels,
  leaves: core.LeafOverrides | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Soft shrinkage by a growing L2 penalty of the weights that are smallest at the time.

  Each `every` steps, for the weights i below the threshold of their layer,

      lambda_i <- lambda_i + penalty every / num_pruning_steps

  and in each step `lambda_i w_i` is added to the gradient. A weight that comes back
  keeps its penalty. After `num_pruning_steps` the weights below the threshold are
  pruned, and training goes on without penalty. Masks are all True until then.

  Source: Wang et al. 2023 (arXiv 2303.09650), the regularised sibling of ISS-P. With
  the defaults and 100,000 steps the growth is 1e-4 every 20 steps, as published.

  Args:
    inner: the optimizer.
    sparsity: as in `iss_p`.
    num_pruning_steps: the updates before the mask is hard.
    penalty: lambda of a weight that has been below the threshold all along, at the end.
    every: steps from one growth to the next.
    criterion: `Evidence -> scores`.
    seed: for a criterion that draws.
    distribution: shares the sparsity out among the leaves.
    structure: which weights go together; may be a mapping from path pattern.
    prunable: which leaves, see `js.kernels`.
    leaves: overrides of `js.leaves_of`.

  Returns:
    An optax transformation; its state holds a float32 penalty per weight.

  Raises:
    ValueError: a sparsity outside [0, 1), or one that moves; a penalty that is not
      positive; counts of steps below 1.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js, optax
    >>> tx = js.transforms.iss_r(
    ...     optax.sgd(1.0), 0.5, num_pruning_steps=4, penalty=0.4, every=1)
    >>> params, opt_state = js.init(tx, {'kernel': jnp.array([[8.], [4.]])})
    >>> grads = {'kernel': jnp.zeros((2, 1))}
    >>> for _ in range(2):
    ...   updates, opt_state = tx.update(grads, opt_state, params)
    ...   params = optax.apply_updates(params, updates)
    >>> [round(float(w), 3) for w in params['kernel'][:, 0]]
    [8.0, 3.6]
  """
  budget = rules.Budget(sparsity, distribution, structure, prunable, leaves)
  growth = _greg.Growth(num_pruning_steps, penalty, every, reselect=True)
  rule = _greg.growing_rule(budget, growth, criterion, 'iss_r')
  when = _greg.ticks(every, num_pruning_steps, first=every - 1)
  return rules.keep_sparse(inner, rule, when, seed=seed)


def _check_rate(learning_rate, num_pruning_steps: int) -> None:
  """Raises ValueError for a schedule that falls while weights are shrunk."""
  if not callable(learning_rate):
    return
  looks = min(num_pruning_steps, _MOST_LOOKS)
  steps = np.unique(np.linspace(0, num_pruning_steps - 1, looks).astype(np.int32))
  # The schedule's arithmetic must not be traced when tx is built under jit.
  with jax.ensure_compile_time_eval():
    rates = np.asarray(jax.vmap(learning_rate)(jnp.asarray(steps)), np.float64)
  highest = np.maximum.accumulate(rates)
  # A constant schedule in float32 may wobble in its last digits.
  fallen = np.flatnonzero(rates < highest * (1 - 1e-5))
  if fallen.size:
    step, at = int(steps[fallen[0]]), fallen[0]
    raise ValueError(
      f'iss_p: learning_rate falls from {highest[at]:g} to {rates[at]:g} by step {step},'
      f' within the {num_pruning_steps} pruning steps. Shrunk weights stay below alpha'
      ' lr / (1 - alpha), so the support would freeze; wanted'
      f' js.schedules.hold(schedule, {num_pruning_steps}), or allow_decay=True.'
    )

"""Gradual magnitude pruning (Zhu & Gupta 2017)."""

import jax
import optax

from jaxsparse import core, criteria, distributions, rules
from jaxsparse import masks as masks_lib


def gmp_rule(
  budget: rules.Budget, criterion: core.Criterion = criteria.magnitude
) -> core.MaskRule:
  """The rule of `gmp`: prune to the scheduled sparsity, never grow.

  Args:
    budget: with a sparsity that moves.
    criterion: scores of the updated parameters.

  Returns:
    A MaskRule that decides on the updated parameters.

  Raises:
    ValueError: a schedule that starts below 0 or above its end.
  """
  budget.require_rising('gmp')

  def init(evidence):
    # Gradients are not there yet; a start above sparsity 0 goes by magnitude.
    scores = criteria.magnitude(evidence)
    return budget.masks(evidence.params[0], scores, step=evidence.step), None

  def update(evidence, memory):
    # A pruned weight is 0, and so may be a kept one: pruned ones stay pruned.
    scores = jax.tree.map(
      lambda m, s: masks_lib.exclude(~m, s), evidence.masks, criterion(evidence)
    )
    masks = budget.masks(evidence.params[0], scores, step=evidence.step)
    # A kept NaN ranks below them, and a schedule may fall: still nothing comes back.
    masks = jax.tree.map(lambda new, old: new & old, masks, evidence.masks)
    return core.Decision(masks, None, memory)

  return core.MaskRule(
    init=init,
    update=update,
    grown_value=None,
    decides_on_update=True,
    budget=budget,
    # Masks only shrink: at the final sparsity they have nowhere to go.
    settled_at=budget.settled_at(),
  )


def gmp(
  inner: optax.GradientTransformation,
  sparsity,
  *,
  when: core.When,
  criterion: core.Criterion = criteria.magnitude,
  seed=None,
  distribution: core.Distribution = distributions.uniform,
  structure=masks_lib.Unstructured(),
  prunable: core.Prunable = core.kernels,
  leaves: core.LeafOverrides | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Removes the smallest weights little by little, along a sparsity schedule.

      s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (n dt))^3

  with `sparsity=js.schedules.cubic(s_f, start=t_0, stop=t_0 + n dt)`. A leaf whose
  final share is s_l has s_l s_t / s_f at step t; distributions that read scores are
  evaluated anew each time. Decisions are on the parameters after the step; masks only
  shrink, so while a schedule falls they stay as they are. `when` must still be true
  once at or after the schedule's stop, otherwise the final sparsity is never reached:
  leave its stop open.

  Source: Zhu & Gupta 2017, To prune, or not to prune (arXiv 1710.01878), section 3.

  Args:
    inner: the optimizer.
    sparsity: a schedule `step -> fraction removed`, or a mapping path pattern ->
      schedule.
    when: `step -> bool`, when to prune, for example `js.schedules.every(100)`.
    criterion: `Evidence -> scores`.
    seed: for a criterion that draws.
    distribution: shares the sparsity out among the leaves.
    structure: which weights go together; may be a mapping from path pattern.
    prunable: which leaves, see `js.kernels`.
    leaves: overrides of `js.leaves_of`.

  Returns:
    An optax transformation.

  Raises:
    ValueError: a sparsity outside [0, 1), or that starts above its end.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js, optax
    >>> sparsity = js.schedules.cubic(0.9, start=0, stop=10)
    >>> tx = js.transforms.gmp(optax.sgd(.1), sparsity, when=js.schedules.always)
    >>> params, opt_state = js.init(tx, {'kernel': jnp.arange(100.).reshape(10, 10)})
    >>> for _ in range(11):
    ...   updates, opt_state = tx.update(params, opt_state, params)
    ...   params = optax.apply_updates(params, updates)
    >>> int(js.get_masks(opt_state)['kernel'].sum())
    10
  """
  budget = rules.Budget(sparsity, distribution, structure, prunable, leaves)
  return rules.keep_sparse(inner, gmp_rule(budget, criterion), when, seed=seed)

"""SET: sparse evolutionary training (Mocanu et al. 2018)."""

import optax

from jaxsparse import core, criteria, distributions, rules, schedules
from jaxsparse import masks as masks_lib


def set_rule(budget: rules.Budget, drop_fraction) -> core.MaskRule:
  """The rule of `set`: drop by magnitude, grow at random.

  Args:
    budget: what is pruned, and how much.
    drop_fraction: number or schedule, share of the active units replaced.

  Returns:
    A MaskRule that decides on the parameters.

  Raises:
    ValueError: a sparsity that moves, a drop fraction outside [0, 1].
  """
  budget.require_constant('set')
  fraction = schedules.as_fraction(drop_fraction, 'drop_fraction')

  def init(evidence):
    return budget.masks(evidence.params[0], criteria.random(evidence)), None

  rewiring = core.Rewiring(
    budget,
    drop_scores=criteria.magnitude,
    grow_scores=criteria.random,
    growth='random',
    fraction=fraction,
  )
  return core.MaskRule(
    init=init,
    update=rules.rewire(rewiring),
    budget=budget,
    rewiring=rewiring,
    random_start=True,
  )


def set(
  inner: optax.GradientTransformation,
  sparsity,
  *,
  seed,
  when: core.When,
  drop_fraction=0.3,
  distribution: core.Distribution = distributions.erk,
  structure=masks_lib.Unstructured(),
  prunable: core.Prunable = core.kernels,
  leaves: core.LeafOverrides | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Replaces the smallest weights by random new ones, at constant sparsity.

  The paper drops the fraction of smallest positive and largest negative weights
  apart, rewires after every epoch and draws new weights at random; here magnitudes
  are ranked together and grown weights start at 0, as in most later work.

  Source: Mocanu et al. 2018, Scalable training of artificial neural networks with
  adaptive sparse connectivity (arXiv 1707.04780), algorithm 1.

  Args:
    inner: the optimizer.
    sparsity: fraction removed in [0, 1), or a mapping path pattern -> fraction, or ->
      weights kept (an int): what a distribution returned is one.
    seed: int, integer tracer or typed key.
    when: `step -> bool`, when to rewire.
    drop_fraction: share of active units replaced (the paper's zeta), a number or
      schedule.
    distribution: shares the sparsity out among the leaves.
    structure: which weights go together; may be a mapping from path pattern.
    prunable: which leaves, see `js.kernels`.
    leaves: overrides of `js.leaves_of`.

  Returns:
    An optax transformation.

  Raises:
    ValueError: a sparsity outside [0, 1) or one that moves; a drop fraction outside
      [0, 1], of a schedule at step 0.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js, optax
    >>> tx = js.transforms.set(
    ...     optax.adam(1e-3), 0.75, seed=0, when=js.schedules.every(10))
    >>> params, opt_state = js.init(tx, {'kernel': jnp.ones((8, 8))})
    >>> int(js.get_masks(opt_state)['kernel'].sum())
    16
  """
  budget = rules.Budget(sparsity, distribution, structure, prunable, leaves)
  return rules.keep_sparse(inner, set_rule(budget, drop_fraction), when, seed=seed)

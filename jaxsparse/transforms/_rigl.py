"""RigL: rigging the lottery (Evci et al. 2020)."""

import jax
import jax.numpy as jnp
import optax

from jaxsparse import core, criteria, distributions, rules, schedules
from jaxsparse import masks as masks_lib


def rigl_rule(budget: rules.Budget, drop_fraction) -> core.MaskRule:
  """The rule of `rigl`: drop by magnitude, grow by gradient.

  Args:
    budget: what is pruned, and how much.
    drop_fraction: number or schedule, share of the active units replaced.

  Returns:
    A MaskRule that decides on the parameters and the dense gradients.

  Raises:
    ValueError: a sparsity that moves, a drop fraction outside [0, 1].
  """
  budget.require_constant('rigl')
  fraction = schedules.as_fraction(drop_fraction, 'drop_fraction')

  def init(evidence):
    return budget.masks(evidence.params[0], criteria.random(evidence)), None

  rewiring = core.Rewiring(
    budget,
    drop_scores=criteria.magnitude,
    grow_scores=_gradient_magnitude,
    growth='gradient',
    fraction=fraction,
  )
  # On the params before the step: as published, an update of the masks replaces it.
  return core.MaskRule(
    init=init,
    update=rules.rewire(rewiring),
    budget=budget,
    rewiring=rewiring,
    random_start=True,
  )


def _gradient_magnitude(evidence):
  # Dense: only the inner optimizer gets gradients that are masked.
  return jax.tree.map(jnp.abs, evidence.grads[0])


def rigl(
  inner: optax.GradientTransformation,
  sparsity,
  *,
  seed,
  when: core.When,
  drop_fraction=0.3,
  skip_step: bool = False,
  distribution: core.Distribution = distributions.erk,
  structure=masks_lib.Unstructured(),
  prunable: core.Prunable = core.kernels,
  leaves: core.LeafOverrides | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Replaces the smallest weights by those with the largest gradient.

  In each leaf with K active weights, at the steps of `when`:

      drop the floor(f_t K) active weights with the smallest |w|;
      grow as many, with the largest |dL/dw|, outside the survivors; they start at 0.

  The gradient is the dense one of the update step's batch. A weight that is dropped
  and grown at once starts at 0 too, as the paper says (its code keeps the value).
  The paper's schedule is `when=js.schedules.every(100, stop=0.75 T)` with
  `drop_fraction=js.schedules.cosine(0.3, 0.75 T)`; a constant fraction is the default
  only because T is not known here.

  Source: Evci et al. 2020, Rigging the Lottery (arXiv 1911.11134), algorithm 1.

  Args:
    inner: the optimizer.
    sparsity: fraction removed in [0, 1), or a mapping path pattern -> fraction, or ->
      weights kept (an int): what a distribution returned is one.
    seed: int, integer tracer or typed key, of the random start.
    when: `step -> bool`, when to rewire.
    drop_fraction: share of active units replaced, a number or schedule.
    skip_step: whether an update of the masks takes the place of the optimizer's
      step, as published. Not the default: it copies the moments in every step, which
      costs more than the one optimizer step in a hundred that it leaves out.
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
    >>> tx = js.transforms.rigl(
    ...     optax.adam(1e-3), 0.75, seed=0, when=js.schedules.every(100, stop=7500),
    ...     drop_fraction=js.schedules.cosine(0.3, 7500))
    >>> params, opt_state = js.init(tx, {'kernel': jnp.ones((8, 8))})
    >>> int(js.get_masks(opt_state)['kernel'].sum())
    16
  """
  budget = rules.Budget(sparsity, distribution, structure, prunable, leaves)
  rule = rigl_rule(budget, drop_fraction)
  return rules.keep_sparse(inner, rule, when, seed=seed, skip_step=skip_step)

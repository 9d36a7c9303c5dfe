"""One-shot pruning: train dense, prune once, train on."""

import jax
import numpy as np
import optax

from jaxsparse import core, criteria, distributions, rules, schedules
from jaxsparse import masks as masks_lib
from jaxsparse.transforms import _gmp


def one_shot_rule(
  budget: rules.Budget, criterion: core.Criterion = criteria.magnitude
) -> core.MaskRule:
  """The rule of `one_shot`: that of `gmp`, from a dense start.

  Args:
    budget: what is pruned, and how much.
    criterion: scores of the updated parameters.

  Returns:
    A MaskRule that prunes whenever it is asked to decide.
  """
  rule = _gmp.gmp_rule(budget, criterion)

  def init(evidence):
    # A budget that cannot be met says so now; what it keeps is decided later.
    _, memory = jax.eval_shape(rule.init, evidence)
    params = evidence.params[0]
    leaves = budget.pruned(params)
    units = {n: s.num_units(leaves[n]) for n, s in budget.structures(leaves).items()}
    scores = core.named_subset(criteria.magnitude(evidence), leaves)
    # All units: True everywhere, in the shapes that masks of the structures have.
    chosen = budget.select(leaves, scores, units)
    return masks_lib.from_named(params, chosen), memory

  return rule._replace(init=init)


def one_shot(
  inner: optax.GradientTransformation,
  sparsity,
  *,
  step: int,
  criterion: core.Criterion = criteria.magnitude,
  seed=None,
  distribution: core.Distribution = distributions.uniform,
  structure=masks_lib.Unstructured(),
  prunable: core.Prunable = core.kernels,
  leaves: core.LeafOverrides | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Prunes once, after the update of `step`, then fine-tunes with fixed masks.

  Source: Han et al. 2015, Learning both Weights and Connections (arXiv 1506.02626),
  section 3, with one round.

  Args:
    inner: the optimizer, for both phases.
    sparsity: fraction removed in [0, 1), or a mapping path pattern -> fraction, or ->
      weights kept (an int): what a distribution returned is one.
    step: the update, counted from 0, after which the network is sparse.
    criterion: `Evidence -> scores`.
    seed: for a criterion that draws.
    distribution: shares the sparsity out; `js.distributions.global_pool` prunes all
      leaves by one threshold.
    structure: which weights go together; may be a mapping from path pattern.
    prunable: which leaves, see `js.kernels`.
    leaves: overrides of `js.leaves_of`.

  Returns:
    An optax transformation.

  Raises:
    ValueError: a sparsity outside [0, 1), or one that moves; a step that is negative or
      no int.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js, optax
    >>> tx = js.transforms.one_shot(optax.sgd(0.1), 0.5, step=0)
    >>> params, opt_state = js.init(tx, {'kernel': jnp.array([[1., 2.], [3., 4.]])})
    >>> updates, opt_state = tx.update(params, opt_state, params)
    >>> (optax.apply_updates(params, updates)['kernel'] != 0).tolist()
    [[False, False], [True, True]]
  """
  if not isinstance(step, int | np.integer) or step < 0:
    raise ValueError(f'one_shot: step={step!r}: wanted an int of 0 or more.')
  budget = rules.Budget(sparsity, distribution, structure, prunable, leaves)
  budget.require_constant('one_shot')
  rule = one_shot_rule(budget, criterion)
  # Deciding once more changes nothing, but lets the wrapper see whether what was pruned
  # has stayed at 0.
  when = schedules.at(step, step + 1)
  return rules.keep_sparse(inner, rule, when, seed=seed)

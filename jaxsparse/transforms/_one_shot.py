"""One-shot pruning: train dense, prune once, train on."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import optax

from jaxsparse import core, criteria, distributions, rules, schedules
from jaxsparse import masks as masks_lib
from jaxsparse.transforms import _gmp


def one_shot_rule(
  budget: rules.Budget, criterion: core.Criterion = criteria.magnitude
) -> core.MaskRule:
  """The rule of `one_shot`: that of `gmp`, with a sparsity that steps once.

  Args:
    budget: with a sparsity that steps from 0 to its final value.
    criterion: scores of the updated parameters.

  Returns:
    A MaskRule.
  """
  return _gmp.gmp_rule(budget, criterion)


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
    sparsity: fraction removed in [0, 1), or a mapping path pattern -> fraction.
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
    ValueError: a sparsity outside [0, 1), a step that is negative or no int.

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
  steps: Any
  if isinstance(sparsity, Mapping):
    steps = {p: schedules.one_shot(s, step) for p, s in sparsity.items()}
  else:
    steps = schedules.one_shot(sparsity, step)
  budget = rules.Budget(steps, distribution, structure, prunable, leaves)
  rule = one_shot_rule(budget, criterion)
  # Deciding once more changes nothing, but lets the wrapper see whether what was pruned
  # has stayed at 0.
  when = schedules.at(step, step + 1)
  return rules.keep_sparse(inner, rule, when, seed=seed)

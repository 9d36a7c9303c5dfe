"""A transform of your own: copy this file, rename it, and change what it scores.

As it stands it is a method that works: RigL, but a weight is worth `|w g|`, the change of
the loss when it goes, instead of `|w|`. It needs nothing that is private to jaxsparse, so
it may live in your repository; to send it to ours, see CONTRIBUTING.md.
"""

import jax
import jax.numpy as jnp
import optax

import jaxsparse as js


def my_rule(budget: js.rules.Budget, drop_fraction) -> js.MaskRule:
  """The rule of `my_transform`: all of the method, as pure functions.

  Args:
    budget: what is pruned, and how much.
    drop_fraction: number or schedule, share of the active units replaced.

  Returns:
    A MaskRule.

  Raises:
    ValueError: a sparsity that moves, a drop fraction outside [0, 1].
  """
  budget.require_constant('my_transform')
  fraction = js.schedules.as_fraction(drop_fraction, 'drop_fraction')

  def init(evidence):
    # Masks, and what the rule remembers from step to step: here nothing.
    return budget.masks(evidence.params[0], js.criteria.random(evidence)), None

  # What to drop and what to grow is said as data, so that training on nonzeros
  # (js.compact) reads the same rule as training with masks.
  rewiring = js.core.Rewiring(
    budget,
    drop_scores=_worth,
    grow_scores=_promise,
    growth='gradient',
    fraction=fraction,
  )
  return js.MaskRule(
    init=init,
    update=js.rules.rewire(rewiring),
    budget=budget,
    rewiring=rewiring,
    random_start=True,
  )


def my_transform(
  inner: optax.GradientTransformation,
  sparsity,
  *,
  seed,
  when: js.core.When,
  drop_fraction=0.3,
  distribution: js.core.Distribution = js.distributions.erk,
  structure=js.masks.Unstructured(),
  prunable: js.core.Prunable = js.kernels,
  leaves=None,
) -> optax.GradientTransformationExtraArgs:
  """One line: what it does to the weights.

  In each leaf with K active weights, at the steps of `when`:

      drop the floor(f_t K) active weights with the smallest |w g|;
      grow as many, with the largest |g|, outside the survivors; they start at 0.

  Source: your paper, with its section.

  Args:
    inner: the optimizer.
    sparsity: fraction removed in [0, 1), or a mapping path pattern -> fraction.
    seed: int, integer tracer or typed key, of the random start.
    when: `step -> bool`, when to rewire.
    drop_fraction: share of active units replaced, a number or schedule.
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
    >>> tx = my_transform(optax.adam(1e-3), 0.75, seed=0, when=js.schedules.every(100))
    >>> params, opt_state = js.init(tx, {'kernel': jnp.ones((8, 8))})
    >>> int(js.get_masks(opt_state)['kernel'].sum())
    16
  """
  budget = js.rules.Budget(sparsity, distribution, structure, prunable, leaves)
  return js.keep_sparse(inner, my_rule(budget, drop_fraction), when, seed=seed)


def _worth(evidence: js.core.Evidence):
  """Scores of active weights; the smallest go. Change me."""
  product = lambda w, g: jnp.abs(w * g)
  return jax.tree.map(product, evidence.params[0], evidence.grads[0])


def _promise(evidence: js.core.Evidence):
  """Scores of the others; the largest come. Change me."""
  # Dense: only the inner optimizer gets gradients that are masked.
  return jax.tree.map(jnp.abs, evidence.grads[0])

"""Straight-through training of a dense latent that is pruned in every step."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxsparse import core, criteria, distributions, rules, schedules
from jaxsparse import masks as masks_lib


class SteMemory(NamedTuple):
  """What straight-through rules remember.

  Attributes:
    latent: the dense weights, a tree like the params.
  """

  latent: core.Params


def ste_rule(budget: rules.Budget, decay: float = 0.0) -> core.MaskRule:
  """The rule of `ste` and `sr_ste`.

  Args:
    budget: what is pruned, and how much.
    decay: lambda_W, added to the gradient as `decay * latent` off the mask.

  Returns:
    A MaskRule whose inner optimizer steps the latent.

  Raises:
    ValueError: a sparsity that moves.
  """
  budget.require_constant('ste')

  def init(evidence):
    params = evidence.params[0]
    masks = budget.masks(params, criteria.magnitude(evidence))
    # Copied: the state may be donated, the params are the caller's.
    latent = jax.tree.map(lambda p: jnp.array(p, copy=True), params)
    return masks, SteMemory(latent)

  def update(evidence, memory):
    masks = budget.masks(evidence.params[0], criteria.magnitude(evidence))
    return core.Decision(masks, None, memory)

  def edit_grads(grads, params, masks, memory):
    del memory
    if not decay:
      return grads

    def refine(g, w, m):
      return g + jnp.where(m, jnp.zeros_like(w), decay * w).astype(g.dtype)

    return jax.tree.map(refine, grads, params, masks)

  def edit_updates(updates, params, masks, memory):
    del masks
    latent = optax.apply_updates(memory.latent, updates)
    # The wrapper adds this to params, and removes what is off the mask.
    moves = jax.tree.map(lambda w, p: w - p, latent, params)
    return moves, SteMemory(latent)

  return core.MaskRule(
    init=init,
    update=update,
    edit_grads=edit_grads,
    inner_params=lambda params, memory: memory.latent,
    edit_updates=edit_updates,
    grown_value=None,
    # Of the latent after its step: the params must be m * w of the same w.
    decides_on_update=True,
    budget=budget,
  )


def ste(
  inner: optax.GradientTransformation,
  sparsity: float,
  *,
  when: core.When = schedules.always,
  distribution: core.Distribution = distributions.uniform,
  structure=masks_lib.Unstructured(),
  prunable: core.Prunable = core.kernels,
  leaves: core.LeafOverrides | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Trains a dense latent through the magnitude mask of the moment.

  With the latent w, its mask m = top(|w|) and the model at m * w:

      w <- w - lr dL/d(m w)           (the gradient passes the mask unchanged)

  The latent is one more copy of the parameters in the optimizer's state; the params
  that the model sees are m * w after every step, exactly 0 off the mask and w to one
  rounding on it. The inner optimizer
  (weight decay, moments) acts on the latent.

  Source: Bengio et al. 2013 (arXiv 1308.3432); Jayakumar et al. 2020, Top-KAST, for
  the sparse forward pass.

  Args:
    inner: the optimizer.
    sparsity: fraction removed in [0, 1), or a mapping path pattern -> fraction, or ->
      weights kept (an int): what a distribution returned is one.
    when: `step -> bool`, when the mask is chosen anew; each step by default.
    distribution: shares the sparsity out among the leaves.
    structure: which weights go together; may be a mapping from path pattern.
    prunable: which leaves, see `js.kernels`.
    leaves: overrides of `js.leaves_of`.

  Returns:
    An optax transformation.

  Raises:
    ValueError: a sparsity outside [0, 1), or one that moves.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js, optax
    >>> tx = js.transforms.ste(optax.sgd(1.0), 0.5)
    >>> params, opt_state = js.init(tx, {'kernel': jnp.array([[1.], [2.]])})
    >>> grads = {'kernel': jnp.array([[-5.], [0.]])}
    >>> updates, opt_state = tx.update(grads, opt_state, params)
    >>> optax.apply_updates(params, updates)['kernel'].tolist()
    [[6.0], [0.0]]
  """
  budget = rules.Budget(sparsity, distribution, structure, prunable, leaves)
  return rules.keep_sparse(inner, ste_rule(budget), when)

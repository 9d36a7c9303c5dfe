"""SR-STE: N:M sparse training from scratch (Zhou et al. 2021)."""

import optax

from jaxsparse import core, distributions, rules, schedules
from jaxsparse import masks as masks_lib
from jaxsparse.transforms import _ste


def sr_ste(
  inner: optax.GradientTransformation,
  n: int = 2,
  m: int = 4,
  *,
  decay: float = 2e-4,
  axis: int | None = None,
  prunable: core.Prunable = core.kernels,
  leaves: core.LeafOverrides | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Learns an N:M sparse network, with a decay on what the mask removes.

  With the latent w, its mask E (the n largest |w| of every m along the contracted
  axis, chosen anew in each step) and the gradient g taken at E * w:

      w <- w - lr (g + decay (1 - E) w)

  The term is part of the gradient, so momentum and learning rate act on it; the
  optimizer's own weight decay acts on all of w besides. The published eight-device
  runs apply the term undivided to a summed gradient, which makes their decay
  effectively 1.6e-3.

  Source: Zhou et al. 2021, Learning N:M Fine-grained Structured Sparse Neural Networks
  From Scratch (arXiv 2102.04010), eq. 9.

  Args:
    inner: the optimizer.
    n: weights kept per group.
    m: length of a group.
    decay: lambda_W; 0 is plain straight-through training.
    axis: the axis of the groups; None for the last input axis.
    prunable: which leaves, see `js.kernels`. A leaf whose axis m does not divide (a
      stem with 3 input channels) must be left out.
    leaves: overrides of `js.leaves_of`.

  Returns:
    An optax transformation.

  Raises:
    ValueError: not 0 < n <= m; a negative decay; at init, an axis that m does not
      divide.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js, optax
    >>> tx = js.transforms.sr_ste(optax.sgd(0.1), 1, 2)
    >>> params, opt_state = js.init(tx, {'kernel': jnp.array([[1.], [2.]])})
    >>> params['kernel'].tolist()
    [[0.0], [2.0]]
  """
  if decay < 0:
    raise ValueError(f'sr_ste: decay={decay}: wanted 0 or more.')
  structure = masks_lib.NM(n, m, axis)
  # N:M fixes the share of every leaf, so that only a uniform distribution fits.
  budget = rules.Budget(1 - n / m, distributions.uniform, structure, prunable, leaves)
  rule = _ste.ste_rule(budget, decay)
  return rules.keep_sparse(inner, rule, schedules.always)

"""The posterior as a record of pure functions, and its variational parameters."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from jaxsparse import core


class Gaussian(NamedTuple):
  r"""The variational parameters of independent Gaussians: what the optimizer steps.

  .. math:: \theta = \gamma \odot (\mu + \sigma(\rho) \odot \epsilon)

  Both trees have the treedef of the model's params, so one mask tree covers them; on
  nonzeros both hold vectors of values, under one pattern. Off the mask both are
  exactly 0.

  Attributes:
    mu: the means, the model's own params.
    rho: the free parameter of sigma, at least float32 (log sigma near -5 moves in
      steps of 0.03 in bfloat16). A leaf that is deterministic has a scalar 0 here,
      which costs nothing and is never read.

  Example:
    >>> import jax, jax.numpy as jnp, jaxsparse as js
    >>> posterior = js.bayes.mean_field()
    >>> params = {'kernel': jnp.ones((4, 2)), 'bias': jnp.zeros(2)}
    >>> gaussian = posterior.init(jax.random.key(0), params)
    >>> gaussian.rho['kernel'].shape, gaussian.rho['bias'].shape
    ((4, 2), ())
  """

  mu: core.Params
  rho: core.Params


class Posterior(NamedTuple):
  """A variational family as pure functions; `js.bayes.ssvi` and `mean_field` make one.

  `masks` are those of `js.get_masks(opt_state)`: the treedef of the model's params,
  a scalar True where nothing is pruned. Means and samples have the treedef and the
  dtypes of the model's params, and exact zeros off the mask; the gradient with respect
  to `mu` is nevertheless the dense one, which growth reads.

  Or they are the patterns of `js.compact.get_patterns(opt_state)`: then params hold
  values, and means, deviations and samples a `js.sparse.SparseArray` for each pattern,
  for a model bound with `js.compact.handler()`. Nothing dense is made, and the noise of
  a weight is the same.

  Attributes:
    init: `(key, params) -> Gaussian` from the model's initial params.
    sample: `(params, masks, key) -> theta`, one draw; the noise of a leaf depends on
      the key and the leaf's name only, so Linen and NNX get the same.
    mean: `(params, masks) -> theta`, the mean weights.
    sigma: `(params, masks) -> tree`, standard deviations, 0 off the mask; a scalar 0
      for a deterministic leaf.
    kl: `(params, masks) -> scalar`, KL(q || prior) over active Bayesian weights, nats.
    log_prob: `(params, masks, theta) -> scalar`, log q of the active Bayesian weights,
      nats; -inf where theta is not 0 off the mask.
    noisy: `(params, masks, key, method) -> tree` for a model that was bound with
      `js.bayes.noisy_product`: its Bayesian kernels are `js.bayes.Noisy` nodes, all
      other Bayesian leaves are sampled.
    prune: `(params, masks, keep) -> (params, masks)`: keeps this share of the active
      weights of every pruned leaf, those with the largest signal-to-noise ratio. Not on
      nonzeros.
    rule: what decides on the masks; None for a dense posterior.
    when: `step -> bool`, when it does.
    seed: of the random masks.
    skip_step: whether an update of the masks replaces the optimizer's step.
  """

  init: Callable[[jax.Array, core.Params], Gaussian]
  sample: Callable[[Gaussian, core.Masks, jax.Array], core.Params]
  mean: Callable[[Gaussian, core.Masks], core.Params]
  sigma: Callable[[Gaussian, core.Masks], core.Params]
  kl: Callable[[Gaussian, core.Masks], jax.Array]
  log_prob: Callable[[Gaussian, core.Masks, core.Params], jax.Array]
  noisy: Callable[[Gaussian, core.Masks, jax.Array, str], core.Params]
  prune: Callable[[Gaussian, core.Masks, Any], tuple[Gaussian, core.Masks]]
  rule: core.MaskRule | None = None
  when: core.When | None = None
  seed: Any = None
  skip_step: bool = False

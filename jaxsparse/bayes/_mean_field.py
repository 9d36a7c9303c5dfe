"""Dense mean-field variational inference (Bayes by backprop, Blundell et al. 2015)."""

from jaxsparse import core, distributions, rules
from jaxsparse import masks as masks_lib
from jaxsparse.bayes import _family, _links, _posterior


def mean_field(
  *,
  bayesian: core.Prunable = core.kernels,
  prior_scale=0.7,
  init_scale=0.05,
  init_mean=None,
  relative: bool = True,
  link: _links.Link = _links.exp_link,
  leaves: core.LeafOverrides | None = None,
) -> _posterior.Posterior:
  r"""Independent Gaussians on all weights: the dense baseline of `ssvi`.

  .. math:: q(\theta) = \prod_i N(\mu_i, \sigma(\rho_i)^2), \quad p(\theta) = \prod_i
    N(0, s_l^2), \quad s_l = prior\_scale / \sqrt{fan\_in_l}

  With scales relative to the fan-in a prior and a start mean the same for every
  width. The defaults make sigma learn: log sigma, in units in which Adam with a step of
  1e-2 moves it (see `js.bayes.optimizer`, `js.bayes.sigma_report`).

  Args:
    bayesian: which leaves have a sigma: a predicate, a glob pattern or several; all
      others are deterministic. Biases, norms, first and last layers: by path.
    prior_scale: standard deviation of the prior, or a mapping path pattern -> number.
    init_scale: initial sigma: a number, a function `(key, shape) -> array`, or a
      mapping path pattern -> either; in the same units.
    init_mean: `(key, shape) -> mu` for Bayesian leaves; None keeps the model's own.
    relative: whether scales are in units of 1/sqrt(fan_in * density); of 1 for a leaf
      that is no kernel. False: they are absolute.
    link: `js.bayes.exp_link` (rho is log sigma) or `js.bayes.softplus_link`.
    leaves: overrides of `js.leaves_of`, needed for stacked layers.

  Returns:
    A Posterior without a rule: its masks are scalar True.

  Raises:
    ValueError: a scale that is not positive, a link that is none.

  Example:
    >>> import jax, jax.numpy as jnp, jaxsparse as js, optax
    >>> posterior = js.bayes.mean_field()
    >>> params = posterior.init(jax.random.key(0), {'kernel': jnp.ones((16, 2))})
    >>> tx = js.bayes.optimizer(posterior, optax.adam(5e-3), rho=optax.adam(1e-2))
    >>> params, opt_state = js.init(tx, params)
    >>> sigma = posterior.sigma(params, js.get_masks(opt_state))['kernel']
    >>> round(float(sigma[0, 0]), 6)  # 0.05 / sqrt(16)
    0.0125
  """
  budget = rules.Budget(
    0.0, distributions.uniform, masks_lib.Unstructured(), bayesian, leaves
  )
  family = _family.Family(
    budget, bayesian, prior_scale, init_scale, init_mean, relative, link, leaves
  )
  # Nothing is pruned: each density is the default, 1.
  return _family.make(family, lambda mu: {})

"""SSVI with the settings of its authors' released code, to compare with."""

import jax
import jax.numpy as jnp

from jaxsparse import core, distributions, schedules
from jaxsparse.bayes import _criteria, _links, _posterior, _ssvi


def ssvi_released(
  sparsity,
  *,
  seed,
  total_steps: int,
  first_layer: str,
  bayesian: core.Prunable = core.kernels,
  leaves: core.LeafOverrides | None = None,
) -> _posterior.Posterior:
  """SSVI as its authors released it: what `ssvi` is to be compared with.

  Absolute scales (mu ~ N(0, 0.01^2), sigma_0 = |N(6e-4, 5e-4^2)|, prior 0.005) with a
  softplus link; every layer but the first at the same density; every 100 steps until
  three quarters of the run `int(n r)` weights go by the SNR of |theta| and as many come
  by |dL/dmu|, instead of the optimizer's step; new weights start at the mean rho of
  the survivors, and what is dropped and picked again at once keeps its values.

  The rest of the published run: `temperature=0.01` with
  `warm_up=optax.linear_schedule(0, 1, total_steps // 2)`, local reparametrisation, SGD
  with momentum 0.9 and a cosine from 0.01 for mu and for rho, weight decay 5e-4 on mu,
  batches of 128. In float32 rho does not move under it, see `js.bayes.sigma_report`.

  Source: Li et al. 2024 (arXiv 2402.11025) and the code of the authors.

  Args:
    sparsity: fraction removed from each pruned leaf, in [0, 1).
    seed: int, integer tracer or typed key, of the random start.
    total_steps: optimizer steps of the whole run.
    first_layer: path pattern of the kernel that stays dense (it is Bayesian too).
    bayesian: which leaves have a sigma.
    leaves: overrides of `js.leaves_of`.

  Returns:
    A Posterior.

  Raises:
    ValueError: fewer than 2 steps; an argument that `ssvi` refuses.

  Example:
    >>> import jax, jax.numpy as jnp, jaxsparse as js
    >>> posterior = js.bayes.ssvi_released(
    ...     0.9, seed=0, total_steps=1000, first_layer='conv1/kernel')
    >>> [t for t in range(1000) if posterior.when(t)]
    [100, 200, 300, 400, 500, 600, 700]
  """
  if not isinstance(total_steps, int) or total_steps < 2:
    raise ValueError(f'total_steps={total_steps!r}: wanted an int of at least 2.')
  stop = max(total_steps * 3 // 4, 1)
  return _ssvi.ssvi(
    sparsity,
    seed=seed,
    # A run too short for one update has none.
    when=schedules.every(100, stop=max(stop, 100)),
    drop_fraction=schedules.cosine(0.3, stop),
    criterion=_criteria.snr_abs,
    keep_repicked=True,
    skip_step=True,
    distribution=distributions.uniform,
    prunable=core.kernels_except(first_layer),
    bayesian=bayesian,
    prior_scale=0.005,
    init_scale=_sigma,
    init_mean=lambda key, shape: 0.01 * jax.random.normal(key, shape),
    relative=False,
    link=_links.softplus_link,
    leaves=leaves,
  )


def _sigma(key, shape):
  """|N(6e-4, 5e-4^2)|, never exactly 0, whose rho would be -inf."""
  drawn = jnp.abs(6e-4 + 5e-4 * jax.random.normal(key, shape))
  return jnp.maximum(drawn, 1e-9)

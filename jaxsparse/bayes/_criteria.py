"""What a Gaussian weight is worth: removal criteria, closed forms of its moments.

All but `gradient` are functions `(mu, sigma, active) -> scores` of one leaf; the
larger, the more worth keeping. `active` marks what competes, and may be left out.
"""

import math

import jax
import jax.numpy as jnp
from jax.scipy import special

from jaxsparse import core


def magnitude(mu, sigma, active=None):
  """|mu|.

  Args:
    mu: float array, means.
    sigma: standard deviations, not read.
    active: not read.

  Returns:
    An array of the shape of `mu`.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> js.bayes.magnitude(jnp.array([-2., 1.]), jnp.array([1., 1.])).tolist()
    [2.0, 1.0]
  """
  del sigma, active
  return jnp.abs(mu)


def snr(mu, sigma, active=None):
  """|mu| / sigma, the signal-to-noise ratio of a weight.

  Args:
    mu: float array, means.
    sigma: standard deviations, the same shape.
    active: not read.

  Returns:
    An array of the shape of `mu`.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> js.bayes.snr(jnp.array([-2., 1.]), jnp.array([4., 0.5])).tolist()
    [0.5, 2.0]

  Graves 2011, Practical variational inference for neural networks, section 4.
  """
  del active
  return jnp.abs(mu) / sigma


def snr_abs(mu, sigma, active=None):
  r"""SNR of |theta|: an alias of `snr`, which ranks weights identically.

  With r = |mu| / sigma and m(r) = E|theta| / sigma it is `m / sqrt(1 + r^2 - m^2)`,
  a function of r alone whose derivative `(erf(r/√2) - 2 r φ(r)) / (1 + r^2 -
  m^2)^{3/2}` is positive for r > 0. So the preferred criterion of the SSVI paper and
  the one of 2011 drop the same weights; the simpler has no cancellation.

  Args:
    mu: float array, means.
    sigma: standard deviations, the same shape.
    active: not read.

  Returns:
    `snr(mu, sigma)`.

  Li et al. 2024, Sparse Subspace Variational Inference, section 3.
  """
  return snr(mu, sigma, active)


def e_abs(mu, sigma, active=None):
  r"""E|theta|, the mean of a folded Gaussian.

  .. math:: \mu \, erf(\mu / \sqrt2\sigma) + \sigma\sqrt{2/\pi} \exp(-\mu^2 / 2\sigma^2)

  Args:
    mu: float array, means.
    sigma: standard deviations, the same shape.
    active: not read.

  Returns:
    An array of the shape of `mu`.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> round(float(js.bayes.e_abs(jnp.float32(0.0), jnp.float32(1.0))), 4)
    0.7979
  """
  del active
  # The ratio is squared, not its parts, which would underflow in short floats.
  ratio = jnp.abs(mu) / sigma
  tail = math.sqrt(2 / math.pi) * jnp.exp(-0.5 * ratio * ratio)
  return jnp.abs(mu) * special.erf(ratio * math.sqrt(0.5)) + sigma * tail


def e_exp_abs(mu, sigma, active=None, *, scale: float = 1.0):
  r"""log E exp(lambda |theta|), with lambda = scale / rms(theta) over the leaf.

  With t = lambda sigma it is `t r + t^2/2 + log(Φ(r + t) + exp(-2 t r) Φ(t - r))`. The
  logarithm keeps the order and cannot overflow; lambda = 1, as published, would make
  the criterion magnitude at small weights.

  Args:
    mu: float array, means.
    sigma: standard deviations, the same shape.
    active: bool, broadcastable: which weights count in the rms; None for all.
    scale: c, in units of the rms.

  Returns:
    An array of the shape of `mu`.
  """
  ratio, t = _in_units(mu, sigma, active, scale)
  return t * ratio + 0.5 * t * t + _log_folded(ratio, t)


def snr_exp_abs(mu, sigma, active=None, *, scale: float = 1.0):
  r"""log of the SNR of exp(lambda |theta|), with lambda = scale / rms(theta).

  The squared SNR is `1 / expm1(d)` with `d = log A(2 lambda) - 2 log A(lambda)`, where
  A is the mean of the exponential. The large terms of d cancel on paper, not in float:
  `d = t^2 + g(2t) - 2 g(t)` with the bounded part g of log A.

  Args:
    mu: float array, means.
    sigma: standard deviations, the same shape.
    active: bool, broadcastable: which weights count in the rms; None for all.
    scale: c, in units of the rms.

  Returns:
    An array of the shape of `mu`.
  """
  ratio, t = _in_units(mu, sigma, active, scale)
  d = t * t + _log_folded(ratio, 2 * t) - 2 * _log_folded(ratio, t)
  # d = log(1 + 1 / SNR^2) > 0; rounded to less it would have no logarithm.
  d = jnp.maximum(d, jnp.finfo(d.dtype).tiny)
  # log(expm1(d)) without the overflow of a large d.
  return -0.5 * (d + jnp.log(-jnp.expm1(-d)))


def gradient(evidence: core.Evidence) -> core.Params:
  """|dL/dmu|, the default growth: how much the loss asks for an inactive weight.

  Args:
    evidence: its gradients are those of the update step (one minibatch, with the
      estimator's noise), or what was given as `growth=` to the optimizer's `update`.

  Returns:
    A tree like the means.

  Raises:
    ValueError: there are no gradients, as at init.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> grads = (jnp.array([-3., 2.]), jnp.zeros(2))
    >>> evidence = js.core.Evidence(grads, None, grads, None, 0, None)
    >>> js.bayes.gradient(evidence).tolist()
    [3.0, 2.0]
  """
  if evidence.grads is None:
    raise ValueError('bayes.gradient: there are no gradients at init.')
  # The third field, if there is one, was computed for growth alone.
  chosen = evidence.grads[2] if len(evidence.grads) > 2 else evidence.grads[0]
  return jax.tree.map(jnp.abs, chosen)


def _in_units(mu, sigma, active, scale):
  """`(|mu| / sigma, lambda sigma)` with lambda = scale / rms(theta) of what is active."""
  square = mu * mu + sigma * sigma
  active = jnp.ones(mu.shape, bool) if active is None else active
  active = jnp.broadcast_to(active, mu.shape)
  count = jnp.maximum(core.count_true(active), 1).astype(mu.dtype)
  # Off the mask rho is 0: a sigma of exp(0) = 1 would outweigh what is active.
  mean = jnp.sum(jnp.where(active, square, jnp.zeros_like(square))) / count
  return jnp.abs(mu) / sigma, scale * sigma / jnp.sqrt(mean)


def _log_folded(ratio, t):
  """log(Φ(r + t) + exp(-2 t r) Φ(t - r)), accurate near 0, where t is small."""
  # With Φ(r + t) = 1 - Φ(-r - t) the sum is 1 + small, and log1p keeps its digits.
  lower, upper = special.ndtr(t - ratio), special.ndtr(-ratio - t)
  return jnp.log1p(jnp.exp(-2 * t * ratio) * lower - upper)

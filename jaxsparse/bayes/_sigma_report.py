"""Whether sigma learns, and whether it matters: the two ways in which VI dies."""

from collections.abc import Callable
from typing import NamedTuple
import warnings

import jax
import jax.numpy as jnp

from jaxsparse import core
from jaxsparse.bayes import _posterior

_MOST_LOST = 0.5
_LEAST_GAIN = 1e-3


class SigmaReport(NamedTuple):
  """What `sigma_report` found; None where it was not asked.

  Attributes:
    lost: share of the active rho whose update was rounded away: `rho + u == rho`.
    mean_nll: nats per example with the mean weights.
    draw_nll: nats per example with one draw, averaged over the draws.
    mixture_nll: nats per example with the mean probability of all draws.
    gain: `draw_nll - mixture_nll`, at least 0: what averaging the draws is worth; 0
      where all draws predict the same.
    problems: sentences, empty when all is well.
  """

  lost: float | None
  mean_nll: float | None
  draw_nll: float | None
  mixture_nll: float | None
  gain: float | None
  problems: tuple[str, ...]


def sigma_report(
  posterior: _posterior.Posterior,
  params: _posterior.Gaussian,
  masks: core.Masks,
  *,
  updates: _posterior.Gaussian | None = None,
  log_likelihood: Callable | None = None,
  batch=None,
  key=None,
  samples: int = 32,
) -> SigmaReport:
  """Warns when rho's updates underflow, or when the draws all predict the same.

  With a sigma of 6e-4 and SGD an update of rho is 1e-8 where float32 has steps of
  5e-7: sigma is then a hyper-parameter. And a sigma that moves may still be too small
  to matter: then Monte-Carlo and mean predictions coincide to within noise, and a
  deterministic network does the same at half the memory. By Jensen's inequality a
  mixture of K draws is better than one by `gain >= 0`; below 1e-3 nats it is a point.

  Args:
    posterior: of `js.bayes.ssvi` or `js.bayes.mean_field`.
    params: before the update.
    masks: of `js.get_masks`.
    updates: what `tx.update` returned, in a step that does not change the masks.
    log_likelihood: `(theta, batch) -> (B,)` array, nats per example.
    batch: its second argument, best of held-out data.
    key: typed key of the draws.
    samples: how many draws.

  Returns:
    A SigmaReport of Python floats; each problem is also a RuntimeWarning.

  Raises:
    ValueError: nothing to look at, or a likelihood without batch or key.

  Example:
    >>> import jax, jax.numpy as jnp, jaxsparse as js
    >>> posterior = js.bayes.mean_field()
    >>> params = posterior.init(jax.random.key(0), {'kernel': jnp.ones((4, 2))})
    >>> masks = {'kernel': jnp.ones((), bool)}
    >>> updates = jax.tree.map(lambda x: jnp.full_like(x, 0.01), params)
    >>> js.bayes.sigma_report(posterior, params, masks, updates=updates).lost
    0.0
  """
  if updates is None and log_likelihood is None:
    raise ValueError('sigma_report: wanted updates=, or log_likelihood= and batch=.')
  if log_likelihood is not None and (batch is None or key is None):
    raise ValueError('sigma_report: log_likelihood= wants batch= and key= too.')
  lost, mean, draw, mixture, gain, problems = None, None, None, None, None, []
  if updates is not None:
    lost = float(jax.jit(_lost)(params.rho, updates.rho, masks))
    if lost > _MOST_LOST:
      problems.append(
        f'{lost:.0%} of the updates of rho are rounded away: sigma does not learn. Give'
        ' js.bayes.optimizer a rho=optax.adam(1e-2), with js.bayes.exp_link.'
      )
  if log_likelihood is not None:

    @jax.jit
    def likelihoods(params, masks, batch, key):
      keys = jax.random.split(key, samples)
      one = lambda k: log_likelihood(posterior.sample(params, masks, k), batch)
      # One after the other: the memory of one draw, whatever their number.
      return log_likelihood(posterior.mean(params, masks), batch), jax.lax.map(
        one, keys
      )

    at_mean, drawn = likelihoods(params, masks, batch, key)
    mean, draw = -float(jnp.mean(at_mean)), -float(jnp.mean(drawn))
    log_mean = jax.nn.logsumexp(drawn, axis=0) - jnp.log(float(samples))
    mixture = -float(jnp.mean(log_mean))
    gain = float(jnp.mean(log_mean - jnp.mean(drawn, axis=0)))
    if gain < _LEAST_GAIN:
      problems.append(
        f'{samples} draws together are worth {gain:.1e} nats per example more than one:'
        ' they predict what the mean weights do. sigma is too small to matter; raise'
        ' init_scale, prior_scale or the temperature.'
      )
  for problem in problems:
    warnings.warn(f'jaxsparse: {problem}', RuntimeWarning, stacklevel=2)
  return SigmaReport(lost, mean, draw, mixture, gain, tuple(problems))


def _lost(rho, updates, masks):
  """The share of active values that the addition leaves as they are."""
  triples = zip(*map(jax.tree.leaves, (rho, updates, masks)), strict=True)
  lost, total = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
  for value, update, mask in triples:
    # A scalar marks a deterministic leaf, which has no sigma.
    if not value.ndim:
      continue
    active = jnp.broadcast_to(mask, value.shape)
    same = (value + update.astype(value.dtype)) == value
    lost += core.count_true(active & same)
    total += core.count_true(active)
  return lost / jnp.maximum(total, 1)

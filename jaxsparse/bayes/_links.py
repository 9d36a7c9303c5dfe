"""Links: how the free parameter rho gives the standard deviation."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Link(NamedTuple):
  """A positive, increasing map from rho to sigma.

  Attributes:
    sigma: `rho -> sigma`.
    log_sigma: `rho -> log sigma`.
    rho: `sigma -> rho`, the inverse.
  """

  sigma: Callable[[jax.Array], jax.Array]
  log_sigma: Callable[[jax.Array], jax.Array]
  rho: Callable[[jax.Array], jax.Array]


# Adam's steps on log sigma are relative changes of sigma, whatever its size.
exp_link = Link(jnp.exp, lambda rho: rho, jnp.log)

softplus_link = Link(
  jax.nn.softplus,
  lambda rho: jnp.log(jax.nn.softplus(rho)),
  # log(exp(s) - 1), without overflow for a large s or cancellation for a small one.
  lambda sigma: sigma + jnp.log(-jnp.expm1(-sigma)),
)

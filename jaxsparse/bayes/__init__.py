"""Bayesian networks: variational posteriors, dense and sparse, and their loss."""

from jaxsparse.bayes._criteria import (
  e_abs,
  e_exp_abs,
  gradient,
  magnitude,
  snr,
  snr_abs,
  snr_exp_abs,
)
from jaxsparse.bayes._elbo import Info, negative_elbo
from jaxsparse.bayes._estimators import (
  Noisy,
  flipout,
  local_reparametrization,
  mean_weights,
  noisy_product,
  weight_sampling,
)
from jaxsparse.bayes._links import Link, exp_link, softplus_link
from jaxsparse.bayes._mean_field import mean_field
from jaxsparse.bayes._optimizer import optimizer, when_due
from jaxsparse.bayes._posterior import Gaussian, Posterior

__all__ = (
  'Gaussian',
  'Info',
  'Link',
  'Noisy',
  'Posterior',
  'e_abs',
  'e_exp_abs',
  'exp_link',
  'flipout',
  'gradient',
  'local_reparametrization',
  'magnitude',
  'mean_field',
  'mean_weights',
  'negative_elbo',
  'noisy_product',
  'optimizer',
  'snr',
  'snr_abs',
  'snr_exp_abs',
  'softplus_link',
  'weight_sampling',
  'when_due',
)

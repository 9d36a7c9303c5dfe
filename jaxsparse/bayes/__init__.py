"""Bayesian networks: variational posteriors, their loss, predictions, metrics."""

from jaxsparse.bayes._batch_norm import refit_batch_norm
from jaxsparse.bayes._calibration import (
  brier,
  calibration_error_marginal_l2_debiased,
  ece_adaptive,
  ece_top_label_l1,
  negative_log_likelihood,
  negative_log_likelihood_of_logits,
)
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
  noisy_handler,
  noisy_product,
  weight_sampling,
)
from jaxsparse.bayes._links import Link, exp_link, softplus_link
from jaxsparse.bayes._mean_field import mean_field
from jaxsparse.bayes._ood import RiskCoverage, aupr, auroc, fpr95, risk_coverage
from jaxsparse.bayes._optimizer import optimizer, when_due
from jaxsparse.bayes._posterior import Gaussian, Posterior
from jaxsparse.bayes._predictive import (
  Prediction,
  mix,
  predict,
  predict_draws,
  predict_ensemble,
)
from jaxsparse.bayes._regression import Regression, predict_regression
from jaxsparse.bayes._released import ssvi_released
from jaxsparse.bayes._sigma_report import SigmaReport, sigma_report
from jaxsparse.bayes._sparse_sample import sample_sparse
from jaxsparse.bayes._ssvi import ssvi
from jaxsparse.bayes._storage import Stored, load_posterior, save_posterior
from jaxsparse.bayes._temperature import temperature_scaling

__all__ = (
  'Gaussian',
  'Info',
  'Link',
  'Noisy',
  'Posterior',
  'Prediction',
  'Regression',
  'RiskCoverage',
  'SigmaReport',
  'Stored',
  'aupr',
  'auroc',
  'brier',
  'calibration_error_marginal_l2_debiased',
  'e_abs',
  'e_exp_abs',
  'ece_adaptive',
  'ece_top_label_l1',
  'exp_link',
  'flipout',
  'fpr95',
  'gradient',
  'load_posterior',
  'local_reparametrization',
  'magnitude',
  'mean_field',
  'mean_weights',
  'mix',
  'negative_elbo',
  'negative_log_likelihood',
  'negative_log_likelihood_of_logits',
  'noisy_handler',
  'noisy_product',
  'optimizer',
  'predict',
  'predict_draws',
  'predict_ensemble',
  'predict_regression',
  'refit_batch_norm',
  'risk_coverage',
  'sample_sparse',
  'save_posterior',
  'sigma_report',
  'snr',
  'snr_abs',
  'snr_exp_abs',
  'softplus_link',
  'ssvi',
  'ssvi_released',
  'temperature_scaling',
  'weight_sampling',
  'when_due',
)

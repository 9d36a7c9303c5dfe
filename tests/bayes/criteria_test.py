"""Removal criteria: closed forms against Monte Carlo, and who ranks like whom."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

import jaxsparse as js

_MU = np.array([0.0, 0.3, -0.7, 1.5, -4.0])
_SIGMA = np.array([1.0, 0.2, 0.7, 1.0, 0.5])
_RMS = np.sqrt(np.mean(_MU**2 + _SIGMA**2))


def _float32(*arrays):
  return [jnp.asarray(x, jnp.float32) for x in arrays]


def _draws(num=400_000):
  noise = np.random.default_rng(0).normal(size=(num, len(_MU)))
  return np.abs(_MU + _SIGMA * noise)


def test_means_equal_monte_carlo():
  draws = _draws()
  error = draws.std(0) / np.sqrt(len(draws))
  got = js.bayes.e_abs(*_float32(_MU, _SIGMA))
  assert np.all(np.abs(got - draws.mean(0)) < 4 * error + 1e-6)
  powers = np.exp(0.5 / _RMS * draws)
  error = powers.std(0) / np.sqrt(len(draws)) / powers.mean(0)
  got = js.bayes.e_exp_abs(*_float32(_MU, _SIGMA), scale=0.5)
  assert np.all(np.abs(got - np.log(powers.mean(0))) < 4 * error + 1e-6)


def test_snr_of_the_exponential_equals_monte_carlo():
  powers = np.exp(0.5 / _RMS * _draws())
  chunks = powers.reshape(20, -1, len(_MU))
  wanted = np.log(chunks.mean(1) / chunks.std(1))
  error = wanted.std(0) / np.sqrt(len(wanted))
  got = js.bayes.snr_exp_abs(*_float32(_MU, _SIGMA), scale=0.5)
  assert np.all(np.abs(got - wanted.mean(0)) < 4 * error + 1e-4)


def _snr_of_abs(mu, sigma):
  """E|theta| / sd|theta| in float64, as published."""
  r = np.abs(mu) / sigma
  m = r * special.erf(r / np.sqrt(2)) + np.sqrt(2 / np.pi) * np.exp(-(r**2) / 2)
  return m / np.sqrt(1 + r**2 - m**2)


def test_snr_of_abs_ranks_as_snr():
  # Ratios up to 8: beyond, the published form cancels even in float64.
  random = np.random.default_rng(0)
  sigma = np.exp(random.normal(size=3000))
  mu = sigma * random.uniform(-8, 8, 3000)
  alias = np.asarray(js.bayes.snr_abs(*_float32(mu, sigma)))
  assert np.array_equal(alias, js.bayes.snr(*_float32(mu, sigma)))
  np.testing.assert_array_equal(
    np.argsort(_snr_of_abs(mu, sigma)), np.argsort(np.abs(mu) / sigma)
  )
  drop = lambda scores: set(np.argsort(scores)[:900])
  assert drop(alias) == drop(_snr_of_abs(mu, sigma))
  assert drop(alias) != drop(np.abs(mu))


@pytest.mark.parametrize(
  'criterion',
  [
    js.bayes.magnitude,
    js.bayes.snr,
    js.bayes.e_abs,
    js.bayes.e_exp_abs,
    js.bayes.snr_exp_abs,
  ],
)
def test_no_overflow_and_an_order_that_no_unit_changes(criterion):
  random = np.random.default_rng(1)
  mu, sigma = 0.01 * random.normal(size=500), 6e-4 * np.exp(random.normal(size=500))
  orders = []
  for unit in (1e-3, 1.0, 1e4):
    scores = np.asarray(jax.jit(criterion)(*_float32(unit * mu, unit * sigma)))
    assert np.all(np.isfinite(scores))
    orders.append(np.argsort(scores))
  # Rounding may swap neighbours; a lambda in fixed units would change most places.
  assert np.mean(np.abs(orders[0] - orders[2]) > 0) < 0.1


def test_inactive_weights_do_not_count_in_the_rms():
  mu, sigma = _float32(_MU, _SIGMA)
  padded = jnp.concatenate([mu, jnp.zeros(5)]), jnp.concatenate([sigma, jnp.ones(5)])
  active = jnp.arange(10) < 5
  for criterion in (js.bayes.e_exp_abs, js.bayes.snr_exp_abs):
    np.testing.assert_allclose(
      criterion(*padded, active)[:5], criterion(mu, sigma), rtol=1e-5
    )


def test_growth_reads_gradients_of_its_own_if_there_are():
  grads = ({'w': jnp.array([-1.0])}, {'w': jnp.array([9.0])})
  evidence = js.core.Evidence(grads, None, grads, None, jnp.int32(0), None)
  assert float(js.bayes.gradient(evidence)['w'][0]) == 1.0
  evidence = evidence._replace(grads=(*grads, {'w': jnp.array([-5.0])}))
  assert float(js.bayes.gradient(evidence)['w'][0]) == 5.0
  with pytest.raises(ValueError, match='no gradients at init'):
    js.bayes.gradient(evidence._replace(grads=None))

"""The ELBO: its parts, its convention, its gradient."""

import jax
from jax import test_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse as js

_MASKS = {'kernel': jnp.ones((), bool)}


def _apply(theta, x):
  return jnp.tanh(x @ theta['kernel'])


def _log_likelihood(outputs, targets):
  return -0.5 * jnp.sum((outputs - targets) ** 2, -1)


def _start():
  draw = np.random.default_rng(0).normal
  posterior = js.bayes.mean_field(init_scale=0.5)
  kernel = jnp.asarray(draw(size=(5, 3)), jnp.float32)
  params = posterior.init(jax.random.key(0), {'kernel': kernel})
  batch = tuple(jnp.asarray(draw(size=(8, n)), jnp.float32) for n in (5, 3))
  return posterior, params, batch


def test_parts_and_convention():
  posterior, params, batch = _start()
  elbo = js.bayes.negative_elbo(
    posterior,
    _apply,
    _log_likelihood,
    num_examples=40,
    temperature=0.5,
    warm_up=optax.linear_schedule(0.0, 1.0, 10),
  )
  key = jax.random.key(3)
  theta = posterior.sample(params, _MASKS, key)
  nll = -np.mean(_log_likelihood(_apply(theta, batch[0]), batch[1]))
  kl = float(posterior.kl(params, _MASKS)) / 40
  for step, warm in ((0, 0.0), (5, 0.5), (100, 1.0)):
    loss, info = elbo(params, _MASKS, batch, key, step)
    assert isinstance(info, js.bayes.Info) and info.aux is None
    np.testing.assert_allclose(info.nll, nll, rtol=1e-5)
    np.testing.assert_allclose(info.kl, kl, rtol=1e-5)
    np.testing.assert_allclose(info.elbo, -(nll + kl), rtol=1e-5)
    np.testing.assert_allclose(loss, nll + warm * 0.5 * kl, rtol=1e-5)


def test_temperature_may_move_and_draws_are_averaged():
  posterior, params, batch = _start()
  make = lambda **kwargs: js.bayes.negative_elbo(
    posterior, _apply, _log_likelihood, num_examples=40, **kwargs
  )
  key = jax.random.key(3)
  loss, info = make(temperature=lambda t: 0.1 * t)(params, _MASKS, batch, key, 2)
  np.testing.assert_allclose(loss, info.nll + 0.2 * info.kl, rtol=1e-5)
  swept = jax.jit(lambda t: make(temperature=t)(params, _MASKS, batch, key, 2)[0])
  np.testing.assert_allclose(swept(0.2), loss, rtol=1e-5)
  _, several = make(samples=3)(params, _MASKS, batch, key, 0)
  singles = [
    make()(params, _MASKS, batch, k, 0)[1].nll for k in jax.random.split(key, 3)
  ]
  np.testing.assert_allclose(several.nll, np.mean(singles), rtol=1e-5)


def test_gradient_equals_finite_differences():
  posterior, params, batch = _start()
  elbo = js.bayes.negative_elbo(posterior, _apply, _log_likelihood, num_examples=40)
  loss = lambda p: elbo(p, _MASKS, batch, jax.random.key(3), 0)[0]
  test_util.check_grads(jax.jit(loss), (params,), 1, ['rev'], 1e-2, 1e-2, eps=1e-2)


def test_the_gradient_at_the_mean_has_no_noise():
  posterior, params, batch = _start()
  elbo = js.bayes.negative_elbo(
    posterior,
    _apply,
    _log_likelihood,
    num_examples=40,
    temperature=0.0,
    estimator=js.bayes.mean_weights,
  )
  grads = jax.grad(lambda p: elbo(p, _MASKS, batch, jax.random.key(3), 0)[0])(params)
  plain = lambda theta: -jnp.mean(_log_likelihood(_apply(theta, batch[0]), batch[1]))
  wanted = jax.grad(plain)(params.mu)
  np.testing.assert_allclose(grads.mu['kernel'], wanted['kernel'], rtol=1e-5)
  assert not np.any(grads.rho['kernel'])


def test_aux_passes_through():
  posterior, params, batch = _start()
  elbo = js.bayes.negative_elbo(
    posterior,
    lambda theta, x: (_apply(theta, x), {'mean': jnp.mean(x)}),
    _log_likelihood,
    num_examples=40,
    has_aux=True,
  )
  _, info = elbo(params, _MASKS, batch, jax.random.key(3), 0)
  np.testing.assert_allclose(info.aux['mean'], jnp.mean(batch[0]), rtol=1e-6)


@pytest.mark.parametrize(
  'kwargs, message',
  [
    ({'num_examples': 0}, 'num_examples=0'),
    ({'samples': 0}, 'samples=0'),
    ({'samples': 2, 'has_aux': True}, 'samples=2'),
    ({'temperature': -1.0}, 'temperature=-1.0'),
    ({'warm_up': 2.0}, 'warm_up=2.0'),
  ],
)
def test_bad_arguments_are_refused(kwargs, message):
  kwargs = {'num_examples': 40, **kwargs}
  with pytest.raises(ValueError, match=message):
    js.bayes.negative_elbo(js.bayes.mean_field(), _apply, _log_likelihood, **kwargs)


def test_an_averaged_likelihood_is_refused():
  posterior, params, batch = _start()
  mean = lambda outputs, targets: jnp.mean(_log_likelihood(outputs, targets))
  elbo = js.bayes.negative_elbo(posterior, _apply, mean, num_examples=40)
  with pytest.raises(ValueError, match=r'log_likelihood.*one value per example'):
    elbo(params, _MASKS, batch, jax.random.key(3), 0)

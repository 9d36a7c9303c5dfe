"""Estimators: equal means, equal marginal variances, gradients without NaN."""

from flax import nnx
import flax.linen as nn
import jax
from jax import test_util
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse as js

_DRAWS = 4000
_ESTIMATORS = [
  js.bayes.weight_sampling,
  js.bayes.local_reparametrization,
  js.bayes.flipout,
]


def _gaussian(shape, mask=None):
  posterior = js.bayes.mean_field(init_scale=1.0)
  draw = np.random.default_rng(0).normal
  kernel = jnp.asarray(draw(size=shape), jnp.float32)
  params = posterior.init(jax.random.key(0), {'kernel': kernel})
  masks = {'kernel': jnp.ones((), bool) if mask is None else mask}
  return (
    posterior,
    js.bayes.Gaussian(js.masks.apply(masks, params.mu), params.rho),
    masks,
  )


def _outputs(estimator, run, start, x):
  posterior, params, masks = start

  def one(key):
    weights = estimator(posterior, params, masks, key)
    return run({'params': weights}, x)

  return jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), _DRAWS))


def _check_moments(y, mean, variance):
  y = np.asarray(y, float)
  error = y.std(0) / np.sqrt(len(y))
  assert np.all(np.abs(y.mean(0) - mean) < 4.5 * error + 1e-5)
  # The variance of a sample variance, whatever the tails of the draws.
  centred = (y - y.mean(0)) ** 2
  error = centred.std(0) / np.sqrt(len(y))
  assert np.all(np.abs(centred.mean(0) - variance) < 4.5 * error + 1e-5)


@pytest.mark.parametrize('estimator', _ESTIMATORS)
def test_moments_of_a_dense_layer(estimator):
  mask = jnp.asarray(np.random.default_rng(1).random((6, 4)) < 0.5)
  start = _gaussian((6, 4), mask)
  x = np.random.default_rng(2).normal(size=(3, 6)).astype(np.float32)
  run = js.layers.bind(nn.Dense(4, use_bias=False), js.bayes.noisy_product)
  y = _outputs(estimator, run, start, jnp.asarray(x))
  posterior, params, masks = start
  sigma = np.asarray(posterior.sigma(params, masks)['kernel'])
  mu = np.asarray(params.mu['kernel'])
  _check_moments(y, x @ mu, x**2 @ sigma**2)
  # Examples share a weight draw, and only that: their correlations tell.
  first, second = np.asarray(y[:, 0, 0]), np.asarray(y[:, 1, 0])
  correlation = np.corrcoef(first, second)[0, 1]
  product = x[0] * x[1] @ sigma[:, 0] ** 2
  shared = product / np.sqrt(
    (x[0] ** 2 @ sigma[:, 0] ** 2) * (x[1] ** 2 @ sigma[:, 0] ** 2)
  )
  wanted = shared if estimator is js.bayes.weight_sampling else 0.0
  assert abs(correlation - wanted) < 4.5 / np.sqrt(_DRAWS)


@pytest.mark.parametrize('estimator', _ESTIMATORS)
def test_moments_of_a_convolution(estimator):
  start = _gaussian((3, 2, 2))
  x = np.random.default_rng(2).normal(size=(2, 4, 2)).astype(np.float32)
  model = nn.Conv(2, (3,), use_bias=False, padding='VALID')
  run = js.layers.bind(model, js.bayes.noisy_product)
  y = _outputs(estimator, run, start, jnp.asarray(x))
  posterior, params, masks = start
  sigma = np.asarray(posterior.sigma(params, masks)['kernel'])
  mu = np.asarray(params.mu['kernel'])
  windows = np.stack([x[:, t : t + 3] for t in range(2)], 1)
  mean = np.einsum('btki,kio->bto', windows, mu)
  variance = np.einsum('btki,kio->bto', windows**2, sigma**2)
  _check_moments(y, mean, variance)
  # A shared kernel correlates positions; the noise of local reparametrisation does not.
  if estimator is not js.bayes.local_reparametrization:
    covariance = np.einsum('ki,kio->o', windows[0, 0] * windows[0, 1], sigma**2)[0]
    got = (y[:, 0, 0, 0] - mean[0, 0, 0]) * (y[:, 0, 1, 0] - mean[0, 1, 0])
    error = float(np.std(got) / np.sqrt(_DRAWS))
    assert abs(float(np.mean(got)) - covariance) < 4.5 * error


@pytest.mark.parametrize('estimator', _ESTIMATORS[1:])
def test_embeddings_attention_and_nnx(estimator):
  class Net(nnx.Module):
    def __init__(self, rngs):
      self.table = nnx.Embed(5, 4, rngs=rngs)
      self.attention = nnx.MultiHeadAttention(2, 4, decode=False, rngs=rngs)

    def __call__(self, ids):
      h = self.table(ids)
      return self.table.attend(self.attention(h))

  model = Net(nnx.Rngs(0))
  kernels = ('*kernel', '*embedding')
  posterior = js.bayes.mean_field(bayesian=kernels, init_scale=1e-6)
  params = posterior.init(jax.random.key(0), nnx.state(model, nnx.Param))
  masks = jax.tree.map(lambda _: jnp.ones((), bool), params.mu)
  weights = estimator(posterior, params, masks, jax.random.key(1))
  nodes = jax.tree.leaves(weights, is_leaf=lambda x: isinstance(x, js.bayes.Noisy))
  assert sum(isinstance(x, js.bayes.Noisy) for x in nodes) == 5
  run = js.layers.bind(model, js.bayes.noisy_product)
  ids = jnp.array([[0, 3, 1], [4, 4, 2]])
  # With almost no noise the model must be the model, whatever the axes.
  got = jax.jit(run)(weights, ids)
  np.testing.assert_allclose(got, nnx.jit(model)(ids), rtol=1e-3, atol=1e-4)


def test_no_variance_gives_no_nan():
  posterior, params, masks = _gaussian((6, 4), jnp.zeros((6, 4), bool))
  run = js.layers.bind(nn.Dense(4, use_bias=False), js.bayes.noisy_product)

  def loss(params, x):
    weights = js.bayes.local_reparametrization(
      posterior, params, masks, jax.random.key(1)
    )
    return jnp.sum(run({'params': weights}, x) ** 2 + 1.0)

  for x in (jnp.zeros((2, 6)), jnp.ones((2, 6))):
    value, grads = jax.value_and_grad(loss, (0, 1))(params, x)
    assert float(value) == 8.0
    assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(grads))


def test_the_gradient_of_local_noise_equals_finite_differences():
  posterior, params, masks = _gaussian((6, 4))
  x = jnp.asarray(np.random.default_rng(2).normal(size=(3, 6)), jnp.float32)
  product = js.layers.Product('dot', 'kernel', jnp.dot, {})

  def loss(rho):
    node = posterior.noisy(
      params._replace(rho={'kernel': rho}), masks, jax.random.key(1), 'local'
    )['kernel']
    return jnp.sum(jnp.sin(js.bayes.noisy_product(product, node, x)))

  rho = params.rho['kernel']
  test_util.check_grads(jax.jit(loss), (rho,), 1, ['rev'], 1e-2, 1e-2, eps=1e-2)

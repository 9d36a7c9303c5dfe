"""Mean-field posteriors: closed forms, draws, pruning, the optimizer around them."""

from flax import nnx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse as js

_MASK = jnp.arange(24).reshape(6, 4) % 3 == 0


def _params():
  draw = np.random.default_rng(0).normal
  return {
    'dense': {
      'kernel': jnp.asarray(draw(size=(6, 4)), jnp.float32),
      'bias': jnp.ones(4, jnp.float32),
    }
  }


def _start(**kwargs):
  """A posterior, its params and masks that keep a third of the kernel."""
  posterior = js.bayes.mean_field(**kwargs)
  params = posterior.init(jax.random.key(0), _params())
  masks = {'dense': {'kernel': _MASK, 'bias': jnp.ones((), bool)}}
  return posterior, params, masks


def test_a_start():
  posterior, params, masks = _start()
  assert isinstance(posterior, js.bayes.Posterior)
  assert isinstance(params, js.bayes.Gaussian)
  # Of density 1: the masks of a mean-field posterior are scalar True.
  np.testing.assert_allclose(
    jnp.exp(params.rho['dense']['kernel']), 0.05 / np.sqrt(6), rtol=1e-6
  )
  assert params.rho['dense']['bias'].shape == ()
  np.testing.assert_array_equal(
    params.mu['dense']['kernel'], _params()['dense']['kernel']
  )


@pytest.mark.parametrize('link', [js.bayes.exp_link, js.bayes.softplus_link])
def test_links_are_inverted(link):
  assert isinstance(link, js.bayes.Link)
  sigma = jnp.array([1e-6, 1e-3, 0.5, 3.0, 50.0])
  np.testing.assert_allclose(link.sigma(link.rho(sigma)), sigma, rtol=1e-5)
  np.testing.assert_allclose(link.log_sigma(link.rho(sigma)), jnp.log(sigma), rtol=1e-5)


@pytest.mark.parametrize('link', [js.bayes.exp_link, js.bayes.softplus_link])
def test_kl_equals_numerical_integration_and_monte_carlo(link):
  posterior, params, masks = _start(link=link, init_scale=0.5)
  kl = float(posterior.kl(params, masks))
  mu = np.asarray(params.mu['dense']['kernel'], float)[np.asarray(_MASK)]
  sigma = np.asarray(link.sigma(params.rho['dense']['kernel']), float)
  sigma = sigma[np.asarray(_MASK)]
  prior = 0.7 / np.sqrt(6 / 3)
  total = 0.0
  for m, s in zip(mu, sigma):
    x = np.linspace(m - 10 * s, m + 10 * s, 4001)
    log_q = -0.5 * ((x - m) / s) ** 2 - np.log(s)
    log_p = -0.5 * (x / prior) ** 2 - np.log(prior)
    density = np.exp(log_q) / np.sqrt(2 * np.pi)
    total += np.sum(density * (log_q - log_p)) * (x[1] - x[0])
  np.testing.assert_allclose(kl, total, rtol=1e-4)

  @jax.jit
  @jax.vmap
  def log_ratio(key):
    theta = posterior.sample(params, masks, key)
    x = theta['dense']['kernel'] / prior
    log_p = -0.5 * x**2 - np.log(prior) - 0.5 * np.log(2 * np.pi)
    log_p = jnp.sum(jnp.where(_MASK, log_p, 0))
    return posterior.log_prob(params, masks, theta) - log_p

  draws = np.asarray(log_ratio(jax.random.split(jax.random.key(1), 4000)))
  assert abs(draws.mean() - kl) < 4 * draws.std() / np.sqrt(len(draws))


def test_samples_touch_active_weights_only():
  posterior, params, masks = _start()
  # Whatever stands off the mask must not show: not even a huge sigma.
  rho = jnp.where(_MASK, params.rho['dense']['kernel'], 80.0)
  params = params._replace(rho={'dense': {**params.rho['dense'], 'kernel': rho}})
  theta = posterior.sample(params, masks, jax.random.key(1))['dense']
  again = posterior.sample(params, masks, jax.random.key(1))['dense']
  other = posterior.sample(params, masks, jax.random.key(2))['dense']
  np.testing.assert_array_equal(theta['kernel'], again['kernel'])
  np.testing.assert_array_equal(theta['kernel'] != 0, _MASK)
  assert np.all(np.asarray(theta['kernel'] != other['kernel']) == np.asarray(_MASK))
  np.testing.assert_array_equal(theta['bias'], params.mu['dense']['bias'])
  mean = posterior.mean(params, masks)['dense']['kernel']
  np.testing.assert_array_equal(
    mean, jnp.where(_MASK, params.mu['dense']['kernel'], 0.0)
  )
  sigma = posterior.sigma(params, masks)['dense']
  np.testing.assert_array_equal(sigma['kernel'] > 0, _MASK)
  assert sigma['bias'].shape == ()
  off = {'dense': {**theta, 'kernel': jnp.ones((6, 4))}}
  assert posterior.log_prob(params, masks, off) == -jnp.inf


def test_gradients_reach_inactive_means_but_no_inactive_sigma():
  posterior, params, masks = _start()
  weight = jnp.asarray(np.random.default_rng(1).normal(size=(6, 4)), jnp.float32)

  def loss(params):
    theta = posterior.sample(params, masks, jax.random.key(1))
    return jnp.sum(weight * theta['dense']['kernel'])

  grads = jax.grad(loss)(params)
  np.testing.assert_allclose(grads.mu['dense']['kernel'], weight, rtol=1e-6)
  np.testing.assert_array_equal(grads.rho['dense']['kernel'] != 0, _MASK)
  kl = jax.grad(posterior.kl)(params, masks)
  np.testing.assert_array_equal(kl.mu['dense']['kernel'] != 0, _MASK)


def test_scales_by_path_absolute_and_drawn():
  posterior = js.bayes.mean_field(
    bayesian=('*kernel', '*bias'),
    prior_scale={'*kernel': 0.005, '*bias': 1.0},
    init_scale=lambda key, shape: jnp.full(shape, 0.25),
    init_mean=lambda key, shape: 0.01 * jax.random.normal(key, shape),
    relative=False,
  )
  params = posterior.init(jax.random.key(0), _params())
  masks = jax.tree.map(lambda _: jnp.ones((), bool), params.mu)
  sigma = posterior.sigma(params, masks)['dense']
  np.testing.assert_allclose(sigma['kernel'], 0.25, rtol=1e-6)
  np.testing.assert_allclose(sigma['bias'], 0.25, rtol=1e-6)
  assert 0.005 < float(jnp.std(params.mu['dense']['kernel'])) < 0.02
  mu = np.concatenate([np.ravel(x) for x in params.mu['dense'].values()])
  prior = np.concatenate([np.full(4, 1.0), np.full(24, 0.005)])
  mu = np.concatenate([params.mu['dense'][n].ravel() for n in ('bias', 'kernel')])
  kl = np.log(prior / 0.25) + (0.25**2 + mu**2) / (2 * prior**2) - 0.5
  np.testing.assert_allclose(posterior.kl(params, masks), kl.sum(), rtol=1e-5)


def test_bfloat16_means_have_a_rho_that_can_move():
  posterior = js.bayes.mean_field()
  mu = jax.tree.map(lambda p: p.astype(jnp.bfloat16), _params())
  params = posterior.init(jax.random.key(0), mu)
  masks = jax.tree.map(lambda _: jnp.ones((), bool), mu)
  assert params.rho['dense']['kernel'].dtype == jnp.float32
  theta = posterior.sample(params, masks, jax.random.key(1))
  assert theta['dense']['kernel'].dtype == jnp.bfloat16


def test_linen_and_nnx_draw_the_same():
  class Net(nnx.Module):
    def __init__(self, rngs):
      self.dense = nnx.Linear(6, 4, rngs=rngs)

  posterior = js.bayes.mean_field()
  state = nnx.state(Net(nnx.Rngs(0)), nnx.Param)
  linen = nn.Dense(4).init(jax.random.key(0), jnp.ones((1, 6)))['params']
  linen = {'dense': {**linen, 'kernel': state['dense']['kernel'].get_value()}}
  draws = []
  for model in (linen, state):
    params = posterior.init(jax.random.key(0), model)
    masks = jax.tree.map(lambda _: jnp.ones((), bool), params.mu)
    theta = posterior.sample(params, masks, jax.random.key(1))
    assert jax.tree.structure(theta) == jax.tree.structure(model)
    draws.append(js.core.named_subset(theta, ['dense/kernel'])['dense/kernel'])
  np.testing.assert_array_equal(*draws)


def test_pruning_keeps_the_best_of_what_is_active():
  posterior, params, masks = _start()
  pruned, fewer = posterior.prune(params, masks, 0.5)
  kept = np.asarray(fewer['dense']['kernel'])
  assert kept.sum() == 4 and not np.any(kept & ~np.asarray(_MASK))
  assert fewer['dense']['bias'].shape == ()
  worth = np.abs(np.asarray(params.mu['dense']['kernel']))
  assert worth[kept].min() > worth[np.asarray(_MASK) & ~kept].max()
  for field in pruned:
    assert not np.any(np.asarray(field['dense']['kernel'])[~kept])
  with pytest.raises(ValueError, match=r'keep=0.*\(0, 1\]'):
    posterior.prune(params, masks, 0)


def test_the_optimizer_decays_means_only_and_has_masks():
  posterior = js.bayes.mean_field()
  tx = js.bayes.optimizer(posterior, optax.adamw(0.1, weight_decay=0.5))
  params, state = js.init(tx, posterior.init(jax.random.key(0), _params()))
  nothing = jax.tree.map(jnp.zeros_like, params)
  updates, state = jax.jit(tx.update)(nothing, state, params)
  np.testing.assert_allclose(
    updates.mu['dense']['kernel'], -0.05 * params.mu['dense']['kernel'], rtol=1e-5
  )
  assert not np.any(updates.rho['dense']['kernel'])
  assert int(state.step) == 1
  masks = js.get_masks(state)
  assert all(m.shape == () and bool(m) for m in jax.tree.leaves(masks))


def test_rho_has_an_optimizer_of_its_own():
  posterior = js.bayes.mean_field()
  tx = js.bayes.optimizer(posterior, optax.sgd(1.0), rho=optax.sgd(0.1))
  params, state = js.init(tx, posterior.init(jax.random.key(0), _params()))
  ones = jax.tree.map(jnp.ones_like, params)
  updates, _ = tx.update(ones, state, params)
  assert float(updates.mu['dense']['kernel'][0, 0]) == -1.0
  np.testing.assert_allclose(updates.rho['dense']['kernel'], -0.1, rtol=1e-6)


def test_when_due_computes_in_those_steps_only():
  due = js.bayes.mean_field()._replace(when=js.schedules.at(3))
  compute = jax.jit(lambda t: js.bayes.when_due(due, t, lambda x: {'a': x + 1}, 1.0))
  assert [float(compute(t)['a']) for t in (2, 3, 4)] == [0.0, 2.0, 0.0]
  assert float(js.bayes.when_due(js.bayes.mean_field(), 3, jnp.exp, 1.0)) == 0.0


def test_stacked_layers_have_a_key_each():
  posterior = js.bayes.mean_field(leaves={'blocks/*': js.stacked()})
  model = {'blocks': {'kernel': jnp.ones((3, 4, 4))}}
  params = posterior.init(jax.random.key(0), model)
  masks = {'blocks': {'kernel': jnp.ones((), bool)}}
  np.testing.assert_allclose(jnp.exp(params.rho['blocks']['kernel']), 0.025, rtol=1e-6)
  node = posterior.noisy(params, masks, jax.random.key(1), 'local')['blocks']['kernel']
  assert node.key.shape == (3,)


@pytest.mark.parametrize(
  'kwargs, message',
  [
    ({'prior_scale': 0.0}, 'prior_scale=0.0.*positive'),
    ({'init_scale': -1}, 'init_scale=-1.*positive'),
    ({'init_scale': 'small'}, "init_scale='small'.*positive"),
    ({'link': 'exp'}, "link='exp'.*exp_link"),
  ],
)
def test_bad_arguments_are_refused(kwargs, message):
  with pytest.raises(ValueError, match=message):
    js.bayes.mean_field(**kwargs)


def test_a_mapping_must_match_every_leaf():
  posterior = js.bayes.mean_field(bayesian='*', prior_scale={'*kernel': 1.0})
  params = posterior.init(jax.random.key(0), _params())
  masks = jax.tree.map(lambda _: jnp.ones((), bool), params.mu)
  with pytest.raises(ValueError, match='prior_scale: no pattern matches dense/bias'):
    posterior.kl(params, masks)
  with pytest.raises(ValueError, match='inner=.*optax transformation'):
    js.bayes.optimizer(posterior, 'adam')

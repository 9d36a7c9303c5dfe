"""The report tells a sigma that learns and matters from one that does neither."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse as js

_DRAW = np.random.default_rng(0).normal
_X = jnp.asarray(3 * _DRAW(size=(64, 16)), jnp.float32)
_Y = jnp.argmax(_X[:, :8] + jnp.asarray(_DRAW(size=(64, 8)), jnp.float32), -1)


def _log_likelihood(theta, batch):
  x, y = batch
  h = jnp.tanh(x @ theta['dense1']['kernel'])
  log_probs = jax.nn.log_softmax(h @ theta['dense2']['kernel'])
  return jnp.take_along_axis(log_probs, y[:, None], 1)[:, 0]


def _report(posterior, tx, temperature):
  elbo = js.bayes.negative_elbo(
    posterior,
    lambda theta, x: (theta, x),
    lambda outputs, y: _log_likelihood(outputs[0], (outputs[1], y)),
    num_examples=50_000,
    temperature=temperature,
  )
  key = jax.random.key(0)
  model = {
    'dense1': {'kernel': jnp.asarray(0.25 * _DRAW(size=(16, 24)), jnp.float32)},
    'dense2': {'kernel': jnp.asarray(0.2 * _DRAW(size=(24, 8)), jnp.float32)},
  }
  params, state = js.init(tx, posterior.init(key, model))

  @jax.jit
  def step(params, state):
    masks = js.get_masks(state)
    loss = lambda p: elbo(p, masks, (_X, _Y), jax.random.fold_in(key, state.step), 0)[0]
    updates, new = tx.update(jax.grad(loss)(params), state, params)
    return updates, new

  for _ in range(12):
    before = params, js.get_masks(state)
    updates, state = step(params, state)
    params = optax.apply_updates(params, updates)
  return js.bayes.sigma_report(
    posterior,
    *before,
    updates=updates,
    log_likelihood=_log_likelihood,
    batch=(_X, _Y),
    key=jax.random.key(5),
  )


def test_the_released_settings_are_reported():
  posterior = js.bayes.ssvi_released(
    0.5, seed=0, total_steps=1000, first_layer='dense1/kernel'
  )._replace(when=None)
  sgd = optax.sgd(0.01, momentum=0.9)
  tx = js.bayes.optimizer(posterior, sgd, rho=sgd)
  with pytest.warns(RuntimeWarning, match='jaxsparse') as caught:
    report = _report(posterior, tx, 0.01)
  assert isinstance(report, js.bayes.SigmaReport)
  assert len(report.problems) == len(caught) == 2
  assert 'rounded away' in str(caught[0].message)
  assert 'predict what the mean weights do' in str(caught[1].message)
  assert report.lost > 0.9 and report.gain < 1e-3
  assert abs(report.mean_nll - report.mixture_nll) < 1e-3


def test_the_defaults_are_not():
  # Without updates of the masks, which nobody looks at here.
  posterior = js.bayes.ssvi(0.5, seed=0, when=js.schedules.never)._replace(when=None)
  tx = js.bayes.optimizer(posterior, optax.adam(5e-3), rho=optax.adam(1e-2))
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    report = _report(posterior, tx, 0.3)
  assert report.problems == ()
  assert report.lost == 0.0 and report.gain > 1e-3
  np.testing.assert_allclose(
    report.gain, report.draw_nll - report.mixture_nll, rtol=1e-2
  )


def test_it_wants_something_to_look_at():
  posterior = js.bayes.mean_field()
  params = posterior.init(jax.random.key(0), {'kernel': jnp.ones((4, 2))})
  masks = {'kernel': jnp.ones((), bool)}
  with pytest.raises(ValueError, match='updates='):
    js.bayes.sigma_report(posterior, params, masks)
  with pytest.raises(ValueError, match='batch='):
    js.bayes.sigma_report(posterior, params, masks, log_likelihood=_log_likelihood)

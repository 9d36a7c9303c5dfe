"""The released settings, step by step against an implementation in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import special

import jaxsparse as js

_SHAPES = {'first': (5, 4), 'a': (6, 8), 'b': (8, 5)}
_TOTAL, _STOP, _LR, _MOMENTUM, _DECAY = 800, 600, 0.01, 0.9, 5e-4


def _gradients(step):
  """Given, not computed: dense, without ties, for mu and for rho."""
  noise = np.random.RandomState(step)
  return [
    {k: {'kernel': noise.randn(*s).astype(np.float32)} for k, s in _SHAPES.items()}
    for _ in range(2)
  ]


def _snr_of_abs(mu, sigma):
  """E|theta| / sd|theta|; at large ratios the variance, by its expansion, is 1."""
  r = np.abs(mu).astype(np.float64) / sigma
  m = r * special.erf(r / np.sqrt(2)) + np.sqrt(2 / np.pi) * np.exp(-(r**2) / 2)
  return np.where(r > 7, r, m / np.sqrt(np.maximum(1 + r**2 - m**2, 1e-300)))


def _update_mask(mu, rho, mask, slope, fraction):
  """`(new mask, survivors of the drop)`."""
  count = int(mask.sum())
  num = int(np.float32(count) * fraction)
  worth = np.where(mask, _snr_of_abs(mu, np.log1p(np.exp(rho))), np.inf)
  alive = mask.copy()
  alive.flat[np.argsort(worth, axis=None)[:num]] = False
  slope = np.where(alive, -1, np.abs(slope))
  new = alive.copy()
  new.flat[np.argsort(-slope, axis=None)[:num]] = True
  return new, alive


def _numpy_run(mu, rho, masks, steps):
  mu, rho, masks = (dict(x) for x in (mu, rho, masks))
  traces = [{k: np.zeros_like(v) for k, v in x.items()} for x in (mu, rho)]
  for step in steps:
    grads = _gradients(step)
    for k in _SHAPES:
      if step % 100 == 0 and 0 < step < _STOP:
        # The first layer has a mask of True, which nothing changes.
        if k == 'first':
          continue
        fraction = np.float32(0.15 * (1 + np.cos(np.pi * step / _STOP)))
        new, alive = _update_mask(
          mu[k], rho[k], masks[k], grads[0][k]['kernel'], fraction
        )
        fresh, mean = new & ~masks[k], rho[k][alive].mean()
        mu[k] = np.where(fresh | ~new, np.float32(0), mu[k])
        rho[k] = np.where(fresh, mean, np.where(new, rho[k], np.float32(0)))
        traces = [{**t, k: np.where(new & ~fresh, t[k], 0)} for t in traces]
        masks[k] = new
        continue
      for values, trace, field in ((mu, traces[0], 0), (rho, traces[1], 1)):
        slope = grads[field][k]['kernel']
        if field == 0:
          slope = slope + np.float32(_DECAY) * values[k]
        slope = np.where(masks[k], slope, 0) + np.float32(_MOMENTUM) * trace[k]
        trace[k] = slope.astype(np.float32)
        values[k] = (values[k] - np.float32(_LR) * trace[k]).astype(np.float32)
    yield dict(mu), dict(rho), {k: m.copy() for k, m in masks.items()}


def test_parity_with_numpy_step_by_step():
  posterior = js.bayes.ssvi_released(
    0.6, seed=0, total_steps=_TOTAL, first_layer='first/kernel'
  )
  sgd = optax.sgd(_LR, momentum=_MOMENTUM)
  tx = js.bayes.optimizer(
    posterior, optax.chain(optax.add_decayed_weights(_DECAY), sgd), rho=sgd
  )
  model = {k: {'kernel': jnp.ones(s)} for k, s in _SHAPES.items()}
  params, state = js.init(tx, posterior.init(jax.random.key(0), model))
  # Larger values than at the start, so that one hundred steps matter to the ranks.
  params = js.apply_masks(jax.tree.map(lambda x: 1.5 * x, params), state)
  state = state._replace(step=jnp.int32(98))
  numpy = lambda tree: {k: np.asarray(tree[k]['kernel']) for k in _SHAPES}
  masks = {k: np.broadcast_to(m, _SHAPES[k]) for k, m in numpy(state.masks).items()}
  update, moved, steps = jax.jit(tx.update), 0, range(98, 304)
  wanted = _numpy_run(numpy(params.mu), numpy(params.rho), masks, steps)
  for step, (mu, rho, masks) in zip(steps, wanted):
    before = numpy(state.masks)
    updates, state = update(js.bayes.Gaussian(*_gradients(step)), state, params)
    params = optax.apply_updates(params, updates)
    for k in _SHAPES:
      message = f'{k} at step {step}'
      got = np.broadcast_to(state.masks[k]['kernel'], _SHAPES[k])
      np.testing.assert_array_equal(got, masks[k], message)
      moved += int(np.sum(got != np.broadcast_to(before[k], _SHAPES[k])))
      for values, field in ((mu, params.mu), (rho, params.rho)):
        np.testing.assert_allclose(
          field[k]['kernel'], values[k], rtol=1e-4, atol=1e-6, err_msg=message
        )
  assert moved >= 12


def test_the_start_is_the_released_one():
  posterior = js.bayes.ssvi_released(
    0.9, seed=0, total_steps=1000, first_layer='first/kernel'
  )
  model = {k: {'kernel': jnp.ones((60, 50))} for k in ('first', 'a')}
  tx = js.bayes.optimizer(posterior, optax.sgd(0.01))
  params, state = js.init(tx, posterior.init(jax.random.key(0), model))
  masks = js.get_masks(state)
  assert masks['first']['kernel'].shape == () and int(masks['a']['kernel'].sum()) == 300
  sigma = np.asarray(posterior.sigma(params, masks)['first']['kernel'])
  normal = np.abs(np.random.default_rng(0).normal(6e-4, 5e-4, 200_000))
  np.testing.assert_allclose(sigma.mean(), normal.mean(), rtol=0.05)
  np.testing.assert_allclose(sigma.std(), normal.std(), rtol=0.1)
  np.testing.assert_allclose(np.std(params.mu['first']['kernel']), 0.01, rtol=0.05)
  one = jax.tree.map(lambda x: x, masks)
  mu, active = np.asarray(params.mu['a']['kernel']), np.asarray(masks['a']['kernel'])
  total = 0.0
  for k, mask in (('first', np.ones((60, 50), bool)), ('a', active)):
    mu = np.asarray(params.mu[k]['kernel'], float)[mask]
    sigma = np.asarray(posterior.sigma(params, one)[k]['kernel'], float)[mask]
    kl = np.log(0.005 / sigma) + (sigma**2 + mu**2) / (2 * 0.005**2) - 0.5
    total += kl.sum()
  np.testing.assert_allclose(posterior.kl(params, masks), total, rtol=1e-4)


def test_bad_arguments_are_refused():
  with pytest.raises(ValueError, match='total_steps=1'):
    js.bayes.ssvi_released(0.9, seed=0, total_steps=1, first_layer='*')
  posterior = js.bayes.ssvi_released(0.9, seed=0, total_steps=9, first_layer='stem/*')
  with pytest.raises(ValueError, match='stem'):
    posterior.init(jax.random.key(0), {'a': {'kernel': jnp.ones((4, 4))}})

"""The tiny runs that `docs.figures` draws: the same every time, a second or two each.

Transforms and posteriors train a perceptron on the digits that scikit-learn ships; DSL
trains two tables of embeddings on synthetic ratings.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxsparse as js

STEPS = 200
_EVERY = 10
_HARD = 100  # From here on what shrinks softly is pruned.
_UNIFORM = js.distributions.uniform


class Trace(NamedTuple):
  """What a run left.

  Attributes:
    weights: (T, n), what is drawn of one leaf after each step.
    kept: (T, n) bool, its mask.
    density: leaf name -> (T,), the share that is kept.
    label: what the colour of a weight says.
  """

  weights: np.ndarray
  kept: np.ndarray
  density: dict[str, np.ndarray]
  label: str = '|w|'


def _cosine(start):
  return js.schedules.cosine(start, STEPS)


def _transforms():
  every, tr, adam = js.schedules.every(_EVERY), js.transforms, optax.adam(5e-3)
  moving = {'when': every, 'drop_fraction': _cosine(0.3)}
  return {
    'static': tr.static(adam, 0.8, seed=0),
    'one_shot': tr.one_shot(adam, 0.8, step=_HARD),
    'gmp': tr.gmp(adam, js.schedules.cubic(0.8, start=20, stop=150), when=every),
    'set': tr.set(adam, 0.8, seed=0, **moving),
    'rigl': tr.rigl(adam, 0.8, seed=0, **moving),
    'ste': tr.ste(adam, 0.8),
    'sr_ste': tr.sr_ste(adam, 1, 4, decay=0.02, prunable='dense1/kernel'),
    'iss_p': tr.iss_p(adam, 0.8, num_pruning_steps=_HARD, learning_rate=5e-3),
    'iss_r': tr.iss_r(adam, 0.8, num_pruning_steps=_HARD, penalty=0.1, every=5),
    'greg': tr.greg(adam, 0.8, num_pruning_steps=_HARD, penalty=0.1, every=5),
  }


def _tables():
  adam, tr = optax.adam(1e-2), js.transforms
  dsl = tr.dsl(
    adam, 0.75, seed=0, when=js.schedules.every(_EVERY), scope='joint',
    drop_fraction=_cosine(0.3),
  )  # fmt: skip
  released = tr.dsl_released(adam, 0.75, seed=0, interval=_EVERY, total_steps=STEPS)
  return {'dsl': dsl, 'dsl_released': released}


def posteriors():
  """`{name: posterior}` of the gallery."""
  moving = {'when': js.schedules.every(_EVERY), 'drop_fraction': _cosine(0.3)}
  released = js.bayes.ssvi_released(
    0.8, seed=0, total_steps=10 * STEPS, first_layer='dense2/kernel'
  )
  return {
    'mean_field': js.bayes.mean_field(),
    'ssvi': js.bayes.ssvi(0.8, seed=0, distribution=_UNIFORM, **moving),
    # Its interval of 100 steps would show two changes in as few steps as these.
    'ssvi_released': released._replace(when=js.schedules.every(_EVERY)),
  }


def plans():
  """`{name: plan}` of the gallery: 60 records, batches of 6, 60 steps."""
  sizes = {'num_examples': 60, 'batch_size': 6, 'seed': 0}
  part = {**sizes, 'ratio': 0.2, 'rounds': 30}
  scores = np.arange(60)
  return {
    'full': js.data.full(epochs=6, **sizes),
    'short_full': js.data.short_full(**part),
    'static_subset': js.data.static_subset(**part),
    'iid': js.data.iid(num_steps=60, **sizes),
    'rs2': js.data.rs2(replacement=True, **part),
    'subset': js.data.subset(np.arange(0, 60, 5), rounds=30, **sizes),
    'importance': js.data.importance(1 + scores, 6, num_steps=60, seed=0),
    'curriculum': js.data.curriculum(scores, 6, ratio=0.2, rounds=30, seed=0),
  }


def names():
  """What can be drawn of `trace`."""
  return (*_transforms(), *_tables(), *posteriors())


def trace(name) -> Trace:
  """Trains a transform or a posterior for `STEPS` steps."""
  if name in (found := _tables()):
    params, loss = _ratings()
    return _train(found[name], params, lambda p, s, k: loss(p), lambda p, m: p['item'])
  params, log_likelihood = _digits()
  if name in (found := _transforms()):
    loss = lambda p, s, k: -log_likelihood(p)
    return _train(found[name], params, loss, lambda p, m: p['dense1'])
  posterior = posteriors()[name]
  mu, rho, temperature = optax.adam(5e-3), optax.adam(1e-2), 1.0
  if 'released' in name:  # As published: SGD, and a cold posterior.
    mu, rho, temperature = optax.sgd(0.01, 0.9), optax.sgd(0.01, 0.9), 0.01
  tx = js.bayes.optimizer(posterior, mu, rho=rho)

  def elbo(gaussian, opt_state, key):
    masks = js.get_masks(opt_state)
    theta = posterior.sample(gaussian, masks, key)
    return temperature * posterior.kl(gaussian, masks) / 1797 - log_likelihood(theta)

  def ratio(gaussian, masks):
    sigma = posterior.sigma(gaussian, masks)['dense1']['kernel']
    mu = gaussian.mu['dense1']['kernel']
    return {'kernel': jnp.where(sigma > 0, mu / jnp.where(sigma > 0, sigma, 1), 0)}

  start = posterior.init(jax.random.key(1), params)
  return _train(tx, start, elbo, ratio)._replace(label=r'|mu| / sigma')


def _digits():
  from sklearn.datasets import load_digits

  images, labels = load_digits(return_X_y=True)
  x, y = jnp.asarray(images, jnp.float32) / 16, jnp.asarray(labels)
  draw = jax.nn.initializers.lecun_normal()
  keys = jax.random.split(jax.random.key(0))
  params = {
    'dense1': {'kernel': draw(keys[0], (64, 16)), 'bias': jnp.zeros(16)},
    'dense2': {'kernel': draw(keys[1], (16, 10)), 'bias': jnp.zeros(10)},
  }

  def log_likelihood(p):
    hidden = jax.nn.relu(x @ p['dense1']['kernel'] + p['dense1']['bias'][None])
    logits = hidden @ p['dense2']['kernel'] + p['dense2']['bias'][None]
    return -optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

  return params, log_likelihood


def _ratings():
  keys = jax.random.split(jax.random.key(0), 4)
  # Users differ more than items do: the budget has somewhere to go.
  users = 2 * jax.random.normal(keys[0], (40, 8))
  items = jax.random.normal(keys[1], (60, 8)) * jnp.linspace(0.2, 1, 8)[None]
  ratings = users @ items.T / 8
  small = lambda key, rows: {'embedding': 0.1 * jax.random.normal(key, (rows, 8))}
  params = {'user': small(keys[2], 40), 'item': small(keys[3], 60)}

  def loss(p):
    return ((p['user']['embedding'] @ p['item']['embedding'].T - ratings) ** 2).mean()

  return params, loss


def _train(tx, params, loss, shown) -> Trace:
  params, opt_state = js.init(tx, params)

  @jax.jit
  def run(params, opt_state, keys):
    def body(carry, key):
      params, opt_state = carry
      grads = jax.grad(loss)(params, opt_state, key)
      updates, opt_state = tx.update(grads, opt_state, params)
      params = optax.apply_updates(params, updates)
      masks = js.get_masks(opt_state)
      (leaf,) = [v for n, v in shown(params, masks).items() if n != 'bias']
      return (params, opt_state), (leaf.ravel(), masks)

    return jax.lax.scan(body, (params, opt_state), keys)[1]

  keys = jax.random.split(jax.random.key(2), STEPS)
  weights, masks = run(params, opt_state, keys)
  kernels = {
    f'{layer}/{name}': np.asarray(mask).reshape(STEPS, -1)
    for layer, own in masks.items()
    for name, mask in own.items()
    if name != 'bias'
  }
  kept = next(m for n, m in kernels.items() if n.startswith(('dense1', 'item')))
  density = {name: mask.mean(axis=1) for name, mask in kernels.items()}
  weights = np.asarray(weights)
  return Trace(weights, np.broadcast_to(kept, weights.shape), density)

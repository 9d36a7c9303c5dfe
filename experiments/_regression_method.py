"""One regression method on one set: its network, its posterior, compiled programs."""

import functools
import types
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments import _posteriors, models
import jaxsparse as js


class Method(NamedTuple):
  """One method on one set, compiled once for all splits, settings and members.

  Attributes:
    spec: of the config.
    posterior: None for deterministic weights.
    train: `(seeds (S,), hyper {name: (S,)}, train rows, indices (T, B)) -> (states,
      states of the start)`.
    predict: `(states, features, targets, hyper, keys, samples) ->
      js.bayes.Regression`.
  """

  spec: dict
  posterior: Any
  train: Any
  predict: Any


class State(NamedTuple):
  """A trained network; every array of several has a leading axis of splits."""

  params: Any
  opt_state: Any


class Draws(NamedTuple):
  """What `js.bayes.predict_regression` asks of a posterior, for one without."""

  sample: Any
  mean: Any


def averages(spec) -> bool:
  """Whether a method predicts by draws of the weights."""
  return 'posterior' in spec or spec.get('draws') == 'dropout'


def build(config, spec, train) -> Method:
  """The network, the posterior and the two compiled programs of a method."""
  model = models.Regressor(**config.model)
  num_train, num_features = train[0].shape[1:]
  # The decay is a part of the loss, so that it can differ between splits.
  settings = types.SimpleNamespace(**{**vars(config), 'weight_decay': 0.0})
  make_tx = functools.partial(
    _posteriors.optimizer, settings, spec, lengths=(config.num_steps,)
  )
  posterior, tx = make_tx(seed=0)
  loss = loss_fn(config, spec, model, posterior, num_train)

  def init(seed):
    keys = jax.random.split(jax.random.key(seed), 3)
    params = model.init(keys[0], jnp.zeros((1, num_features)))['params']
    if posterior is not None:
      params = posterior.init(keys[1], params)
    opt_state = make_tx(seed=keys[2])[1].init(params)
    if js.core.sparse_states(opt_state):
      params = js.apply_masks(params, opt_state)
    return State(params, opt_state)

  def step(state, hyper, rows, index, number, seed):
    batch = rows[0][index], rows[1][index]
    key = jax.random.fold_in(jax.random.key(seed), number)
    grads = jax.grad(loss)(state.params, state.opt_state, hyper, batch, key, number)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    return State(optax.apply_updates(state.params, updates), opt_state)

  # With the step unbatched, masks are decided only when that is due.
  axes = State(0, js.testing.step_axes(jax.eval_shape(init, 0).opt_state))
  all_steps = jax.vmap(step, in_axes=(axes, 0, 0, None, None, 0), out_axes=axes)

  @jax.jit
  def train_all(seeds, hyper, rows, indices):
    def body(states, number_and_index):
      number, index = number_and_index
      return all_steps(states, hyper, rows, index, number, seeds), None

    start = jax.vmap(init, out_axes=axes)(seeds)
    steps = jnp.arange(len(indices)), indices
    return jax.lax.scan(body, start, steps)[0], start

  return Method(spec, posterior, train_all, prediction_fn(spec, model, posterior, axes))


def loss_fn(config, spec, model, posterior, num_train: int):
  """Nats per row: of a posterior its negative ELBO, otherwise with L2 decay."""

  def log_likelihood(outputs, targets):
    mean, variance = outputs
    return -0.5 * ((targets - mean) ** 2 / variance + jnp.log(2 * jnp.pi * variance))

  def deterministic(params, opt_state, hyper, batch, key, step):
    key = key if spec.get('draws') == 'dropout' else None
    outputs = model.apply({'params': params}, batch[0], hyper['dropout'], key)
    kernels = [x for x in jax.tree.leaves(params) if x.ndim > 1]
    decay = 0.5 * hyper['weight_decay'] * sum(jnp.sum(x**2) for x in kernels)
    return decay - jnp.mean(log_likelihood(outputs, batch[1]))

  if posterior is None:
    return deterministic
  handler = _posteriors.handler(config)
  apply_fn = js.layers.bind(model, handler) if handler else model.apply
  warm_up = optax.linear_schedule(
    0.0, 1.0, max(1, round(config.warm_up * config.num_steps))
  )

  def variational(params, opt_state, hyper, batch, key, step):
    elbo = js.bayes.negative_elbo(
      posterior,
      lambda theta, x: apply_fn({'params': theta}, x),
      log_likelihood,
      num_examples=num_train,
      temperature=lambda step: hyper['temperature'],
      warm_up=warm_up,
      estimator=getattr(js.bayes, config.estimator),
    )
    return elbo(params, js.get_masks(opt_state), batch, key, step)[0]

  return variational


def prediction_fn(spec, model, posterior, axes):
  """See `Method.predict`; `axes` are those of the states."""
  dropped = spec.get('draws') == 'dropout'

  def predict(state, features, targets, hyper, key, samples):
    family, params, masks = posterior, state.params, None
    given = lambda theta: (theta,)
    if posterior is not None:
      masks = js.get_masks(state.opt_state)
    elif dropped:
      # A draw of the weights is a key, from which the model draws what it drops.
      family = Draws(lambda params, masks, key: key, None)
      given = lambda key: (state.params, hyper['dropout'], key)
    else:
      family = Draws(None, lambda params, masks: params)

    def apply_fn(theta, x):
      theta, *options = given(theta)
      mean, variance = model.apply({'params': theta}, x, *options)
      return mean, variance * hyper['noise_scale']

    return js.bayes.predict_regression(
      family, params, masks, apply_fn, features, key=key, samples=samples,
      mode='sample' if averages(spec) else 'mean', targets=targets,
    )  # fmt: skip

  @functools.partial(jax.jit, static_argnums=5)
  def predict_all(states, features, targets, hyper, keys, samples):
    one = functools.partial(predict, samples=samples)
    return jax.vmap(one, in_axes=(axes, 0, 0, 0, 0))(
      states, features, targets, hyper, keys
    )

  return predict_all

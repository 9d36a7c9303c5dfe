"""Posteriors on nonzeros: the functions, the steps and the noise of masked ones."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse as js

_HANDLER = js.bayes.noisy_handler(js.compact.handler())
_SEVERAL = (
  (js.bayes.weight_sampling, 2),
  (js.bayes.local_reparametrization, 1),
  (js.bayes.flipout, 1),
)


class _Net(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = nn.relu(nn.Dense(24, name='dense1')(x))
    return nn.Dense(3, name='head')(x)


def _ssvi(**kwargs):
  kwargs = {'when': js.schedules.every(10, stop=150), **kwargs}
  return js.bayes.ssvi(0.8, seed=0, **kwargs)


def _optimizer(posterior):
  return js.bayes.optimizer(posterior, optax.adam(5e-3), rho=optax.adam(1e-2))


def _start(posterior, tree):
  """`(tx, params, state)` masked, and the same compact."""
  tx = _optimizer(posterior)
  masked = js.init(tx, posterior.init(jax.random.key(3), tree))
  return (tx, *masked), js.compact.convert(tx, *masked, capacity_factor=3)


@functools.cache
def _net():
  """`(params, batch, apply_fn)` of a small network."""
  x = jax.random.normal(jax.random.key(1), (32, 12))
  labels = jnp.argmax(x @ jax.random.normal(jax.random.key(2), (12, 3)), -1)
  run = js.layers.bind(_Net(), _HANDLER)
  params = _Net().init(jax.random.key(0), x)['params']
  return params, (x, labels), lambda theta, x: run({'params': theta}, x)


def _elbo(posterior, estimator=js.bayes.weight_sampling, samples=1):
  _, batch, apply_fn = _net()

  def log_likelihood(logits, labels):
    return -optax.softmax_cross_entropy_with_integer_labels(logits, labels)

  elbo = js.bayes.negative_elbo(
    posterior, apply_fn, log_likelihood, num_examples=100, estimator=estimator,
    samples=samples,
  )  # fmt: skip
  return lambda params, masks, key, step: elbo(params, masks, batch, key, step)[0]


def _steppers(posterior, tx, compact_tx):
  """The jitted steps of both executions; noise belongs to the step."""
  loss = _elbo(posterior)
  key_of = lambda state: jax.random.fold_in(jax.random.key(5), state.step)

  def masked(params, state):
    masks, key = js.get_masks(state), key_of(state)
    value, grads = jax.value_and_grad(loss)(params, masks, key, state.step)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state, value

  def compact(params, state):
    patterns, args = js.compact.get_patterns(state), (key_of(state), state.step)
    growth = js.compact.growth_when_due(compact_tx, loss, params, state, *args)
    value, grads = jax.value_and_grad(loss)(params, patterns, *args)
    updates, state = compact_tx.update(grads, state, params, growth=growth)
    return optax.apply_updates(params, updates), state, value

  return jax.jit(masked), jax.jit(compact, donate_argnums=(0, 1))


def _same(found, wanted, **tolerance):
  for a, b in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
    if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
      continue
    if tolerance and jnp.issubdtype(a.dtype, jnp.inexact):
      np.testing.assert_allclose(a, b, **tolerance)
    else:
      np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
  'scope', ['layer', pytest.param('global', marks=pytest.mark.long)]
)
def test_masked_and_compact_ssvi_take_the_same_steps(scope):
  posterior = _ssvi(drop_fraction=js.schedules.cosine(0.4, 150), scope=scope)
  (tx, params, state), (compact_tx, values, compact_state) = _start(
    posterior, _net()[0]
  )
  assert values.mu['dense1']['kernel'].shape == values.rho['dense1']['kernel'].shape
  assert values.mu['dense1']['kernel'].ndim == 1
  assert values.rho['dense1']['bias'].shape == ()
  first = js.get_masks(state)
  masked, compact = _steppers(posterior, tx, compact_tx)
  values, compact_state = jax.tree.map(jnp.copy, (values, compact_state))
  for _ in range(200):
    params, state, wanted = masked(params, state)
    values, compact_state, got = compact(values, compact_state)
    np.testing.assert_allclose(got, wanted, rtol=2e-3, atol=1e-5)
  assert compact._cache_size() == 1
  same_tx, dense, dense_state = js.compact.densify(compact_tx, values, compact_state)
  assert same_tx is tx
  _same(js.get_masks(dense_state), js.get_masks(state))
  _same((dense, dense_state), (params, state), rtol=5e-2, atol=2e-4)
  moved = [
    int((a != b).sum()) for a, b in zip(*map(jax.tree.leaves, (first, state.masks)))
  ]
  assert sum(moved) > 40


def test_the_functions_on_nonzeros_are_those_on_masks():
  """Of stacked layers of which one has fewer weights: its padding has no part."""
  leaf = js.Leaf('kernel', (2, 6, 8), jnp.dtype('float32'), (0,), (1,), (2,))
  posterior = js.bayes.ssvi(
    0.5, seed=0, when=js.schedules.never, leaves={'kernel': leaf}
  )  # fmt: skip
  tree = {'kernel': jax.random.normal(jax.random.key(0), leaf.shape), 'b': jnp.ones(3)}
  (tx, params, state), _ = _start(posterior, tree)
  masks = js.get_masks(state)
  masks['kernel'] = masks['kernel'].at[1, :3].set(False)
  state = state._replace(masks=masks)
  params = js.apply_masks(params, state)
  _, values, compact_state = js.compact.convert(tx, params, state)
  patterns = js.compact.get_patterns(compact_state)
  key = jax.random.key(7)
  whole = jax.vmap(js.sparse.to_dense)

  @jax.jit
  def both(params, masks, values, patterns):
    """What every function returns, of nonzeros made dense."""
    wanted, found = [], []
    for draw in (
      lambda *args: posterior.sample(*args, key), posterior.mean, posterior.sigma
    ):  # fmt: skip
      wanted.append(draw(params, masks))
      held = draw(values, patterns)
      found.append({**held, 'kernel': whole(held['kernel'])})
    wanted.append(posterior.kl(params, masks))
    found.append(posterior.kl(values, patterns))
    wanted.append(posterior.log_prob(params, masks, wanted[0]))
    drawn = posterior.sample(values, patterns, key)
    return wanted, [*found, posterior.log_prob(values, patterns, drawn)]

  wanted, found = both(params, masks, values, patterns)
  _same(found, wanted, rtol=1e-5, atol=1e-6)
  with pytest.raises(ValueError, match='kernel: held as nonzeros'):
    posterior.prune(values, patterns, 0.5)


@pytest.mark.parametrize(('estimator', 'samples'), _SEVERAL)
def test_estimators_on_nonzeros_are_those_on_masks(estimator, samples):
  posterior = _ssvi()
  (tx, params, state), (_, values, compact_state) = _start(posterior, _net()[0])
  loss = _elbo(posterior, estimator, samples)
  both = jax.jit(jax.value_and_grad(lambda p, m: loss(p, m, jax.random.key(9), 0)))
  wanted, dense = both(params, js.get_masks(state))
  found, grads = both(values, js.compact.get_patterns(compact_state))
  np.testing.assert_allclose(found, wanted, rtol=1e-6)
  masked = js.core.mask_grads(dense, *_spread(state.masks), None)
  _same(grads, js.compact.convert(tx, masked, state)[1], rtol=1e-3, atol=1e-6)


def _spread(masks):
  return None, js.bayes.Gaussian(masks, masks)


def test_predictions_on_nonzeros_are_those_on_masks():
  posterior = _ssvi()
  (_, params, state), (_, values, compact_state) = _start(posterior, _net()[0])
  _, (x, _), apply_fn = _net()

  @jax.jit
  def predict(params, masks):
    key = jax.random.key(1)
    return js.bayes.predict(posterior, params, masks, apply_fn, x, key=key, samples=4)

  wanted = predict(params, js.get_masks(state))
  found = predict(values, js.compact.get_patterns(compact_state))
  _same(found, wanted, rtol=1e-3, atol=1e-5)


_RULES = {
  'random growth, median': dict(growth=js.criteria.random, grown_sigma='layer_median'),
  'what is picked again stays': dict(keep_repicked=True, skip_step=True),
  'blocks': dict(
    structure=js.masks.Block((1, 4)), grown_sigma='prior', criterion=js.bayes.e_exp_abs
  ),
}


@pytest.mark.parametrize('kwargs', _RULES.values(), ids=_RULES)
def test_one_rewiring_of_every_kind(kwargs):
  """From given values and gradients: those of y = x W, of which growth sees x and dy."""
  posterior = _ssvi(when=js.schedules.always, drop_fraction=0.5, **kwargs)
  tree = {'kernel': jax.random.normal(jax.random.key(0), (10, 8))}
  (tx, params, state), (compact_tx, values, compact_state) = _start(posterior, tree)
  x = jax.random.normal(jax.random.key(1), (5, 10))
  weights = jax.random.normal(jax.random.key(2), (5, 8))
  run = js.layers.bind(nn.Dense(8, use_bias=False), js.compact.handler())

  def loss(params, masks):
    theta = posterior.sample(params, masks, jax.random.key(4))
    return jnp.sum(weights * run({'params': theta}, x))

  @jax.jit
  def masked(params, state):
    grads = jax.grad(loss)(params, js.get_masks(state))
    return tx.update(grads, state, params)

  @jax.jit
  def compact(params, state):
    grads = jax.grad(loss)(params, js.compact.get_patterns(state))
    growth = js.compact.growth_when_due(compact_tx, loss, params, state)
    return compact_tx.update(grads, state, params, growth=growth)

  for _ in range(2):
    updates, state = masked(params, state)
    params = optax.apply_updates(params, updates)
    updates, compact_state = compact(values, compact_state)
    values = optax.apply_updates(values, updates)
  _, dense, dense_state = js.compact.densify(compact_tx, values, compact_state)
  _same(dense_state.masks, state.masks)
  _same((dense, dense_state), (params, state), rtol=1e-4, atol=1e-6)


@pytest.mark.long
def test_stacked_layers_rewire_each_with_a_rho_of_its_own():
  leaf = js.Leaf('kernel', (3, 6, 8), jnp.dtype('float32'), (0,), (1,), (2,))
  posterior = js.bayes.ssvi(
    0.5, seed=0, when=js.schedules.always, drop_fraction=0.5,
    growth=js.criteria.random, leaves={'kernel': leaf},
  )  # fmt: skip
  tree = {'kernel': jax.random.normal(jax.random.key(0), leaf.shape)}
  (tx, params, state), (compact_tx, values, compact_state) = _start(posterior, tree)
  drawn = jax.random.normal(jax.random.key(1), leaf.shape)
  rho = {'kernel': jnp.where(state.masks['kernel'], drawn, 0.0)}
  params = params._replace(rho=rho)
  _, values, compact_state = js.compact.convert(tx, params, state)
  still = lambda tx, params, state: tx.update(
    jax.tree.map(jnp.zeros_like, params), state, params
  )
  updates, state = jax.jit(functools.partial(still, tx))(params, state)
  params = optax.apply_updates(params, updates)
  updates, compact_state = jax.jit(functools.partial(still, compact_tx))(
    values, compact_state
  )
  values = optax.apply_updates(values, updates)
  _, dense, dense_state = js.compact.densify(compact_tx, values, compact_state)
  _same((dense, dense_state), (params, state), rtol=1e-5, atol=1e-6)
  assert np.unique(np.asarray(state.memory.rho[0])).size == 3


def test_growth_by_a_criterion_of_its_own_is_refused():
  posterior = _ssvi(growth=lambda evidence: evidence.grads[0])
  tx = _optimizer(posterior)
  start = posterior.init(jax.random.key(0), {'kernel': jnp.ones((8, 6))})
  with pytest.raises(ValueError, match='a criterion of its own'):
    js.compact.convert(tx, *js.init(tx, start))


@pytest.mark.parametrize(
  'estimator', [js.bayes.weight_sampling, js.bayes.local_reparametrization]
)
def test_the_head_is_multiplied_by_the_kernels_too(estimator):
  """It is dense between sparse layers, with noise of its own or drawn."""
  if not js.native.available():
    pytest.skip(f'no kernels: {js.native.why_not()}')
  posterior = _ssvi()
  params, (x, _), _ = _net()
  run = js.layers.bind(_Net(), js.bayes.noisy_handler(js.compact.handler('cpu')))
  _, (_, values, state) = _start(posterior, params)

  def loss(values, patterns, key):
    return jnp.sum(run({'params': estimator(posterior, values, patterns, key)}, x) ** 2)

  gradient = jax.jit(jax.grad(loss))
  args = values, js.compact.get_patterns(state), jax.random.key(1)
  text = gradient.lower(*args).compile().as_text()
  assert 'jaxsparse_forward' in text
  assert not [line for line in text.splitlines() if ' dot(' in line]


def test_what_is_missing_is_named():
  posterior = _ssvi()
  tx = _optimizer(posterior)
  start = posterior.init(jax.random.key(0), {'kernel': jnp.ones((8, 6))})
  masked, state = js.init(tx, start)
  bad = masked._replace(rho=start.rho)
  with pytest.raises(ValueError, match='kernel has nonzeros off its mask'):
    js.compact.convert(tx, bad, state)
  _, values, compact_state = js.compact.convert(tx, masked, state)
  patterns = js.compact.get_patterns(compact_state)
  theta = posterior.noisy(values, patterns, jax.random.key(0), 'local')
  run = js.layers.bind(nn.Dense(6, use_bias=False), js.bayes.noisy_product)
  with pytest.raises(ValueError, match='held as nonzeros; wanted js.bayes.noisy_hand'):
    run({'params': theta}, jnp.ones((1, 8)))
  dense = js.bayes.mean_field()
  with pytest.raises(ValueError, match='wanted what a transform of jaxsparse'):
    js.compact.convert(_optimizer(dense), masked, state)


@pytest.mark.long
def test_nothing_of_the_dense_size_is_held():
  """A layer of 4 million weights at 0.5 %: noise, growth and all."""
  shape = (2048, 2048)
  posterior = js.bayes.ssvi(0.995, seed=0, when=js.schedules.every(100))
  tree = {'kernel': jnp.ones(shape)}
  _, (tx, values, state) = _start(posterior, tree)
  run = js.layers.bind(nn.Dense(2048, use_bias=False), js.compact.handler())
  x = jnp.ones((8, 2048))

  def loss(params, masks, key):
    theta = posterior.sample(params, masks, key)
    kl = posterior.kl(params, masks)
    return jnp.sum(run({'params': theta}, x) ** 2) + kl

  def step(values, state, key):
    growth = js.compact.growth_when_due(tx, loss, values, state, key)
    grads = jax.grad(loss)(values, js.compact.get_patterns(state), key)
    updates, state = tx.update(grads, state, values, growth=growth)
    return optax.apply_updates(values, updates), state

  compiled = jax.jit(step).lower(values, state, jax.random.key(0)).compile()
  memory = compiled.memory_analysis()
  held = memory.argument_size_in_bytes + memory.temp_size_in_bytes
  assert held < 0.5 * tree['kernel'].nbytes


def test_noise_is_drawn_otherwise_where_jax_has_another_generator():
  posterior = _ssvi()
  tree = {'kernel': jnp.ones((8, 8), jnp.bfloat16)}
  _, (_, values, state) = _start(posterior, tree)
  patterns = js.compact.get_patterns(state)
  keys = jax.random.key(0), jax.random.key(0, impl='rbg')
  a, b = (posterior.sample(values, patterns, key)['kernel'] for key in keys)
  assert a.dtype == b.dtype == jnp.bfloat16
  assert bool(jnp.any(a.values != b.values))

"""A sparse start without the dense weights."""

import inspect

from flax import nnx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse as js

EVERY = js.schedules.every(2)


class _Stack(nn.Module):
  """Two scanned layers."""

  @nn.compact
  def __call__(self, x):
    block = nn.scan(
      lambda module, carry, _: (nn.relu(module(carry)), None),
      variable_axes={'params': 0},
      split_rngs={'params': True},
      length=2,
    )
    x, _ = block(nn.Dense(32, name='scanned'), x, None)
    return x


def _params(model, x):
  return lambda: model.init(jax.random.key(0), x)['params']


def _counts(opt_state):
  masks = js.get_masks(opt_state)
  return {n: int(m.sum()) for n, m in zip(*js.core.named_leaves(masks)[:2]) if m.ndim}


def test_counts_and_shapes_are_those_of_a_dense_start():
  model, x = _Stack(), jnp.ones((2, 32))
  stacked = {'scanned/*': js.stacked(1)}
  tx = js.transforms.rigl(optax.adam(1e-2), 0.8, seed=0, when=EVERY, leaves=stacked)
  params, opt_state = js.init(tx, _params(model, x)())
  given = js.compact.init(tx, _params(model, x), seed=1)
  dense, whole, state = js.compact.densify(*given)
  assert dense is tx
  assert _counts(state) == _counts(opt_state)
  same = lambda a, b: a.shape == b.shape and a.dtype == b.dtype
  assert jax.tree.all(jax.tree.map(same, (whole, state), (params, opt_state)))
  # What is not pruned is the model's own.
  np.testing.assert_array_equal(whole['scanned']['bias'], params['scanned']['bias'])
  layers = np.asarray(js.get_masks(state)['scanned']['kernel'])
  assert abs(int(layers[0].sum()) - int(layers[1].sum())) <= 1
  assert (layers[0] != layers[1]).any()


@pytest.mark.long
def test_it_trains_as_what_convert_gives():
  model, x = nn.Dense(8), jax.random.normal(jax.random.key(1), (16, 12))
  tx = js.transforms.rigl(optax.adam(1e-2), 0.75, seed=0, when=EVERY)
  given = js.compact.init(tx, _params(model, x), seed=1)
  converted = js.compact.convert(*js.compact.densify(*given))
  y = jnp.tanh(x[:, :8])

  def run(tx, params, opt_state):
    apply_fn = js.compact.bind(model)

    def loss(params, patterns):
      return jnp.mean((apply_fn({'params': params}, patterns, x) - y) ** 2)

    @jax.jit
    def step(params, opt_state):
      growth = js.compact.growth_when_due(tx, loss, params, opt_state)
      grads = jax.grad(loss)(params, js.compact.get_patterns(opt_state))
      updates, opt_state = tx.update(grads, opt_state, params, growth=growth)
      return optax.apply_updates(params, updates), opt_state

    for _ in range(5):
      params, opt_state = step(params, opt_state)
    return js.compact.densify(tx, params, opt_state)

  first, second = run(*given), run(*converted)
  same = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
  jax.tree.map(same, first[1], second[1])
  jax.tree.map(np.testing.assert_array_equal, first[2].masks, second[2].masks)


def test_places_are_spread_evenly_and_values_have_their_deviation():
  tx = js.transforms.static(optax.sgd(0.1), 0.9, seed=0)
  shapes = {'kernel': jnp.zeros((200, 300))}
  draws = [js.compact.init(tx, lambda: shapes, seed=s)[1:] for s in range(2)]
  masks = [
    np.asarray(js.sparse.to_mask(js.compact.get_patterns(s)['kernel']))
    for _, s in draws
  ]
  assert all(m.sum() == 6000 for m in masks)
  # Binomial, but for the fixed total: five deviations.
  for counts, share in ((masks[0].sum(0), 200), (masks[0].sum(1), 300)):
    assert np.abs(counts - share / 10).max() < 5 * (share * 0.09) ** 0.5
    assert 0.7 < counts.var() / (share * 0.09) < 1.4
  overlap = (masks[0] & masks[1]).sum()
  assert abs(overlap - 600) < 5 * 540**0.5
  # LeCun's: a normal distribution that is cut off at two deviations.
  values = np.asarray(draws[0][0]['kernel']) * 200**0.5
  assert abs(values.std() - 1) < 0.05 and abs(values).max() < 2 / 0.8796
  assert (
    js.compact.lecun_normal
    is inspect.signature(js.compact.init).parameters['kernel_init'].default
  )


def test_rescaled_values_have_the_fan_in_of_what_is_kept():
  tx = js.transforms.static(optax.sgd(0.1), 0.5, seed=0)
  ones = lambda key, leaf, shape: jnp.ones(shape, leaf.dtype)
  _, params, state = js.compact.init(
    tx, lambda: {'kernel': jnp.zeros((16, 8))}, seed=0, kernel_init=ones, rescale=True
  )
  dense = js.sparse.to_dense(
    js.sparse.SparseArray(params['kernel'], js.compact.get_patterns(state)['kernel'])
  )
  # kept * (16 / kept) for every output.
  np.testing.assert_allclose((np.asarray(dense) ** 2).sum(0), 16, rtol=1e-6)


def test_a_layer_that_memory_could_not_hold_trains():
  # Dense: 2.1e9 weights, 8.5 GB, and as much for each moment and the gradient.
  size = 46000
  model, x = nn.Dense(size, use_bias=False), jnp.ones((1, size))
  tx = js.transforms.static(optax.adam(1e-2), 1 - 1e-5, seed=0)
  tx, params, opt_state = js.compact.init(tx, _params(model, x), seed=0)
  assert params['kernel'].size == pytest.approx(1e-5 * size**2, abs=1)
  apply_fn = js.compact.bind(model)

  @jax.jit
  def step(params, opt_state):
    patterns = js.compact.get_patterns(opt_state)
    loss = lambda p: jnp.sum(apply_fn({'params': p}, patterns, x) ** 2)
    value, grads = jax.value_and_grad(loss)(params)
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, value

  memory = step.lower(params, opt_state).compile().memory_analysis()
  assert memory.temp_size_in_bytes + memory.argument_size_in_bytes < 2**24
  values = []
  for _ in range(3):
    params, opt_state, value = step(params, opt_state)
    values.append(float(value))
  assert values[2] < values[0]


def _posterior(**kwargs):
  kwargs = {'sparsity': 0.8, 'when': EVERY, **kwargs}
  posterior = js.bayes.ssvi(seed=0, **kwargs)
  return posterior, js.bayes.optimizer(posterior, optax.adam(5e-3), optax.adam(1e-2))


def test_a_posterior_starts_as_a_dense_one_would():
  """Stacked layers, of which one has a weight more, and what is drawn for mu."""
  tree = {'w': jnp.ones((3, 9, 8)), 'head/kernel': jnp.ones((8, 4)), 'b': jnp.ones(4)}
  leaves = {'w': js.stacked(1)}
  posterior, tx = _posterior(
    leaves=leaves, init_mean=lambda key, shape: 7 + jax.random.normal(key, shape)
  )
  masked, masked_state = js.init(tx, posterior.init(jax.random.key(0), tree))
  given = js.compact.init(tx, lambda: tree, seed=1)
  dense_tx, params, state = js.compact.densify(*given)
  assert dense_tx is tx
  assert _counts(state) == _counts(masked_state)
  same = lambda a, b: a.shape == b.shape and a.dtype == b.dtype
  assert jax.tree.all(jax.tree.map(same, (params, state), (masked, masked_state)))
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5)
  jax.tree.map(close, state.memory, masked_state.memory)
  masks = js.get_masks(state)
  for name in ('w', 'head/kernel'):
    kept = np.asarray(masks[name])
    # One value per leaf: the masks of both starts are others.
    rho = np.asarray(masked.rho[name])[np.asarray(masked_state.masks[name])]
    close(np.asarray(params.rho[name])[kept], np.resize(rho, kept.sum()))
    assert (np.asarray(params.mu[name])[kept] > 2).all()
    assert not np.asarray(params.mu[name])[~kept].any()
  patterns = js.compact.get_patterns(given[2])
  close(posterior.kl(given[1], patterns), posterior.kl(params, masks))


def test_a_posterior_makes_its_own_gaussians():
  with pytest.raises(ValueError, match='handler=None: wanted one like js.compact'):
    js.bayes.noisy_handler(None)
  posterior, tx = _posterior()
  tree = {'kernel': jnp.ones((8, 8))}
  with pytest.raises(ValueError, match='make_params: makes a Gaussian'):
    js.compact.init(tx, lambda: posterior.init(jax.random.key(0), tree), seed=0)


def test_a_posterior_that_memory_could_not_hold_trains():
  size = 46000
  model, x = nn.Dense(size, use_bias=False), jnp.ones((16, size))
  posterior, tx = _posterior(sparsity=1 - 1e-5, when=js.schedules.never)
  tx, params, state = js.compact.init(tx, _params(model, x), seed=0)
  run = js.layers.bind(model, js.bayes.noisy_handler(js.compact.handler()))

  @jax.jit
  def step(params, state, key):
    patterns = js.compact.get_patterns(state)

    def loss(params):
      y = run({'params': posterior.sample(params, patterns, key)}, x)
      return jnp.mean(y**2) * size + posterior.kl(params, patterns)

    value, grads = jax.value_and_grad(loss)(params)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state, value

  args = params, state, jax.random.key(0)
  memory = step.lower(*args).compile().memory_analysis()
  assert memory.temp_size_in_bytes + memory.argument_size_in_bytes < 2**25
  first = None
  for _ in range(3):
    params, state, value = step(params, state, args[2])
    first = value if first is None else first
  assert value < first


def test_an_nnx_model_starts_without_its_kernels():
  def make():
    return nnx.state(nnx.Linear(6, 4, rngs=nnx.Rngs(0)), nnx.Param)

  tx = js.transforms.set(optax.adam(1e-3), 0.5, seed=0, when=EVERY)
  _, params, _ = js.compact.init(tx, make, seed=0)
  assert [x.shape for x in jax.tree.leaves(params)] == [(4,), (12,)]


@pytest.mark.parametrize(
  'tx, message',
  [
    (js.transforms.one_shot(optax.sgd(1.0), 0.5, step=3), 'depend on the weights'),
    (
      js.transforms.static(
        optax.sgd(1.0), 0.5, seed=0, criterion=js.criteria.magnitude
      ),
      'depend on the weights',
    ),
    (js.transforms.static(optax.adafactor(1.0), 0.5, seed=0), 'reads a shape'),
    (
      js.transforms.static(
        optax.sgd(1.0), 0.5, seed=0, structure=js.masks.Block((4, 1))
      ),
      'kernel: the units',
    ),
    (_posterior(scope='global')[1], 'from leaf to leaf'),
    (_posterior(growth=lambda e: e.params[0])[1], 'grows by a criterion of its own'),
    (
      js.bayes.optimizer(_posterior()[0], optax.adafactor(1.0), optax.sgd(1.0)),
      'reads a shape',
    ),
  ],
)
def test_what_cannot_start_sparse_is_refused(tx, message):
  with pytest.raises(ValueError, match=message):
    js.compact.init(tx, lambda: {'kernel': jnp.ones((8, 8))}, seed=0)

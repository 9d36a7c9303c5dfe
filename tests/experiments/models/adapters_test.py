"""The adapter: any module, as a pair of pure functions."""

from flax import nnx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import models
import jaxsparse as js

_IMAGES = np.random.RandomState(0).randn(8, 6, 6, 3).astype(np.float32)
_LABELS = np.arange(8) % 3


class _LinenNet(nn.Module):
  """A user's module with statistics and dropout, `deterministic` as Flax has it."""

  @nn.compact
  def __call__(self, x, deterministic):
    x = nn.Conv(4, (3, 3))(x)
    x = nn.BatchNorm(use_running_average=deterministic)(x)
    x = nn.Dropout(0.5, deterministic=deterministic)(nn.relu(x))
    return nn.Dense(3)(x.mean((1, 2)))


class _LinenPlain(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.Dense(3)(x.reshape(x.shape[0], -1))


class _NnxNet(nnx.Module):
  def __init__(self, rngs):
    self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
    self.norm = nnx.BatchNorm(4, rngs=rngs)
    self.drop = nnx.Dropout(0.5, rngs=rngs)
    self.dense = nnx.Linear(4, 3, rngs=rngs)

  def __call__(self, x):
    x = self.drop(nnx.relu(self.norm(self.conv(x))))
    return self.dense(x.mean((1, 2)))


_NETS = {
  'linen': lambda: models.from_linen(_LinenNet()),
  'nnx': lambda: models.from_nnx(_NnxNet),
}
with_both = pytest.mark.parametrize('api', sorted(_NETS))


def _loss(model, params, model_state, images, labels, key):
  logits, new_state = model.apply(params, model_state, images, train=True, key=key)
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  return losses.mean(), new_state


def _start(api):
  model = _NETS[api]()
  params, state = jax.jit(model.init)(jax.random.key(0), _IMAGES)
  return model, params, state


@with_both
def test_grad_under_jit_learns_and_traces_once(api):
  model, params, state = _start(api)
  traces = []

  @jax.jit
  def step(params, state, key):
    traces.append(1)
    loss = lambda p: _loss(model, p, state, _IMAGES, _LABELS, key)
    (value, state), grads = jax.value_and_grad(loss, has_aux=True)(params)
    return jax.tree.map(lambda p, g: p - 0.3 * g, params, grads), state, value

  before = jax.tree.structure((params, state))
  values = []
  for index in range(60):
    params, state, value = step(params, state, jax.random.key(index))
    values.append(float(value))
  assert len(traces) == 1 and jax.tree.structure((params, state)) == before
  assert np.mean(values[-10:]) < 0.8 * np.mean(values[:10])


@with_both
def test_train_moves_the_statistics_and_evaluation_does_not(api):
  model, params, state = _start(api)
  train = jax.jit(lambda key: model.apply(params, state, _IMAGES, train=True, key=key))
  _, moved = train(jax.random.key(0))
  _, same = model.apply(params, state, _IMAGES, train=False)
  changed = jax.tree.map(lambda a, b: bool((a != b).any()), state, moved)
  assert all(jax.tree.leaves(changed))
  assert all(a is b for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(same)))


@with_both
def test_dropout_follows_the_key_and_the_original_is_untouched(api):
  model, params, state = _start(api)
  frozen = jax.tree.map(np.array, (params, state))
  apply = jax.jit(
    lambda key: model.apply(params, state, _IMAGES, train=True, key=key)[0]
  )
  first, again, other = (apply(jax.random.key(seed)) for seed in (0, 0, 1))
  np.testing.assert_array_equal(first, again)
  assert float(jnp.abs(first - other).max()) > 1e-3
  for a, b in zip(jax.tree.leaves(frozen), jax.tree.leaves((params, state))):
    np.testing.assert_array_equal(a, b)


@with_both
def test_params_are_random_and_reproducible(api):
  init = jax.jit(_NETS[api]().init)
  kernels = [
    np.concatenate([x.ravel() for x in jax.tree.leaves(init(key, _IMAGES)[0])])
    for key in (jax.random.key(0), jax.random.key(0), jax.random.key(1))
  ]
  np.testing.assert_array_equal(kernels[0], kernels[1])
  assert (kernels[0] != kernels[2]).any()


@with_both
@pytest.mark.filterwarnings('ignore:.*pmap.*:DeprecationWarning')
def test_pmap_of_a_gradient(api):
  model, params, state = _start(api)
  images = _IMAGES.reshape(2, 4, 6, 6, 3)
  labels = _LABELS.reshape(2, 4)
  keys = jax.random.split(jax.random.key(0), 2)

  def grads(params, state, images, labels, key):
    loss = lambda p: _loss(model, p, state, images, labels, key)
    (_, state), grads = jax.value_and_grad(loss, has_aux=True)(params)
    return jax.lax.pmean((grads, state), 'devices')

  mapped = jax.pmap(
    grads,
    'devices',
    in_axes=(None, None, 0, 0, 0),
    out_axes=None,
    devices=jax.devices()[:2],
  )
  result = mapped(params, state, images, labels, keys)
  alone = jax.jit(lambda *a: jax.grad(lambda p: _loss(model, p, *a)[0])(params))
  single = [alone(state, images[i], labels[i], keys[i]) for i in range(2)]
  mean = jax.tree.map(lambda a, b: (a + b) / 2, *single)
  for a, b in zip(jax.tree.leaves(result[0]), jax.tree.leaves(mean)):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_training_without_a_key_is_refused_where_the_model_draws():
  model, params, state = _start('nnx')
  with pytest.raises(ValueError, match='training needs a key'):
    model.apply(params, state, _IMAGES, train=True)
  model, params, state = _start('linen')
  with pytest.raises(Exception, match='PRNG'):
    model.apply(params, state, _IMAGES, train=True)


def test_a_module_without_flags_and_without_state():
  module = _LinenPlain()
  model = models.from_linen(module)
  params, state = model.init(jax.random.key(0), _IMAGES)
  assert state == {}
  logits, new_state = model.apply(params, state, _IMAGES, train=True)
  np.testing.assert_array_equal(logits, module.apply({'params': params}, _IMAGES))
  assert new_state == {}


def test_optax_and_nnx_state():
  model, params, state = _start('nnx')
  tx = optax.adamw(1e-3)
  opt_state = tx.init(params)
  loss = lambda p, key: _loss(model, p, state, _IMAGES, _LABELS, key)[0]
  grads = jax.jit(jax.grad(loss))(params, jax.random.key(0))
  updates, _ = tx.update(grads, opt_state, params)
  updated = optax.apply_updates(params, updates)
  assert jax.tree.structure(updated) == jax.tree.structure(params)


@pytest.mark.parametrize('api', ['linen', 'nnx'])
def test_a_handler_runs_kernels_that_are_no_arrays(api):
  handler = js.bayes.noisy_product
  if api == 'linen':
    model = models.from_linen(_LinenNet(), handler)
  else:
    model = models.from_nnx(lambda rngs: _NnxNet(rngs), handler)
  plain = models.from_linen(_LinenNet()) if api == 'linen' else models.from_nnx(_NnxNet)
  params, model_state = model.init(jax.random.key(0), _IMAGES)
  posterior = js.bayes.mean_field(init_scale=1e-6)
  gaussian = posterior.init(jax.random.key(1), params)
  masks = jax.tree.map(lambda _: jnp.ones((), bool), params)
  noisy = js.bayes.flipout(posterior, gaussian, masks, jax.random.key(2))
  for train in (False, True):
    key = jax.random.key(3) if train else None
    wanted = plain.apply(params, model_state, _IMAGES, train=train, key=key)
    for given in (params, noisy):
      found = model.apply(given, model_state, _IMAGES, train=train, key=key)
      # The deviation is next to nothing, dropout and new statistics are the same.
      for a, b in zip(jax.tree.leaves(wanted), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)

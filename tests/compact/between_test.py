"""Heads and biases between sparse layers: what they compute, and in which layout."""

from flax import nnx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse as js

pytestmark = pytest.mark.skipif(
  not js.native.available(), reason='these are the kernels'
)


class _Net(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = nn.relu(nn.Dense(48, name='dense1')(x))
    x = nn.relu(nn.Dense(40, name='dense2')(x))
    return nn.Dense(5, name='head')(x)


class _Nnx(nnx.Module):
  def __init__(self, rngs):
    self.dense = nnx.Linear(20, 48, rngs=rngs)
    self.head = nnx.Linear(48, 5, rngs=rngs)

  def __call__(self, x):
    return self.head(nnx.relu(self.dense(x)))


def _hidden(leaf):
  return js.kernels(leaf) and 'dense' in leaf.name


def _sparse(params):
  tx = js.transforms.static(optax.sgd(0.1), 0.8, seed=0, prunable=_hidden)
  params, state = js.init(tx, params)
  return params, js.compact.convert(tx, params, state)


@pytest.mark.parametrize(
  'shape', [(32, 20), pytest.param((4, 6, 20), marks=pytest.mark.long)]
)
@pytest.mark.parametrize('backend', ['cpu', 'reference'])
def test_outputs_and_gradients_are_those_of_the_masked_model(shape, backend):
  x = jax.random.normal(jax.random.key(1), shape)
  model = _Net()
  params, (_, values, state) = _sparse(model.init(jax.random.key(0), x)['params'])
  params = jax.tree.map(lambda p: p + 0.1 if p.ndim == 1 else p, params)
  values = {n: {**v, 'bias': params[n]['bias']} for n, v in values.items()}
  patterns = js.compact.get_patterns(state)
  apply_fn = js.compact.bind(model, backend)
  dense = lambda p: jnp.sum(jnp.sin(model.apply({'params': p}, x)))
  compact = lambda p: jnp.sum(jnp.sin(apply_fn({'params': p}, patterns, x)))
  wanted, found = jax.jit(jax.grad(dense))(params), jax.jit(jax.grad(compact))(values)
  np.testing.assert_allclose(compact(values), dense(params), rtol=1e-4)
  for name in ('dense1', 'dense2', 'head'):
    np.testing.assert_allclose(
      found[name]['bias'], wanted[name]['bias'], rtol=1e-3, atol=1e-4
    )
  np.testing.assert_allclose(
    found['head']['kernel'], wanted['head']['kernel'], rtol=1e-3, atol=1e-4
  )
  own = js.sparse.gather(wanted['dense1']['kernel'], patterns['dense1']['kernel'])
  np.testing.assert_allclose(found['dense1']['kernel'], own, rtol=1e-3, atol=1e-4)


def test_an_nnx_head_is_multiplied_alike():
  x = jax.random.normal(jax.random.key(1), (32, 20))
  model = _Nnx(nnx.Rngs(0))
  params, (_, values, state) = _sparse(nnx.state(model, nnx.Param))
  apply_fn = js.compact.bind(model, 'cpu')
  found = apply_fn(values, js.compact.get_patterns(state), x)
  nnx.update(model, params)
  np.testing.assert_allclose(found, model(x), rtol=1e-4, atol=1e-5)


def test_nothing_is_transposed_between_the_layers_of_a_step():
  x = jax.random.normal(jax.random.key(1), (32, 20))
  model = _Net()
  _, (tx, values, state) = _sparse(model.init(jax.random.key(0), x)['params'])
  apply_fn = js.compact.bind(model, 'cpu')

  def step(values, state):
    patterns = js.compact.get_patterns(state)
    loss = lambda v: jnp.sum(apply_fn({'params': v}, patterns, x) ** 2)
    updates, state = tx.update(jax.grad(loss)(values), state, values)
    return optax.apply_updates(values, updates), state

  text = jax.jit(step).lower(values, state).compile().as_text()
  entry = text[text.index('\nENTRY') :].splitlines()
  # Activations of hidden layers; the input, and the head's outputs, are turned once.
  hidden = [line for line in entry if 'f32[32,48]' in line or 'f32[32,40]' in line]
  assert not hidden, hidden
  assert not [line for line in entry if ' dot(' in line]


def test_what_the_kernels_do_not_take_is_left_to_the_layer():
  """Wide layers, half precision, few examples."""
  handler = js.compact.handler('cpu')
  for model, rows in (
    (nn.Dense(100), 32), (nn.Dense(5), 2), (nn.Dense(5), 0),
    (nn.Dense(5, dtype=jnp.bfloat16), 32),
  ):  # fmt: skip
    x = jax.random.normal(jax.random.key(1), (rows, 12))
    variables = model.init(jax.random.key(0), x)
    found = js.layers.bind(model, handler)(variables, x)
    wanted = model.apply(variables, x)
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)

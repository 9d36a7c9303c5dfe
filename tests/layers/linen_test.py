"""Unmodified Linen models on weights that are no arrays, against the plain models."""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse as js
from jaxsparse import core

_KEY = jax.random.key(0)


class Holder(NamedTuple):
  """A weight that is no array; the factor shows which part of it ran."""

  array: jax.Array
  factor: jax.Array


def _hold(params):
  """Every kernel and table in a `Holder`; stacked ones keep the stacked axis."""

  def hold(path, x):
    if path[-1].key not in ('kernel', 'embedding'):
      return x
    stacked = 'layers' in [p.key for p in path]
    return Holder(x, jnp.ones(x.shape[:1] if stacked else ()))

  return jax.tree_util.tree_map_with_path(hold, params)


def _release(tree):
  is_holder = lambda x: isinstance(x, Holder)
  return jax.tree.map(lambda x: x.array if is_holder(x) else x, tree, is_leaf=is_holder)


def _handler(seen, product, weight, x):
  assert isinstance(weight, Holder)
  seen.append((product.name, product.kind))
  return product.apply(x, weight.array * weight.factor)


class Perceptron(nn.Module):
  """Setup style, a list of layers, one without bias, one of bfloat16."""

  def setup(self):
    self.first = nn.Dense(7)
    self.rest = [nn.Dense(5, use_bias=False), nn.Dense(3, dtype=jnp.bfloat16)]

  def __call__(self, x):
    x = nn.relu(self.first(x))
    for layer in self.rest:
      x = jnp.tanh(layer(x))
    return x


class Shared(nn.Module):
  """One layer, called twice, in a module that is called twice."""

  @nn.compact
  def __call__(self, x):
    inner = Nested(name='inner')
    return inner(inner(x))


class Nested(nn.Module):
  @nn.compact
  def __call__(self, x):
    layer = nn.Dense(6, name='dense')
    return layer(jnp.tanh(layer(x)))


class Images(nn.Module):
  """Convolutions with every kind of padding, groups, BatchNorm and dropout."""

  @nn.compact
  def __call__(self, x):
    x = nn.Conv(4, (3, 3), strides=2)(x)
    x = nn.BatchNorm(use_running_average=False)(x)
    x = nn.Dropout(0.3, deterministic=False)(nn.relu(x))
    x = nn.Conv(4, (2, 2), padding='VALID', feature_group_count=2)(x)
    x = x.reshape(x.shape[0], -1, 4)
    x = nn.Conv(3, 2, padding='CIRCULAR', kernel_dilation=2)(x)
    return nn.DenseGeneral((2, 2), axis=(-2, -1))(x)


class Attention(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=4)(x)


class Tied(nn.Module):
  """A table, read by row and by product."""

  @nn.compact
  def __call__(self, ids):
    embed = nn.Embed(5, 4)
    one = nn.Embed(1, 4, dtype=jnp.bfloat16)(ids).astype(jnp.float32)
    return embed.attend(nn.Dense(4)(embed(ids)) + one)


class Scaled(nn.Dense):
  """A subclass that wraps its parent's call and has a parameter of its own."""

  @nn.compact
  def __call__(self, x):
    return super().__call__(x) * self.param('scale', nn.initializers.ones, (1, 3))


def _twice(x, kernel, *args, **kwargs):
  return 2 * jax.lax.dot_general(x, kernel, *args, **kwargs)


class Block(nn.Module):
  @nn.compact
  def __call__(self, x, _):
    return jnp.tanh(Scaled(3)(x)) + nn.Dense(3, dot_general=_twice)(x), None


class Scan(nn.Module):
  """Scanned blocks that are rematerialised, and one that is traced by `nn.jit`."""

  @nn.compact
  def __call__(self, x):
    x, _ = nn.remat(Block)(name='alone')(x, None)
    scanned = nn.scan(
      nn.remat(Block, prevent_cse=False),
      variable_axes={'params': 0},
      split_rngs={'params': True},
      length=2,
    )
    x, _ = scanned(name='layers')(x, None)
    return nn.jit(nn.Dense)(4, name='compiled')(x)


class Recurrent(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.RNN(nn.GRUCell(3))(x)


_IDS = jnp.array([[0, 3, 1], [4, 4, 2]])
_MODELS = {
  'perceptron': (Perceptron(), (3, 4)),
  'shared': (Shared(), (2, 6)),
  'images': (Images(), (2, 6, 6, 3)),
  'attention': (Attention(), (2, 3, 4)),
  'tied': (Tied(), _IDS),
  'scan': (Scan(), (2, 3)),
  'recurrent': (Recurrent(), (2, 3, 4)),
}


@pytest.mark.parametrize('model, x', _MODELS.values(), ids=_MODELS)
def test_outputs_gradients_and_state_are_those_of_the_plain_model(model, x):
  x = jax.random.normal(_KEY, x) if isinstance(x, tuple) else x
  variables = model.init({'params': _KEY, 'dropout': _KEY}, x)
  params = variables['params']
  state = {n: v for n, v in variables.items() if n != 'params'}
  seen = []
  bound = js.layers.bind(model, functools.partial(_handler, seen))

  @functools.partial(jax.jit, static_argnums=0)
  def run(apply_fn, params):
    def loss(params):
      variables, rngs = {'params': params, **state}, {'dropout': _KEY}
      y, new = apply_fn(variables, x, rngs=rngs, mutable=list(state))
      return jnp.sum(jnp.sin(y).astype(jnp.float32)), (y, new)

    return jax.grad(loss, has_aux=True)(params)

  want_grads, (want, want_state) = run(model.apply, params)
  grads, (got, got_state) = run(bound, _hold(params))
  assert got.dtype == want.dtype
  for a, b in [(got, want), (got_state, want_state), (_release(grads), want_grads)]:
    jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-6), a, b
    )
  kernels = [n for n in core.named_leaves(params)[0] if n.endswith(('kernel', 'ding'))]
  assert {name for name, _ in seen} == set(kernels) and kernels
  # Plain params run as always, and no handler is asked.
  seen.clear()
  plain, _ = run(bound, params)
  jax.tree.map(np.testing.assert_array_equal, plain, want_grads)
  assert not seen
  # Eager, outside jit, through the transforms that Flax itself compiles.
  eager = bound(
    {'params': _hold(params), **state}, x, rngs={'dropout': _KEY}, mutable=list(state)
  )[0]
  np.testing.assert_allclose(
    eager.astype(jnp.float32), want.astype(jnp.float32), rtol=2e-5, atol=1e-6
  )


def test_the_product_says_what_a_native_implementation_needs():
  products = []

  def handler(product, weight, x):
    products.append((product, x.shape))
    return product.apply(x, weight.array)

  model, x = _MODELS['images'][0], jnp.ones(_MODELS['images'][1])
  variables = model.init({'params': _KEY, 'dropout': _KEY}, x)
  bound = js.layers.bind(model, handler)
  variables = {**variables, 'params': _hold(variables['params'])}
  bound(variables, x, rngs={'dropout': _KEY}, mutable=['batch_stats'])
  assert isinstance(products[0][0], js.layers.Product)
  strided, grouped, circular, general = (p for p, _ in products)
  assert [p.kind for p, _ in products] == ['conv', 'conv', 'conv', 'dot']
  assert strided.name == 'Conv_0/kernel'
  assert strided.options['window_strides'] == (2, 2)
  assert strided.options['padding'] == 'SAME'
  assert strided.options['dimension_numbers'].rhs_spec == (3, 2, 0, 1)
  assert grouped.options['feature_group_count'] == 2
  assert circular.options['padding'] == 'VALID'  # Flax has padded x itself.
  assert circular.options['rhs_dilation'] == (2,)
  assert products[2][1] == (2, 6, 4)
  assert general.options['dimension_numbers'] == (((1, 2), (0, 1)), ((), ()))
  # Linear in both arguments: what local reparametrisation relies on.
  x, kernel = jnp.ones((2, 4, 3)), jnp.ones((4, 3, 2, 2))
  np.testing.assert_array_equal(
    general.apply(2 * x, 3 * kernel), jnp.full((2, 2, 2), 72)
  )


def test_methods_mutable_params_and_vmap():
  table = nn.Embed(4, 3)
  params = table.init(_KEY, jnp.arange(4))['params']
  bound = js.layers.bind(table, functools.partial(_handler, []))
  held, query = _hold(params), jnp.ones((2, 3))
  out, new = bound({'params': held}, query, method='attend', mutable=True)
  np.testing.assert_allclose(out, query @ params['embedding'].T)
  assert isinstance(new['params']['embedding'], Holder)
  # Members of an ensemble: the holder carries the batch axis.
  stacked = jax.tree.map(lambda a: jnp.stack([a, 2 * a, 3 * a]), held)
  run = lambda p: bound({'params': p}, query, method='attend')
  outs = jax.vmap(run)(stacked)
  np.testing.assert_allclose(outs[2], 9 * out, rtol=1e-6)
  with pytest.raises(ValueError, match='embedding: looked up with float32'):
    bound({'params': held}, query)


def test_captured_intermediates_and_pmap():
  model, x = Perceptron(), jax.random.normal(_KEY, (2, 3, 4))
  params = model.init(_KEY, x[0])['params']
  bound, held = js.layers.bind(model, functools.partial(_handler, [])), _hold(params)
  want, kept = model.apply({'params': params}, x[0], capture_intermediates=True)
  _, got = bound({'params': held}, x[0], capture_intermediates=True)
  close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
  jax.tree.map(close, got, kept)
  run = jax.pmap(lambda params, x: bound({'params': params}, x), in_axes=(None, 0))
  close(run(held, x)[0].astype(jnp.float32), want.astype(jnp.float32), rtol=1e-2)


def test_two_handlers_of_one_compiled_model():
  # `nn.jit` caches what it traced: the second handler must not run the first.
  model = nn.jit(nn.Dense)(2)
  params = _hold(model.init(_KEY, jnp.ones((1, 3)))['params'])
  one = js.layers.bind(model, lambda p, w, x: p.apply(x, w.array))
  two = js.layers.bind(model, lambda p, w, x: 2 * p.apply(x, w.array))
  y = one({'params': params}, jnp.ones((1, 3)))
  np.testing.assert_allclose(two({'params': params}, jnp.ones((1, 3))), 2 * y)


def test_no_array_of_the_kernels_size_is_made():
  class Rows(NamedTuple):
    values: jax.Array

  def handler(product, weight, x):
    return jnp.broadcast_to(weight.values, (*x.shape[:-1], 97))

  bound = js.layers.bind(nn.Dense(97, use_bias=False), handler)
  run = lambda w: bound({'params': {'kernel': Rows(w)}}, jnp.ones((2, 1009)))
  text = str(jax.make_jaxpr(run)(jnp.ones(97)))
  assert '1009,97' not in text
  assert run(jnp.ones(97)).shape == (2, 97)  # Nor outside jit.


class Raw(nn.Module):
  @nn.compact
  def __call__(self, x):
    return x @ self.param('kernel', nn.initializers.ones, (3, 2))


class Override(nn.Dense):
  @nn.compact
  def __call__(self, x):
    return x @ self.param('kernel', nn.initializers.ones, (3, 2))


class Within(nn.Module):
  layer: nn.Module

  @nn.compact
  def __call__(self, x):
    return self.layer(x)


@pytest.mark.parametrize(
  'layer',
  [
    Raw(),
    Override(2),
    nn.ConvTranspose(2, (3,)),
    nn.ConvLocal(2, (3,)),
    nn.Einsum((3, 2), 'bti,io->bto'),
    nn.Conv(2, (3,), mask=jnp.ones((3, 3, 2))),
  ],
  ids=lambda x: type(x).__name__,
)
def test_a_weight_that_no_layer_reads_is_refused_by_path(layer):
  model, x = Within(layer), jnp.ones((1, 4, 3))
  params = _hold(model.init(_KEY, x)['params'])
  bound = js.layers.bind(model, functools.partial(_handler, []))
  with pytest.raises(ValueError, match='layer/kernel: a Holder stands where'):
    bound({'params': params}, x)


def test_bad_arguments_are_named():
  with pytest.raises(ValueError, match='model='):
    js.layers.bind(lambda x: x, lambda p, w, x: x)
  with pytest.raises(ValueError, match='handler=None'):
    js.layers.bind(nn.Dense(2), None)

"""Unmodified NNX models on weights that are no arrays, against the plain models."""

import functools
from typing import NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse as js
from jaxsparse import core

_KEY = jax.random.key(0)


class Holder(NamedTuple):
  array: jax.Array


def _hold(state):
  """Every kernel and table in a `Holder` within its `nnx.Param`."""
  names, leaves, treedef = core.named_leaves(state)
  is_kernel = lambda n: n.split('/')[-1] in ('kernel', 'embedding')
  held = [Holder(x) if is_kernel(n) else x for n, x in zip(names, leaves)]
  return jax.tree.unflatten(treedef, held)


def _handler(seen, product, weight, x):
  seen.append((product.name, product.kind))
  return product.apply(x, weight.array)


class Images(nnx.Module):
  def __init__(self, rngs):
    self.conv = nnx.Conv(3, 4, (3, 3), strides=2, rngs=rngs)
    self.norm = nnx.BatchNorm(4, rngs=rngs)
    self.drop = nnx.Dropout(0.3, rngs=rngs)
    self.group = nnx.Conv(4, 4, 2, padding='CIRCULAR', feature_group_count=2, rngs=rngs)
    self.head = nnx.LinearGeneral((9, 4), (2, 2), axis=(-2, -1), rngs=rngs)

  def __call__(self, x):
    x = self.drop(nnx.relu(self.norm(self.conv(x))))
    return self.head(self.group(x.reshape(x.shape[0], -1, 4)))


class Tied(nnx.Module):
  def __init__(self, rngs):
    self.table = nnx.Embed(5, 4, rngs=rngs)
    self.attention = nnx.MultiHeadAttention(2, 4, decode=False, rngs=rngs)
    self.dense = nnx.Linear(4, 4, dtype=jnp.bfloat16, rngs=rngs)
    self.drop = nnx.Dropout(0.0)

  def __call__(self, ids):
    x = self.dense(self.attention(self.table(ids)))
    return self.table.attend(self.dense(x).astype(jnp.float32))


class Scan(nnx.Module):
  """Scanned and rematerialised layers, created by `nnx.vmap`."""

  def __init__(self, rngs):
    make = lambda rngs: nnx.Linear(3, 3, rngs=rngs)
    self.layers = nnx.vmap(make)(rngs.split(3))

  def __call__(self, x):
    @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
    @nnx.remat
    def block(x, layer):
      return jnp.tanh(layer(x))

    return block(x, self.layers)


_MODELS = {
  'images': (Images, jax.random.normal(_KEY, (2, 6, 6, 3))),
  'tied': (Tied, jnp.array([[0, 3, 1], [4, 4, 2]])),
  'scan': (Scan, jax.random.normal(_KEY, (2, 3))),
}


@pytest.mark.parametrize('make, x', _MODELS.values(), ids=_MODELS)
def test_outputs_gradients_and_state_are_those_of_the_plain_model(make, x):
  model = make(nnx.Rngs(0))
  graphdef, params, rest = nnx.split(model, nnx.Param, ...)
  seen = []
  bound = js.layers.bind(model, functools.partial(_handler, seen))
  state = lambda: nnx.state(model, (nnx.Param, nnx.BatchStat))
  before = jax.tree.map(np.array, state())

  def plain(params, x, *, mutable, rngs):
    module = nnx.merge(graphdef, params, rest, copy=True)
    nnx.reseed(module, **rngs)
    return module(x), nnx.state(module, mutable)

  @functools.partial(jax.jit, static_argnums=0)
  def run(apply_fn, params):
    def loss(params):
      y, new = apply_fn(params, x, mutable=nnx.BatchStat, rngs={'dropout': _KEY})
      return jnp.sum(jnp.sin(y)), (y, new)

    return jax.grad(loss, has_aux=True)(params)

  want_grads, (want, want_state) = run(plain, params)
  grads, (got, got_state) = run(bound, _hold(params))
  assert got.dtype == want.dtype
  pairs = [(got, want), (got_state, want_state), (grads, want_grads)]
  for a, b in pairs:
    # A holder has one leaf: the leaves stand in the same order.
    a, b = jax.tree.leaves(a), jax.tree.leaves(b)
    jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-6), a, b
    )
  kernels = [n for n in core.named_leaves(params)[0] if n.endswith(('kernel', 'ding'))]
  assert {name for name, _ in seen} == set(kernels) and kernels
  # Plain params run as always; eager too; the model itself is as it was.
  seen.clear()
  plain_grads, _ = run(bound, params)
  jax.tree.map(np.testing.assert_array_equal, plain_grads, want_grads)
  assert not seen
  eager, _ = bound(_hold(params), x, mutable=nnx.BatchStat, rngs={'dropout': _KEY})
  np.testing.assert_allclose(eager, want, rtol=2e-5, atol=1e-6)
  jax.tree.map(np.testing.assert_array_equal, state(), before)


def test_what_variables_may_be():
  model = nnx.Sequential(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
  seen = []
  bound = js.layers.bind(model, functools.partial(_handler, seen))
  x = jnp.ones((1, 3))
  kernel = jnp.full((3, 2), 2.0)
  name = core.named_leaves(nnx.state(model))[0][1]
  assert name.endswith('kernel')

  def nested(value):
    for part in reversed(name.split('/')):
      value = {int(part) if part.isdigit() else part: value}
    return value

  # A nested dict; what is not given is the model's.
  np.testing.assert_allclose(bound(nested(Holder(kernel)), x), [[6, 6]])
  np.testing.assert_allclose(bound(nested(kernel), x), [[6, 6]])
  assert seen == [(name, 'dot')]
  np.testing.assert_allclose(bound({}, x), model(x))
  with pytest.raises(ValueError, match='the model has no nothing; it has'):
    bound({'nothing': kernel}, x)


def test_method_and_modes():
  model = Images(nnx.Rngs(0))
  params = nnx.state(model, nnx.Param)
  bound = js.layers.bind(model, functools.partial(_handler, []))

  def evaluate(module, x):
    module.eval()
    return module(x)

  x = _MODELS['images'][1]
  y, stats = bound(_hold(params), x, method=evaluate, mutable=nnx.BatchStat)
  assert not model.drop.deterministic
  jax.tree.map(np.testing.assert_array_equal, stats, nnx.state(model, nnx.BatchStat))
  model.eval()
  np.testing.assert_allclose(y, model(x), rtol=1e-5, atol=1e-6)
  table = nnx.Embed(4, 3, rngs=nnx.Rngs(0))
  bound = js.layers.bind(table, functools.partial(_handler, []))
  query = jnp.ones((2, 3))
  got = bound(_hold(nnx.state(table)), query, method='attend')
  np.testing.assert_allclose(got, table.attend(query), rtol=1e-6)


class Raw(nnx.Module):
  def __init__(self, rngs):
    self.kernel = nnx.Param(jnp.ones((3, 2)))

  def __call__(self, x):
    return x @ self.kernel[...]


class Lookup(nnx.Embed):
  def __call__(self, x):
    return x @ self.embedding[...]


@pytest.mark.parametrize(
  'make',
  [
    Raw,
    lambda rngs: nnx.ConvTranspose(3, 2, 3, rngs=rngs),
    lambda rngs: nnx.Einsum('bti,io->bto', (3, 2), rngs=rngs),
    lambda rngs: nnx.Conv(3, 2, 3, mask=jnp.ones((3, 3, 2)), rngs=rngs),
    lambda rngs: Lookup(3, 2, rngs=rngs),
  ],
  ids=['raw', 'conv_transpose', 'einsum', 'masked', 'subclass'],
)
def test_a_weight_that_no_layer_reads_is_refused_by_path(make):
  model = nnx.Dict(inner=make(nnx.Rngs(0)))
  bound = js.layers.bind(model, functools.partial(_handler, []))
  held = _hold(nnx.state(model, nnx.Param))
  with pytest.raises(ValueError, match='inner/(kernel|embedding): a Holder stands'):
    bound(held, jnp.ones((1, 4, 3)), method=lambda m, x: m.inner(x))

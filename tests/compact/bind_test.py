"""Unmodified models on nonzeros: outputs, gradients, and where to grow."""

import functools
import operator

from flax import nnx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse as js


class _Images(nn.Module):
  """Convolutions with strides and statistics, a stack of scanned layers, a head."""

  @nn.compact
  def __call__(self, x, train: bool = True):
    x = nn.Conv(8, (3, 3), name='conv1')(x)
    x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
    x = nn.Conv(6, (3, 3), strides=2, padding='VALID', name='conv2')(x)
    x = nn.Dense(5, name='dense')(x.reshape(x.shape[0], -1))
    stack = nn.scan(
      lambda module, x, _: (nn.relu(module(x)), None),
      variable_axes={'params': 0},
      split_rngs={'params': True},
      length=3,
    )
    x, _ = stack(nn.Dense(5, name='layers'), x, None)
    return nn.Dense(3, name='head')(x)


class _Image(nn.Module):
  """A convolution with statistics, and a head."""

  @nn.compact
  def __call__(self, x, train: bool = True):
    x = nn.Conv(6, (3, 3), strides=2, padding='VALID', name='conv')(x)
    x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
    return nn.Dense(3, name='head')(x.reshape(x.shape[0], -1))


class _Text(nn.Module):
  """A table that is read from both sides, and attention."""

  @nn.compact
  def __call__(self, ids):
    embed = nn.Embed(11, 8, name='embed')
    x = nn.MultiHeadDotProductAttention(2, name='attention')(embed(ids))
    return embed.attend(x)


def _converted(variables):
  """`(params, values, patterns)`, the params masked."""
  tx = js.transforms.static(
    optax.sgd(0.1),
    0.6,
    seed=0,
    prunable=lambda leaf: js.kernels(leaf) or leaf.name.endswith('embedding'),
    distribution=js.distributions.uniform,
    leaves=_stacked(js.core.leaves_of(variables['params'])),
  )
  params, state = js.init(tx, variables['params'])
  _, values, state = js.compact.convert(tx, params, state)
  return params, values, js.compact.get_patterns(state)


def _stacked(leaves):
  name = 'layers/kernel'
  if name not in leaves:
    return None
  old = leaves[name]
  return {name: js.core.Leaf(name, old.shape, old.dtype, (0,), (1,), (2,))}


def _inputs(model):
  if model is _Text:
    return jnp.array([[1, 2, 3, 4], [4, 10, 0, 4]])
  return jax.random.normal(jax.random.key(5), (3, 9, 9, 2))


@pytest.mark.parametrize(
  'model',
  [_Image, *(pytest.param(m, marks=pytest.mark.long) for m in (_Text, _Images))],
)
def test_outputs_and_gradients_are_those_of_the_masked_model(model):
  net, x = model(), _inputs(model)
  variables = jax.jit(net.init)(jax.random.key(0), x)
  params, values, patterns = _converted(variables)
  rest = {k: v for k, v in variables.items() if k != 'params'}
  mutable = ['batch_stats']
  weights = jax.random.normal(jax.random.key(6), (100,))
  apply_fn = js.compact.bind(net)

  def total(y):
    return jnp.sum(y.ravel() * jnp.resize(weights, y.size))

  def dense_loss(params):
    y, new = net.apply({'params': params, **rest}, x, mutable=mutable)
    return total(y), (y, new)

  def compact_loss(values, patterns):
    y, new = apply_fn({'params': values, **rest}, patterns, x, mutable=mutable)
    return total(y), (y, new)

  grads, (wanted, new) = jax.jit(jax.grad(dense_loss, has_aux=True))(params)
  found, (got, new_too) = jax.jit(jax.grad(compact_loss, has_aux=True))(
    values, patterns
  )
  close = functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-4)
  close(got, wanted)
  jax.tree.map(close, new_too, new)
  names, dense, _ = js.core.named_leaves(grads)
  places = dict(zip(*js.core.named_leaves(patterns, is_leaf=_is_pattern)[:2]))
  for name, grad, value in zip(names, dense, jax.tree.leaves(found), strict=True):
    pattern = places[name]
    if _is_pattern(pattern):
      gather = js.sparse.gather
      if pattern.inputs.ndim == 2:
        gather = jax.vmap(gather)
      grad = gather(grad, pattern)
    close(value, grad)

  # The best inactive weights are those of the dense gradient.
  num = {n: 5 for n, p in places.items() if _is_pattern(p)}
  scalar = lambda v, p: compact_loss(v, p)[0]
  grown = jax.jit(lambda v, p: js.compact.grow_candidates(scalar, v, p, num=num))(
    values, patterns
  )
  is_grown = lambda c: isinstance(c, js.compact.Candidates)
  best = dict(zip(*js.core.named_leaves(grown, is_leaf=is_grown)[:2]))
  for name, grad in zip(names, dense):
    if name in num:
      _assert_best(best[name], grad, places[name], name)


def _is_pattern(x):
  return isinstance(x, js.sparse.Pattern)


def _assert_best(found, grad, pattern, name):
  if pattern.inputs.ndim == 1:
    grad = grad[None]
    found, pattern = jax.tree.map(lambda x: x[None], (found, pattern))
  for i in range(grad.shape[0]):
    one = jax.tree.map(operator.itemgetter(i), pattern)
    score = np.abs(np.asarray(grad[i])).reshape(one.format.inputs, one.format.outputs)
    score = np.where(np.asarray(js.sparse.to_mask(one)).reshape(score.shape), -1, score)
    order = np.sort(score.ravel())[::-1][:5]
    kept = np.asarray(found.scores[i])[np.asarray(found.valid[i])]
    np.testing.assert_allclose(
      np.sort(kept)[::-1], order[: kept.size], rtol=1e-3, atol=1e-4
    )
    at = score[np.asarray(found.inputs[i]), np.asarray(found.rows[i])]
    np.testing.assert_allclose(at, found.scores[i], rtol=1e-3, atol=1e-4, err_msg=name)


def test_nnx_models_run_on_values():
  model = nnx.Sequential(
    nnx.Linear(8, 12, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(12, 4, rngs=nnx.Rngs(1))
  )
  tx = js.transforms.static(optax.sgd(0.1), 0.5, seed=0)
  params, state = js.init(tx, nnx.state(model, nnx.Param))
  _, values, state = js.compact.convert(tx, params, state)
  apply_fn, x = js.compact.bind(model), jnp.ones((2, 8))
  got = jax.jit(apply_fn)(values, js.compact.get_patterns(state), x)
  wanted = nnx.merge(nnx.graphdef(model), params)(x)
  np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_what_has_no_sparse_form_is_named():
  net, x = nn.Conv(4, (3, 3), feature_group_count=2), jnp.ones((1, 5, 5, 4))
  variables = net.init(jax.random.key(0), x)
  _, values, patterns = _converted({'params': {'conv': variables['params']}})
  apply_fn = js.compact.bind(net)
  with pytest.raises(ValueError, match='kernel: only convolutions'):
    apply_fn({'params': values['conv']}, patterns['conv'], x)
  with pytest.raises(ValueError, match='patterns: another tree'):
    apply_fn({'params': values}, patterns['conv'], x)


def test_growth_under_a_vmap_with_shared_weights_is_refused():
  apply_fn = js.compact.bind(nn.Dense(2, use_bias=False))
  weight = js.sparse.from_mask(jnp.ones((2, 2)), jnp.eye(2, dtype=bool))

  def loss(values, patterns, x):
    one = lambda x: apply_fn({'params': {'kernel': values}}, {'kernel': patterns}, x)
    return jnp.sum(jax.vmap(one)(x))

  with pytest.raises(ValueError, match='a vmap with shared weights'):
    js.compact.grow_candidates(
      lambda p, patterns, x: loss(p['kernel'], patterns['kernel'], x),
      {'kernel': weight.values}, {'kernel': weight.pattern}, jnp.ones((3, 2)),
      num={'kernel': 1},
    )  # fmt: skip

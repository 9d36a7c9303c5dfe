"""Masks from outside: in any optimizer state, any container, any loop."""

from flax import linen as nn
from flax import nnx
from flax.training import train_state
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse as js


def _params(dtype=jnp.float32):
  keys = jax.random.split(jax.random.key(0), 2)
  return {
    'body': {
      'bias': jnp.ones(4, dtype),
      'kernel': jax.random.normal(keys[0], (8, 4), dtype),
    },
    'head': {'kernel': jax.random.normal(keys[1], (4, 2), dtype)},
  }


def _static(inner=None, sparsity=0.5, **kwargs):
  return js.transforms.static(
    inner or optax.sgd(0.1),
    sparsity,
    seed=0,
    distribution=js.distributions.uniform,
    **kwargs,
  )


def _equal(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(np.testing.assert_array_equal, a, b)


def _loss(params):
  return sum(jnp.sum((p - 1) ** 2) for p in jax.tree.leaves(params))


def _assert_sparse(params, masks, least=1):
  pruned = 0
  for p, m in zip(jax.tree.leaves(params), jax.tree.leaves(masks), strict=True):
    off = ~np.broadcast_to(m, p.shape)
    pruned += off.sum()
    assert not np.any(np.asarray(p)[off])
  assert pruned >= least


@pytest.mark.parametrize(
  'wrap',
  [
    lambda tx: tx,
    lambda tx: optax.chain(optax.clip(1.0), tx),
    lambda tx: optax.MultiSteps(tx, 2).gradient_transformation(),
    lambda tx: optax.apply_if_finite(optax.chain(tx), 3),
    lambda tx: optax.named_chain(('sparse', tx)),
  ],
)
def test_get_masks_finds_the_state_anywhere(wrap):
  params = _params()
  wanted = _static().init(params).masks
  _equal(js.get_masks(wrap(_static()).init(params)), wanted)
  assert wanted['body']['kernel'].sum() == 16 and wanted['body']['bias'].shape == ()


def test_get_masks_merges_the_branches_of_a_partition():
  params = _params()
  labels = {'body': {'bias': 'c', 'kernel': 'a'}, 'head': {'kernel': 'b'}}
  tx = optax.partition(
    {
      'a': _static(optax.adam(0.1), 0.75),
      'b': js.transforms.set(optax.sgd(0.1), 0.5, seed=1, when=js.schedules.every(2)),
      'c': optax.sgd(0.1),
    },
    labels,
  )
  params, state = js.init(tx, params)
  masks = js.get_masks(state)
  assert jax.tree.structure(masks) == jax.tree.structure(params)
  assert [int(m.sum()) for m in jax.tree.leaves(masks)] == [1, 8, 4]
  for _ in range(4):
    updates, state = tx.update(jax.grad(_loss)(params), state, params)
    params = optax.apply_updates(params, updates)
    _assert_sparse(params, js.get_masks(state), 28)


def test_get_masks_merges_masked_wrappers():
  params = _params()
  only = lambda name: {
    'body': {'bias': False, 'kernel': name == 'body'},
    'head': {'kernel': name == 'head'},
  }
  tx = optax.chain(
    optax.masked(_static(sparsity=0.75), only('body')),
    optax.masked(_static(sparsity=0.5), only('head')),
  )
  masks = js.get_masks(tx.init(params))
  assert [int(m.sum()) for m in jax.tree.leaves(masks)] == [1, 8, 4]


@pytest.mark.parametrize('call', [js.get_masks, lambda s: js.apply_masks(_params(), s)])
def test_a_state_without_masks_is_refused(call):
  with pytest.raises(ValueError, match='opt_state: no KeepSparseState.*tuple'):
    call(optax.adam(0.1).init(_params()))


def test_apply_masks_clears_nan_and_keeps_dtype():
  params = _params(jnp.bfloat16)
  state = _static().init(params)
  bad = jax.tree.map(lambda p: jnp.full_like(p, jnp.nan), params)
  out = js.apply_masks(bad, state)
  mask = state.masks['body']['kernel']
  assert out['body']['kernel'].dtype == jnp.bfloat16
  np.testing.assert_array_equal(jnp.isnan(out['body']['kernel']), mask)
  assert jnp.isnan(out['body']['bias']).all()


def test_apply_masks_serves_averages():
  params, state = js.init(_static(), _params())
  average = optax.tree.scale(0.5, optax.tree.add(_params(), params))
  _assert_sparse(js.apply_masks(average, state), js.get_masks(state), 20)


@pytest.mark.parametrize(
  'other, message',
  [
    ({'kernel': jnp.ones((8, 4))}, '1 leaves do not fit the 3 masks'),
    (
      {'body': [jnp.ones(4), jnp.ones((4, 8))], 'head': jnp.ones((4, 2))},
      r'body/1 of shape \(4, 8\) does not fit its mask of shape \(8, 4\)',
    ),
    (
      {'body': [jnp.ones(4), jnp.ones(32)], 'head': jnp.ones((4, 2))},
      r'body/1 of shape \(32,\)',
    ),
  ],
)
def test_apply_masks_refuses_another_model(other, message):
  with pytest.raises(ValueError, match=f'{message}.* another model'):
    js.apply_masks(other, _static().init(_params()))


def test_apply_masks_repeats_the_masks_over_fields():
  field = _params()
  state = _static().init(field)
  out = js.apply_masks({'mu': field, 'rho': field}, state)
  _equal(out['mu'], js.apply_masks(field, state))
  _equal(out['rho'], out['mu'])


def test_fields_may_hold_scalars_and_only_the_first_is_rescaled():
  mu = {'kernel': jnp.ones((4, 2)), 'bias': jnp.ones(2)}
  for rho in (
    {'kernel': jnp.ones((4, 2)), 'bias': jnp.ones(())},
    {'kernel': jnp.ones(()), 'bias': jnp.ones(2)},
  ):
    masks = {'kernel': jnp.arange(8).reshape(4, 2) < 2, 'bias': jnp.ones((), bool)}
    rule = js.MaskRule(
      init=lambda evidence: (masks, None),  # noqa: B023
      fields=lambda params: (params['mu'], params['rho']),
    )
    tx = js.keep_sparse(optax.sgd(1.0), rule)
    params, _ = js.init(tx, {'mu': mu, 'rho': rho}, rescale=True)
    assert params['mu']['kernel'].tolist() == [[2.0, 2.0]] + 3 * [[0.0, 0.0]]
    off = 0 if rho['kernel'].ndim == 0 else 6
    assert params['rho']['kernel'].shape == rho['kernel'].shape
    assert int(jnp.sum(params['rho']['kernel'] == 0)) == off
    assert float(params['rho']['kernel'].max()) == 1.0


def test_empty_and_all_dense_trees():
  for params in ({}, {'bias': jnp.ones(3)}, ()):
    started, state = js.init(_static(), params)
    _equal(started, params)
    masks = js.get_masks(state)
    assert jax.tree.structure(masks) == jax.tree.structure(params)


def test_view_is_the_identity():
  params, state = js.init(_static(), _params())
  assert js.view(params, state) is params


# --- init ---------------------------------------------------------------------------------


def test_init_masks_the_start_and_works_under_jit_and_eval_shape():
  tx, params = _static(), _params()
  started, state = js.init(tx, params)
  _assert_sparse(started, js.get_masks(state), 20)
  _equal(js.apply_masks(params, state), started)
  again, _ = jax.jit(lambda p: js.init(tx, p))(params)
  _equal(again, started)
  shapes, _ = jax.eval_shape(lambda p: js.init(tx, p), params)
  assert shapes['body']['kernel'].shape == (8, 4)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_rescale_golden(dtype):
  params = {'kernel': jnp.ones((4, 3), dtype), 'bias': jnp.ones(3, dtype)}
  mask = jnp.array([[1, 1, 0], [0, 1, 0], [0, 1, 0], [0, 1, 0]], bool)
  masks = {'kernel': mask, 'bias': jnp.ones((), bool)}
  tx = js.transforms.static(optax.sgd(0.1), masks=masks)
  started, _ = js.init(tx, params, rescale=True)
  # One of four inputs kept: sqrt(4); all of four: 1; none: nothing to scale.
  wanted = [[2, 1, 0], [0, 1, 0], [0, 1, 0], [0, 1, 0]]
  assert started['kernel'].astype(int).tolist() == wanted
  assert started['kernel'].dtype == dtype
  assert started['bias'].tolist() == [1, 1, 1]


@pytest.mark.parametrize('structure', [js.masks.Unstructured(), js.masks.Channel(0)])
def test_rescale_preserves_the_variance_of_activations(structure):
  keys = jax.random.split(jax.random.key(0), 2)
  kernel = jax.random.normal(keys[0], (256, 128)) / 16
  inputs = jax.random.normal(keys[1], (256, 256))
  tx = _static(sparsity=0.9, structure=structure)
  dense = jnp.var(inputs @ kernel)
  scaled, _ = js.init(tx, {'kernel': kernel}, rescale=True)
  plain, _ = js.init(tx, {'kernel': kernel})
  # The variance over 3277 kept weights has a relative standard error of 2.5 %.
  assert abs(jnp.var(inputs @ scaled['kernel']) / dense - 1) < 4 * 0.025
  assert jnp.var(inputs @ plain['kernel']) / dense < 0.2


def test_rescale_of_stacked_layers_looks_at_each_layer():
  params = {'kernel': jnp.ones((2, 4, 1))}
  mask = jnp.array([[1, 0, 0, 0], [1, 1, 1, 1]], bool)[..., None]
  tx = js.transforms.static(optax.sgd(0.1), masks={'kernel': mask})
  started, _ = js.init(tx, params, rescale=True, leaves={'kernel': js.stacked()})
  assert started['kernel'][..., 0].tolist() == [[2, 0, 0, 0], [1, 1, 1, 1]]


# --- loops that are not ours ------------------------------------------------------------------


class Linen(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.Dense(2, name='dense2')(nn.relu(nn.Dense(8, name='dense1')(x)))


class Nnx(nnx.Module):
  def __init__(self, rngs):
    self.dense1 = nnx.Linear(4, 8, rngs=rngs)
    self.dense2 = nnx.Linear(8, 2, rngs=rngs)

  def __call__(self, x):
    return self.dense2(nnx.relu(self.dense1(x)))


def _rigl():
  return js.transforms.rigl(
    optax.adam(0.01),
    0.75,
    seed=0,
    when=js.schedules.every(2),
    distribution=js.distributions.uniform,
  )


def test_train_state_loop_ends_sparse():
  model, x = Linen(), jnp.ones((3, 4))
  params = model.init(jax.random.key(0), x)['params']
  tx = _rigl()
  state = train_state.TrainState.create(apply_fn=model.apply, params=params, tx=tx)
  state = state.replace(params=js.apply_masks(state.params, state.opt_state))

  @jax.jit
  def step(state):
    grads = jax.grad(lambda p: jnp.sum(state.apply_fn({'params': p}, x) ** 2))(
      state.params
    )
    return state.apply_gradients(grads=grads)

  for _ in range(5):
    state = step(state)
  masks = js.get_masks(state.opt_state)
  _assert_sparse(state.params, masks, 36)
  assert int(masks['dense1']['kernel'].sum()) == 8


def test_nnx_optimizer_loop_ends_sparse():
  model, x = Nnx(nnx.Rngs(0)), jnp.ones((3, 4))
  optimizer = nnx.Optimizer(model, _rigl(), wrt=nnx.Param)
  params = nnx.state(model, nnx.Param)
  nnx.update(model, js.apply_masks(params, optimizer.opt_state))

  @nnx.jit
  def step(model, optimizer):
    grads = nnx.grad(lambda m: jnp.sum(m(x) ** 2))(model)
    optimizer.update(model, grads)

  for _ in range(5):
    step(model, optimizer)
  params = nnx.state(model, nnx.Param)
  masks = js.get_masks(optimizer.opt_state)
  assert [m.shape for m in jax.tree.leaves(masks)] == [(), (4, 8), (), (8, 2)]
  _assert_sparse(params, masks, 36)
  assert all(isinstance(m, jax.Array) for m in jax.tree.leaves(masks))


def test_masks_are_equal_in_linen_nnx_and_a_dict():
  params = Linen().init(jax.random.key(0), jnp.ones((1, 4)))['params']
  state = nnx.state(Nnx(nnx.Rngs(0)), nnx.Param)
  linen = js.get_masks(_rigl().init(params))
  flax = js.get_masks(_rigl().init(state))
  for a, b in zip(jax.tree.leaves(linen), jax.tree.leaves(flax), strict=True):
    np.testing.assert_array_equal(a, b)


def test_masks_of_an_nnx_state_have_its_treedef():
  params = nnx.state(nnx.Linear(8, 8, rngs=nnx.Rngs(0)), nnx.Param)
  tx = js.transforms.static(optax.adam(1e-3), 0.75, seed=0)
  params, opt_state = js.init(tx, params)
  masks = js.get_masks(opt_state)
  assert jax.tree.structure(masks) == jax.tree.structure(params)
  kept = jax.tree.map(lambda m, p: bool(jnp.all(m | (p == 0))), masks, params)
  assert all(jax.tree.leaves(kept))


def test_rescale_refuses_a_rule_with_a_latent():
  with pytest.raises(ValueError, match='rescale: the rule remembers'):
    js.init(js.transforms.ste(optax.sgd(0.1), 0.5), _params(), rescale=True)


def test_rescale_takes_a_rule_whose_memory_is_empty():
  tx = js.transforms.dsl(
    optax.sgd(0.1), 0.75, seed=0, when=js.schedules.every(3), growth='last'
  )
  params, _ = js.init(tx, {'embedding': jnp.ones((8, 4))}, rescale=True)
  assert float(params['embedding'].max()) > 1

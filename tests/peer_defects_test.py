"""Defects that another sparse training library has, and that this one must not.

One test a defect; its name says which. Each was reproduced there before it was
written down here.
"""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse as js

_UNIFORM = js.distributions.uniform


def _kernel(*shape, dtype=jnp.float32):
  return {'kernel': jnp.asarray(np.random.default_rng(0).normal(size=shape), dtype)}


def _rigl(inner, **kwargs):
  kwargs = {'seed': 0, 'when': js.schedules.every(2), **kwargs}
  return js.transforms.rigl(inner, 0.75, **kwargs)


def _primitives(jaxpr, inside=()):
  """Yields (primitive, the primitives around it) of a jaxpr and all inside it."""
  for eqn in jaxpr.eqns:
    yield eqn.primitive.name, inside
    for value in eqn.params.values():
      for inner in value if isinstance(value, tuple | list) else [value]:
        inner = getattr(inner, 'jaxpr', inner)
        if hasattr(inner, 'eqns'):
          yield from _primitives(inner, (*inside, eqn.primitive.name))


def _update_primitives(tx, params):
  state = tx.init(params)
  return list(_primitives(jax.make_jaxpr(tx.update)(params, state, params).jaxpr))


@pytest.mark.parametrize('make', [js.transforms.rigl, js.transforms.set])
def test_unmasked_leaves_pass_through_rewiring(make):
  params = {**_kernel(8, 8), 'bias': jnp.ones(8), 'scale': jnp.ones(())}
  tx = make(optax.adam(1e-2), 0.75, seed=0, when=js.schedules.always)
  params, state = js.init(tx, params)
  updates, state = tx.update(params, state, params)
  masks = js.get_masks(state)
  assert masks['bias'].shape == masks['scale'].shape == ()
  np.testing.assert_allclose(updates['bias'], -0.01, rtol=1e-5)


@pytest.mark.parametrize(
  'inner',
  [
    optax.lion(1e-2),
    optax.adafactor(1e-2),
    optax.rmsprop(1e-2),
    optax.adagrad(1e-2),
    optax.amsgrad(1e-2),
    optax.novograd(1e-2),
    optax.inject_hyperparams(optax.adam)(1e-2),
    optax.MultiSteps(optax.adam(1e-2), 2).gradient_transformation(),
    optax.partition({'a': optax.adam(1e-2)}, {'kernel': 'a'}),
    optax.contrib.muon(1e-2),
    optax.contrib.prodigy(),
  ],
)
def test_rewiring_knows_no_list_of_optimizers(inner):
  # A class name of an optimizer's state that is unknown there raises when traced.
  params, tx = _kernel(8, 8), _rigl(inner)
  state = jax.eval_shape(tx.init, params)
  updates, after = jax.eval_shape(tx.update, params, state, params)
  assert jax.tree.structure(after) == jax.tree.structure(state)
  assert updates['kernel'].shape == (8, 8)


@pytest.mark.parametrize(
  'wrap',
  [
    lambda tx: optax.chain(optax.clip_by_global_norm(1.0), tx),
    lambda tx: optax.masked(tx, {'kernel': True}),
    lambda tx: optax.MultiSteps(tx, 2).gradient_transformation(),
    lambda tx: optax.partition({'a': tx}, {'kernel': 'a'}),
    lambda tx: optax.apply_if_finite(tx, 3),
  ],
  ids=['chain', 'masked', 'MultiSteps', 'partition', 'apply_if_finite'],
)
def test_masks_are_found_wherever_the_wrapper_stands(wrap):
  params, state = js.init(wrap(_rigl(optax.adam(1e-2))), _kernel(8, 8))
  masks = js.get_masks(state)
  assert int(masks['kernel'].sum()) == 16
  assert int((params['kernel'] != 0).sum()) == 16


def test_a_misplaced_wrapper_is_reported():
  # Half of `-param` leaves half of a weight that should be gone.
  tx = optax.chain(_rigl(optax.sgd(0.1)), optax.scale(0.5))
  start = _kernel(8, 8)
  state, params = tx.init(start), start
  with pytest.warns(RuntimeWarning, match='kernel.*wrap the whole chain'):
    for _ in range(3):
      updates, state = tx.update(start, state, params)
      params = optax.apply_updates(params, updates)
    jax.effects_barrier()


def test_no_hook_to_forget():
  tx = _rigl(optax.adam(1e-2))
  start = _kernel(8, 8)
  params, state = start, tx.init(start)
  for _ in range(3):
    updates, state = tx.update(start, state, params)
    params = optax.apply_updates(params, updates)
    assert int((params['kernel'] != 0).sum()) <= 16


def test_the_first_step_is_sparse():
  params, state = js.init(_rigl(optax.adam(1e-2)), _kernel(8, 8))
  off = ~js.get_masks(state)['kernel']
  assert int(off.sum()) == 48 and not np.any(np.asarray(params['kernel'])[off])


def test_the_start_can_be_scaled_to_the_sparse_fan_in():
  dense = _kernel(512, 256)
  tx = js.transforms.static(optax.sgd(0.1), 0.9, seed=0)
  plain, _ = js.init(tx, dense)
  scaled, _ = js.init(tx, dense, rescale=True)
  x = np.random.default_rng(1).normal(size=(64, 512))
  sd = [float(np.std(x @ np.asarray(p['kernel']))) for p in (dense, plain, scaled)]
  # The variance of what a unit sums falls with the density unless it is scaled.
  np.testing.assert_allclose(sd[1] / sd[0], np.sqrt(0.1), rtol=0.05)
  np.testing.assert_allclose(sd[2] / sd[0], 1.0, rtol=0.05)


def test_rules_that_draw_have_no_default_seed():
  inner, when = optax.sgd(0.1), js.schedules.every(2)
  for make in (js.transforms.rigl, js.transforms.set):
    with pytest.raises(TypeError, match='seed'):
      make(inner, 0.5, when=when)
  with pytest.raises(ValueError, match='seed'):
    js.transforms.static(inner, 0.5)


def test_another_seed_gives_another_mask():
  masks = [
    js.get_masks(js.transforms.static(optax.sgd(0.1), 0.5, seed=s).init(_kernel(8, 8)))
    for s in (0, 0, 1)
  ]
  same, other = (np.array_equal(masks[0]['kernel'], m['kernel']) for m in masks[1:])
  assert same and not other


def test_two_leaves_of_one_shape_get_different_masks():
  params = {'a': _kernel(8, 8), 'b': _kernel(8, 8)}
  tx = js.transforms.static(optax.sgd(0.1), 0.5, seed=0, distribution=_UNIFORM)
  masks = js.get_masks(tx.init(params))
  assert not np.array_equal(masks['a']['kernel'], masks['b']['kernel'])


@pytest.mark.parametrize('values', ['drawn', 'constant'])
def test_bfloat16_ties_are_spread_over_the_rows(values):
  # Drawn in bfloat16, 128 values decide, and ties go to the first rows.
  size = 1024
  params = {'kernel': jnp.ones((size, size), jnp.bfloat16)}
  criterion = {'drawn': js.criteria.random, 'constant': js.criteria.magnitude}[values]
  tx = js.transforms.static(optax.sgd(0.1), 0.999, seed=0, criterion=criterion)
  rows, columns = np.nonzero(js.get_masks(tx.init(params))['kernel'])
  count = len(rows)
  assert count == round(0.001 * size * size)
  for index in (rows, columns):
    for share in (0.1, 0.5):
      below = np.mean(index < share * size)
      error = np.sqrt(share * (1 - share) / count)
      assert abs(below - share) < 4 * error


def test_regrowth_among_equal_gradients_is_spread_over_the_rows():
  # A dead unit has gradients of 0, all equal: the first rows must not win them.
  tx = _rigl(optax.sgd(0.1), when=js.schedules.always, drop_fraction=1.0)
  params, state = js.init(tx, {'kernel': jnp.ones((256, 256))})
  grads = {'kernel': jnp.zeros((256, 256))}
  _, state = tx.update(grads, state, params)
  rows, _ = np.nonzero(js.get_masks(state)['kernel'])
  assert abs(np.mean(rows < 128) - 0.5) < 4 * np.sqrt(0.25 / len(rows))


def test_blocks_that_do_not_divide_the_shape():
  tx = js.transforms.static(
    optax.sgd(0.1), 0.5, seed=0, structure=js.masks.Block((4, 4))
  )
  params = _kernel(5, 5)
  mask = np.asarray(js.get_masks(tx.init(params))['kernel'])
  assert mask.shape == (5, 5)
  for block in (mask[:4, :4], mask[:4, 4:], mask[4:, :4], mask[4:, 4:]):
    assert block.all() or not block.any()
  assert 0 < mask.sum() < 25


def test_blocks_of_a_convolution_lie_in_channels_not_in_the_window():
  tx = js.transforms.static(
    optax.sgd(0.1), 0.5, seed=0, structure=js.masks.Block((4, 4))
  )
  mask = np.asarray(js.get_masks(tx.init(_kernel(3, 3, 8, 8)))['kernel'])
  blocks = mask.reshape(3, 3, 2, 4, 2, 4)
  assert np.array_equal(blocks.all((3, 5)), blocks.any((3, 5)))
  assert blocks.all((3, 5)).sum() == 18


def test_nm_sparsity_runs_through_training():
  tx = _rigl(optax.adam(1e-2), structure=js.masks.NM(1, 4), distribution=_UNIFORM)
  params, state = js.init(tx, _kernel(8, 6))
  for _ in range(4):
    updates, state = tx.update(_kernel(8, 6), state, params)
    params = optax.apply_updates(params, updates)
    groups = np.asarray(js.get_masks(state)['kernel']).reshape(2, 4, 6)
    assert (groups.sum(1) == 1).all()


@pytest.mark.parametrize(
  'tx',
  [
    _rigl(optax.adam(1e-2)),
    js.transforms.gmp(
      optax.adam(1e-2), js.schedules.cubic(0.9, 0, 9), when=js.schedules.every(2)
    ),
    js.transforms.ste(optax.adam(1e-2), 0.75),
    js.transforms.sr_ste(optax.adam(1e-2), 2, 4),
  ],
  ids=['rigl', 'gmp', 'ste', 'sr_ste'],
)
def test_no_layer_is_sorted(tx):
  names = {name for name, _ in _update_primitives(tx, _kernel(16, 16))}
  assert names and not names & {'sort', 'top_k', 'approx_top_k'}


def test_the_inner_optimizer_is_outside_any_cond():
  found = _update_primitives(_rigl(optax.adam(1e-2)), _kernel(16, 16))
  # Adam is the only one who takes a root.
  around = [inside for name, inside in found if name == 'sqrt']
  assert around and not any('cond' in inside for inside in around)
  assert any(name == 'cond' for name, _ in found)


@pytest.mark.parametrize('skip_step', [False, True])
def test_step_counts_do_not_lag_when_masks_change(skip_step):
  rates = []

  def schedule(step):
    jax.debug.callback(lambda s: rates.append(int(s)), step)
    return 1e-2

  inner = optax.chain(optax.scale_by_adam(), optax.scale_by_learning_rate(schedule))
  tx = _rigl(inner, skip_step=skip_step)
  params, state = js.init(tx, _kernel(8, 8))
  update = jax.jit(tx.update)
  for _ in range(6):
    updates, state = update(params, state, params)
    params = optax.apply_updates(params, updates)
  jax.effects_barrier()
  assert int(state.step) == 6
  adam, scale = state.inner_state
  assert int(adam.count) == int(scale.count) == 6
  assert sorted(set(rates)) == list(range(6))


def test_one_compilation():
  history = js.testing.train(lambda inner, seed: _rigl(inner, seed=seed), steps=4)
  js.testing.check_one_trace(history)
  for x in jax.tree.leaves(history.states[0]):
    assert isinstance(x, jax.Array) and not getattr(x, 'weak_type', False)


@pytest.mark.parametrize(
  'params',
  [
    (jnp.ones((8, 8)), jnp.ones(8)),
    [jnp.ones((8, 8))],
    jnp.ones((8, 8)),
    {'a': (jnp.ones((8, 8)), {'b': jnp.ones(3)})},
  ],
  ids=['tuple', 'list', 'array', 'nested'],
)
def test_any_tree_will_do(params):
  params, state = js.init(_rigl(optax.adam(1e-2)), params)
  masks = js.get_masks(state)
  assert jax.tree.structure(masks) == jax.tree.structure(params)
  updates, state = jax.jit(_rigl(optax.adam(1e-2)).update)(params, state, params)
  assert jax.tree.structure(updates) == jax.tree.structure(params)
  assert [int(m.sum()) for m in jax.tree.leaves(masks) if m.ndim] == [16]


def test_an_nnx_state_will_do():
  from flax import nnx

  model = nnx.Linear(8, 8, rngs=nnx.Rngs(0))
  params = nnx.state(model, nnx.Param)
  params, state = js.init(_rigl(optax.adam(1e-2)), params)
  names, masks, _ = js.core.named_leaves(js.get_masks(state))
  assert dict(zip(names, (int(m.sum()) for m in masks))) == {'bias': 1, 'kernel': 16}
  assert names == js.core.named_leaves(params)[0]
  assert int((params['kernel'][...] != 0).sum()) == 16


def test_scanned_layers_are_pruned_one_by_one():
  # Four layers of very unequal size: in one pool the smallest would be emptied.
  scale = jnp.array([1.0, 2.0, 4.0, 8.0]).reshape(4, 1, 1)
  params = {'blocks': {'kernel': _kernel(4, 16, 16)['kernel'] * scale}}
  tx = js.transforms.one_shot(
    optax.sgd(0.0), 0.75, step=0, leaves={'blocks/*': js.stacked()}
  )
  params, state = js.init(tx, params)
  _, state = tx.update(params, state, params)
  mask = np.asarray(js.get_masks(state)['blocks']['kernel'])
  assert mask.sum((1, 2)).tolist() == [64] * 4


def test_a_zero_bias_is_not_counted_as_sparse():
  params = {**_kernel(8, 8), 'bias': jnp.zeros(64)}
  params, state = js.init(_rigl(optax.sgd(0.1)), params)
  masks = js.get_masks(state)
  assert float(js.masks.density(masks, params)) == 0.25
  assert js.summary.density_per_leaf(params, state) == {'kernel': 0.25}
  assert js.summary.stats(params, state).nominal_sparsity == pytest.approx(0.75)


def test_a_level_for_one_layer_keeps_the_total():
  params = {'a': _kernel(64, 64), 'b': _kernel(64, 64), 'head': _kernel(64, 16)}
  distribution = js.distributions.fixing(js.distributions.erk, {'head/*': 0.5})
  tx = js.transforms.static(optax.sgd(0.1), 0.9, seed=0, distribution=distribution)
  masks = js.get_masks(tx.init(params))
  assert int(masks['head']['kernel'].sum()) == 512
  total = sum(p.size for p in jax.tree.leaves(params))
  kept = sum(int(m.sum()) for m in jax.tree.leaves(masks))
  assert kept == round(0.1 * total)


@pytest.mark.parametrize(
  'what', ['sparsity', 'structure', 'leaves', 'prunable', 'fixed']
)
def test_a_pattern_that_matches_nothing_is_refused(what):
  given = {
    'sparsity': {'sparsity': {'haed/*': 0.5, '*': 0.9}},
    'structure': {'structure': {'haed/*': js.masks.Channel(), '*': js.masks.Channel()}},
    'leaves': {'leaves': {'haed/*': js.stacked()}},
    'prunable': {'prunable': 'haed/*'},
    'fixed': {
      'distribution': js.distributions.fixing(js.distributions.erk, {'haed/*': 0.5})
    },
  }[what]
  tx = js.transforms.static(optax.sgd(0.1), **{'sparsity': 0.9, 'seed': 0, **given})
  with pytest.raises(ValueError, match=r"'haed/\*'.* matches no leaf"):
    tx.init({'head': _kernel(8, 8)})


def test_a_level_for_a_layer_that_is_not_pruned_is_refused():
  tx = js.transforms.static(
    optax.sgd(0.1),
    {'head/*': 0.5, 'body/*': 0.9},
    seed=0,
    prunable=js.kernels_except('head/*'),
  )
  with pytest.raises(ValueError, match=r"'head/\*'.* matches no leaf"):
    tx.init({'head': _kernel(8, 8), 'body': _kernel(8, 8)})


def test_a_nan_under_the_mask_is_cleared():
  params, state = js.init(_rigl(optax.adam(1e-2)), _kernel(8, 8))
  masks = js.get_masks(state)
  spoilt = {'kernel': jnp.where(masks['kernel'], params['kernel'], jnp.nan)}
  clean = js.apply_masks(spoilt, state)
  assert np.array_equal(clean['kernel'], params['kernel'])


def test_a_nan_gradient_under_the_mask_is_ignored():
  tx = _rigl(optax.adam(1e-2))
  params, state = js.init(tx, _kernel(8, 8))
  for _ in range(4):
    masks = js.get_masks(state)
    grads = {'kernel': jnp.where(masks['kernel'], params['kernel'], jnp.nan)}
    updates, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    assert np.isfinite(params['kernel']).all()
  for moment in (state.inner_state[0].mu, state.inner_state[0].nu):
    assert np.isfinite(moment['kernel']).all()


def test_dense_leaves_have_a_mask_and_no_none():
  # A None lines up with no array: every tree.map over masks and params would fail.
  params = {**_kernel(8, 8), 'bias': jnp.ones(8)}
  masks = js.get_masks(_rigl(optax.adam(1e-2)).init(params))
  assert jax.tree.structure(masks) == jax.tree.structure(params)
  assert masks['bias'].dtype == jnp.bool_ and bool(masks['bias'])


def test_training_prints_nothing(capfd):
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    js.testing.train(lambda inner, seed: _rigl(inner, seed=seed), steps=4)
  assert capfd.readouterr() == ('', '')

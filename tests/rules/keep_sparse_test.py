"""The wrapper: order of operations, fields, grown weights, skipped steps, report."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse as js

core = js.core
EVERY = js.schedules.every(2)


def _uniform(leaves, sparsity, scores=None):
  del scores
  return dict.fromkeys(leaves, sparsity)


def _fixed(mask):
  """A rule whose masks never change."""
  return core.MaskRule(init=lambda evidence: ({'w': jnp.array(mask)}, None))


def _swap(evidence, memory):
  """Turns the mask around: all that was off is grown."""
  masks = jax.tree.map(jnp.logical_not, evidence.masks)
  return core.Decision(masks, jax.tree.map(jnp.zeros_like, masks), memory)


def _steps(tx, params, grads, num):
  state = tx.init(params)
  params = js.apply_masks(params, state)
  for _ in range(num):
    updates, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)
  return params, state


# --- one step ----------------------------------------------------------------------------


def test_a_step_trains_what_is_kept_and_removes_the_rest():
  tx = js.keep_sparse(optax.sgd(0.5), _fixed([True, False, True]))
  state = tx.init({'w': jnp.ones(3)})
  # Called on dense params: the update itself makes them sparse.
  params = {'w': jnp.array([1.0, 5.0, 2.0])}
  updates, state = tx.update({'w': jnp.array([2.0, 7.0, -2.0])}, state, params)
  assert updates['w'].tolist() == [-1.0, -5.0, 1.0]
  assert optax.apply_updates(params, updates)['w'].tolist() == [0.0, 0.0, 3.0]
  assert int(state.step) == 1


def test_update_needs_params():
  tx = js.keep_sparse(optax.sgd(0.5), _fixed([True]))
  with pytest.raises(ValueError, match='update.*needs params'):
    tx.update({'w': jnp.ones(1)}, tx.init({'w': jnp.ones(1)}))


def test_extra_arguments_reach_the_inner_optimizer():
  def update(grads, state, params=None, *, scale):
    del params
    return jax.tree.map(lambda g: g * scale, grads), state

  inner = optax.GradientTransformationExtraArgs(lambda p: optax.EmptyState(), update)
  tx = js.keep_sparse(inner, _fixed([True, False]))
  params = {'w': jnp.array([1.0, 0.0])}
  updates, _ = tx.update(params, tx.init(params), params, scale=3.0)
  assert updates['w'].tolist() == [3.0, 0.0]


def test_moments_see_no_gradient_off_the_mask():
  tx = js.keep_sparse(optax.trace(0.9), _fixed([True, False]))
  params = {'w': jnp.array([1.0, 0.0])}
  grads = {'w': jnp.array([2.0, jnp.nan])}
  updates, state = tx.update(grads, tx.init(params), params)
  assert state.inner_state.trace['w'].tolist() == [2.0, 0.0]
  assert updates['w'].tolist() == [2.0, 0.0]


def test_the_inner_optimizer_starts_on_masked_params():
  inner = optax.contrib.schedule_free(optax.sgd(0.1), 0.1)
  tx = js.keep_sparse(inner, _fixed([True, False]))
  state = tx.init({'w': jnp.array([3.0, 4.0])})
  copies = [x for x in jax.tree.leaves(state.inner_state) if x.shape == (2,)]
  assert [x.tolist() for x in copies] == [[3.0, 0.0]]


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16', 'float32'])
def test_zeros_are_exact_in_every_dtype(dtype):
  # Updates in float32 for short params, as optax makes them for a float32 schedule.
  inner = optax.chain(optax.scale_by_adam(mu_dtype=jnp.float32), optax.scale(-0.1))
  tx = js.keep_sparse(inner, _fixed([True, False, False]))
  params = {'w': jnp.array([0.1, 0.3, 1e-3], dtype)}
  state = tx.init(params)
  updates, _ = tx.update({'w': params['w']}, state, params)
  new = optax.apply_updates(params, updates)['w']
  assert new.dtype == dtype and new[1:].tolist() == [0.0, 0.0]


def test_one_trace_and_no_weak_types():
  rule = core.MaskRule(
    init=lambda e: ({'w': jnp.array([True, False])}, None), update=_swap
  )
  tx = js.keep_sparse(optax.adam(0.1), rule, EVERY, seed=0)
  params, state = js.init(tx, {'w': jnp.ones(2)})
  step = jax.jit(tx.update)
  for _ in range(4):
    updates, state = step(params, state, params)
    params = optax.apply_updates(params, updates)
  assert step._cache_size() == 1
  state = state._replace(key=jax.random.key_data(state.key))
  assert not any(x.weak_type for x in jax.tree.leaves(state))


def test_seed_may_be_an_int_a_key_or_a_tracer():
  def start(seed):
    rule = core.MaskRule(
      init=lambda e: ({'w': js.criteria.random(e)['w'] > 2**30}, None)
    )
    return js.keep_sparse(optax.sgd(0.1), rule, seed=seed).init({'w': jnp.ones(64)})

  masks = [start(3).masks, start(jax.random.key(3)).masks, jax.jit(start)(3).masks]
  np.testing.assert_array_equal(masks[0]['w'], masks[1]['w'])
  np.testing.assert_array_equal(masks[0]['w'], masks[2]['w'])
  assert not np.array_equal(masks[0]['w'], start(4).masks['w'])


def test_donated_state_leaves_seed_and_params_alone():
  key = jax.random.key(0)
  tx = js.transforms.ste(optax.adam(0.1), 0.5)
  rigl = js.transforms.rigl(optax.adam(0.1), 0.5, seed=key, when=EVERY)
  params = {'kernel': jnp.ones((2, 2))}
  for each in (tx, rigl):
    started, state = js.init(each, params)
    step = jax.jit(each.update, donate_argnums=1)
    _, state = step(params, state, started)
    _, state = step(params, state, started)
  assert not key.is_deleted() and not params['kernel'].is_deleted()


# --- when and in which order ------------------------------------------------------------------


def test_evidence_of_each_decision():
  """What a rule sees, written down by a memory: values, not tracers."""

  def update(evidence, memory):
    seen = evidence.updated_params
    memory = {
      'step': evidence.step,
      'params': evidence.params[0]['w'],
      'updated': evidence.params[0]['w'] if seen is None else seen[0]['w'],
      'grads': evidence.grads[0]['w'],
      'mask': evidence.masks['w'],
    }
    return core.Decision({'w': jnp.array([False, True])}, None, memory)

  def init(evidence):
    assert evidence.grads is evidence.masks is evidence.updated_params is None
    zeros = jnp.zeros(2)
    memory = {k: zeros for k in ('params', 'updated', 'grads')}
    mask = jnp.array([True, False])
    return {'w': mask}, {**memory, 'step': evidence.step, 'mask': ~mask}

  for after in (False, True):
    rule = core.MaskRule(init=init, update=update, decides_on_update=after)
    tx = js.keep_sparse(optax.sgd(0.5), rule, js.schedules.at(1))
    params = {'w': jnp.array([4.0, 0.0])}
    state = tx.init(params)
    grads = {'w': jnp.array([2.0, 6.0])}
    updates, state = tx.update(grads, state, params)
    assert int(state.memory['step']) == 0 and state.masks['w'].tolist() == [True, False]
    params = optax.apply_updates(params, updates)
    updates, state = tx.update(grads, state, params)
    # Gradients are unmasked; the inner optimizer saw them masked.
    assert int(state.memory['step']) == 1
    assert state.memory['grads'].tolist() == [2.0, 6.0]
    assert state.memory['params'].tolist() == [3.0, 0.0]
    assert state.memory['updated'].tolist() == [2.0 if after else 3.0, 0.0]
    assert state.memory['mask'].tolist() == [True, False]
    # The new masks hold at once; the grown weight starts at 0, without a step.
    new = optax.apply_updates(params, updates)['w']
    assert new.tolist() == [0.0, 0.0]
    assert state.masks['w'].tolist() == [False, True]
    updates, state = tx.update(grads, state, {'w': new})
    assert updates['w'].tolist() == [0.0, -3.0]


def test_edits_get_latent_masks_and_memory_and_may_change_the_memory():
  rule = core.MaskRule(
    init=lambda e: ({'w': jnp.array([True, False])}, jnp.zeros(())),
    edit_grads=lambda g, p, m, memory: jax.tree.map(lambda x: x + 10 * memory, g),
    edit_updates=lambda u, p, m, memory: (
      jax.tree.map(lambda x, y: x + y, u, p),
      memory + 1,
    ),
  )
  tx = js.keep_sparse(optax.sgd(1.0), rule)
  params = {'w': jnp.array([2.0, 0.0])}
  state = tx.init(params)
  for step in range(3):
    updates, state = tx.update({'w': jnp.ones(2)}, state, params)
    assert updates['w'].tolist() == [2.0 - (1.0 + 10 * step), 0.0]
  assert float(state.memory) == 3.0


def test_dropped_and_regrown_in_one_step_is_a_grown_weight():
  def update(evidence, memory):
    del evidence
    return core.Decision(
      {'w': jnp.array([True, True])}, {'w': jnp.array([True, False])}, memory
    )

  rule = core.MaskRule(
    init=lambda e: ({'w': jnp.array([True, True])}, None), update=update
  )
  tx = js.keep_sparse(optax.adam(0.5), rule, js.schedules.at(2))
  params, state = _steps(tx, {'w': jnp.ones(2)}, {'w': jnp.ones(2)}, 3)
  assert params['w'][0] != 0 and params['w'][1] == 0
  moments = state.inner_state[0]
  assert moments.mu['w'][0] != 0 and moments.mu['w'][1] == 0 == moments.nu['w'][1]


def test_survivors_default_to_old_and_new():
  def update(evidence, memory):
    del evidence
    return core.Decision({'w': jnp.array([False, True, True])}, None, memory)

  rule = core.MaskRule(
    init=lambda e: ({'w': jnp.array([True, True, False])}, None),
    update=update,
    grown_value=lambda p, e: jax.tree.map(lambda x: jnp.full_like(x, 7.0), p),
  )
  tx = js.keep_sparse(optax.sgd(0.5), rule, js.schedules.at(0))
  params, _ = _steps(tx, {'w': jnp.ones(3)}, {'w': jnp.ones(3)}, 1)
  assert params['w'].tolist() == [0.0, 0.5, 7.0]


@pytest.mark.parametrize(
  'inner', [optax.adagrad(0.5), optax.rmsprop(0.5, momentum=0.9)]
)
def test_a_regrown_weight_takes_the_first_step_of_a_fresh_one(inner):
  """Not Adam: its bias correction knows how old the run is."""
  rule = core.MaskRule(
    init=lambda e: ({'w': jnp.array([True, False])}, None), update=_swap
  )
  tx = js.keep_sparse(inner, rule, js.schedules.at(3))
  params, state = _steps(tx, {'w': jnp.ones(2)}, {'w': jnp.full(2, 3.0)}, 4)
  updates, _ = tx.update({'w': jnp.full(2, 3.0)}, state, params)
  fresh = inner.init({'w': jnp.zeros(2)})
  if isinstance(fresh[0], optax.ScaleByRmsState):
    # The step of its growth had a gradient of 0, which also decays.
    _, fresh = inner.update({'w': jnp.zeros(2)}, fresh, {'w': jnp.zeros(2)})
  wanted, _ = inner.update({'w': jnp.full(2, 3.0)}, fresh, {'w': jnp.zeros(2)})
  assert float(updates['w'][1]) == float(wanted['w'][1]) != 0
  assert updates['w'][0] == 0


# --- several fields -----------------------------------------------------------------------------


def _two_fields(skip=False, inner=None):
  """Mean-field weights: the mask is that of mu, grown rho start at -3."""
  budget = js.rules.Budget(0.5, _uniform, js.masks.Unstructured())

  def init(evidence):
    assert len(evidence.params) == 2
    return budget.masks(evidence.params[0], js.criteria.magnitude(evidence)), None

  def update(evidence, memory):
    decision = js.rules.drop_grow(
      budget,
      evidence,
      js.criteria.magnitude(evidence),
      jax.tree.map(jnp.abs, evidence.grads[1]),
      0.5,
    )
    return decision._replace(memory=memory)

  rule = core.MaskRule(
    init=init,
    update=update,
    fields=lambda params: (params['mu'], params['rho']),
    grown_value=lambda params, evidence: {
      **jax.tree.map(jnp.zeros_like, params),
      'rho': jax.tree.map(lambda x: jnp.full_like(x, -3.0), params['rho']),
    },
  )
  inner = inner or optax.adam(0.1)
  return js.keep_sparse(inner, rule, js.schedules.at(1), skip_step=skip)


def _two_field_params():
  mu = {'kernel': jnp.array([[4.0, 3.0], [2.0, 1.0]]), 'bias': jnp.ones(2)}
  rho = jax.tree.map(lambda x: jnp.full_like(x, -2.0), mu)
  return {'log_scale': jnp.ones((3,)), 'mu': mu, 'rho': rho}


def test_fields_share_one_mask():
  tx, params = _two_fields(), _two_field_params()
  state = tx.init(params)
  assert jax.tree.structure(state.masks) == jax.tree.structure(params['mu'])
  assert state.masks['kernel'].tolist() == [[True, True], [False, False]]
  # Gradients of rho say what grows: the last weight.
  grads = jax.tree.map(jnp.ones_like, params)
  grads['rho']['kernel'] = jnp.array([[0.1, 0.1], [0.2, 0.9]])
  for step in range(3):
    updates, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    off = ~state.masks['kernel']
    assert not jnp.any(off & (params['mu']['kernel'] != 0))
    assert not jnp.any(off & (params['rho']['kernel'] != 0))
    if step == 1:
      # The smaller mean went, the weight with the large gradient came at its value.
      assert state.masks['kernel'].tolist() == [[True, False], [False, True]]
      assert float(params['mu']['kernel'][1, 1]) == 0.0
      assert float(params['rho']['kernel'][1, 1]) == -3.0
  # A leaf of no field is trained like any other.
  np.testing.assert_allclose(params['log_scale'], 0.7, rtol=1e-5)
  np.testing.assert_allclose(params['rho']['bias'], -2.3, rtol=1e-5)


def test_a_scalar_in_a_field_is_not_masked_and_grown_values_see_the_decision():
  params = {'mu': {'kernel': jnp.ones((2, 2))}, 'rho': {'kernel': jnp.zeros(())}}
  old = jnp.array([[True, True], [False, False]])
  new = jnp.array([[True, False], [True, False]])
  seen = []

  def grown_value(params, evidence):
    seen.append(evidence.decision)
    return jax.tree.map(jnp.zeros_like, params)

  rule = core.MaskRule(
    init=lambda evidence: ({'kernel': old}, jnp.float32(1.0)),
    update=lambda evidence, memory: core.Decision({'kernel': new}, None, 2 * memory),
    fields=lambda params: (params['mu'], params['rho']),
    grown_value=grown_value,
  )
  tx = js.keep_sparse(optax.sgd(1.0), rule, js.schedules.at(0))
  params, state = js.init(tx, params)
  assert params['rho']['kernel'].shape == ()
  updates, state = tx.update(jax.tree.map(jnp.ones_like, params), state, params)
  assert float(updates['rho']['kernel']) == -1.0
  assert seen[0].masks['kernel'].tolist() == new.tolist()
  assert seen[0].survivors['kernel'].tolist() == (old & new).tolist()
  assert float(seen[0].memory) == 2.0


def test_the_grown_value_reaches_copies_in_the_inner_state():
  tx = _two_fields(inner=optax.contrib.schedule_free(optax.sgd(0.1), 0.1))
  params = _two_field_params()
  grads = jax.tree.map(jnp.ones_like, params)
  grads['rho']['kernel'] = jnp.array([[0.1, 0.1], [0.2, 0.9]])
  params, state = tx.init(params), None
  params, state = _two_field_params(), params
  for _ in range(2):
    updates, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)
  assert float(state.inner_state.z['rho']['kernel'][1, 1]) == -3.0
  assert float(params['rho']['kernel'][1, 1]) == -3.0


# --- skip_step -------------------------------------------------------------------------------------


def test_skip_step_holds_params_and_moments_while_counts_advance():
  tx = js.transforms.rigl(
    optax.adam(0.1),
    0.5,
    seed=0,
    when=js.schedules.at(2),
    drop_fraction=0.5,
    skip_step=True,
    distribution=_uniform,
  )
  params = {'bias': jnp.ones(4), 'kernel': jnp.arange(1.0, 17.0).reshape(4, 4)}
  grads = jax.tree.map(lambda p: jnp.sin(p) + 0.1, params)
  before, old = _steps(tx, params, grads, 2)
  updates, new = tx.update(grads, old, before)
  after = optax.apply_updates(before, updates)
  survivors = np.asarray(old.masks['kernel'] & new.masks['kernel'])
  assert 4 <= survivors.sum() < 8
  np.testing.assert_array_equal(after['bias'], before['bias'])
  for name in ('mu', 'nu'):
    moment, held = getattr(old.inner_state[0], name), getattr(new.inner_state[0], name)
    np.testing.assert_array_equal(held['bias'], moment['bias'])
    stayed = np.asarray(after['kernel']) != 0
    np.testing.assert_array_equal(
      np.asarray(held['kernel'])[stayed], np.asarray(moment['kernel'])[stayed]
    )
    grown = np.asarray(new.masks['kernel']) & ~stayed
    assert grown.sum() == 4 and not np.asarray(held['kernel'])[grown].any()
  stayed = np.asarray(after['kernel']) != 0
  np.testing.assert_array_equal(
    np.asarray(after['kernel'])[stayed], np.asarray(before['kernel'])[stayed]
  )
  assert int(new.step) == int(new.inner_state[0].count) == 3


def test_without_skip_step_survivors_take_the_step():
  kwargs = dict(seed=0, when=js.schedules.at(0), distribution=_uniform)
  params = {'kernel': jnp.arange(1.0, 17.0).reshape(4, 4)}
  grads = {'kernel': jnp.ones((4, 4))}
  tx = js.transforms.rigl(optax.sgd(0.5), 0.5, skip_step=False, **kwargs)
  start, state = js.init(tx, params)
  updates, _ = tx.update(grads, state, start)
  after = np.asarray(optax.apply_updates(start, updates)['kernel'])
  stayed = after != 0
  np.testing.assert_array_equal(
    after[stayed], np.asarray(params['kernel'])[stayed] - 0.5
  )


# --- the report ---------------------------------------------------------------------------------------


def _run(tx, params, num=3):
  state = tx.init(params)
  for _ in range(num):
    updates, state = tx.update(params, state, params)
    params = optax.apply_updates(params, updates)
    jax.effects_barrier()
  return params, state


PARAMS = {'a': {'kernel': jnp.ones((4, 4))}, 'b': {'kernel': jnp.ones((2, 2))}}


def _inner(**kwargs):
  return js.transforms.static(optax.sgd(0.1), 0.5, seed=0, prunable='a/*', **kwargs)


def test_a_misplaced_wrapper_is_reported():
  tx = optax.chain(_inner(), optax.scale(0.5))
  with pytest.warns(
    RuntimeWarning, match='at step 1 .*off their mask: a/kernel. '
  ) as seen:
    _run(tx, PARAMS)
  assert len(seen) == 1
  assert 'wrap' in str(seen[0].message) and 'apply_masks' in str(seen[0].message)


def test_a_misplaced_wrapper_is_reported_under_jit():
  tx = optax.chain(_inner(), optax.add_decayed_weights(0.1), optax.scale(0.5))
  tx = optax.GradientTransformation(tx.init, jax.jit(tx.update))
  with pytest.warns(RuntimeWarning, match='a/kernel'):
    _run(tx, PARAMS)


def test_silent_when_right_and_for_a_dense_start():
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    _run(_inner(), PARAMS)
    _run(optax.chain(optax.clip(0.1), _inner()), PARAMS)
    _run(optax.MultiSteps(_inner(), 2).gradient_transformation(), PARAMS, 5)


def test_the_report_can_be_switched_off(monkeypatch):
  tx = _inner()

  def traced():
    # A new function each time: a trace is kept.
    update = lambda *args: tx.update(*args)
    return str(jax.make_jaxpr(update)(PARAMS, tx.init(PARAMS), PARAMS))

  assert 'callback' in traced()
  monkeypatch.setenv('JAXSPARSE_CHECK', 'off')
  assert 'callback' not in traced()
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    _run(optax.chain(tx, optax.scale(0.5)), PARAMS)


@pytest.mark.parametrize(
  'inner, when, message',
  [
    (optax.sgd(0.5), 100, r'when=100: wanted .*every\(100\)'),
    (0.5, None, 'inner=0.5: wanted an optax transformation'),
  ],
)
def test_parts_of_another_kind_are_refused(inner, when, message):
  with pytest.raises(ValueError, match=message):
    js.keep_sparse(inner, _fixed([True]), when)

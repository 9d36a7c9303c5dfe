"""Masked and compact training take the same steps."""

from flax import nnx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse as js

_WHEN = js.schedules.every(10, stop=150)
_DROP = js.schedules.cosine(0.4, 150)


class _Net(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = nn.relu(nn.Dense(24, name='dense1')(x))
    x = nn.relu(nn.Dense(16, name='dense2')(x))
    return nn.Dense(3, name='head')(x)


def _clipped_adam():
  return optax.chain(optax.clip_by_global_norm(0.5), optax.adam(1e-2))


def _decayed():
  # Which leaves decay is asked of the number of axes, as it is everywhere.
  return optax.adamw(1e-2, mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p))


def _data():
  x = jax.random.normal(jax.random.key(1), (32, 12))
  teacher = jax.random.normal(jax.random.key(2), (12, 3))
  return x, jnp.argmax(x @ teacher, -1)


def _loss(logits, labels):
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def _transform(name, inner):
  if name == 'static':
    return js.transforms.static(inner, 0.8, seed=0)
  make = {'set': js.transforms.set, 'rigl': js.transforms.rigl}[name]
  return make(inner, 0.8, seed=0, when=_WHEN, drop_fraction=_DROP)


def _steppers(tx, compact_tx):
  """The jitted steps of both executions."""
  model, (x, labels) = _Net(), _data()
  apply_fn = js.compact.bind(model)

  def compact_loss(params, patterns):
    return _loss(apply_fn({'params': params}, patterns, x), labels)

  @jax.jit
  def masked(params, state):
    loss = lambda p: _loss(model.apply({'params': p}, x), labels)
    value, grads = jax.value_and_grad(loss)(params)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state, value

  def compact(params, state):
    growth = js.compact.growth_when_due(compact_tx, compact_loss, params, state)
    patterns = js.compact.get_patterns(state)
    value, grads = jax.value_and_grad(compact_loss)(params, patterns)
    updates, state = compact_tx.update(grads, state, params, growth=growth)
    return optax.apply_updates(params, updates), state, value

  return masked, jax.jit(compact, donate_argnums=(0, 1))


@pytest.mark.parametrize(
  'inner', [_clipped_adam, pytest.param(_decayed, marks=pytest.mark.long)]
)
@pytest.mark.parametrize(
  'name',
  [*(pytest.param(n, marks=pytest.mark.long) for n in ('static', 'set')), 'rigl'],
)
def test_masked_and_compact_take_the_same_steps(name, inner):
  tx = _transform(name, inner())
  params = _Net().init(jax.random.key(0), _data()[0])['params']
  params, state = js.init(tx, params)
  first = js.get_masks(state)
  compact_tx, values, compact_state = js.compact.convert(tx, params, state)
  assert values['dense1']['kernel'].ndim == 1
  num = js.compact.growth_sizes(compact_tx, compact_state)
  assert bool(num) == (name == 'rigl')
  masked, compact = _steppers(tx, compact_tx)
  values, compact_state = jax.tree.map(jnp.copy, (values, compact_state))
  for _ in range(200):
    params, state, wanted = masked(params, state)
    values, compact_state, got = compact(values, compact_state)
    np.testing.assert_allclose(got, wanted, rtol=2e-3, atol=1e-5)
  same_tx, dense, dense_state = js.compact.densify(compact_tx, values, compact_state)
  assert same_tx is tx
  for a, b in zip(
    *map(jax.tree.leaves, (js.get_masks(dense_state), js.get_masks(state)))
  ):
    np.testing.assert_array_equal(a, b)
  for a, b in zip(*map(jax.tree.leaves, ((dense, dense_state), (params, state)))):
    if jnp.issubdtype(a.dtype, jnp.inexact):
      np.testing.assert_allclose(a, b, rtol=5e-2, atol=2e-4)
  moved = [
    bool((a != b).any())
    for a, b in zip(*map(jax.tree.leaves, (first, js.get_masks(state))))
  ]
  assert any(moved) == (name != 'static')
  assert compact._cache_size() == 1


def test_a_round_trip_changes_nothing():
  """Linen attention and a table, an NNX model, a bare tree with a mask that broadcasts."""

  class Model(nn.Module):
    @nn.compact
    def __call__(self, ids):
      x = nn.Embed(10, 8, name='embed')(ids)
      x = nn.MultiHeadDotProductAttention(2, name='attention')(x)
      return nn.Dense(4, name='head')(x)

  linen = Model().init(jax.random.key(0), jnp.zeros((1, 3), jnp.int32))
  trees = [linen, nnx.state(nnx.Linear(6, 5, rngs=nnx.Rngs(0)), nnx.Param)]
  for tree in trees:
    tx = js.transforms.rigl(
      optax.adam(1e-2), 0.6, seed=0, when=_WHEN, prunable=js.core.kernels
    )
    params, state = js.init(tx, tree)
    grads = jax.tree.map(jnp.ones_like, params)
    updates, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    compact = js.compact.convert(tx, params, state)
    floats = sum(x.size for x in jax.tree.leaves(compact[1]))
    assert floats == sum(int((x != 0).sum()) for x in jax.tree.leaves(params))
    _, found, found_state = js.compact.densify(*compact)
    assert jax.tree.structure(found) == jax.tree.structure(params)
    for a, b in zip(*map(jax.tree.leaves, ((found, found_state), (params, state)))):
      if not jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
  ('make', 'match'),
  [
    (lambda: optax.adam(1e-2), 'wanted what a transform of jaxsparse'),
    (
      lambda: optax.chain(js.transforms.static(optax.sgd(0.1), 0.5, seed=0)),
      'not something around',
    ),
    (lambda: js.transforms.ste(optax.sgd(0.1), 0.5), 'never compact'),
    (lambda: js.transforms.static(optax.adafactor(1e-2), 0.5, seed=0), 'inner'),
    (lambda: js.transforms.static(optax.contrib.muon(1e-2), 0.5, seed=0), 'inner'),
    (
      lambda: js.transforms.gmp(
        optax.sgd(0.1), js.schedules.cubic(0.5, 0, 40), when=js.schedules.every(10)
      ),
      'after step 40',
    ),
  ],
)
def test_what_cannot_be_compact_is_refused(make, match):
  tx, params = make(), {'kernel': jnp.ones((8, 6)), 'bias': jnp.ones(6)}
  state = tx.init(params)
  if isinstance(state, js.core.KeepSparseState):
    params = js.apply_masks(params, state)
  with pytest.raises(ValueError, match=match):
    js.compact.convert(tx, params, state)


@pytest.mark.parametrize(
  ('make', 'final'),
  [
    pytest.param(
      lambda: js.transforms.gmp(
        optax.adam(0.1), js.schedules.cubic(0.75, 0, 4), when=js.schedules.every(2)
      ),
      4,
      marks=pytest.mark.long,
    ),
    (lambda: js.transforms.one_shot(optax.adam(0.1), 0.75, step=3), 3),
  ],
)
def test_what_only_prunes_is_converted_after_its_last_change(make, final):
  tx, start = make(), {'kernel': jax.random.normal(jax.random.key(0), (8, 6))}
  params, state = js.init(tx, start)
  assert js.compact.first_step(tx) == final + 1

  def step(tx, params, state):
    updates, state = tx.update(jax.tree.map(jnp.sin, params), state, params)
    return optax.apply_updates(params, updates), state

  for _ in range(final + 1):
    with pytest.raises(ValueError, match=f'not final; convert after step {final},'):
      js.compact.convert(tx, params, state)
    params, state = step(tx, params, state)
  ctx, values, held = js.compact.convert(tx, params, state)
  assert values['kernel'].shape == (12,)
  for _ in range(3):
    params, state = step(tx, params, state)
    values, held = step(ctx, values, held)
  _, dense, back = js.compact.densify(ctx, values, held)
  np.testing.assert_allclose(dense['kernel'], params['kernel'], rtol=1e-6)
  np.testing.assert_array_equal(back.masks['kernel'], state.masks['kernel'])


@pytest.mark.parametrize(
  ('make', 'first'),
  [
    (lambda a: js.transforms.static(a, 0.5, seed=0), 0),
    (lambda a: js.transforms.set(a, 0.5, seed=0, when=js.schedules.every(2)), 0),
    (
      lambda a: js.transforms.iss_p(a, 0.5, num_pruning_steps=50, learning_rate=1e-3),
      50,
    ),
    (lambda a: js.transforms.ste(a, 0.5), None),
    (lambda a: js.transforms.gmp(a, lambda t: 0.5, when=js.schedules.every(2)), None),
    (
      lambda a: js.transforms.dsl(
        a, 0.5, seed=0, when=js.schedules.every(2), growth='accumulated'
      ),
      None,
    ),
  ],
)
def test_the_first_step_that_can_be_converted_is_known_beforehand(make, first):
  assert js.compact.first_step(make(optax.adam(0.1))) == first


def test_params_must_be_masked():
  tx, params = (
    js.transforms.static(optax.sgd(0.1), 0.5, seed=0),
    {'kernel': jnp.ones((8, 6))},
  )
  with pytest.raises(ValueError, match='kernel has nonzeros off its mask'):
    js.compact.convert(tx, params, tx.init(params))


def test_a_missed_rewiring_is_reported_and_states_are_told_apart():
  tx = js.transforms.rigl(optax.sgd(0.1), 0.5, seed=0, when=js.schedules.always)
  params, state = js.init(tx, {'kernel': jnp.ones((8, 6))})
  compact_tx, values, compact_state = js.compact.convert(tx, params, state)
  assert isinstance(compact_state, js.compact.CompactState)
  with pytest.warns(RuntimeWarning, match='no growth='):
    compact_tx.update(values, compact_state, values)
    jax.effects_barrier()
  with pytest.raises(ValueError, match='get_patterns'):
    js.get_masks(compact_state)
  with pytest.raises(ValueError, match='0 states of compact'):
    js.compact.get_patterns(state)
  bad = {'kernel': js.compact.Candidates(*[jnp.zeros((2, 1))] * 4)}
  with pytest.raises(ValueError, match='growth: no Candidates'):
    compact_tx.update(values, compact_state, values, growth=bad)


def test_nothing_of_the_dense_size_is_held():
  """A layer of 4 million weights at 0.5 %: its step needs a fraction of one."""
  mask = jax.random.bernoulli(jax.random.key(0), 0.005, (2048, 2048))
  tx = js.transforms.static(optax.adam(1e-3), masks={'kernel': mask})
  params, state = js.init(tx, {'kernel': jnp.ones((2048, 2048))})
  tx, values, state = js.compact.convert(tx, params, state)
  apply_fn = js.compact.bind(nn.Dense(2048, use_bias=False))
  x = jnp.ones((8, 2048))

  def step(values, state):
    patterns = js.compact.get_patterns(state)
    loss = lambda v: jnp.sum(apply_fn({'params': v}, patterns, x) ** 2)
    updates, state = tx.update(jax.grad(loss)(values), state, values)
    return optax.apply_updates(values, updates), state

  memory = jax.jit(step).lower(values, state).compile().memory_analysis()
  held = memory.argument_size_in_bytes + memory.temp_size_in_bytes
  assert held < 0.25 * params['kernel'].nbytes


def test_the_training_loop_runs_on_nonzeros(tmp_path):
  """Scanned steps, checkpoints, a resumed run: the losses are those of masked training."""
  model, (x, _) = _Net(), _data()
  tx = _transform('rigl', _clipped_adam())
  params = model.init(jax.random.key(0), x)['params']
  masked = js.training.init_state(tx, params, seed=0)
  compact_tx, values, opt_state = js.compact.convert(
    tx, masked.params, masked.opt_state
  )
  compact = masked._replace(params=values, opt_state=opt_state)
  apply_fn = js.compact.bind(model)

  def dense_loss(params, model_state, batch, key):
    return _loss(model.apply({'params': params}, batch[0]), batch[1]), ((), {})

  def sparse_loss(params, model_state, batch, key, *, state):
    patterns = js.compact.get_patterns(state.opt_state)
    return _loss(apply_fn({'params': params}, patterns, batch[0]), batch[1]), ((), {})

  with pytest.raises(ValueError, match='sees_state'):
    js.training.make_step(sparse_loss, compact_tx)
  dense_step = js.training.make_step(dense_loss, tx)
  sparse_step = js.training.make_step(sparse_loss, compact_tx, sees_state=True)
  found = [
    _losses(dense_step, masked, tmp_path / 'masked'),
    _losses(sparse_step, compact, tmp_path / 'compact'),
  ]
  np.testing.assert_allclose(*found, rtol=1e-3, atol=1e-5)


def _losses(step, state, folder):
  """The losses of 40 steps on two devices; a run in two parts ends in the same bits."""
  step_fn = js.training.shard_step(step, jax.devices()[:2], scan=True)
  batch, losses = jax.tree.map(np.asarray, _data()), []

  def run(num_steps, checkpoints=None):
    return js.training.run(
      step_fn, state, lambda _: batch, num_steps, steps_per_call=5,
      checkpoints=checkpoints,
      on_steps=lambda _, values: losses.extend(values['loss']),
    ).state  # fmt: skip

  whole = run(40)
  for num_steps in (15, 40):
    with js.checkpoint.open_dir(folder) as checkpoints:
      again = run(num_steps, checkpoints)
  for a, b in zip(*map(jax.tree.leaves, (whole.params, again.params))):
    np.testing.assert_array_equal(a, b)
  return losses[:40]

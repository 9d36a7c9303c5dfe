"""Each check catches a transform that is broken in its own way, and names what."""

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxsparse as js

_QUARTER = {'dense1/kernel': 128, 'dense2/kernel': 64}


def _static(inner, seed):
  return js.transforms.static(
    inner, 0.75, seed=seed, distribution=js.distributions.uniform
  )


def _moving(inner, seed):
  return js.transforms.rigl(
    inner,
    0.75,
    seed=seed,
    when=js.schedules.every(2),
    distribution=js.distributions.uniform,
  )


def _broken(make_tx=_static, *, init=None, update=None):
  """A transform whose `init` or `update` is given the good one and its arguments."""

  def make(inner, seed):
    good = make_tx(inner, seed)
    return optax.GradientTransformationExtraArgs(
      good.init if init is None else lambda params: init(good.init, params),
      good.update
      if update is None
      else lambda g, s, p=None, **extra: update(good.update, g, s, p, **extra),
    )

  return make


def _short(make_tx):
  return js.testing.train(make_tx, steps=3)


def _raises(message):
  return pytest.raises(AssertionError, match=message)


def test_check_transform_stops_at_the_first_that_fails():
  # That a good transform passes them all is the example in its docstring.
  with _raises('dense2/kernel keeps 64, not 63'):
    js.testing.check_transform(_static, num_kept={**_QUARTER, 'dense2/kernel': 63})
  with _raises('no mask changed'):
    js.testing.check_transform(_static, num_kept=_QUARTER, moves=True)
  with _raises('no weight grew'):
    js.testing.check_transform(_static, num_kept=_QUARTER, moves=False, grows=True)


def test_train_records_every_step():
  history = js.testing.train(_static, steps=2, inner=optax.sgd(1.0))
  assert isinstance(history, js.testing.History)
  assert len(history.params) == len(history.states) == 3
  # With a rate of 1 the quadratic problem is solved in one step.
  start = history.params[0]
  solved = optax.tree.sub(start, js.testing.gradients(start, 0.0))
  assert jnp.allclose(history.params[1]['norm']['scale'], solved['norm']['scale'])


def test_make_step_gives_edited_gradients_to_the_transform():
  tx = optax.sgd(1.0)
  step = js.testing.make_step(tx, lambda grads, state: optax.tree.zeros_like(grads))
  params = js.testing.small_params()
  same, _ = step(params, tx.init(params), 0.0)
  assert jax.tree.all(jax.tree.map(jnp.array_equal, params, same))


def test_step_axes_batches_all_but_steps():
  state = _static(optax.adam(1e-2), 0).init(js.testing.small_params())
  axes = js.testing.step_axes((state, jnp.ones(3)))
  assert axes[0].step is None and axes[0].masks == axes[0].key == axes[1] == 0


def test_protocol_wants_params():
  def update(good, grads, state, params=None):
    if params is None:
      return grads, state
    return good(grads, state, params)

  with _raises('without params must raise'):
    js.testing.check_protocol(_short(_broken(update=update)))


def test_protocol_wants_bool_masks_that_fit():
  def as_float(init, params):
    state = init(params)
    return state._replace(masks=jax.tree.map(jnp.float32, state.masks))

  broken = _broken(init=as_float)
  history = js.testing.train(_static, steps=0)
  state = broken(optax.adam(1e-2), 0).init(history.params[0])
  with _raises('float32'):
    js.testing.check_protocol(history._replace(states=[state]))


def test_counts():
  history = _short(_static)
  js.testing.check_counts(history, _QUARTER)
  js.testing.check_counts(history, lambda step: _QUARTER)
  with _raises('after 0 steps dense2/kernel keeps 64, not 65'):
    js.testing.check_counts(history, {**_QUARTER, 'dense2/kernel': 65})
  with _raises('dense2/kernel keeps 64, not 256'):
    js.testing.check_counts(history, {'dense1/kernel': 128})
  with _raises('no leaf is called'):
    js.testing.check_counts(history, {**_QUARTER, 'dense3/kernel': 1})


def test_zeros():
  def halve(good, grads, state, params):
    updates, state = good(grads, state, params)
    return jax.tree.map(lambda u: u + 1e-6, updates), state

  with _raises('after 1 steps .* weights of dense1/kernel off the mask are not 0'):
    # The transform itself notices as well, and says so.
    with pytest.warns(RuntimeWarning, match='off their mask'):
      history = _short(_broken(update=halve))
    js.testing.check_zeros(history)


def test_one_trace_wants_no_python_numbers():
  def weak(init, params):
    return init(params)._replace(step=0)

  with _raises('traced|is a int'):
    js.testing.check_one_trace(_short(_broken(init=weak)))


def test_masks_move():
  js.testing.check_masks_move(_short(_moving))
  with _raises('no mask changed'):
    js.testing.check_masks_move(_short(_static))


def test_grown_weights_keep_no_moments():
  def keep_moments(good, grads, state, params):
    updates, new = good(grads, state, params)
    inner = jax.tree.map(lambda x: x + 1.0 if x.ndim == 2 else x, new.inner_state)
    return updates, new._replace(inner_state=inner)

  js.testing.check_grown(_short(_moving))
  with _raises('grown weights have .* in 0/mu/dense1/kernel'):
    js.testing.check_grown(_short(_broken(_moving, update=keep_moments)))
  with _raises('no weight grew'):
    js.testing.check_grown(_short(_static))


def test_extra_args():
  def lose(good, grads, state, params, **extra_args):
    del extra_args
    return good(grads, state, params)

  with _raises('did not get the argument'):
    js.testing.check_extra_args(_short(_broken(update=lose)))


def test_nan():
  def leak(good, grads, state, params):
    masks = state.masks
    updates, state = good(grads, state, params)
    return jax.tree.map(
      lambda m, u, g: jnp.where(m, u, u + g), masks, updates, grads
    ), state

  # The run without NaN is the good one's: it would be reported as misplaced.
  history = _short(_static)
  broken = _broken(update=leak)(history.inner, 0)
  with _raises('params/dense1/kernel has a NaN'):
    js.testing.check_nan(history._replace(tx=broken))


def test_donation():
  def share(init, params):
    return init(params)._replace(memory=params)

  def make(inner, seed):
    good = _static(inner, seed)
    return optax.GradientTransformationExtraArgs(
      lambda params: share(good.init, params), good.update
    )

  with _raises('params/.* of the caller was donated'):
    js.testing.check_donation(_short(make))


def test_checkpoint():
  # What a transform remembers outside of its state is not in the checkpoint.
  calls = []

  def count():
    calls.append(None)
    return jnp.float32(len(calls))

  def remember(good, grads, state, params):
    updates, state = good(grads, state, params)
    number = jax.pure_callback(count, jax.ShapeDtypeStruct((), jnp.float32))
    masks = jax.tree.map(lambda m, u: jnp.where(m, u * number, u), state.masks, updates)
    return masks, state

  with _raises('resumed'):
    js.testing.check_checkpoint(_short(_broken(update=remember)))


def test_vmap_needs_a_cond_on_the_step_alone():
  def on_data(inner, seed):
    good = _static(inner, seed)

    def update(grads, state, params=None, **extra):
      updates, new = good.update(grads, state, params, **extra)
      total = sum(jnp.sum(x) for x in jax.tree.leaves(params))
      return jax.lax.cond(total > 0, lambda: updates, lambda: updates), new

    return optax.GradientTransformationExtraArgs(good.init, update)

  with _raises('cond on the step vmap leaves'):
    js.testing.check_vmap(_short(on_data))


def test_vmap_wants_masks_that_depend_on_the_seed_alone():
  # One mask for all seeds in a batch, another one for each seed alone.
  def make(inner, seed):
    number = 0 if isinstance(seed, jax.core.Tracer) else seed
    return _static(inner, number)

  with _raises('seed 1 under vmap'):
    js.testing.check_vmap(_short(make), batch_step=True)


def test_dtype():
  def widen(good, grads, state, params):
    updates, state = good(grads, state, params)
    # A product with 1.1 does not cancel a bfloat16 parameter.
    return jax.tree.map(lambda u: u * 1.1, updates), state

  with _raises('weights of dense1/kernel off the mask are not 0'):
    js.testing.check_dtype(
      _short(_moving)._replace(make_tx=_broken(_moving, update=widen))
    )


def test_containers():
  def by_position(inner, seed):
    def init(params):
      # The seed depends on how the leaves are ordered, not on their names.
      first = jax.tree.leaves(params)[0].size
      return _static(inner, seed + first).init(params)

    return optax.GradientTransformationExtraArgs(init, _static(inner, seed).update)

  with _raises('a Linen dict and a bare pytree: .* differs'):
    js.testing.check_containers(_short(by_position))


def test_odd_trees():
  def demanding(init, params):
    assert jax.tree.leaves(params), 'an empty tree'
    return init(params)

  with _raises('an empty tree'):
    js.testing.check_odd_trees(_short(_broken(init=demanding)))


def test_masked_node():
  def lossy(init, params):
    # Looking for arrays only loses the places of what is hidden.
    state = init(params)
    return state._replace(masks=dict(enumerate(jax.tree.leaves(state.masks))))

  history = _short(_static)._replace(make_tx=_broken(init=lossy))
  with pytest.raises((AssertionError, ValueError, KeyError)):
    js.testing.check_masked_node(history)


def test_replicas():
  def update(good, grads, state, params):
    updates, state = good(grads, state, params)
    where = jax.lax.axis_index('batch')
    return jax.tree.map(
      lambda m, u: jnp.where(m, u + where, u), state.masks, updates
    ), state

  history = _short(_static)
  broken = _broken(update=update)(history.inner, 0)
  with _raises('replica 0 and replica 1: 0/dense1'):
    js.testing.check_replicas(history._replace(tx=broken), num_devices=2)


def test_replicas_need_devices():
  with pytest.raises(ValueError, match='num_devices=9, but there are 8'):
    js.testing.check_replicas(js.testing.train(_static, steps=0), num_devices=9)


def test_sharded():
  def gather(good, grads, state, params):
    updates, state = good(grads, state, params)

    def touch(m, u, p):
      # A flat order needs the whole leaf on each device.
      order = jnp.argsort(p.reshape(-1)).reshape(p.shape)
      return jnp.where(m & (order < 0), 0 * u, u)

    return jax.tree.map(touch, state.masks, updates, params), state

  with _raises('gathers an array'):
    js.testing.check_sharded(_short(_broken(update=gather)))

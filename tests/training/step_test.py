import functools
import os
import signal

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse as js

_LEARNING_RATE = 0.1


def _params():
  keys = jax.random.split(jax.random.key(1), 2)
  return {
    'dense1': {'kernel': jax.random.normal(keys[0], (6, 16)) / 3},
    'dense2': {'kernel': jax.random.normal(keys[1], (16, 3)) / 4},
  }


def _batches(step, size=16):
  rng = np.random.default_rng(step)
  x = rng.normal(size=(size, 6)).astype(np.float32)
  return {'x': x, 'y': x[:, :3] * 2 + 1}


def _loss(params, model_state, batch, key):
  del key
  hidden = jnp.tanh(batch['x'] @ params['dense1']['kernel'])
  # As BatchNorm does: running statistics of the local batch.
  mean = 0.5 * model_state['mean'] + 0.5 * hidden.mean(0)
  error = hidden @ params['dense2']['kernel'] - batch['y']
  loss = jnp.mean(error**2)
  state = {'mean': mean, 'count': model_state['count'] + 1}
  return loss, (state, {'abs_error': jnp.mean(jnp.abs(error))})


def _model_state():
  return {'mean': jnp.zeros(16), 'count': jnp.zeros((), jnp.int32)}


def _rigl(inner):
  return js.transforms.rigl(
    inner, 0.5, seed=0, when=js.schedules.every(2), drop_fraction=0.5
  )


def _train(tx, num_steps, *, devices, execution='pmap', accumulate=1, loss_fn=_loss):
  step = js.training.make_step(loss_fn, tx, accumulate=accumulate)
  state = js.training.init_state(tx, _params(), _model_state(), seed=0)
  devices = jax.local_devices()[:devices]
  step_fn = js.training.shard_step(step, devices, execution)
  state = js.training.replicate(state, devices)
  for i in range(num_steps):
    state, metrics = step_fn(state, _batches(i))
  return state, metrics


def test_init_state_makes_the_start_sparse_and_leaves_a_dense_one_alone():
  params = _params()
  tx = js.transforms.static(optax.sgd(0.1), sparsity=0.5, seed=0)
  sparse = js.training.init_state(tx, params, seed=0).params
  scaled = js.training.init_state(tx, params, seed=0, rescale=True).params
  chex.assert_trees_all_equal(scaled, js.init(tx, params, rescale=True)[0])
  dense = js.training.init_state(optax.sgd(0.1), params, seed=0).params
  count = lambda p: sum(int((x != 0).sum()) for x in jax.tree.leaves(p))
  assert count(sparse) == 72
  chex.assert_trees_all_equal(dense, params)


@functools.cache
def _one_device():
  return _train(_rigl(optax.sgd(_LEARNING_RATE)), 5, devices=1, execution='jit')


# SGD, because Adam would hide gradients that are too large by a factor.
@pytest.mark.parametrize(
  'execution, devices', [('pmap', 2), ('pmap', 8), ('shard_map', 8), ('jit', 8)]
)
def test_devices_take_the_step_that_one_device_takes(execution, devices):
  tx = _rigl(optax.sgd(_LEARNING_RATE))
  one, one_metrics = _one_device()
  many, metrics = _train(tx, 5, devices=devices, execution=execution)
  chex.assert_trees_all_close(many.params, one.params, rtol=1e-5, atol=1e-6)
  chex.assert_trees_all_close(many.model_state, one.model_state, rtol=1e-5, atol=1e-6)
  chex.assert_trees_all_close(metrics, one_metrics, rtol=1e-5)
  chex.assert_trees_all_equal(js.get_masks(many.opt_state), js.get_masks(one.opt_state))


def test_one_step_of_sgd_is_the_step_that_numpy_takes():
  tx = optax.sgd(_LEARNING_RATE)
  state, metrics = _train(tx, 1, devices=4)
  params, batch = jax.tree.map(np.asarray, _params()), _batches(0)
  hidden = np.tanh(batch['x'] @ params['dense1']['kernel'])
  error = hidden @ params['dense2']['kernel'] - batch['y']
  grad = hidden.T @ error * 2 / error.size
  expected = params['dense2']['kernel'] - _LEARNING_RATE * grad
  np.testing.assert_allclose(
    state.params['dense2']['kernel'], expected, rtol=1e-5, atol=1e-6
  )
  np.testing.assert_allclose(metrics['loss'], np.mean(error**2), rtol=1e-5)
  np.testing.assert_allclose(
    state.model_state['mean'], hidden.mean(0) / 2, rtol=1e-4, atol=1e-6
  )
  assert int(state.model_state['count']) == 1


def test_pmap_and_shard_map_give_the_same_bits_without_a_device_axis():
  tx = _rigl(optax.adam(1e-2))
  pmapped, _ = _train(tx, 4, devices=8, execution='pmap')
  mapped, _ = _train(tx, 4, devices=8, execution='shard_map')
  chex.assert_trees_all_equal(pmapped.params, mapped.params)
  chex.assert_trees_all_equal(
    js.get_masks(pmapped.opt_state), js.get_masks(mapped.opt_state)
  )
  chex.assert_trees_all_equal_shapes(pmapped.params, _params())


def test_every_replica_holds_the_same_masks():
  state, _ = _train(_rigl(optax.sgd(0.1)), 5, devices=8)
  for mask in jax.tree.leaves(js.get_masks(state.opt_state)):
    shards = [np.asarray(s.data) for s in mask.addressable_shards]
    assert len(shards) == 8
    for shard in shards[1:]:
      np.testing.assert_array_equal(shard, shards[0])


def test_replicas_draw_different_keys():
  def loss_fn(params, model_state, batch, key):
    del batch
    noise = jax.random.normal(key)
    return jnp.sum(params['w'] ** 2), (
      model_state,
      {'noise': noise, 'square': noise**2},
    )

  step = js.training.make_step(loss_fn, optax.sgd(0.1))
  state = js.training.init_state(optax.sgd(0.1), {'w': jnp.ones(2)}, seed=0)
  step_fn = js.training.shard_step(step, jax.local_devices()[:4])
  batch = np.zeros((4, 1), np.float32)
  state, first = step_fn(js.training.replicate(state, jax.local_devices()[:4]), batch)
  _, second = step_fn(state, batch)
  variance = float(first['square'] - first['noise'] ** 2)
  assert variance > 1e-3
  assert float(first['noise']) != float(second['noise'])


@pytest.mark.parametrize('accumulate', [2, 4])
def test_accumulated_gradients_equal_those_of_the_whole_batch(accumulate):
  def loss_fn(params, model_state, batch, key):
    loss, (_, metrics) = _loss(params, model_state, batch, key)
    return loss, (model_state, metrics)

  tx = optax.sgd(_LEARNING_RATE)
  whole, metrics = _train(tx, 3, devices=2, loss_fn=loss_fn)
  parts, part_metrics = _train(tx, 3, devices=2, loss_fn=loss_fn, accumulate=accumulate)
  chex.assert_trees_all_close(whole.params, parts.params, rtol=1e-5, atol=1e-6)
  chex.assert_trees_all_close(metrics, part_metrics, rtol=1e-5)


def test_accumulation_updates_statistics_once_per_micro_batch():
  state, _ = _train(optax.sgd(0.1), 1, devices=1, accumulate=4)
  assert int(state.model_state['count']) == 4


@pytest.mark.parametrize('execution', ['pmap', 'shard_map'])
def test_a_scan_takes_the_same_steps_as_single_calls(execution):
  tx = _rigl(optax.sgd(_LEARNING_RATE))
  single, _ = _train(tx, 6, devices=2, execution=execution)
  devices = jax.local_devices()[:2]
  step = js.training.make_step(_loss, tx)
  step_fn = js.training.shard_step(step, devices, execution, scan=True)
  state = js.training.init_state(tx, _params(), _model_state(), seed=0)
  result = js.training.run(step_fn, state, _batches, 6, steps_per_call=4)
  assert isinstance(result, js.training.RunResult)
  assert isinstance(result.state, js.training.TrainState)
  assert result.finished and int(result.state.step) == 6
  chex.assert_trees_all_close(result.state.params, single.params, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize('execution', ['pmap', 'shard_map', 'jit'])
def test_the_second_call_does_not_trace_again(execution):
  tx = _rigl(optax.adam(1e-2))
  step = js.training.make_step(_loss, tx)
  traces = []

  def counted(state, batch, data, axis=None):
    traces.append(1)
    return step(state, batch, data, axis=axis)

  devices = jax.local_devices()[:2]
  step_fn = js.training.shard_step(counted, devices, execution)
  state = js.training.init_state(tx, _params(), _model_state(), seed=0)
  state = js.training.replicate(state, devices)
  for i in range(3):
    state, _ = step_fn(state, _batches(i))
  assert len(traces) == 1


def test_prepare_gathers_from_data_on_the_devices():
  tx = optax.sgd(_LEARNING_RATE)
  whole = _batches(0, size=64)
  prepare = lambda indices, data, key: jax.tree.map(lambda x: x[indices], data)
  step = js.training.make_step(_loss, tx, prepare=prepare)
  devices = jax.local_devices()[:2]
  step_fn = js.training.shard_step(step, devices)
  state = js.training.init_state(tx, _params(), _model_state(), seed=0)
  indices = np.arange(0, 64, 4)
  gathered, _ = step_fn(
    js.training.replicate(state, devices),
    indices,
    js.training.replicate(whole, devices),
  )
  plain = js.training.shard_step(js.training.make_step(_loss, tx), devices)
  given, _ = plain(
    js.training.replicate(state, devices), {k: v[indices] for k, v in whole.items()}
  )
  chex.assert_trees_all_equal(gathered.params, given.params)


def test_replicate_copies_so_that_donation_spares_the_callers_arrays():
  state = js.training.init_state(optax.sgd(0.1), _params(), _model_state(), seed=0)
  step = js.training.make_step(_loss, optax.sgd(0.1))
  step_fn = js.training.shard_step(step, jax.local_devices()[:1])
  js.training.run(step_fn, state, _batches, 2)
  chex.assert_trees_all_equal(state.params, _params())


@pytest.mark.parametrize('scan', [None, 3])
def test_a_loss_that_is_not_finite_stops_the_run_and_says_where(tmp_path, scan):
  def batches(step):
    batch = _batches(step)
    if step == 7:
      batch['x'][0, 0] = np.nan
    return batch

  tx = optax.sgd(_LEARNING_RATE)
  step = js.training.make_step(_loss, tx)
  step_fn = js.training.shard_step(step, jax.local_devices()[:1], scan=scan is not None)
  state = js.training.init_state(tx, _params(), _model_state(), seed=0)
  with js.checkpoint.open_dir(tmp_path) as checkpoints:
    with pytest.raises(FloatingPointError) as error:
      js.training.run(
        step_fn, state, batches, 12,
        steps_per_call=scan, checkpoints=checkpoints, save_every=3,
      )  # fmt: skip
    assert checkpoints.latest_step() == 6
  for text in ('step 7', 'the loss is nan', 'params/dense1/kernel', 'step 6'):
    assert text in str(error.value)


def test_parameters_that_are_lost_are_never_saved(tmp_path):
  def loss_fn(params, model_state, batch, key):
    # The gradient of sqrt at 0 is infinite while the loss is finite.
    del batch, key
    return jnp.sum(jnp.sqrt(params['w'])), (model_state, {})

  step = js.training.make_step(loss_fn, optax.sgd(0.1))
  state = js.training.init_state(optax.sgd(0.1), {'w': jnp.zeros(2)}, seed=0)
  step_fn = js.training.shard_step(step, jax.local_devices()[:1])
  with js.checkpoint.open_dir(tmp_path) as checkpoints:
    with pytest.raises(FloatingPointError, match='params/w.*no checkpoint'):
      js.training.run(
        step_fn, state, lambda step: np.zeros((1, 1)), 1, checkpoints=checkpoints
      )
    assert checkpoints.latest_step() is None


def _run_to(directory, num_steps, stop_at=None):
  tx = _rigl(optax.adam(1e-2))
  step_fn = js.training.shard_step(
    js.training.make_step(_loss, tx), jax.local_devices()[:1]
  )
  state = js.training.init_state(tx, _params(), _model_state(), seed=0)
  seen = []

  def on_steps(state, metrics):
    seen.append((int(state.step), float(metrics['loss'])))
    if int(state.step) == stop_at:
      os.kill(os.getpid(), signal.SIGTERM)

  with js.checkpoint.open_dir(directory) as checkpoints:
    result = js.training.run(
      step_fn, state, _batches, num_steps,
      checkpoints=checkpoints, save_every=4, on_steps=on_steps,
    )  # fmt: skip
  return result, seen


def test_sigterm_saves_and_the_next_run_goes_on_bit_for_bit(tmp_path):
  whole, whole_seen = _run_to(tmp_path / 'whole', 9)
  first, first_seen = _run_to(tmp_path / 'cut', 9, stop_at=5)
  second, second_seen = _run_to(tmp_path / 'cut', 9)
  assert not first.finished and first.stopped and int(first.state.step) == 5
  assert (
    second.finished
    and not second.stopped
    and [s for s, _ in second_seen] == [6, 7, 8, 9]
  )
  assert first_seen + second_seen == whole_seen
  chex.assert_trees_all_equal(second.state.params, whole.state.params)
  chex.assert_trees_all_equal(
    js.get_masks(second.state.opt_state), js.get_masks(whole.state.opt_state)
  )


def test_a_signal_in_the_last_step_is_not_forgotten(tmp_path):
  result, _ = _run_to(tmp_path, 4, stop_at=4)
  assert result.finished and result.stopped


def test_a_finished_run_is_not_trained_again(tmp_path):
  first, _ = _run_to(tmp_path, 4)
  again, seen = _run_to(tmp_path, 4)
  assert seen == []
  chex.assert_trees_all_equal(again.state.params, first.state.params)


def test_bad_arguments_are_named():
  step = js.training.make_step(_loss, optax.sgd(0.1))
  with pytest.raises(ValueError, match='accumulate'):
    js.training.make_step(_loss, optax.sgd(0.1), accumulate=0)
  with pytest.raises(ValueError, match="execution: got 'tmap'"):
    js.training.shard_step(step, execution='tmap')
  state = js.training.init_state(optax.sgd(0.1), _params(), _model_state(), seed=0)
  step_fn = js.training.shard_step(step, jax.local_devices()[:3])
  with pytest.raises(ValueError, match='16 examples .* 3 devices'):
    step_fn(state, _batches(0))
  with pytest.raises(ValueError, match='accumulate: 3 micro-batches'):
    _train(optax.sgd(0.1), 1, devices=1, accumulate=3)
  with pytest.raises(ValueError, match='save_every'):
    js.training.run(step_fn, state, _batches, 4, steps_per_call=2, save_every=3)


def test_a_loss_may_see_the_state_before_the_step():
  def loss_fn(params, model_state, batch, key, state):
    masks = js.get_masks(state.opt_state)
    kept = sum(m.sum() for m in jax.tree.leaves(masks)).astype(jnp.float32)
    loss, (model_state, _) = _loss(params, model_state, batch, key)
    return loss, (model_state, {'kept': kept, 'step': state.step.astype(jnp.float32)})

  tx = _rigl(optax.sgd(_LEARNING_RATE))
  step = jax.jit(js.training.make_step(loss_fn, tx, accumulate=2, sees_state=True))
  state = js.training.init_state(tx, _params(), _model_state(), seed=0)
  kept = sum(int(m.sum()) for m in jax.tree.leaves(js.get_masks(state.opt_state)))
  for number in range(2):
    state, metrics = step(state, _batches(number))
    assert (metrics['kept'], metrics['step']) == (kept, number)

"""Everything that is saved comes back bit for bit; the directory keeps what it says."""

import json
import os
import signal
import threading

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import ml_collections
import numpy as np
import pytest

import jaxsparse as js
from tests.checkpoint import trees


def test_rich_tree_round_trip(tmp_path):
  state = trees.rich_state(1)
  extra = {'epoch': 3, 'files': ['a', 'b'], 'seed': None, 'lr': 0.1, 'ü': {'x': []}}
  with js.checkpoint.open_dir(tmp_path / 'deep' / 'er') as checkpoints:
    assert isinstance(checkpoints, js.checkpoint.Checkpoints)
    assert checkpoints.restore(trees.rich_state(2)) is None
    assert checkpoints.save(7, state, extra=extra) is True
    restored = checkpoints.restore(trees.rich_state(2))
  assert restored == js.checkpoint.Restored(7, restored.state, extra)
  trees.assert_same(restored.state, state)


def test_a_second_process_reads_what_the_first_saved(tmp_path):
  state = trees.rich_state(1)
  with js.checkpoint.open_dir(tmp_path) as checkpoints:
    checkpoints.save(7, state)
  with js.checkpoint.open_dir(tmp_path, readonly=True) as reader:
    trees.assert_same(reader.restore(trees.rich_state(2)).state, state)
    with pytest.raises(js.checkpoint.CheckpointError, match='readonly'):
      reader.save(8, state)


@pytest.mark.parametrize('state', [{}, None, {'n': 3}, {'z': jnp.zeros((2, 0))}])
def test_trees_without_stored_arrays(tmp_path, state):
  with js.checkpoint.open_dir(tmp_path) as checkpoints:
    checkpoints.save(0, state)
    trees.assert_same(checkpoints.restore(state).state, state)


def test_a_bare_array_and_abstract_targets(tmp_path):
  state = jnp.arange(6.0).reshape(2, 3)
  with js.checkpoint.open_dir(tmp_path) as checkpoints:
    checkpoints.save(0, state)
    restored = checkpoints.restore(jax.eval_shape(lambda: jnp.zeros((2, 3))))
  trees.assert_same(restored.state, state)


def test_plain_orbax_reads_the_arrays(tmp_path):
  import orbax.checkpoint as ocp

  with js.checkpoint.open_dir(tmp_path) as checkpoints:
    checkpoints.save(0, {'dense': {'kernel': jnp.ones(3)}})
  with ocp.PyTreeCheckpointer() as reader:
    arrays = reader.restore(tmp_path / '0' / 'arrays')
  np.testing.assert_array_equal(arrays['dense/kernel'], np.ones(3))


def test_values_are_those_of_the_moment_of_the_save(tmp_path):
  """The next step may donate, and NumPy arrays may change in place."""
  device, host = jnp.arange(300_000.0), np.arange(300_000)
  step = jax.jit(lambda x: x * 2, donate_argnums=0)
  with js.checkpoint.open_dir(tmp_path) as checkpoints:
    for i in range(1, 4):
      wanted = jnp.array(device), host.copy()
      checkpoints.save(i, (device, host))
      device, host[:] = step(device), -1
      trees.assert_same(checkpoints.restore(wanted).state, wanted)


def test_a_restored_state_can_be_donated(tmp_path):
  with js.checkpoint.open_dir(tmp_path) as checkpoints:
    checkpoints.save(0, jnp.arange(4096.0))
    state = checkpoints.restore(jnp.zeros(4096)).state
    twice = jax.jit(lambda x: x * 2, donate_argnums=0)(state)
    again = checkpoints.restore(jnp.zeros(4096)).state
  np.testing.assert_array_equal(twice, 2 * np.arange(4096.0))
  np.testing.assert_array_equal(again, np.arange(4096.0))


def test_a_restored_state_compiles_nothing_anew(tmp_path):
  state = trees.rich_state(1)['keep']
  step = jax.jit(lambda s: s._replace(step=s.step + 1))
  state = step(step(state))
  compiled = step._cache_size()
  with js.checkpoint.open_dir(tmp_path) as checkpoints:
    checkpoints.save(0, state)
    step(checkpoints.restore(state).state)
  assert step._cache_size() == compiled


def _mesh(num_devices: int) -> Mesh:
  return Mesh(np.array(jax.devices()[:num_devices]), ('i',))


@pytest.mark.parametrize('source', ['pmap', P(), P('i'), P(None, 'i')], ids=str)
@pytest.mark.parametrize('spec,num_devices', [(P(), 2), (P('i'), 2), (P('i'), 4)])
def test_other_devices_and_shardings(tmp_path, source, spec, num_devices):
  values = {'w': np.arange(128.0, dtype=np.float32).reshape(8, 16)}
  if source == 'pmap':
    copy = jax.pmap(lambda i, x: x, in_axes=(0, None), out_axes=None, axis_name='i')
    state = {'w': copy(jnp.arange(8), values['w']), 'key': jax.random.key(3)}
    assert len(state['w'].sharding.device_set) == 8
  else:
    state = jax.device_put(values, NamedSharding(_mesh(8), source))
    state['key'] = jax.device_put(jax.random.key(3), NamedSharding(_mesh(8), P()))
  target = NamedSharding(_mesh(num_devices), spec)
  key_target = NamedSharding(_mesh(num_devices), P())
  with js.checkpoint.open_dir(tmp_path) as checkpoints:
    checkpoints.save(0, state)
    on_many = checkpoints.restore(
      {
        'w': jax.ShapeDtypeStruct((8, 16), jnp.float32, sharding=target),
        'key': jax.device_put(jax.random.key(0), key_target),
      }
    ).state
    on_one = checkpoints.restore(
      {'w': jnp.zeros((8, 16)), 'key': jax.random.key(0)}
    ).state
  assert on_many['w'].sharding == target
  assert on_many['key'].sharding.is_equivalent_to(key_target, 0)
  assert on_one['w'].sharding.device_set == {jax.devices()[0]}
  assert not on_one['w'].committed and not on_one['key'].committed
  for got in (on_many, on_one):
    np.testing.assert_array_equal(np.asarray(got['w']), values['w'])
    assert trees.bits(jax.random.bits(got['key'])) == trees.bits(
      jax.random.bits(jax.random.key(3))
    )


@pytest.mark.parametrize(
  'keep,best,left,best_step',
  [
    (2, None, (4, 5), None),
    (None, None, (1, 2, 3, 4, 5), None),
    (2, 'max', (2, 4, 5), 2),
    (2, 'min', (3, 4, 5), 3),
    (1, 'max', (2, 5), 2),
    (1, 'min', (3, 5), 3),
  ],
)
def test_keep_and_best(tmp_path, keep, best, left, best_step):
  metrics = {1: 0.5, 2: 0.9, 3: 0.1, 4: None, 5: float('nan')}
  with js.checkpoint.open_dir(tmp_path, keep=keep, best=best) as checkpoints:
    assert checkpoints.latest_step() is None
    for step, metric in metrics.items():
      checkpoints.save(step, {'step': step}, metric=metric)
  with js.checkpoint.open_dir(tmp_path, keep=keep, best=best) as checkpoints:
    assert checkpoints.steps() == left
    assert checkpoints.latest_step() == 5
    if best is None:
      with pytest.raises(ValueError, match='best'):
        checkpoints.best_step()
      return
    assert checkpoints.best_step() == best_step
    best_state = checkpoints.restore({'step': 0}, step=best_step).state
    assert best_state == {'step': best_step}
    checkpoints.save(6, {'step': 6}, metric=0.5)
    checkpoints.wait()
    assert checkpoints.best_step() == best_step


def test_steps_go_up(tmp_path):
  with js.checkpoint.open_dir(tmp_path) as checkpoints:
    assert checkpoints.save(5, {'x': 1})
    assert checkpoints.save(5, {'x': 1}) is False
    with pytest.raises(ValueError, match='above the newest checkpoint, 5.*got 4'):
      checkpoints.save(4, {'x': 1})
  with js.checkpoint.open_dir(tmp_path) as checkpoints:
    # Nothing was restored: this is another run in the same directory.
    with pytest.raises(ValueError, match='above the newest checkpoint, 5.*got 5'):
      checkpoints.save(5, {'x': 2})
    assert checkpoints.restore({'x': 0}).state == {'x': 1}
    assert checkpoints.save(np.int64(5), {'x': 1}) is False
    assert checkpoints.save(np.int64(6), {'x': 1}) is True
    with pytest.raises(TypeError):
      checkpoints.save(7.5, {'x': 1})


@pytest.mark.parametrize(
  'arguments,message',
  [
    ({'keep': 0}, 'keep must be at least 1.*got 0'),
    ({'best': 'lowest'}, "best must be.*got 'lowest'"),
    ({'ignore': 'lr'}, 'ignore must be a sequence'),
    ({'config': {'f': print}}, 'config must be storable as JSON'),
  ],
)
def test_bad_arguments(tmp_path, arguments, message):
  with pytest.raises(ValueError, match=message):
    js.checkpoint.open_dir(tmp_path / 'new', **arguments)
  assert not (tmp_path / 'new').exists()


def test_a_url_is_refused():
  with pytest.raises(ValueError, match='local or mounted.*gs://'):
    js.checkpoint.open_dir('gs://bucket/run')


@pytest.mark.parametrize(
  'leaf', ['text', np.array(['text']), np.array([None]), object(), 1j, jnp.sum]
)
def test_leaves_that_cannot_be_stored_are_named(tmp_path, leaf):
  with js.checkpoint.open_dir(tmp_path) as checkpoints:
    with pytest.raises(ValueError, match='state: model/odd is'):
      checkpoints.save(1, {'model': {'odd': leaf, 'w': jnp.ones(2)}})
    with pytest.raises(ValueError, match='extra must be storable'):
      checkpoints.save(1, {'w': jnp.ones(2)}, extra={'x': jnp.ones(2)})
    assert checkpoints.steps() == ()


def _config(**changes):
  config = {'lr': 0.1, 'model': {'width': 8, 'layers': (2, 3)}, 'steps': 100}
  return {**config, **changes}


def test_equal_configs(tmp_path):
  with js.checkpoint.open_dir(tmp_path, config=_config(), fingerprint='a') as one:
    one.save(1, {'x': 1})
  as_dict = ml_collections.ConfigDict(_config())
  for config, fingerprint in [(_config(), 'a'), (as_dict, 'a'), (None, None)]:
    with js.checkpoint.open_dir(
      tmp_path, config=config, fingerprint=fingerprint
    ) as other:
      assert other.restore({'x': 0}).state == {'x': 1}


@pytest.mark.parametrize(
  'config,message',
  [
    (_config(lr=0.2), 'lr: 0.1 in the checkpoint, 0.2 now'),
    (_config(model={'width': 9, 'layers': (2, 3)}), 'model.width: 8 .*, 9 now'),
    (_config(new=None), r'new: \(absent\) in the checkpoint, None now'),
    (_config(steps=7, lr=3), 'lr: 0.1 .*; steps: 100 .*, 7 now'),
  ],
)
def test_another_config_is_refused_at_open(tmp_path, config, message):
  with js.checkpoint.open_dir(tmp_path, config=_config()) as one:
    one.save(1, {'x': 1})
  (tmp_path / '2.orbax-checkpoint-tmp').mkdir()
  with pytest.raises(ValueError, match=f'{tmp_path}/1.*{message}'):
    js.checkpoint.open_dir(tmp_path, config=config)
  assert (tmp_path / '2.orbax-checkpoint-tmp').exists()
  ignore = ('lr', 'model.*', 'new', 'st*')
  with js.checkpoint.open_dir(tmp_path, config=config, ignore=ignore) as other:
    assert other.restore({'x': 0}).state == {'x': 1}


def test_another_fingerprint_is_refused(tmp_path):
  with js.checkpoint.open_dir(tmp_path, fingerprint={'data': 'abc'}) as one:
    one.save(1, {'x': 1})
  with pytest.raises(ValueError, match="fingerprint: {'data': 'abc'} there, 'x' now"):
    js.checkpoint.open_dir(tmp_path, fingerprint='x')


@pytest.mark.parametrize(
  'change,message',
  [
    ({'b': jnp.zeros(3, jnp.bfloat16)}, r'model/b: .*float32 \(3,\).*bfloat16 \(3,\)'),
    ({'b': jnp.zeros(4)}, r'model/b: .*float32 \(3,\).*float32 \(4,\)'),
    ({'b': jnp.zeros((3, 1))}, r'model/b: .*float32 \(3,\).*float32 \(3, 1\)'),
    ({'b': 1.0}, r'model/b: .*float32 \(3,\).*a Python float'),
    ({'n': jnp.zeros(())}, 'model/n: .*a Python int.*float32'),
    ({'n': True}, 'model/n: .*a Python int.*a Python bool'),
    ({'k': jax.random.key(0, impl='rbg')}, r'model/k: .*key<fry> \(\).*key<rbg>'),
    ({'k': jnp.zeros(2, jnp.uint32)}, r'model/k: .*key<fry>.*uint32 \(2,\)'),
    ({'c': jnp.zeros(1)}, 'it lacks model/c'),
    ({'b': None}, 'the target lacks model/b'),
    ({'b': {'x': jnp.zeros(3)}}, 'it lacks model/b/x; the target lacks model/b'),
  ],
)
def test_another_model_is_refused(tmp_path, change, message):
  model = {'b': jnp.ones(3), 'n': 3, 'k': jax.random.key(1)}
  with js.checkpoint.open_dir(tmp_path) as checkpoints:
    checkpoints.save(1, {'model': model})
    checkpoints.wait()
    files = _files(tmp_path)
    with pytest.raises(ValueError, match=message):
      checkpoints.restore({'model': {**model, **change}})
    assert _files(tmp_path) == files
    trees.assert_same(checkpoints.restore({'model': model}).state, {'model': model})


def _files(directory):
  return {p: p.read_bytes() for p in directory.rglob('*') if p.is_file()}


def test_the_config_is_readable_text(tmp_path):
  with js.checkpoint.open_dir(tmp_path, config=_config()) as checkpoints:
    checkpoints.save(1, {'x': 1})
  texts = [p.read_text() for p in (tmp_path / '1' / 'config').iterdir()]
  found = [json.loads(t) for t in texts if t.startswith('{')]
  assert json.loads(json.dumps(_config())) in [f.get('config') for f in found]


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_guard_sets_a_flag_and_restores_handlers(number):
  before = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
  with js.checkpoint.sigterm_guard() as guard:
    assert isinstance(guard, js.checkpoint.SignalGuard) and not guard.triggered
    os.kill(os.getpid(), number)
    assert guard.triggered
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
      os.kill(os.getpid(), signal.SIGINT)
  assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)] == before


def test_guard_in_another_thread_is_inactive():
  seen = []

  def run():
    with js.checkpoint.sigterm_guard() as guard:
      seen.append(guard.triggered)

  before = signal.getsignal(signal.SIGTERM)
  thread = threading.Thread(target=run)
  thread.start()
  thread.join()
  assert seen == [False] and signal.getsignal(signal.SIGTERM) == before

"""A process for processes_test.py: `python driver.py MODE DIRECTORY`."""

import sys

import jax
import jax.numpy as jnp
import numpy as np

import jaxsparse as js


def state_of(step: int):
  """What step `step` saves: every leaf tells its step, so a torn state shows."""
  draw = np.random.default_rng(step)
  return {
    'w': jnp.asarray(draw.normal(size=(200, 100)), jnp.float32),
    'mask': jnp.asarray(draw.random((200, 100)) < 0.1),
    'layers': [jnp.asarray(np.full(7, step, np.int32)) for _ in range(10)],
    'key': jax.random.key(step),
  }


def save_for_ever(directory):
  checkpoints = js.checkpoint.open_dir(directory, keep=2)
  restored = checkpoints.restore(state_of(0))
  step = 0
  if restored is not None:
    step = restored.step
    check(restored)
  while True:
    step += 1
    checkpoints.save(step, state_of(step), extra={'position': step})


def check(restored):
  jax.tree.map(
    lambda a, b: np.testing.assert_array_equal(_raw(a), _raw(b)),
    restored.state,
    state_of(restored.step),
  )
  assert restored.extra == {'position': restored.step}


def _raw(x):
  is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
  return np.asarray(jax.random.key_data(x) if is_key else x)


def restore_here(directory):
  """Restores what eight devices saved, sharded over the devices of this process."""
  mesh = jax.sharding.Mesh(np.array(jax.devices()), ('i',))
  place = lambda *spec: jax.sharding.NamedSharding(
    mesh, jax.sharding.PartitionSpec(*spec)
  )
  target = {
    'sharded': jax.ShapeDtypeStruct((16, 4), jnp.float32, sharding=place('i')),
    'replicated': jax.ShapeDtypeStruct((16, 4), jnp.float32, sharding=place()),
    'plain': jnp.zeros((16, 4)),
  }
  state = js.checkpoint.open_dir(directory, readonly=True).restore(target).state
  for value in state.values():
    np.testing.assert_array_equal(value, np.arange(64.0).reshape(16, 4))
  assert len(state['sharded'].sharding.device_set) == len(jax.devices())
  print(len(jax.devices()), 'devices restored')


def one_of_two(directory, port: str, index: str):
  """Two processes save and restore global, replicated and host-local arrays."""
  jax.distributed.initialize(f'127.0.0.1:{port}', 2, int(index))
  mesh = jax.sharding.Mesh(np.array(jax.devices()), ('i',))
  values = np.arange(64.0, dtype=np.float32).reshape(16, 4)

  def state_like(x, key):
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('i'))
    copied = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    whole = lambda sharding: jax.make_array_from_callback(
      x.shape, sharding, lambda i: x[i]
    )
    local = jax.pmap(lambda _, x: x + 0, in_axes=(0, None), out_axes=None)
    n = jax.local_device_count()
    return {
      'sharded': whole(spread),
      'replicated': whole(copied),
      'pmap': local(jnp.zeros(n), x),
      'key': jax.jit(lambda: jax.random.key(key), out_shardings=copied)(),
      'none': jnp.zeros((0,)),
    }

  saved, target = state_like(values, 1), state_like(values * 0, 0)
  with js.checkpoint.open_dir(directory, keep=1, best='max') as checkpoints:
    for step in (1, 2, 3):
      checkpoints.save(step, saved, extra={'step': step}, metric=-step)
    restored = checkpoints.restore(target)
    assert checkpoints.steps() == (1, 3), checkpoints.steps()
  assert (restored.step, restored.extra) == (3, {'step': 3})
  for name, value in restored.state.items():
    assert value.sharding.is_equivalent_to(target[name].sharding, value.ndim), name
    shards = zip(_shards(value), _shards(saved[name]))
    assert all(np.array_equal(a, b) for a, b in shards), name
  print('both', len(jax.devices()), 'devices restored')


def _shards(x):
  if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
    x = jax.random.key_data(x)
  return [np.asarray(s.data) for s in x.addressable_shards]


if __name__ == '__main__':
  globals()[sys.argv[1]](*sys.argv[2:])

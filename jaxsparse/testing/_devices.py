"""Checks on several devices; fake ones do (`jax_num_cpu_devices`)."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np

from jaxsparse import core, rules
from jaxsparse.testing import _history


def _devices(num_devices):
  found = jax.local_devices()
  if len(found) < num_devices:
    raise ValueError(
      f'num_devices={num_devices}, but there are {len(found)}; before jax starts, set'
      f" jax.config.update('jax_num_cpu_devices', {num_devices})."
    )
  return found[:num_devices]


def check_replicas(
  history: _history.History, *, num_devices: int = 2, steps: int = 4
) -> None:
  """Under `pmap` every replica has the same params, masks and state, bit for bit.

  Each device has gradients of its own, which are averaged before the update.

  Args:
    history: from `train` with the default params.
    num_devices: devices used.
    steps: updates made.

  Raises:
    AssertionError: the leaf in which a replica differs from the first.
    ValueError: there are fewer devices.
  """
  devices = _devices(num_devices)
  mean = lambda grads, state: jax.lax.pmean(grads, 'batch')
  step = jax.pmap(_history.make_step(history.tx, mean), 'batch', devices=devices)
  start = (history.params[0], history.states[0])
  copies = jax.tree.map(lambda x: jnp.broadcast_to(x, (num_devices, *x.shape)), start)
  for i in range(steps):
    shifts = i + jnp.linspace(0.0, 1.0, num_devices)
    # One program at a time: several that wait for each other starve a small machine.
    copies = jax.block_until_ready(step(*copies, shifts))
  # Indexing would gather over the devices; the shards are there already.
  first, *others = (
    jax.tree.map(lambda x: x.addressable_shards[i].data, copies)  # noqa: B023
    for i in range(num_devices)
  )
  for number, other in enumerate(others, 1):
    _history.require_equal(first, other, f'replica 0 and replica {number}')


def check_sharded(history: _history.History, *, num_devices: int = 4) -> None:
  """Params that are sharded by `NamedSharding` are pruned where they lie.

  The masks inherit the sharding, the run is that of one device, and the compiled
  update gathers no whole leaf on a device.

  Args:
    history: from `train` with the default params.
    num_devices: devices used; the leading axis of each kernel is split over them.

  Raises:
    AssertionError: a mask that is not sharded, a mask that differs from one device's,
      an all-gather as large as a pruned leaf.
    ValueError: there are fewer devices.
  """
  mesh = jax.sharding.Mesh(np.array(_devices(num_devices)), ('model',))
  spec = jax.sharding.PartitionSpec

  def shard(p):
    split = spec('model') if p.ndim == 2 else spec()
    return jax.device_put(np.asarray(p), jax.sharding.NamedSharding(mesh, split))

  start = jax.tree.map(shard, history.prepare(_history.small_params()))
  params, state = rules.init(history.tx, start)
  step = jax.jit(_history.make_step(history.tx))
  for i in range(len(history.params) - 1):
    _check_same_sharding(params, state)
    params, state = jax.block_until_ready(step(params, state, float(i)))
  _check_same_sharding(params, state)
  hlo = step.lower(params, state, 0.0).compile().as_text()
  _check_gathers(hlo, start, _history.masks_of(start, state))
  wanted, got = (rules.get_masks(s) for s in (history.states[-1], state))
  _history.require_equal(wanted, got, f'masks on one device and on {num_devices}')
  _history.require_equal(history.params[-1], params, 'params', exact=False)


def _check_same_sharding(params, state):
  masks = _history.masks_of(params, state)
  names, leaves, _ = core.named_leaves(params)
  for name, m, p in zip(names, masks, leaves, strict=True):
    # A scalar has nothing to shard.
    unmasked = m.shape != p.shape or not p.ndim
    same = unmasked or m.sharding.is_equivalent_to(p.sharding, p.ndim)
    _history.require(same, f'{name}: {p.sharding}, but its mask has {m.sharding}.')


def _check_gathers(hlo, params, masks):
  pairs = zip(jax.tree.leaves(params), masks, strict=True)
  smallest = min(p.size for p, m in pairs if m.ndim)
  # `%x = f32[16,12]{1,0} all-gather(...)`, or a tuple of such shapes.
  for shapes in re.findall(r'= ([^=]*?) all-gather(?:-start)?\(', hlo):
    for dims in re.findall(r'\[([\d,]+)\]', shapes):
      size = math.prod(map(int, dims.split(',')))
      _history.require(
        size < smallest, f'the update gathers an array [{dims}] on every device.'
      )

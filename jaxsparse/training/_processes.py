"""Several processes, each with devices of its own, that take one step together.

Between steps a process holds its own copy of the state, so that all that is done with a
state in one process may be done in each of several. Only the compiled step sees arrays
that span the processes; their buffers are those of the copies.
"""

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np


def all_devices() -> list:
  """The devices of a step: those of all processes, in the same order in each."""
  return list(jax.devices() if jax.process_count() > 1 else jax.local_devices())


def own(devices) -> list:
  """Those of the devices that belong to this process."""
  return [d for d in devices if d.process_index == jax.process_index()]


def spanning(tree, mesh: Mesh):
  """The copies that the processes hold of a tree, as arrays over all of them."""
  local = NamedSharding(Mesh(np.array(own(mesh.devices)), mesh.axis_names), _WHOLE)
  return _recast(jax.device_put(tree, local), NamedSharding(mesh, _WHOLE))


def copies(tree, mesh: Mesh):
  """What this process holds of arrays that are whole on every device."""
  local = Mesh(np.array(own(mesh.devices)), mesh.axis_names)
  return _recast(tree, NamedSharding(local, _WHOLE))


def shares(tree, sharding: NamedSharding):
  """A global batch of numpy arrays, of which each process copies its own rows."""
  return jax.tree.map(
    lambda x: jax.make_array_from_callback(
      x.shape, sharding, lambda index: np.asarray(x[index])
    ),
    tree,
  )


def in_any(flag: bool) -> bool:
  """Whether the flag is set in any process; all of them have to ask together."""
  if jax.process_count() == 1:
    return flag
  return bool(np.any(multihost_utils.process_allgather(np.array(flag))))


_WHOLE = PartitionSpec()


def _recast(tree, sharding):
  def recast(x):
    parts = [shard.data for shard in x.addressable_shards]
    return jax.make_array_from_single_device_arrays(x.shape, sharding, parts)

  return jax.tree.map(recast, tree)

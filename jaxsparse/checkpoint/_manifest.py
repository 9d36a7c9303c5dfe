"""What a checkpoint says about itself: the leaves, their digests, the config."""

from collections.abc import Mapping
import fnmatch
import json

import jax
import jax.numpy as jnp
import numpy as np

from jaxsparse import core

_PYTHON = (bool, int, float)


class Damaged(Exception):
  """A step that cannot be trusted; the message says what is wrong with it."""


def as_json(value, argument: str):
  """The value as it will be read back: tuples become lists, keys strings."""
  to_dict = getattr(value, 'to_dict', None)
  try:
    return json.loads(json.dumps(to_dict() if to_dict else value))
  except (TypeError, ValueError) as error:
    raise ValueError(f'{argument} must be storable as JSON: {error}.') from error


def seal(manifest: dict) -> dict:
  """Adds the digest of the manifest itself."""
  return {**manifest, 'crc32': core.digest(manifest)}


def unseal(manifest) -> dict:
  """The manifest without its digest; raises Damaged where that does not fit."""
  if not isinstance(manifest, dict) or 'leaves' not in manifest:
    raise Damaged('its manifest is not a manifest')
  body = {k: v for k, v in manifest.items() if k != 'crc32'}
  if core.digest(body) != manifest.get('crc32'):
    raise Damaged('its manifest does not have the digest that was saved')
  return body


def _named(state) -> tuple[list[str], list, jax.tree_util.PyTreeDef]:
  names, values, treedef = core.named_leaves(state)
  seen: dict[str, int] = {}
  for i, name in enumerate(names):
    # {'a/b': x, 'a': {'b': y}} gives two equal paths; their order tells them apart.
    seen[name] = seen.get(name, 0) + 1
    names[i] = name if seen[name] == 1 else f'{name}#{seen[name]}'
  return names, values, treedef


def _is_key(value) -> bool:
  return jnp.issubdtype(getattr(value, 'dtype', np.int32), jax.dtypes.prng_key)


def _spec(name: str, value) -> dict:
  # Not isinstance: np.float64 is a float to Python, and here an array.
  if type(value) in _PYTHON:
    return {'python': type(value).__name__}
  dtype = getattr(value, 'dtype', None)
  storable = dtype is not None and (_is_key(value) or _is_numeric(np.dtype(dtype)))
  if not storable:
    what = type(value).__name__ if dtype is None else f'an array of {dtype}'
    raise ValueError(
      f'state: {name} is {what}; a checkpoint holds arrays of numbers or bools, typed'
      f' keys, and Python bools, ints and floats. Put other things into extra.'
    )
  return {'dtype': str(dtype), 'shape': list(value.shape)}


def _is_numeric(dtype: np.dtype) -> bool:
  # bfloat16, int4 and the float8 types have kind V, as raw bytes and records have.
  return dtype.kind in 'biufc' or (dtype.kind == 'V' and dtype.type is not np.void)


def to_host(value) -> np.ndarray:
  """One whole copy of an array as NumPy: every process returns the same.

  A replicated array is read from its first local replica. What is spread over
  several processes is gathered, so each host needs room for that array.
  """
  if _is_key(value):
    value = jax.random.key_data(value)
  if isinstance(value, jax.Array):
    if value.is_fully_replicated:
      value = value.addressable_data(0)
    elif not value.is_fully_addressable:
      from jax.experimental import multihost_utils

      value = multihost_utils.process_allgather(value, tiled=True)
  return np.asarray(value)


def describe(state) -> tuple[dict, dict]:
  """Splits a state into host arrays and the description of its leaves.

  Args:
    state: any pytree; see `Checkpoints.save`.

  Returns:
    `(arrays, leaves)`: `{name: np.ndarray}` of what Orbax stores, and
    `{name: JSON}` with dtype, shape and crc32 of every leaf. Python scalars and
    zero-size arrays, which Orbax refuses, are in the description only.
  """
  names, values, _ = _named(state)
  leaves = {name: _spec(name, value) for name, value in zip(names, values)}
  # All copies are under way before the first one is waited for.
  for value in values:
    if isinstance(value, jax.Array) and not _is_key(value):
      value.copy_to_host_async()
  arrays = {}
  for name, value in zip(names, values):
    if 'python' in leaves[name]:
      leaves[name]['value'] = value
      continue
    if _is_key(value):
      leaves[name]['impl'] = str(jax.random.key_impl(value))
    host = to_host(value)
    leaves[name]['crc32'] = core.digest(host)
    if host.size:
      arrays[name] = host
  return arrays, leaves


def _show(spec: dict) -> str:
  if 'python' in spec:
    return f'a Python {spec["python"]}'
  return f'{spec["dtype"]} {tuple(spec["shape"])}'


def match(target, leaves: dict) -> None:
  """Raises ValueError where a target has other leaves than a checkpoint."""
  names, values, _ = _named(target)
  wanted = {name: _spec(name, value) for name, value in zip(names, values)}
  lost = [name for name in wanted if name not in leaves]
  extra = [name for name in leaves if name not in wanted]
  if lost or extra:
    parts = [
      f'{text} {", ".join(few[:3])}{f" and {len(few) - 3} more" if few[3:] else ""}'
      for text, few in (('it lacks', lost), ('the target lacks', extra))
      if few
    ]
    raise ValueError(f'the checkpoint is of another model: {"; ".join(parts)}.')
  for name, spec in wanted.items():
    if any(leaves[name].get(k) != v for k, v in spec.items()):
      raise ValueError(
        f'{name}: the checkpoint holds {_show(leaves[name])}, the target wants'
        f' {_show(spec)}.'
      )


def check(leaves: dict, arrays: dict) -> None:
  """Raises Damaged where the arrays that were read are not those saved."""
  for name, spec in leaves.items():
    if 'python' in spec:
      continue
    host = arrays.get(name)
    if host is None:
      if 0 in spec['shape']:
        continue
      raise Damaged(f'{name} is missing')
    if core.digest(np.asarray(host)) != spec['crc32']:
      raise Damaged(f'{name} does not have the digest that was saved')


def rebuild(target, leaves: dict, arrays: dict):
  """The saved values in the tree, types, shardings and devices of the target."""
  names, values, treedef = _named(target)
  built = []
  for name, value in zip(names, values):
    spec = leaves[name]
    if 'python' in spec:
      built.append(type(value)(spec['value']))
      continue
    host = arrays.pop(name, None)  # Popped: the host copy goes as soon as it can.
    if host is None:
      shape = spec['shape']
      if 'impl' in spec:
        # Keys are stored as their words, along one axis more.
        shape = jax.random.key_data(jax.random.key(0, impl=spec['impl'])).shape
        shape = (*spec['shape'], *shape)
      host = np.zeros(shape, np.uint32 if 'impl' in spec else value.dtype)
    built.append(_place(value, np.asarray(host), spec.get('impl')))
  return treedef.unflatten(built)


def _place(target, host: np.ndarray, impl: str | None):
  if isinstance(target, np.generic):
    return host[()]
  if isinstance(target, np.ndarray):
    return host
  # An uncommitted array may follow the others to any device: it has to stay so.
  sharding = target.sharding if getattr(target, 'committed', True) else None
  if impl is not None:
    wrap = lambda data: jax.random.wrap_key_data(data, impl=impl)
    return jax.jit(wrap, out_shardings=sharding)(host)
  if getattr(target, 'weak_type', False):
    # A strong float32 scalar would promote bfloat16 where the weak one did not.
    zero = {'f': 0.0, 'i': 0, 'c': 0j}[host.dtype.kind]
    weak = lambda x: jnp.broadcast_to(jnp.asarray(zero), x.shape).at[...].set(x)
    return jax.jit(weak, out_shardings=sharding)(host)
  if sharding is None:
    return jnp.array(host)
  # Each process fills in the shards of its own devices.
  return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def _flatten(config, prefix='') -> dict:
  if not isinstance(config, Mapping):
    return {prefix: config}
  flat = {}
  for key, value in config.items():
    flat.update(_flatten(value, f'{prefix}.{key}' if prefix else key))
  return flat


def config_differences(saved, given, ignore) -> list[str]:
  """What differs between two configs, as `key: saved, now given`, without ignored."""
  saved, given = _flatten(saved), _flatten(given)
  lines, absent = [], object()
  for key in sorted({*saved, *given}):
    if any(fnmatch.fnmatchcase(key, pattern) for pattern in ignore):
      continue
    values = saved.get(key, absent), given.get(key, absent)
    old, new = ('(absent)' if v is absent else repr(v) for v in values)
    # By value, so that 1 is 1.0, and by text, so that NaN is NaN.
    if old != new and values[0] != values[1]:
      lines.append(f'{key}: {old} in the checkpoint, {new} now')
  return lines

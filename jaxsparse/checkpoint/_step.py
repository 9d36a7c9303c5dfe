"""One checkpoint: what goes into it, and how it is read.

Nothing that was read is trusted before its digest fits.
"""

import errno
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxsparse import core
from jaxsparse.checkpoint import _manifest, _noise


class Restored(NamedTuple):
  """What `Checkpoints.restore` returns.

  Attributes:
    step: the step that was saved.
    state: a tree like the target.
    extra: the `extra` of the save, as JSON gives it back; None without one.
  """

  step: int
  state: Any
  extra: Any


class Identity(NamedTuple):
  """What a checkpoint must agree on; None agrees with everything."""

  config: Any
  fingerprint: Any
  ignore: tuple[str, ...]


def items(step: int, state, extra, metric, identity: Identity) -> dict:
  """What Orbax saves: the arrays, the manifest with their digests, the config.

  All of it becomes one directory, which is renamed into place when it is complete:
  the digests are there if and only if the arrays are.

  Returns:
    `{item name: Orbax arguments}`.

  Raises:
    ValueError: what cannot be stored.
  """
  arrays, leaves = _manifest.describe(state)
  manifest = {
    'step': step,
    'metric': metric,
    'extra': _manifest.as_json(extra, 'extra'),
    'fingerprint': identity.fingerprint,
    'config_crc32': core.digest(identity.config),
    'leaves': leaves,
  }
  saved = {
    'manifest': ocp.args.JsonSave(_manifest.seal(manifest)),
    # Orbax's JSON item is an object: None has to be wrapped.
    'config': ocp.args.JsonSave({'config': identity.config}),
  }
  # Orbax refuses an item without arrays.
  return saved | ({'arrays': ocp.args.PyTreeSave(arrays)} if arrays else {})


def read_manifest(path: pathlib.Path) -> dict:
  """The verified manifest of one checkpoint; raises Damaged."""
  manifest = _manifest.unseal(_item(path, 'manifest', ocp.args.JsonRestore()))
  if manifest['step'] != int(path.name):
    raise _manifest.Damaged(f'it is a copy of step {manifest["step"]}')
  return manifest


def check_identity(path: pathlib.Path, manifest: dict, identity: Identity) -> None:
  """Raises ValueError for a checkpoint of another config or fingerprint."""
  saved = manifest['fingerprint']
  if None not in (saved, identity.fingerprint) and saved != identity.fingerprint:
    raise ValueError(
      f'{path} has another fingerprint: {saved!r} there,'
      f' {identity.fingerprint!r} now. Use another directory.'
    )
  config = _item(path, 'config', ocp.args.JsonRestore()).get('config')
  if core.digest(config) != manifest['config_crc32']:
    raise _manifest.Damaged('its config does not have the digest that was saved')
  if None in (config, identity.config):
    return
  lines = _manifest.config_differences(config, identity.config, identity.ignore)
  if lines:
    raise ValueError(
      f'{path} was saved with another config: {"; ".join(lines)}. Use another'
      f' directory, or ignore=.'
    )


def read(path: pathlib.Path, target, identity: Identity) -> Restored:
  """One checkpoint, verified, as the target wants it.

  Raises:
    Damaged: it cannot be read, or is not what was saved.
    ValueError: it is good, and of another model or config.
  """
  damage, arrays = None, {}
  try:
    manifest = read_manifest(path)
    check_identity(path, manifest, identity)
    leaves = manifest['leaves']
    _manifest.match(target, leaves)
    # Without an array that has entries, no such item was saved.
    if any(0 not in spec.get('shape', (0,)) for spec in leaves.values()):
      arrays = _item(path, 'arrays', ocp.args.PyTreeRestore())
    _manifest.check(leaves, arrays)
  except _manifest.Damaged as error:
    damage = error
  if not _all_processes(damage is None):
    raise damage or _manifest.Damaged('another process cannot read it')
  state = _manifest.rebuild(target, leaves, arrays)
  return Restored(manifest['step'], state, manifest['extra'])


def reason(error: BaseException | None) -> str:
  """Why writing failed, in a few words, from a chain of exceptions."""
  chain: list[BaseException] = []
  while error is not None and error not in chain:
    chain.append(error)
    error = error.__cause__ or error.__context__
  text = ' '.join(f'{getattr(e, "errno", "")} {e}' for e in chain)
  numbers = {getattr(e, 'errno', None) for e in chain}
  for number, words, marks in (
    (errno.ENOSPC, 'no space left on the device', ('No space', 'RESOURCE_EXHAUSTED')),
    (errno.EROFS, 'the file system is read-only', ('Read-only file system',)),
    (errno.EACCES, 'permission denied', ('Permission denied', 'PERMISSION_DENIED')),
    (errno.EPERM, 'operation not permitted', ('Operation not permitted',)),
    (errno.ENOTDIR, 'a part of the path is a file', ('Not a directory',)),
  ):
    if number in numbers or any(mark in text for mark in marks):
      return words
  first = str(chain[0]).strip().split('\n')[0]
  return f'{type(chain[0]).__name__}: {first}'[:200]


def _item(path: pathlib.Path, name: str, args):
  _noise.ignore_closed_loops()
  try:
    # Through a reader of its own: the writer may be busy with the next step.
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
      return reader.restore(path, args=ocp.args.Composite(**{name: args}))[name]
  except Exception as error:
    raise _manifest.Damaged(f'its {name} cannot be read ({reason(error)})') from error


def _all_processes(good: bool) -> bool:
  # All of them have to fall back together.
  if jax.process_count() == 1:
    return good
  from jax.experimental import multihost_utils

  return bool(np.all(multihost_utils.process_allgather(np.array(good))))

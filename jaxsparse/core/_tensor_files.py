"""Files of named tensors that say what they are, and whether they are whole."""

from collections.abc import Mapping
import json
import os
import pathlib
from typing import Any
import zlib

import numpy as np

from jaxsparse.core import _trees

_HEAD = 'jaxsparse'


def digest(value) -> int:
  """The crc32 of an array (dtype, shape, bytes), or of the JSON text of the rest.

  Accidental damage is what it has to find: every single flipped bit, every burst
  below 33 bits, and all but 2**-32 of the rest.

  Example:
    >>> import numpy as np
    >>> from jaxsparse import core
    >>> core.digest(np.ones(2)) == core.digest(np.ones((2, 1)))
    False
  """
  if not isinstance(value, np.ndarray):
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())
  seed = zlib.crc32(f'{value.dtype} {value.shape}'.encode())
  if value.dtype.name in ('int2', 'int4', 'uint2', 'uint4'):
    value = value.astype(np.int8)  # The unused high bits of a byte are arbitrary.
  return zlib.crc32(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data, seed)


def save_tensors(
  path,
  kind: tuple[str, int],
  tensors: Mapping[str, np.ndarray],
  manifest: Mapping[str, Any],
) -> int:
  """Writes one safetensors file with a manifest and digests of all that is in it.

  It takes the place of an old file only once it is complete.

  Args:
    path: of the file.
    kind: what it is, and the version of that.
    tensors: `{name: array}`.
    manifest: what JSON can hold, beside `format`, `version`, `tensors` and `crc32`.

  Returns:
    The bytes of the file.

  Raises:
    ImportError: safetensors is not installed.
    ValueError: a manifest that is no JSON.

  Example:
    >>> import tempfile, numpy as np
    >>> from jaxsparse import core
    >>> path = tempfile.mkdtemp() + '/weights.safetensors'
    >>> size = core.save_tensors(path, ('mine', 1), {'x': np.ones(2)}, {'epoch': 3})
    >>> manifest, tensors = core.load_tensors(path, ('mine', 1))
    >>> manifest['epoch'], tensors['x'].tolist()
    (3, [1.0, 1.0])
  """
  import safetensors.numpy

  digests = {name: digest(array) for name, array in tensors.items()}
  body = {'format': kind[0], 'version': kind[1], **manifest, 'tensors': digests}
  try:
    # By way of JSON: the digest is of what will be read, lists in the place of tuples.
    body = json.loads(json.dumps(body))
  except (TypeError, ValueError) as error:
    raise ValueError(f'metadata: wanted what JSON can hold; {error}.') from error
  # One entry: safetensors writes several in another order each time.
  head = {_HEAD: json.dumps({**body, 'crc32': digest(body)})}
  path = pathlib.Path(path)
  # In the same folder: a rename replaces a file at once within one file system only.
  part = path.with_name(f'{path.name}.part')
  whole = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
  safetensors.numpy.save_file(whole, part, metadata=head)
  os.replace(part, path)
  return path.stat().st_size


def load_tensors(path, kind: tuple[str, int]) -> tuple[dict, dict[str, np.ndarray]]:
  """Reads what `save_tensors` wrote.

  Args:
    path: of the file.
    kind: what it has to be, and the version that can be read.

  Returns:
    `(manifest, tensors)`.

  Raises:
    ImportError: safetensors is not installed.
    OSError: there is no such file.
    ValueError: a file of another kind or version, or a damaged one; names the tensor.
  """
  import safetensors

  try:
    with safetensors.safe_open(path, 'np') as file:
      head = file.metadata() or {}
      tensors = {name: file.get_tensor(name) for name in file.keys()}
  except safetensors.SafetensorError as error:
    raise ValueError(f'{path}: no safetensors file ({error}).') from error
  manifest = json.loads(head.get(_HEAD, '{}'))
  if manifest.get('format') != kind[0]:
    raise ValueError(
      f'{path}: its format is {manifest.get("format")!r}; wanted {kind[0]!r}.'
    )
  if manifest.get('version') != kind[1]:
    raise ValueError(
      f'{path}: version {manifest.get("version")}; this jaxsparse reads {kind[1]}.'
    )
  body = {k: v for k, v in manifest.items() if k != 'crc32'}
  if digest(body) != manifest.get('crc32'):
    raise ValueError(f'{path}: its manifest is damaged.')
  for name, wanted in manifest['tensors'].items():
    if name not in tensors or digest(tensors[name]) != wanted:
      raise ValueError(f'{path}: {name} is missing or damaged.')
  return manifest, tensors


def tree_like(path, named: Mapping[str, Any], shaped: Mapping[str, Any], like=None):
  """Puts leaves that a file names into a tree.

  Args:
    path: of the file, for messages.
    named: `{slash name: leaf}`.
    shaped: `{slash name: what has its shape and dtype}`.
    like: the tree whose containers the result has, of arrays or
      `jax.ShapeDtypeStruct`; None for nested dicts, as Linen has them.

  Returns:
    A tree of the leaves.

  Raises:
    ValueError: leaves that are not those of `like`; names the leaf.

  Example:
    >>> from jaxsparse import core
    >>> core.tree_like('file', {'dense1/kernel': 1.0, 'dense1/bias': 2.0}, {})
    {'dense1': {'kernel': 1.0, 'bias': 2.0}}
  """
  if like is None:
    return _nested(named)
  names, leaves, treedef = _trees.named_leaves(like)
  wanted = dict(zip(names, leaves))
  for name in [*wanted, *named]:
    if name not in named or name not in wanted:
      where = 'like' if name not in wanted else 'the file'
      raise ValueError(f'{path}: {name} is not in {where}.')
    got, want = shaped[name], wanted[name]
    if tuple(got.shape) != tuple(want.shape) or got.dtype != want.dtype:
      raise ValueError(
        f'{path}: {name} is {got.dtype}{list(got.shape)}, like has'
        f' {want.dtype}{list(want.shape)}.'
      )
  return treedef.unflatten([named[n] for n in names])


def _nested(named):
  tree: dict = {}
  for name, value in named.items():
    *parents, last = name.split('/')
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[last] = value
  return tree

"""A posterior on disk: two values per active weight, and which weights those are."""

from collections.abc import Mapping
import json
import os
import pathlib
from typing import Any, NamedTuple
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from jaxsparse import core
from jaxsparse.bayes import _posterior

_FORMAT, _VERSION = 'jaxsparse.bayes.posterior', 1


class Stored(NamedTuple):
  """What a file holds.

  Attributes:
    params: the `Gaussian`; exactly 0 off the mask, in both fields.
    masks: as of `js.get_masks`.
    metadata: what the caller had saved with it.
  """

  params: _posterior.Gaussian
  masks: core.Masks
  metadata: dict


def save_posterior(
  path,
  params: _posterior.Gaussian,
  masks: core.Masks,
  metadata: Mapping[str, Any] | None = None,
) -> int:
  """Saves a posterior as one safetensors file, in proportion to its active weights.

  For a pruned leaf the file has the active values `mu/<leaf>` and `rho/<leaf>` in
  row-major order, and `mask/<leaf>`: one bit per weight, or one index per active weight
  where that is shorter. What is not pruned is stored whole. The file takes the place
  of an old one only once it is complete.

  Args:
    path: of the file.
    params: a `Gaussian` of arrays.
    masks: its masks, `js.get_masks(opt_state)`.
    metadata: JSON-able; say what rho means, such as `{'link': 'exp_link'}`.

  Returns:
    The bytes of the file.

  Raises:
    ImportError: safetensors is not installed.
    ValueError: masks that do not fit, or metadata that is no JSON.

  Example:
    >>> import tempfile
    >>> import jax, jax.numpy as jnp, jaxsparse as js
    >>> posterior = js.bayes.mean_field()
    >>> params = posterior.init(jax.random.key(0), {'kernel': jnp.ones((8, 4))})
    >>> masks = {'kernel': jnp.arange(32).reshape(8, 4) < 4}
    >>> path = tempfile.mkdtemp() + '/posterior.safetensors'
    >>> size = js.bayes.save_posterior(path, params, masks, {'epoch': 3})
    >>> stored = js.bayes.load_posterior(path)
    >>> stored.params.mu['kernel'].sum().item(), stored.metadata
    (4.0, {'epoch': 3})
  """
  import safetensors.numpy

  tensors: dict[str, np.ndarray] = {}
  leaves = {}
  for name, mu, rho, mask in _columns(params, masks):
    entry, arrays = _packed(name, mu, rho, mask)
    leaves[name] = entry
    tensors.update({f'{field}/{name}': array for field, array in arrays.items()})
  digests = {name: _digest(array) for name, array in tensors.items()}
  try:
    manifest = json.dumps(
      {'leaves': leaves, 'crc32': digests, 'metadata': dict(metadata or {})}
    )
  except TypeError as error:
    raise ValueError(f'metadata: wanted what JSON can hold; {error}.') from error
  # A safetensors header holds strings alone, so all else goes into one as JSON.
  head = {'format': _FORMAT, 'version': str(_VERSION), 'manifest': manifest}
  path = pathlib.Path(path)
  part = path.with_name(f'{path.name}.part')
  safetensors.numpy.save_file(tensors, part, metadata=head)
  # A rename within a folder is atomic: a crash leaves the old file as it was.
  os.replace(part, path)
  return path.stat().st_size


def load_posterior(path, like=None) -> Stored:
  """Loads what `save_posterior` saved.

  Args:
    path: of the file.
    like: a tree like the model's params (arrays or `jax.ShapeDtypeStruct`), whose
      containers the result has; None for nested dicts, as Linen has them.

  Returns:
    `Stored`.

  Raises:
    ImportError: safetensors is not installed.
    OSError: there is no such file.
    ValueError: a file of another kind or of a later version, a damaged one, or leaves
      that are not those of `like`; names the leaf.
  """
  manifest, tensors = _read(path)
  columns = {n: _unpacked(path, n, e, tensors) for n, e in manifest['leaves'].items()}
  if like is None:
    trees = [_nested({n: c[i] for n, c in columns.items()}) for i in range(3)]
  else:
    names, wanted, treedef = core.named_leaves(like)
    _check_like(path, dict(zip(names, wanted)), {n: c[0] for n, c in columns.items()})
    trees = [treedef.unflatten([columns[n][i] for n in names]) for i in range(3)]
  mu, rho, masks = trees
  return Stored(_posterior.Gaussian(mu, rho), masks, manifest['metadata'])


def _columns(params, masks):
  """Yields (name, mu, rho, mask) as NumPy arrays."""
  names, mus, treedef = core.named_leaves(params.mu)
  others = {'params.rho': params.rho, 'masks': masks}
  for what, tree in others.items():
    if jax.tree.structure(tree) != treedef:
      raise ValueError(f'{what}: another tree than params.mu; wanted {treedef}.')
  rows = zip(names, mus, *map(jax.tree.leaves, others.values()))
  for name, mu, rho, mask in rows:
    mu, rho, mask = (np.asarray(x) for x in (mu, rho, mask))
    fits = mask.ndim in (0, mu.ndim) and rho.shape in ((), mu.shape)
    if mask.dtype != bool or not fits:
      raise ValueError(
        f'{name}: mask {mask.dtype}{list(mask.shape)} and rho {list(rho.shape)} do not'
        f' fit mu {list(mu.shape)}.'
      )
    yield name, mu, rho, mask


def _packed(name, mu, rho, mask):
  """`(entry of the manifest, {field: array})` of one leaf."""
  entry = {'shape': list(mu.shape), 'mask_shape': list(mask.shape), 'kept': 'all'}
  if not mask.ndim:
    if not mask:
      raise ValueError(f'{name}: a scalar mask False; wanted True, or one of its size.')
    return entry, {'mu': np.ascontiguousarray(mu), 'rho': np.ascontiguousarray(rho)}
  # A mask of blocks or channels is stored at its own, smaller shape.
  whole = np.broadcast_to(mask, mu.shape)
  arrays = {'mu': mu[whole], 'rho': rho[whole] if rho.ndim else rho}
  kept, bits = np.flatnonzero(mask), np.packbits(mask)
  # Below a density of 1/32 the indices are shorter than a bit for each weight.
  is_short = 4 * kept.size < bits.size and mask.size < 2**32
  entry['kept'] = 'index' if is_short else 'bits'
  arrays['mask'] = kept.astype(np.uint32) if is_short else bits
  return entry, arrays


def _unpacked(path, name, entry, tensors):
  """`(mu, rho, mask)` of one leaf."""
  mu, rho = tensors[f'mu/{name}'], tensors[f'rho/{name}']
  shape, mask_shape = tuple(entry['shape']), tuple(entry['mask_shape'])
  if entry['kept'] == 'all':
    return jnp.asarray(mu), jnp.asarray(rho), jnp.ones((), bool)
  stored = tensors[f'mask/{name}']
  size = int(np.prod(mask_shape))
  if entry['kept'] == 'index':
    flat = np.zeros(size, bool)
    flat[stored] = True
  else:
    # `packbits` fills the last byte up with zeros: `count` cuts them off.
    flat = np.unpackbits(stored, count=size).astype(bool)
  mask = flat.reshape(mask_shape)
  whole = np.broadcast_to(mask, shape)
  if np.count_nonzero(whole) != mu.size:
    raise ValueError(f'{path}: {name} has {mu.size} values for another mask.')

  def spread(values):
    dense = np.zeros(shape, values.dtype)
    dense[whole] = values
    return jnp.asarray(dense)

  return spread(mu), spread(rho) if rho.ndim else jnp.asarray(rho), jnp.asarray(mask)


def _read(path):
  """`(manifest, {name: array})` of a file that is whole and of a kind that we know."""
  import safetensors

  try:
    with safetensors.safe_open(path, 'np') as file:
      head = file.metadata() or {}
      tensors = {name: file.get_tensor(name) for name in file.keys()}
  except safetensors.SafetensorError as error:
    raise ValueError(f'{path}: no safetensors file ({error}).') from error
  if head.get('format') != _FORMAT:
    raise ValueError(f'{path}: no posterior; its format is {head.get("format")!r}.')
  if head.get('version') != str(_VERSION):
    raise ValueError(
      f'{path}: version {head.get("version")}; this jaxsparse reads {_VERSION}.'
    )
  manifest = json.loads(head['manifest'])
  for name, digest in manifest['crc32'].items():
    if name not in tensors or _digest(tensors[name]) != digest:
      raise ValueError(f'{path}: {name} is missing or damaged.')
  return manifest, tensors


def _digest(array) -> int:
  # The same bytes under another dtype or shape are damage too.
  seed = zlib.crc32(f'{array.dtype} {array.shape}'.encode())
  return zlib.crc32(np.ascontiguousarray(array).tobytes(), seed)


def _nested(named):
  tree: dict = {}
  for name, value in named.items():
    *parents, last = name.split('/')
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[last] = value
  return tree


def _check_like(path, wanted, found):
  for name in [*wanted, *found]:
    if name not in found or name not in wanted:
      where = 'like' if name not in wanted else 'the file'
      raise ValueError(f'{path}: {name} is not in {where}.')
    got, want = found[name], wanted[name]
    if got.shape != want.shape or got.dtype != want.dtype:
      raise ValueError(
        f'{path}: {name} is {got.dtype}{list(got.shape)}, like has'
        f' {want.dtype}{list(want.shape)}.'
      )

"""A sparse model as one file: values, and where they stand."""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsparse import core, sparse
from jaxsparse.export import _places, _program

_KIND = ('jaxsparse.export', 1)
# What safetensors can hold. Larger blocks have faster kernels.
_DTYPES = 'bool bfloat16 float16 float32 float64 int8 int16 int32 int64 uint8 uint16'
_BLOCKS = (16, 8, 4)
_GROUPS = (4, 8, 16)


class Exported(NamedTuple):
  """What a file holds.

  Attributes:
    params: arrays, and a `js.sparse.SparseArray` where there was a mask or a pattern;
      stacked layers have leading axes on its arrays.
    metadata: what the caller had saved with it.
    program: a `Program`, or None.
  """

  params: Any
  metadata: dict
  program: _program.Program | None


def save(
  path,
  params: core.Params,
  masks_or_patterns: Any,
  metadata: Mapping[str, Any] | None = None,
  *,
  program: _program.Program | None = None,
  leaves: core.LeafOverrides | None = None,
) -> int:
  """Saves a sparse model as one safetensors file, in proportion to its nonzeros.

  A sparse leaf has `values/<leaf>`, its nonzeros in row-major order, and
  `places/<leaf>`: a bit for each weight, or the gap from each nonzero to the next in
  the narrowest unsigned integers, whichever is shorter. Weights that come in blocks of
  4, 8 or 16 outputs have one place a block. Those of which every 4, 8 or 16 consecutive
  inputs have as many are written along the inputs, output by output, and read as N:M.
  Other leaves are `array/<leaf>`. A manifest has the version, shapes, dtypes, formats
  and a crc32 of everything. The file takes the place of an old one only once it is
  complete.

  Args:
    path: of the file.
    params: dense params with their masks, or values with their patterns.
    masks_or_patterns: `js.get_masks(opt_state)`, or
      `js.compact.get_patterns(opt_state)`.
    metadata: JSON-able.
    program: the forward pass, from `serialize`, to be stored in the file too.
    leaves: with masks, overrides of `js.leaves_of` for stacked layers.

  Returns:
    The bytes of the file.

  Raises:
    ImportError: safetensors is not installed.
    ValueError: masks of another tree or shape, nonzeros off a mask, a masked leaf that
      has no sparse form, a dtype that cannot be stored, by leaf; metadata that is no
      JSON.

  Example:
    >>> import tempfile, jax.numpy as jnp, jaxsparse as js, optax
    >>> tx = js.transforms.static(optax.adam(1e-3), 0.75, seed=0)
    >>> params, opt_state = js.init(tx, {'kernel': jnp.ones((8, 4))})
    >>> path = tempfile.mkdtemp() + '/model.safetensors'
    >>> size = js.export.save(path, params, js.get_masks(opt_state), {'epoch': 3})
    >>> exported = js.export.load(path)
    >>> exported.metadata, exported.params['kernel'].values.shape
    ({'epoch': 3}, (8,))
  """
  names, arrays, treedef = core.named_leaves(params)
  marks, marks_treedef = jax.tree.flatten(masks_or_patterns, is_leaf=_is_pattern)
  if marks_treedef != treedef:
    raise ValueError(
      f'masks_or_patterns: another tree than the params; wanted {treedef}.'
    )
  described = None
  entries, tensors = {}, {}
  for name, array, mark in zip(names, map(np.asarray, arrays), marks):
    if array.dtype.name not in _DTYPES.split():
      raise ValueError(f'{name}: dtype {array.dtype}; a file holds {_DTYPES}.')
    if _is_pattern(mark):
      packed = _from_pattern(name, array, mark)
    elif np.ndim(mark):
      described = described or core.leaves_of(params, leaves)
      packed = _from_mask(described[name], array, np.asarray(mark))
    elif not mark:
      raise ValueError(f'{name}: a scalar mask False; wanted True, or one of its size.')
    else:
      entries[name], tensors[f'array/{name}'] = {'kind': 'dense'}, array
      continue
    entries[name], found = _packed(*packed)
    tensors |= {f'{what}/{name}': x for what, x in found.items()}
  manifest = {'leaves': entries, 'metadata': dict(metadata or {})}
  if program is not None:
    manifest['program'] = {k: v for k, v in program._asdict().items() if k != 'data'}
    tensors['program'] = np.frombuffer(program.data, np.uint8)
  return core.save_tensors(path, _KIND, tensors, manifest)


def load(path, like=None) -> Exported:
  """Loads what `save` saved; needs neither the model nor the optimizer.

  Args:
    path: of the file.
    like: a tree like the model's dense params (arrays or `jax.ShapeDtypeStruct`), whose
      containers the result has; None for nested dicts, as Linen has them.

  Returns:
    `Exported`. Of a Linen model, `js.layers.bind(model, js.compact.handler())` runs
    `{'params': exported.params}`; `deserialize(exported.program)` runs without a model.

  Raises:
    ImportError: safetensors is not installed.
    OSError: there is no such file.
    ValueError: a file of another kind or of another version, a damaged one, or leaves
      that are not those of `like`; names the leaf.
  """
  manifest, tensors = core.load_tensors(path, _KIND)
  named: dict[str, Any] = {}
  shaped: dict[str, Any] = {}
  for name, entry in manifest['leaves'].items():
    try:
      if entry['kind'] == 'dense':
        named[name] = shaped[name] = jnp.asarray(tensors[f'array/{name}'])
        continue
      values, stored = tensors[f'values/{name}'], tensors[f'places/{name}']
      named[name] = _unpacked(entry, values, stored)
    except (KeyError, ValueError) as error:
      raise ValueError(f'{path}: {name} cannot be read: {error}.') from error
    shape = (*entry['stack'], *entry['shape'])
    shaped[name] = jax.ShapeDtypeStruct(shape, values.dtype)
  params = core.tree_like(path, named, shaped, like)
  program = manifest.get('program')
  if program is not None:
    program = _program.Program(tensors['program'].tobytes(), **program)
    program = program._replace(
      calls=tuple(program.calls), platforms=tuple(program.platforms)
    )
  return Exported(params, manifest['metadata'], program)


def _is_pattern(x) -> bool:
  return sparse.is_pattern(x)


def _from_mask(leaf, param, mask):
  """`(stack, format, places of blocks, values (count, block))` of a masked leaf."""
  fits = mask.ndim == param.ndim and all(
    m in (1, n) for m, n in zip(mask.shape, param.shape)
  )
  if mask.dtype != bool or not fits:
    raise ValueError(
      f'{leaf.name}: mask {mask.dtype}{list(mask.shape)} does not fit the parameter'
      f' {list(param.shape)}.'
    )
  whole = np.broadcast_to(mask, param.shape)
  if np.any(param[~whole] != 0):
    raise ValueError(
      f'params: {leaf.name} has nonzeros off its mask, which would be lost; wanted what'
      ' js.init returned, or js.apply_masks(params, opt_state).'
    )
  # Only axes, for now: the tiles are chosen by who reads.
  fmt = sparse.format_of(leaf, 0.0)
  rows = whole.reshape(-1, fmt.outputs)
  block = next((b for b in _BLOCKS if _is_made_of(rows, b)), 1)
  fmt = dataclasses.replace(fmt, block=block)
  places = np.flatnonzero(whole.reshape(-1, block).any(-1))
  stack = leaf.shape[: len(leaf.stack_axes)]
  return _along_inputs(stack, fmt, places, param.reshape(-1, block)[places])


def _along_inputs(stack, fmt, places, values):
  """The same, for N:M along the axis that is contracted, if that is what it is."""
  layer, within = np.divmod(places, max(fmt.num_blocks, 1))
  inputs, outputs = np.divmod(within, fmt.outputs)
  # The same places output by output, where the inputs of a group are neighbours.
  across = (layer * fmt.outputs + outputs) * fmt.inputs + inputs
  total = math.prod(stack) * fmt.num_blocks
  for m in _GROUPS if fmt.block == 1 and total else ():
    # Where each group of m has n, n / m of all places are taken.
    n, rest = divmod(places.size * m, total)
    if rest or not 0 < n < m or fmt.in_shape[-1] % m:
      continue
    if (np.bincount(across // m, minlength=total // m) == n).all():
      order = np.argsort(across)
      fmt = sparse.Format(fmt.shape, fmt.in_axes, nm=(n, m))
      return stack, fmt, across[order], values[order]
  return stack, fmt, places, values


def _is_made_of(rows, block):
  if rows.shape[1] % block:
    return False
  blocks = rows.reshape(rows.shape[0], -1, block)
  return np.array_equal(blocks.any(-1), blocks.all(-1))


def _from_pattern(name, values, pattern):
  """The same of values on a pattern; what it holds for padding is left out."""
  fmt, stack = pattern.format, pattern.stack
  wanted = (*stack, pattern.capacity * fmt.block)
  if values.shape != wanted:
    raise ValueError(
      f'params: {name} has shape {values.shape}; its pattern wants {wanted}.'
    )
  layers = math.prod(stack)
  flat = jax.tree.map(lambda x: x.reshape(layers, x.shape[-1]), pattern)
  inputs, rows, valid = map(np.asarray, jax.vmap(sparse.coordinates)(flat))
  # In int64: a stack may have more places than int32 counts.
  layer = np.arange(layers, dtype=np.int64)[:, None]
  if fmt.nm is not None:
    # N:M is held output by output, so its places rise as they are.
    places = (layer * fmt.outputs + rows) * fmt.inputs + inputs
    return stack, fmt, places[valid], values.reshape(layers, -1)[valid]
  places = (layer * fmt.inputs + inputs) * fmt.rows + rows
  places, values = places[valid], values.reshape(layers, -1, fmt.block)[valid]
  order = np.argsort(places)
  return _along_inputs(stack, fmt, places[order], values[order])


def _packed(stack, fmt, places, values):
  code, stored = _places.encode(places, math.prod(stack) * fmt.num_blocks)
  entry = {
    'kind': 'sparse',
    'stack': list(stack),
    'shape': list(fmt.shape),
    'in_axes': fmt.in_axes,
    'places': code,
  }
  if fmt.nm is not None:
    # A kind of its own, which a reader that does not know it refuses.
    entry |= {'kind': 'nm', 'nm': list(fmt.nm)}
  else:
    entry['block'] = fmt.block
  return entry, {'values': values.reshape(-1), 'places': stored}


def _unpacked(entry, values, stored):
  """The `SparseArray` of one leaf."""
  shape, stack = tuple(entry['shape']), tuple(entry['stack'])
  if entry['kind'] == 'nm':
    fmt = sparse.Format(shape, entry['in_axes'], nm=tuple(entry['nm']))
    return _unpacked_nm(fmt, stack, entry['places'], values, stored)
  fmt = sparse.Format(shape, entry['in_axes'], entry['block'])
  layers = math.prod(stack)
  places = _places.decode(entry['places'], stored, layers * fmt.num_blocks)
  if values.shape != (places.size * fmt.block,):
    raise ValueError(f'{values.size} values for {places.size} blocks of {fmt.block}')
  layer, within = np.divmod(places, max(fmt.num_blocks, 1))
  counts = np.bincount(layer, minlength=layers)
  capacity = int(counts.max(initial=0))
  density = capacity / max(fmt.num_blocks, 1)
  fmt = sparse.choose_format(shape, density, fmt.in_axes, fmt.block)
  valid = np.arange(capacity) < counts[:, None]
  inputs, rows = np.zeros((2, layers, capacity), np.int32)
  # Places rise, so they come layer by layer, the order in which a mask is filled.
  inputs[valid], rows[valid] = np.divmod(within, fmt.rows)
  padded = np.zeros((layers, capacity, fmt.block), values.dtype)
  padded[valid] = values.reshape(-1, fmt.block)
  into = jax.vmap(lambda *a: sparse.from_coordinates(*a, fmt))
  pattern, order = into(*map(jnp.asarray, (inputs, rows, valid)))
  # The values follow their places into the order of the tiles.
  held = np.take_along_axis(padded, np.asarray(order)[..., None], axis=1)
  whole = sparse.SparseArray(jnp.asarray(held.reshape(layers, -1)), pattern)
  return jax.tree.map(lambda x: x.reshape(*stack, x.shape[-1]), whole)


def _unpacked_nm(fmt, stack, code, values, stored):
  (n, m), layers = fmt.nm, math.prod(stack)
  places = _places.decode(code, stored, layers * fmt.num_blocks)
  if values.shape != (places.size,):
    raise ValueError(f'{values.size} values for {places.size} places')
  group, position = np.divmod(places, m)
  counts = np.bincount(group, minlength=layers * fmt.outputs * fmt.groups)
  if counts.max(initial=0) > n:
    raise ValueError(f'{counts.max()} weights in a group of nm={fmt.nm}')
  # Which of the n of its group each one is.
  rank = np.arange(places.size) - np.repeat(np.cumsum(counts) - counts, counts)
  positions = np.full((counts.size, n), 255, np.uint8)
  held = np.zeros((counts.size, n), values.dtype)
  positions[group, rank], held[group, rank] = position, values
  shape = (*stack, fmt.outputs * fmt.groups * n)
  pattern = sparse.NMPattern(jnp.asarray(positions.reshape(shape)), fmt)
  return sparse.SparseArray(jnp.asarray(held.reshape(shape)), pattern)

"""The table of a model's parameters, one row per leaf."""

import numpy as np

from jaxsparse import core
from jaxsparse.summary import _counts, _flops, _shrinkage

_RIGHT = ('Density', 'Nonzeros', 'Bytes', 'Dense FLOPs', 'Sparse FLOPs')


def table(params, opt_state_or_masks=None, leaves=None, flops=None) -> str:
  """Describes every parameter, and the model as a whole.

  Args:
    params: any pytree of arrays: a Linen dict, an `nnx.State`, a bare array.
    opt_state_or_masks: an optimizer state that holds a sparse transform, or a tree
      of masks; None for a dense model.
    leaves: overrides of the leaves' axes, as in `js.leaves_of`.
    flops: what `js.summary.flops` returned, to show FLOPs.

  Returns:
    Text. Nonzeros are counted from the masks, exactly; bytes are those of dense
    storage, which is what a masked model holds.

  Raises:
    ValueError: masks that are not of these parameters; `flops` of another type.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> params = {'bias': jnp.zeros(2), 'kernel': jnp.ones((4, 2))}
    >>> masks = {'bias': jnp.array(True), 'kernel': jnp.eye(4, 2, dtype=bool)}
    >>> print(js.summary.table(params, masks).splitlines()[4])
    | kernel | (4, 2) | io   | float32 | pruned |  25.00% |        2 |    32 |
  """
  if flops is not None and not isinstance(flops, _flops.Flops):
    raise ValueError(
      f'flops: got {type(flops).__name__}, wanted what js.summary.flops returns.'
    )
  masks = _counts.named_masks(params, opt_state_or_masks)
  described = core.leaves_of(params, leaves)
  rows = [_row(leaf, masks[leaf.name], flops) for leaf in described.values()]
  found = _counts.stats(params, opt_state_or_masks)
  lines = [*_draw(rows), *_totals(found, flops)]
  soft = _shrinkage.support(opt_state_or_masks)
  if soft is not None and found.num_prunable_kept == found.num_prunable:
    shrunk = found.num_prunable - _counts.stats(params, soft).num_prunable_kept
    lines.append(
      f'Shrunk, not pruned: {shrunk:,} weights, by a rule that keeps the network dense'
      ' until its mask is hard.'
    )
  return '\n'.join(lines)


def _row(leaf: core.Leaf, mask, flops) -> dict[str, str]:
  kept = _counts.count_kept(mask, leaf.size)
  row = {
    'Name': leaf.name,
    'Shape': str(leaf.shape),
    'Axes': _axes(leaf) or '-',
    'Dtype': np.dtype(leaf.dtype).name,
    'Kind': 'pruned' if np.ndim(mask) else 'dense',
    'Density': f'{kept / leaf.size:.2%}' if leaf.size else '-',
    'Nonzeros': f'{kept:,}',
    'Bytes': f'{leaf.size * np.dtype(leaf.dtype).itemsize:,}',
  }
  if flops is not None:
    dense, sparse = flops.leaves.get(leaf.name, (0, 0))
    row |= {'Dense FLOPs': f'{dense:,}', 'Sparse FLOPs': f'{sparse:,}'}
  return row


def _axes(leaf: core.Leaf) -> str:
  """One letter per axis: s(tacked), i(nput), o(utput), or a dot."""
  roles = dict.fromkeys(leaf.stack_axes, 's')
  roles |= dict.fromkeys(leaf.in_axes, 'i') | dict.fromkeys(leaf.out_axes, 'o')
  return ''.join(roles.get(axis, '.') for axis in range(len(leaf.shape)))


def _draw(rows: list[dict[str, str]]) -> list[str]:
  if not rows:
    return ['(no parameters)']
  columns = {c: max(len(c), *(len(row[c]) for row in rows)) for c in rows[0]}
  rule = '+'.join(['', *('-' * (width + 2) for width in columns.values()), ''])

  def line(cells):
    padded = (
      cells[c].rjust(width) if c in _RIGHT else cells[c].ljust(width)
      for c, width in columns.items()
    )
    return f'| {" | ".join(padded)} |'

  return [rule, line({c: c for c in columns}), rule, *map(line, rows), rule]


def _totals(found: _counts.Stats, flops) -> list[str]:
  lines = [
    'Axes: i input, o output, s stacked layers, . window or none.',
    f'Weights: {found.num_weights:,}, kept {found.num_kept:,}; in pruned leaves'
    f' {found.num_prunable:,}, kept {found.num_prunable_kept:,}.',
    f'Sparsity: nominal {found.nominal_sparsity:.2%} (pruned leaves), whole model'
    f' {found.whole_model_sparsity:.2%} (all parameters).',
    f'Bytes held: parameters {found.param_bytes:,}, masks {found.mask_bytes:,},'
    f' optimizer state {found.state_bytes:,}.',
  ]
  if flops is not None:
    lines.append(
      f'FLOPs for the given inputs: dense {flops.dense:,}, sparse {flops.sparse:,}'
      f' ({flops.ratio:.2%}, theoretical); {flops.unattributed:,} of both belong to'
      ' no parameter.'
    )
    lines += [f'Note: {note}.' for note in flops.notes]
  if not found.num_prunable:
    lines.append('WARNING: no leaf is pruned; the model is dense by design.')
  elif found.num_prunable_kept == found.num_prunable:
    lines.append('WARNING: all masks are True; the model is not pruned (yet).')
  return lines

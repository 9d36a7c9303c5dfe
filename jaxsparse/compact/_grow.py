"""Where weights should grow, without the dense gradient."""

from collections.abc import Callable, Mapping
import functools
import math
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from jaxsparse import core, masks, native, rules, sparse
from jaxsparse.compact import _capture, _pools, _state, _tiles

# Scores that are looked at together; they stay in a second-level cache.
_TILE = 2**17
# Active units that are struck out of a tile together.
_WINDOW = 2**12
# Fewer are sorted: slower for many, but quicker to compile.
_SORT_BELOW = 2**13
_NOWHERE = np.int32(2**31 - 1)


def grow_candidates(
  loss_fn: Callable[..., jax.Array],
  params: core.Params,
  patterns: Any,
  *args,
  num: Mapping[str, int],
  axis: str | None = None,
) -> Any:
  r"""The inactive weights with the largest gradient, for `update(..., growth=)`.

  .. math:: \text{top-}n \text{ over } (i, o) \notin P \text{ of }
    \Big| \sum_b x_{b,i}\, \delta_{b,o} \Big|

  x are the inputs of the layer, delta the gradients of its outputs. The scores are
  computed tile by tile and merged, so that no array of the size of the dense weight is
  ever held. The order and the ties are those of `js.masks.top_k_mask` on the dense
  gradient. A layer may be called several times, scanned over stacked weights,
  vmapped, rematerialised.

  Source: Evci et al. 2020, Rigging the Lottery (arXiv 1911.11134), section 3 (4).

  Args:
    loss_fn: `(params, patterns, *args) -> scalar`, which gives the patterns to an
      `apply_fn` of `bind`.
    params: values and dense arrays, or a `Gaussian`: its means grow.
    patterns: from `get_patterns`.
    *args: a batch, for example.
    num: `{leaf name: n}`, static; leaves without a name get no candidates.
    axis: the name of a device axis: inputs and output gradients are gathered over it,
      and the gradient is that of the mean of all losses.

  Returns:
    A tree like `patterns` with `Candidates` for the leaves named in `num`, else None.

  Raises:
    ValueError: a name that is no sparse leaf; a leaf that the loss does not use, or
      calls in a loop; a convolution in groups.

  Example:
    >>> import flax.linen as nn, jax, jax.numpy as jnp, jaxsparse as js
    >>> apply_fn = js.compact.bind(nn.Dense(2, use_bias=False))
    >>> weight = js.sparse.from_mask(jnp.ones((2, 2)), jnp.eye(2, dtype=bool))
    >>> loss = lambda p, patterns, x: apply_fn({'params': p}, patterns, x).sum()
    >>> found = js.compact.grow_candidates(
    ...     loss, {'kernel': weight.values}, {'kernel': weight.pattern},
    ...     jnp.array([[1., 3.]]), num={'kernel': 1})
    >>> [x.tolist() for x in found['kernel'][:3]]
    [[1], [0], [3.0]]
  """
  names, flat, treedef = core.named_leaves(patterns, is_leaf=_capture.is_pattern)
  sparse_leaves = {n: p for n, p in zip(names, flat) if isinstance(p, sparse.Pattern)}
  for name, n in num.items():
    _check_num(name, n, sparse_leaves)
  wanted = {n: p for n, p in sparse_leaves.items() if num.get(n)}

  def loss(tapped):
    given = [tapped.get(n, p) for n, p in zip(names, flat)]
    return loss_fn(params, treedef.unflatten(given), *args)

  field = params if jax.tree.structure(params) == treedef else params[0]
  dtypes = {n: x.dtype for n, x in zip(*core.named_leaves(field)[:2])}
  best = {}
  for name, calls in _capture.captured(loss, wanted).items():
    if not calls:
      raise ValueError(f'{name}: the loss does not use it.')
    search = functools.partial(_search, name, calls, num[name], axis, dtypes[name])
    best[name] = search(wanted[name])
  return treedef.unflatten([best.get(name) for name in names])


def growth_sizes(tx, opt_state) -> dict[str, int]:
  """How many candidates each leaf needs: the `num` of `grow_candidates`.

  That is the largest share that the rule will drop, looked at over a million steps,
  of the units that the leaf has; where leaves compete, of those of all of them, as far
  as there is room for them.

  Args:
    tx: from `convert`.
    opt_state: its state.

  Returns:
    `{leaf name: n}`; empty for a rule that does not grow by gradient.

  Raises:
    ValueError: a `tx` that `convert` did not return.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js, optax
    >>> tx = js.transforms.rigl(
    ...     optax.adam(1e-3), 0.75, seed=0, when=js.schedules.every(100))
    >>> tx, _, opt_state = js.compact.convert(
    ...     tx, *js.init(tx, {'kernel': jnp.ones((8, 4))}))
    >>> js.compact.growth_sizes(tx, opt_state)
    {'kernel': 3}
  """
  rewiring = _parts(tx).rule.rewiring
  if rewiring is None or rewiring.growth != 'gradient':
    return {}
  patterns = _state.named_patterns(_state.get_patterns(opt_state))
  return _pools.sizes(rewiring, patterns, list(_state.find(opt_state).refused or ()))


def growth_when_due(
  tx,
  loss_fn: Callable[..., jax.Array],
  params: core.Params,
  opt_state: Any,
  *args,
  axis: str | None = None,
) -> Any:
  """`grow_candidates` in the steps that rewire, and nothing in the others.

  The search stands under a `lax.cond`, so that one program serves all steps; it costs
  nothing where it is not due.

  Args:
    tx: from `convert`.
    loss_fn: as for `grow_candidates`.
    params: the values.
    opt_state: the state of `tx`.
    *args: as for `grow_candidates`.
    axis: as for `grow_candidates`.

  Returns:
    The `growth` of `tx.update`; None for a rule that does not grow by gradient.

  Raises:
    ValueError: as `growth_sizes` and `grow_candidates` do.

  Example:
    >>> import flax.linen as nn, jax, jax.numpy as jnp, jaxsparse as js, optax
    >>> model, x = nn.Dense(4), jnp.ones((2, 8))
    >>> tx = js.transforms.rigl(
    ...     optax.adam(1e-3), 0.75, seed=0, when=js.schedules.every(100))
    >>> params = model.init(jax.random.key(0), x)
    >>> tx, params, opt_state = js.compact.convert(tx, *js.init(tx, params))
    >>> apply_fn = js.compact.bind(model)
    >>> loss = lambda params, patterns: apply_fn(params, patterns, x).sum()
    >>> growth = js.compact.growth_when_due(tx, loss, params, opt_state)
    >>> grads = jax.grad(loss)(params, js.compact.get_patterns(opt_state))
    >>> updates, opt_state = tx.update(grads, opt_state, params, growth=growth)
  """
  num, when = growth_sizes(tx, opt_state), _parts(tx).when
  if not num or when is None:
    return None
  patterns = _state.get_patterns(opt_state)

  def search():
    return grow_candidates(loss_fn, params, patterns, *args, num=num, axis=axis)

  shapes = jax.eval_shape(search)
  nothing = lambda: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
  return lax.cond(when(_state.find(opt_state).step), search, nothing)


def _parts(tx) -> rules.Parts:
  dense = getattr(getattr(tx, 'update', None), 'dense', None)
  if dense is None:
    raise ValueError(f'tx={tx!r}: wanted what js.compact.convert returned.')
  return rules.parts_of(dense)


def _check_num(name, n, sparse_leaves):
  if name not in sparse_leaves:
    raise ValueError(
      f'num: {name} is no sparse leaf; those are {", ".join(sparse_leaves) or "none"}.'
    )
  if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 0:
    raise ValueError(f'num: {name} got {n!r}; wanted a static int of 0 or more.')
  pattern = sparse_leaves[name]
  units = math.prod(pattern.stack) * pattern.format.num_blocks
  if units >= 2**31:
    raise ValueError(f'{name}: {units} units; wanted fewer than 2**31.')


def _search(name, calls, num, axis, dtype, pattern) -> _state.Candidates:
  """The candidates of one leaf, slice by slice if it is stacked."""
  fmt, kinds = pattern.format, [call for call, _, _ in calls]

  def of_slice(offset, pattern, arrays):
    tiles = [
      _tiles.tiles_of(name, fmt, call, x, dy, axis)
      for call, (x, dy) in zip(kinds, arrays)
    ]
    devices = 1 if axis is None else lax.axis_size(axis)
    return _best_of_slice(tiles, pattern, num, offset, devices, dtype)

  arrays = [(x, dy) for _, x, dy in calls]
  stack = pattern.stack
  if not stack:
    return of_slice(jnp.uint32(0), pattern, arrays)
  # Ties are broken by the index in the whole stack.
  offsets = jnp.arange(stack[0], dtype=jnp.uint32) * np.uint32(fmt.num_blocks)
  return lax.map(lambda slices: of_slice(*slices), (offsets, pattern, arrays))


def _best_of_slice(tiles, pattern, num, offset, devices, dtype) -> _state.Candidates:
  fmt, width = pattern.format, min(t.width for t in tiles)
  size = _tiles.even_tile(width, fmt.outputs, max(_TILE, 2 * num * fmt.block))
  per_width = -(-width // size)
  active, rows = _sorted_units(pattern), np.int32(fmt.rows)

  def turn(best, step):
    group, part = jnp.divmod(step, np.int32(per_width))
    # The last tile begins early rather than be shorter; what comes twice is struck out.
    wanted = part * np.int32(size)
    start = jnp.minimum(wanted, np.int32(width - size))
    first = group * np.int32(width) + start
    total = sum(t.tile(first, size) for t in tiles)
    # Rounded as the dense gradient is, so that what ties there ties here.
    scores = jnp.abs(total / np.float32(devices)).astype(dtype).astype(jnp.float32)
    scores = scores.reshape(size, fmt.rows, fmt.block).mean(-1)
    # NaN ranks last, but above what may not grow.
    keys = jnp.maximum(masks.ordered_keys(scores), np.uint32(1))
    twice = lax.iota(jnp.int32, size) < wanted - start
    keys = jnp.where(twice[:, None], np.uint32(0), keys).reshape(-1)
    units = first * rows + lax.iota(jnp.int32, size * fmt.rows)
    keys = _strike_out(keys, active, first * rows)
    better = jnp.max(keys) >= jnp.min(best[0])
    return lax.cond(better, _merged, lambda b, *_: b, best, keys, units, offset), None

  start = jnp.zeros(num, jnp.uint32), jnp.zeros(num, jnp.int32)
  steps = jnp.arange(fmt.inputs // width * per_width, dtype=jnp.int32)
  (keys, units), _ = lax.scan(turn, start, steps)
  # Back from keys, which are a float's bits with the sign set; 1 was a NaN.
  bits = jnp.where(keys > 1, keys ^ np.uint32(0x80000000), np.uint32(0x7FC00000))
  scores = lax.bitcast_convert_type(bits, jnp.float32)
  return _state.Candidates(units // rows, units % rows, scores, keys > 0)


def _sorted_units(pattern):
  """The flat indices of the active units, rising, padded behind."""
  inputs, rows, valid = sparse.coordinates(pattern)
  units = jnp.where(valid, inputs * np.int32(pattern.format.rows) + rows, _NOWHERE)
  order = native.argsort(units.astype(jnp.uint32))
  # A window that begins at the last one must not be moved back.
  return jnp.concatenate([units[order], jnp.full(_WINDOW, _NOWHERE)])


def _strike_out(keys, active, first):
  """Gives the active units among the keys, of those from `first` on, the key 0."""
  # Counted, for a search is slow to compile.
  begin, end = (
    core.count_true(active < at) for at in (first, first + np.int32(keys.size))
  )

  def strike(state):
    at, keys = state
    window = lax.dynamic_slice_in_dim(active, at, _WINDOW) - first
    return at + np.int32(_WINDOW), keys.at[window].set(np.uint32(0), mode='drop')

  return lax.while_loop(lambda s: s[0] < end, strike, (begin, keys))[1]


def _merged(best, keys, units, offset):
  """The best of what was the best and of a tile, as many as before."""
  num = best[0].size
  keys, units = jnp.concatenate([best[0], keys]), jnp.concatenate([best[1], units])
  hashes = masks.hash_flat(units.astype(jnp.uint32) + offset)
  if keys.size < _SORT_BELOW or (native.available() and native.stays_whole()):
    at = native.top_indices(keys, hashes, num)
    return keys[at], units[at]
  # Any ties: only the level that they are at is asked for.
  level = jnp.min(keys, where=masks.top_k_mask(keys, num, (0,)), initial=~np.uint32(0))
  above, tied = keys > level, keys == level
  left = np.int32(num) - core.count_true(above)

  def by_hash():
    # Hashes of 0 that are not tied cannot be taken: one of the tied is left over.
    return tied & masks.top_k_mask(jnp.where(tied, hashes, np.uint32(0)), left, (0,))

  among = lax.cond(left < core.count_true(tied), by_hash, lambda: tied)
  count = jnp.cumsum((above | among).astype(jnp.int32))
  places = jnp.searchsorted(count, lax.iota(jnp.int32, num) + np.int32(1))
  return keys[places], units[places]

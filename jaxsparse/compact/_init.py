"""A sparse start that never builds the dense weights."""

from collections.abc import Callable
import math
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from jaxsparse import core, masks, rules, sparse
from jaxsparse.compact import (
  _convert,
  _elementwise,
  _readiness,
  _state,
  _update,
  _values,
)
from jaxsparse.core import bits

# Places and values of a leaf are drawn by different keys.
_PLACES, _VALUES = 1, 2


def lecun_normal(key: jax.Array, leaf: core.Leaf, shape: tuple[int, ...]) -> jax.Array:
  """Values from a normal distribution cut off at two deviations, variance 1 / fan_in.

  Those of Flax's kernels, before anything is pruned.

  Args:
    key: a typed key.
    leaf: the dense parameter.
    shape: of what is wanted.

  Returns:
    Array of that shape and the dtype of the leaf.

  Source: LeCun et al. 1998, Efficient BackProp, section 4.6.

  Example:
    >>> import jax, jaxsparse as js
    >>> leaf = js.leaves_of({'kernel': jax.numpy.ones((400, 8))})['kernel']
    >>> values = js.compact.lecun_normal(jax.random.key(0), leaf, (5000,))
    >>> bool(abs(values.std() - 400**-0.5) < 0.002)
    True
  """
  drawn = jax.random.truncated_normal(key, -2, 2, shape, jnp.float32)
  # The deviation that is left of a normal distribution cut off there.
  std = np.float32(max(leaf.fan_in, 1) ** -0.5 / 0.87962566103423978)
  return (drawn * std).astype(leaf.dtype)


def init(
  tx,
  make_params: Callable[[], core.Params],
  *,
  seed,
  kernel_init: Callable[..., jax.Array] = lecun_normal,
  rescale: bool = False,
) -> tuple[Any, core.Params, Any]:
  """Starts training on the nonzeros only; no dense weight is ever there.

  So a layer can be trained that is larger than memory. The places of the weights are
  drawn without replacement, by a keyed permutation of all places; that takes memory and
  time in proportion to what is kept. Both places and values differ from those that
  `js.init` and `convert` give, where each weight has a number of its own.

  Args:
    tx: what a transform of this library returned that starts with random masks: static,
      SET, RigL; or the optimizer of a posterior with those, `js.bayes.ssvi`.
    make_params: a function without arguments, such as
      `lambda: model.init(key, x)['params']`; it is traced, and the kernels that it
      makes are not computed. For a posterior too, whose deviations start as its `init`
      says.
    seed: int, integer scalar or typed key, of the places and the values; the transform's
      own seed stays that of its later draws.
    kernel_init: `(key, leaf, shape) -> values` of the kept weights; what the model's own
      initialisers make of its kernels nobody can draw one by one.
    rescale: as in `js.init`: the values of each output are multiplied by
      sqrt(fan_in / kept fan_in).

  Returns:
    `(tx, params, opt_state)`, as `convert` does.

  Raises:
    ValueError: a transform whose start depends on the weights; budgets that move from
      leaf to leaf; a structure whose units are not held as such; what `convert` refuses.

  Example:
    >>> import flax.linen as nn, jax, jax.numpy as jnp, jaxsparse as js, optax
    >>> model, x = nn.Dense(2**15), jnp.ones((1, 2**15))
    >>> tx = js.transforms.static(optax.adam(1e-3), 1 - 2**-18, seed=0)
    >>> tx, params, opt_state = js.compact.init(
    ...     tx, lambda: model.init(jax.random.key(0), x)['params'], seed=0)
    >>> {name: value.shape for name, value in params.items()}
    {'bias': (32768,), 'kernel': (4096,)}
  """
  parts = rules.parts_of(tx)
  if not parts.rule.random_start or parts.rule.budget is None:
    raise ValueError(
      'tx: its masks at the start depend on the weights; wanted a transform that starts'
      ' with random masks (static, set, rigl, ssvi), or js.init and js.compact.convert.'
    )
  if parts.rule.rewiring is not None and parts.rule.rewiring.pool:
    raise ValueError(
      'tx: budgets that move from leaf to leaf; wanted one that keeps its count in each'
      ' (scope="layer"), or js.init and js.compact.convert.'
    )
  _readiness.check(parts, 0)
  shapes = jax.eval_shape(make_params)
  names, flat, treedef = core.named_leaves(shapes)
  leaves = parts.rule.budget.pruned(shapes)
  structures = parts.rule.budget.structures(leaves)
  kept = parts.rule.budget.num_kept(leaves)
  key = core.as_key(seed)
  # Traced, but not computed where nothing asks for it.
  dense = jax.jit(
    lambda: [
      x for n, x in zip(names, jax.tree.leaves(make_params())) if n not in leaves
    ]
  )()
  rest = iter(dense)
  places: list[Any] = []
  values: list[jax.Array] = []
  for name in names:
    if name not in leaves:
      places.append(jnp.ones((), bool))
      values.append(next(rest))
      continue
    own = core.leaf_key(key, name)
    pattern = _drawn(own, leaves[name], structures[name], int(kept[name]))
    _convert.check_growth(parts.rule, leaves[name], structures[name], pattern.format)
    places.append(pattern)
    values.append(_start(own, leaves[name], pattern, kernel_init, rescale))
  patterns, params = treedef.unflatten(places), treedef.unflatten(values)
  _check_inner(parts, shapes, leaves)
  params, memory, whole = _fields(parts.rule, params, patterns, key)
  seen = _values.map_sparse(_values.as_seen, whole, params)
  own_key = None if parts.seed is None else core.as_key(parts.seed)
  state = _state.CompactState(
    jnp.zeros((), jnp.int32),
    patterns,
    memory,
    parts.inner.init(seen),
    # The key of `keep_sparse`, in an array of the state's own.
    None if own_key is None else jax.random.fold_in(own_key, 0),
  )
  mask_shapes = {name: leaf.shape for name, leaf in leaves.items()}
  return _update.transform(tx, mask_shapes), params, state


def _fields(rule, values, patterns, key):
  """`(params, memory, patterns along the params)` of all fields, from the first."""
  params, memory = values, None
  if rule.held_start is not None:
    params, memory = rule.held_start(values, patterns, key)
  return params, memory, rules.spread(rule, patterns, params)


def _drawn(key, leaf, structure, num_kept) -> sparse.Pattern:
  """A random pattern with so many units, shared out evenly over stacked layers."""
  units = structure.num_units(leaf)
  form = _values.format_of(leaf, structure, num_kept / units)
  single = isinstance(structure, masks.Unstructured)
  blocks = isinstance(structure, masks.Block) and form.depth == 1
  if not single and not (blocks and units * form.block == leaf.size):
    raise ValueError(
      f'{leaf.name}: the units of {structure} cannot be drawn on nonzeros; wanted'
      ' Unstructured() or Block((1, 4)) and the like along the outputs.'
    )
  stack = tuple(leaf.shape[a] for a in leaf.stack_axes)
  slices = np.arange(math.prod(stack), dtype=np.int32).reshape(stack)
  # The first layers get the rest, as in `_pools.share_out`.
  counts = num_kept // slices.size + (slices < num_kept % slices.size)
  capacity = int(counts.max(initial=0))
  words = bits.words_of(jax.random.fold_in(key, _PLACES))

  def one(index, count):
    own = bits.fold((words[:1], words[1:2]), index.astype(jnp.uint32))
    # Where a permutation sends the first places: all of them differ.
    position = lax.iota(jnp.uint32, capacity)
    unit = bits.permute(position, form.num_blocks, own, form.num_blocks)
    rows = np.uint32(form.rows)
    inputs, rows = (unit // rows).astype(jnp.int32), (unit % rows).astype(jnp.int32)
    valid = lax.iota(jnp.int32, capacity) < count
    # Values are drawn afterwards, so nothing has to follow the places into order.
    return sparse.from_coordinates(inputs, rows, valid, form)[0]

  draw = jax.jit(_values.over_stack(one, len(stack)))
  return draw(jnp.asarray(slices), jnp.asarray(counts, jnp.int32))


def _start(key, leaf, pattern, kernel_init, rescale):
  """The values that the kept weights start with."""
  shape = pattern.stack + (pattern.capacity * pattern.format.block,)
  drawn = kernel_init(jax.random.fold_in(key, _VALUES), leaf, shape)
  if rescale:
    one = lambda p: _of_fan_in(p, leaf.fan_in)
    scale = _values.over_stack(one, _values.num_stacked(pattern))(pattern)
    drawn = drawn * scale.astype(drawn.dtype)
  return drawn


def _of_fan_in(pattern, fan_in):
  """What makes the variance of each output that of the dense layer."""
  _, rows, valid = sparse.coordinates(pattern)
  counts = (
    jnp.zeros(pattern.format.rows, jnp.int32).at[rows].add(valid.astype(jnp.int32))
  )
  # Padding points at row 0, which may be empty: that infinity is not taken.
  scale = jnp.sqrt(np.float32(fan_in) / counts[rows].astype(jnp.float32))
  return jnp.repeat(jnp.where(valid, scale, np.float32(1)), pattern.format.block)


def _check_inner(parts, shapes, leaves):
  """Looks at the optimizer on leaves of the same names, but of four to a side."""
  names, flat, treedef = core.named_leaves(shapes)
  values: list[jax.Array] = []
  places: list[Any] = []
  for name, leaf in zip(names, flat):
    shape = tuple(min(n, 4) for n in leaf.shape)
    if name not in leaves:
      values.append(jnp.ones(shape, leaf.dtype))
      places.append(jnp.ones((), bool))
      continue
    stacked = len(leaves[name].stack_axes)
    layer = sparse.Format(shape[stacked:], len(shape) - stacked - 1)
    # Half of them, so that an optimizer that reads the zeros is caught too.
    every_other = np.arange(layer.num_blocks).reshape(shape[stacked:]) % 2 == 0
    mask = jnp.broadcast_to(jnp.asarray(every_other), shape)
    places.append(_values.pattern_of(mask, layer, -(-layer.num_blocks // 2), stacked))
    values.append(_values.gather(jnp.ones(shape, leaf.dtype), places[-1]))
  patterns, small = treedef.unflatten(places), treedef.unflatten(values)
  params, _, whole = _fields(parts.rule, small, patterns, jax.random.key(0))
  dense = _values.map_sparse(_values.scatter, whole, params)
  seen = _values.map_sparse(_values.as_seen, whole, params)
  _elementwise.check(
    parts.inner, (dense, parts.inner.init(dense)), (seen, parts.inner.init(seen)), whole
  )

"""From masked training to training on nonzeros, and back."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxsparse import core, masks, rules
from jaxsparse.compact import (
  _capacity,
  _elementwise,
  _readiness,
  _state,
  _update,
  _values,
)


def convert(
  tx, params: core.Params, opt_state, *, capacity_factor: float = 1.25
) -> tuple[Any, core.Params, Any]:
  """Goes on with training on the nonzeros only.

  Every leaf that has a mask becomes the vector of its nonzeros; moments become as
  short; the mask becomes a pattern of integers in the optimizer's state. The steps are
  those that masked training takes, up to the order of sums.

  Of a posterior (`js.bayes.optimizer`) mu and rho are vectors under one pattern; where
  its functions take masks, they take `get_patterns(opt_state)`.

  What does not rewire is converted once its masks are final. What drops and grows at
  random does so by itself; what grows by gradient wants `growth=` in the steps that
  rewire, see `grow_candidates`.

  Where leaves compete with one another (`scope='global'`, or DSL's `'joint'`), the budget
  of a leaf moves, and it gets room for more weights than it has. A rewiring that would
  need still more does not happen: `check_capacity` says where, and `resize` makes room.

  N:M weights are held with a byte for each place; where the C++ kernels are at hand, as
  single weights, whose gradients those compute too.

  Args:
    tx: what a transform of this library returned.
    params: the parameters, masked.
    opt_state: its state, not traced.
    capacity_factor: the room of a leaf whose budget moves, in units that it has now; 1 or
      more. What is not filled costs memory, and no time in the products.

  Returns:
    `(tx, params, opt_state)`, for `optax.apply_updates` and `bind`.

  Raises:
    ValueError: a `tx` that is none of this library's, or is around one; a rule that
      keeps something dense (STE); masks that are not final, with the step at which they
      will be; an optimizer that is not elementwise; a leaf that has no sparse form, or
      whose structure does not grow by gradient on nonzeros; a capacity factor below 1.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js, optax
    >>> tx = js.transforms.set(
    ...     optax.adam(1e-3), 0.75, seed=0, when=js.schedules.every(100))
    >>> params, opt_state = js.init(tx, {'kernel': jnp.ones((8, 4))})
    >>> tx, params, opt_state = js.compact.convert(tx, params, opt_state)
    >>> params['kernel'].shape
    (8,)
  """
  parts = rules.parts_of(tx)
  if not isinstance(opt_state, core.KeepSparseState):
    raise ValueError(
      f'opt_state: got {type(opt_state).__name__}; wanted the state of this tx itself.'
    )
  _readiness.check(parts, int(opt_state.step))
  _capacity.check_factor(capacity_factor)
  patterns, shapes, names = _patterns(
    parts.rule, params, opt_state.masks, capacity_factor
  )
  whole = rules.spread(parts.rule, patterns, params)
  values = _values.map_sparse(_values.gather, whole, params)
  see = lambda tree: _values.map_sparse(_values.as_seen, whole, tree)
  # Moments lie along a leaf, and so along its pattern; counts of steps do not.
  marks = rules.along(parts.inner, params, opt_state.inner_state, whole)
  arrays, treedef = jax.tree.flatten(opt_state.inner_state)
  inner_state = treedef.unflatten(
    [
      _values.as_seen(_values.gather(x, m), m) if _state.is_pattern(m) else x
      for x, m in zip(arrays, marks, strict=True)
    ]
  )
  # No optimizer says whether it is elementwise, so it is tried out.
  _elementwise.check(
    parts.inner, (params, opt_state.inner_state), (see(values), inner_state), whole
  )
  # What the masks say is not kept twice, nor densely.
  memory = None if parts.rule.settled_memory else opt_state.memory
  state = _state.CompactState(
    opt_state.step, patterns, memory, inner_state, opt_state.key,
    _capacity.nothing_refused(names),
  )  # fmt: skip
  return _update.transform(tx, shapes), values, state


def densify(tx, params: core.Params, opt_state) -> tuple[Any, core.Params, Any]:
  """The inverse of `convert`: dense leaves, masks, and the transform as it was.

  Args:
    tx: from `convert`.
    params: the values.
    opt_state: its state.

  Returns:
    `(tx, params, opt_state)` of masked training.

  Raises:
    ValueError: a `tx` that `convert` did not return.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js, optax
    >>> tx = js.transforms.static(optax.adam(1e-3), 0.75, seed=0)
    >>> before = js.init(tx, {'kernel': jnp.ones((8, 4))})
    >>> after = js.compact.densify(*js.compact.convert(tx, *before))
    >>> bool((after[1]['kernel'] == before[0]['kernel']).all())
    True
  """
  dense = getattr(getattr(tx, 'update', None), 'dense', None)
  if dense is None or not isinstance(opt_state, _state.CompactState):
    raise ValueError(f'tx={tx!r}: wanted what js.compact.convert returned.')
  (inner, rule, *_), patterns = rules.parts_of(dense), opt_state.patterns
  remembered = rule.settled_memory
  spread = rules.spread(rule, patterns, params)
  whole = _values.map_sparse(_values.scatter, spread, params)
  seen = _values.map_sparse(_values.as_seen, spread, params)
  marks = rules.along(inner, seen, opt_state.inner_state, spread)
  arrays, treedef = jax.tree.flatten(opt_state.inner_state)
  # Off the mask, an optimizer remembers what it begins with.
  fresh = jax.tree.leaves(inner.init(whole))
  arrays = [
    _back(x, m, f) if _state.is_pattern(m) else x
    for x, m, f in zip(arrays, marks, fresh, strict=True)
  ]
  names, found, masks_treedef = core.named_leaves(patterns, is_leaf=_state.is_pattern)
  kept = [
    _as_mask(p, tx.update.mask_shapes[n]) if _state.is_pattern(p) else p
    for n, p in zip(names, found)
  ]
  tree = masks_treedef.unflatten(kept)
  state = core.KeepSparseState(
    opt_state.step,
    tree,
    remembered(tree) if remembered else opt_state.memory,
    treedef.unflatten(arrays),
    opt_state.key,
  )
  return dense, whole, state


def _back(seen, pattern, fresh):
  dense = _values.scatter(_values.as_held(seen, pattern), pattern)
  return jnp.where(_values.to_mask(pattern), dense, fresh.astype(dense.dtype))


def _as_mask(pattern, shape):
  """The mask in the shape that it had; it may have been one that broadcasts."""
  mask = _values.to_mask(pattern)
  # Along an axis that broadcast all entries are the same: the first one is enough.
  return mask[tuple(slice(n) for n in shape)]


def check_growth(rule, leaf, structure, form) -> None:
  """Refuses what growth by gradient, which ranks the units of a layer, would not keep.

  Raises:
    ValueError: a structure whose units are others, by leaf.
  """
  if rule.rewiring is None or rule.rewiring.growth != 'gradient':
    return
  single = isinstance(structure, masks.Unstructured) and structure.group == 'layer'
  blocks = isinstance(structure, masks.Block) and form.depth == 1
  if not single and not (blocks and structure.unit_size(leaf) == form.block):
    raise ValueError(
      f'{leaf.name}: {structure} does not grow by gradient on nonzeros; wanted'
      ' Unstructured() or Block((1, r)) with r a multiple of 4, growth at random (set),'
      ' or masked training.'
    )


def _patterns(rule, params, tree, capacity_factor):
  """Of the masks of a state: `(patterns, {name: shape of the mask}, names of a pool)`."""
  budget, fields = rule.budget, rule.fields(params)
  leaves = core.leaves_of(fields[0], None if budget is None else budget.leaves)
  names, found, treedef = core.named_leaves(tree)
  # Every field has a value for a weight, or a scalar where it has none for the leaf.
  columns = [zip(*core.named_leaves(field)[:2]) for field in fields]
  values = [{n: x for n, x in column if x.ndim} for column in columns]
  pruned = {n: leaves[n] for n, m in zip(names, found) if m.ndim}
  structures = (
    dict.fromkeys(pruned, masks.Unstructured())
    if budget is None
    else budget.structures(pruned)
  )
  pooled = {}
  if rule.rewiring is not None:
    pooled = rules.pooled_leaves(rule.rewiring.pool, fields[0], pruned)
  shapes, patterns = {}, []
  for name, mask in zip(names, found):
    if not mask.ndim:
      patterns.append(mask)
      continue
    leaf, shapes[name] = leaves[name], mask.shape
    if len(leaf.shape) - len(leaf.stack_axes) < 2:
      raise ValueError(f'{name}: shape {leaf.shape} is no kernel; keep it dense.')
    whole = jnp.broadcast_to(mask, leaf.shape)
    if any(bool(jnp.any(~whole & (v[name] != 0))) for v in values if name in v):
      raise ValueError(
        f'params: {name} has nonzeros off its mask, which would be lost; wanted what'
        ' js.init returned, or js.apply_masks(params, opt_state).'
      )
    density = float(jnp.mean(whole, dtype=jnp.float32))
    form = _values.format_of(leaf, structures[name], density)
    check_growth(rule, leaf, structures[name], form)
    capacity = _values.count_blocks(whole, form)
    if name in pooled:
      capacity = _capacity.room_for(capacity, capacity_factor, form)
    pattern = _values.pattern_of(whole, form, capacity, len(leaf.stack_axes))
    # `pattern_of` keeps the first n of a group and leaves out others without a word.
    if form.nm is not None and int(pattern.count.sum()) != int(core.count_true(whole)):
      n, m = form.nm
      raise ValueError(f'{name}: its mask keeps more than {n} of some {m} inputs.')
    patterns.append(pattern)
  return treedef.unflatten(patterns), shapes, list(pooled)

"""The optimizer's step on nonzeros."""

import os
from typing import Any
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsparse import core, rules, sparse
from jaxsparse.compact import _capacity, _rewire, _state, _values


def transform(tx, mask_shapes=None) -> optax.GradientTransformationExtraArgs:
  """What a transform of this library becomes in compact training.

  Args:
    tx: the transform, which `convert` has looked at.
    mask_shapes: `{name: shape}` of the masks that it had.

  Returns:
    An optax transformation with state `CompactState`, for `convert` to return.
  """
  parts = rules.parts_of(tx)

  def init(params):
    del params
    raise ValueError(
      'compact: the state comes from js.compact.convert, or js.compact.init; this'
      ' transformation cannot know the patterns.'
    )

  def update(grads, state, params=None, *, growth=None, **extra_args):
    if params is None:
      raise ValueError('compact: update(grads, state, params) needs params.')
    due = None if parts.rule.rewiring is None else _due(parts, state.step)
    whole = rules.spread(parts.rule, state.patterns, params)
    seen = _values.map_sparse(_values.as_seen, whole, params)
    start = _start(parts, due, state, whole, params, grads, growth, extra_args)
    updates, stepped = parts.inner.update(
      start.grads, start.inner_state, start.params, **extra_args
    )
    if parts.skip_step and due is not None and start.kept is not None:
      updates = jax.tree.map(lambda u: jnp.where(due, jnp.zeros_like(u), u), updates)
      stepped = rules.hold_moments(
        parts.inner, start.params, start.inner_state, stepped, due
      )
    if start.kept is not None:
      updates = jax.tree.map(_moved, updates, start.kept, start.params, seen)
    updates = jax.tree.map(lambda u, p: u.reshape(p.shape), updates, params)
    return updates, _state.CompactState(
      optax.safe_increment(state.step), start.patterns, start.memory, stepped,
      state.key, start.refused,
    )  # fmt: skip

  # An optax pair has no field for it; `densify` and `growth_sizes` read it here.
  update.dense = tx  # type: ignore[attr-defined]
  update.mask_shapes = mask_shapes or {}  # type: ignore[attr-defined]
  return optax.GradientTransformationExtraArgs(init, update)


def _due(parts, step):
  return None if parts.when is None else parts.when(step)


def _moved(update, kept, start, before):
  """What is to be added to the values as they stood before: exactly -value for 0."""
  # Half precision could not hold the difference of two weights.
  wide = jnp.promote_types(jnp.promote_types(update.dtype, start.dtype), jnp.float32)
  update = jnp.where(kept, update.astype(wide), jnp.zeros((), wide))
  return update + (start.astype(wide) - before.astype(wide))


def _start(
  parts, due, state, whole, params, grads, growth, extra_args
) -> _rewire.Moved:
  """What the optimizer steps: after the rewiring, where there is one.

  `kept` is None where the program holds no rewiring.
  """
  rule, rewiring = parts.rule, parts.rule.rewiring
  seen, seen_grads = (
    _values.map_sparse(_values.as_seen, whole, tree) for tree in (params, grads)
  )
  still = _rewire.Moved(
    state.patterns, seen, seen_grads, state.inner_state, state.memory, None,
    state.refused,
  )  # fmt: skip
  # False says that no growth is due: then nobody is warned either.
  given = growth is not None and growth is not False
  if given and (rewiring is None or rewiring.growth != 'gradient'):
    raise ValueError('growth: this rule does not grow by gradient; wanted None.')
  if due is None:
    return still
  if rewiring.growth == 'gradient' and not given:
    if growth is None and os.environ.get('JAXSPARSE_CHECK') != 'off':
      _report_missed(due)
    return still
  patterns = _state.named_patterns(state.patterns)
  if not patterns:
    return still
  fields = rule.fields(params)
  leaves = described(rewiring.budget, fields[0], state.patterns)
  key = None if state.key is None else jax.random.fold_in(state.key, state.step)
  evidence = core.Evidence(
    fields, None, rule.fields(grads), state.patterns, state.step, key
  )

  # Both branches of a cond return the same tree: where nothing moved, all is kept.
  all_kept = lambda x, p: jnp.ones(x.shape, bool)
  one_kept = lambda x: jnp.ones((), bool)
  kept = _values.map_sparse(all_kept, whole, seen, dense=one_kept)
  unmoved = still._replace(kept=kept)

  def moved():
    known = evidence
    if rule.decides_on_update:
      steps, _ = parts.inner.update(seen_grads, state.inner_state, seen, **extra_args)
      ahead = optax.apply_updates(seen, steps)
      ahead = jax.tree.map(lambda x, p: x.reshape(p.shape), ahead, params)
      known = evidence._replace(updated_params=rule.fields(ahead))
    wanted: dict[str, jax.Array] = {}
    what, pooled = (rewiring, known, leaves, patterns), list(state.refused or ())
    if given:
      candidates = _candidates(growth, patterns)
      moves, wanted = _rewire.by_candidates(*what, pooled, candidates)
    elif pooled:
      moves, wanted = _rewire.at_random_in_pool(*what, pooled)
    else:
      moves = _rewire.at_random(*what)
    # A function, so that it is traced under the cond that asks whether there is room.
    move = lambda: _rewire.move_all(parts, moves, evidence, seen, seen_grads, state)
    return _where_there_is_room(patterns, wanted, move, unmoved)

  return jax.lax.cond(due, moved, lambda: unmoved)


def _where_there_is_room(patterns, wanted, move, unmoved) -> _rewire.Moved:
  """The move, or nothing at all and what it would have needed, by leaf."""
  if not wanted:
    return move()
  refused = {
    n: jnp.where(num > patterns[n].capacity, num, np.int32(0))
    for n, num in wanted.items()
  }
  full = jnp.any(jnp.stack(list(refused.values())) > 0)
  if os.environ.get('JAXSPARSE_CHECK') != 'off':
    names, rooms = zip(*((n, patterns[n].capacity) for n in wanted))
    _capacity.report(full, names, rooms, list(refused.values()))
  nothing = unmoved._replace(refused=refused)
  zeros = jax.tree.map(jnp.zeros_like, refused)
  return jax.lax.cond(full, lambda: nothing, lambda: move()._replace(refused=zeros))


def described(budget, field, patterns) -> dict[str, tuple[core.Leaf, Any]]:
  """`{name: (Leaf, Structure)}` of the sparse leaves, as the dense ones were.

  Args:
    budget: a `rules.Budget`.
    field: the values of one field.
    patterns: a tree like it.
  """
  held = _state.named_patterns(patterns)
  leaves = budget.pruned(sparse.dense_structs(field, patterns))
  structures = budget.structures(leaves)
  return {n: (leaves[n], structures[n]) for n in leaves if n in held}


def _candidates(growth, patterns) -> dict[str, _state.Candidates]:
  is_given = lambda x: isinstance(x, _state.Candidates)
  names, given, _ = core.named_leaves(growth, is_leaf=is_given)
  found = {n: c for n, c in zip(names, given) if is_given(c)}
  for name, pattern in patterns.items():
    stack = pattern.stack
    if name not in found or found[name].inputs.shape[:-1] != stack:
      raise ValueError(
        f'growth: no Candidates of stack {stack} for {name}; wanted what'
        ' js.compact.grow_candidates returned for these patterns.'
      )
  return found


def _report_missed(due):
  """Warns when a step that should grow by gradient has no `growth`."""
  report = lambda: jax.debug.callback(_warn_missed)
  jax.lax.cond(due, report, lambda: None)


def _warn_missed():
  warnings.warn(
    'jaxsparse: a step that should rewire got no growth=, so the masks stay as they'
    ' are. Call js.compact.grow_candidates when it is due and pass what it returns to'
    ' tx.update(..., growth=); growth=False says that none is due.',
    RuntimeWarning,
    stacklevel=2,
  )

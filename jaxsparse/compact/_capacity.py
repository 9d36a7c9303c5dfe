"""Room for leaves whose number of weights moves: checked, refused, made."""

import dataclasses
import math
import numbers
from typing import Any
import warnings

import jax
import jax.numpy as jnp

from jaxsparse import core, rules, sparse
from jaxsparse.compact import _state, _values


def check_capacity(opt_state) -> None:
  """Refuses, by leaf, a state whose last rewiring found no room for what should grow.

  Such a rewiring changed nothing: the state is good, and training may go on, with the
  patterns that it has until a later rewiring fits, or with the room that `resize` makes.

  Args:
    opt_state: a state that contains a `CompactState`, not traced.

  Raises:
    ValueError: there was no room; names the leaves, with what they have and wanted.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js, optax
    >>> tx = js.transforms.static(optax.adam(1e-3), 0.5, seed=0)
    >>> params, opt_state = js.init(tx, {'kernel': jnp.ones((4, 4))})
    >>> _, _, opt_state = js.compact.convert(tx, params, opt_state)
    >>> js.compact.check_capacity(opt_state)
  """
  state = _state.find(opt_state)
  patterns = _state.named_patterns(state.patterns)
  full = {n: int(num) for n, num in (state.refused or {}).items() if int(num)}
  if full:
    raise ValueError(_said({n: (patterns[n].capacity, num) for n, num in full.items()}))


def resize(
  tx, params: core.Params, opt_state, *, capacity_factor: float
) -> tuple[Any, core.Params, Any]:
  """Gives the leaves whose budgets move other room; nothing is dense meanwhile.

  Args:
    tx: from `convert`.
    params: the values.
    opt_state: its state, not traced.
    capacity_factor: the room in units that a leaf has now, or wanted in a rewiring that
      was refused; 1 or more.

  Returns:
    `(tx, params, opt_state)` of the same training, with arrays of other lengths.

  Raises:
    ValueError: a `tx` that `convert` did not return; a capacity factor below 1.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js, optax
    >>> tx = js.transforms.dsl(
    ...     optax.adam(1e-3), 0.75, seed=0, when=js.schedules.every(100),
    ...     scope='global', growth='last')
    >>> state = js.init(tx, {'embedding': jnp.ones((8, 8))})
    >>> state = js.compact.convert(tx, *state)
    >>> state[1]['embedding'].shape
    (20,)
    >>> js.compact.resize(*state, capacity_factor=2)[1]['embedding'].shape
    (32,)
  """
  check_factor(capacity_factor)
  dense = getattr(getattr(tx, 'update', None), 'dense', None)
  if dense is None or not isinstance(opt_state, _state.CompactState):
    raise ValueError(f'tx={tx!r}: wanted what js.compact.convert returned.')
  inner, rule, *_ = rules.parts_of(dense)
  names, found, treedef = core.named_leaves(
    opt_state.patterns, is_leaf=_state.is_pattern
  )
  new, refused = [], opt_state.refused or {}
  for name, pattern in zip(names, found):
    if name in refused:
      # Stacked layers share one length, which the fullest decides.
      count = int(jnp.max(pattern.count, initial=0))
      wanted = max(count, int(refused[name]))
      pattern = _with_room(pattern, room_for(wanted, capacity_factor, pattern.format))
    new.append(pattern)
  patterns = treedef.unflatten(new)
  before = rules.spread(rule, opt_state.patterns, params)
  after = rules.spread(rule, patterns, params)
  # Moments are found by their shape, so the values get the shape of the moments.
  seen = _values.map_sparse(_values.as_seen, before, params)
  params = _values.map_sparse(_cut, after, params)
  marks = rules.along(inner, seen, opt_state.inner_state, after)
  arrays, state_treedef = jax.tree.flatten(opt_state.inner_state)
  # What is there for padding counts no more than what an optimizer begins with.
  fresh = jax.tree.leaves(
    inner.init(_values.map_sparse(_values.as_seen, after, params))
  )
  arrays = [
    _values.as_seen(_refilled(_values.as_held(x, m), _values.as_held(f, m), m), m)
    if _state.is_pattern(m)
    else x
    for x, m, f in zip(arrays, marks, fresh, strict=True)
  ]
  state = opt_state._replace(
    patterns=patterns,
    inner_state=state_treedef.unflatten(arrays),
    refused=nothing_refused(refused),
  )
  return tx, params, state


def check_factor(capacity_factor) -> None:
  """Raises ValueError for a capacity factor that cannot be."""
  number = isinstance(capacity_factor, numbers.Real)
  if not number or not 1 <= float(capacity_factor) < math.inf:
    raise ValueError(f'capacity_factor={capacity_factor!r}: wanted a number from 1 on.')


def room_for(count: int, factor: float, fmt: sparse.Format) -> int:
  """The room for so many units of a layer: at most as many as it has places."""
  return min(math.ceil(count * factor), fmt.num_blocks)


def nothing_refused(names) -> dict[str, jax.Array] | None:
  """The `refused` of a state; `names` are those of the leaves whose budgets move."""
  return {name: jnp.zeros((), jnp.int32) for name in names} or None


def report(full, names, rooms, wanted) -> None:
  """Warns where `full`, from within a program."""

  def warn(*wanted):
    full = {n: (room, int(w)) for n, room, w in zip(names, rooms, wanted) if int(w)}
    warnings.warn(_said(full), RuntimeWarning, stacklevel=2)

  # The host is called only where there is something to say.
  jax.lax.cond(full, lambda: jax.debug.callback(warn, *wanted), lambda: None)


def _said(full) -> str:
  each = ', '.join(f'{n} ({room}, wanted {num})' for n, (room, num) in full.items())
  return (
    f'jaxsparse: no room for all units that should grow in {each}; that rewiring did not'
    ' happen, and nothing is lost. Give more room: tx, params, opt_state ='
    ' js.compact.resize(tx, params, opt_state, capacity_factor=...), or start with a'
    ' larger capacity_factor of js.compact.convert.'
  )


def _with_room(pattern, capacity):
  """The pattern with other padding, which stands behind everything in every order."""
  inputs, back_rows, order = (
    _resized(x, capacity) for x in (pattern.inputs, pattern.back_rows, pattern.order)
  )
  # Two places of the backward order never stand for one of the forward order.
  places = jnp.arange(capacity, dtype=jnp.int32)
  order = jnp.where(places < pattern.count[..., None], order, places)
  return dataclasses.replace(pattern, inputs=inputs, back_rows=back_rows, order=order)


def _cut(values, pattern):
  return _resized(values, pattern.capacity * pattern.format.block)


def _resized(x, length):
  """The last axis cut, or filled up with zeros."""
  x = x[..., :length]
  return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, length - x.shape[-1])])


def _refilled(x, fresh, pattern):
  """What an optimizer holds, with another padding."""
  held = jnp.arange(pattern.capacity, dtype=jnp.int32) < pattern.count[..., None]
  held = jnp.repeat(held, pattern.format.block, axis=-1)
  return jnp.where(held, _cut(x, pattern), fresh.astype(x.dtype))

"""Training steps that touch only those rows of embedding tables that a batch looks at."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

import jaxsparse as js


class Rows(NamedTuple):
  """Some rows of a table, one for each index that was asked for.

  Attributes:
    ids: int32 (n,), the rows; one that is asked for twice is there twice.
    place: int32 (n,), for each index the one slot of its row that is used.
    target: int32 (n,), where a slot is written: its row, or past the end of the table
      for a slot that is not used.
  """

  ids: jax.Array
  place: jax.Array
  target: jax.Array


def rows_of(ids, num: int) -> Rows:
  """The rows of some indices, without a sort: one pass over them.

  Args:
    ids: integers (n,) below `num`, with repetitions.
    num: rows of the table.

  Returns:
    `Rows`.

  Example:
    >>> import jax.numpy as jnp
    >>> from experiments import _row_sparse
    >>> rows = _row_sparse.rows_of(jnp.array([5, 2, 5]), 7)
    >>> sorted(rows.target.tolist()), (rows.ids[rows.place] == rows.ids).all().item()
    ([2, 5, 7], True)
  """
  slots = jnp.arange(len(ids), dtype=jnp.int32)
  # Of equal indices one wins, whichever; the integers of the others are never read.
  place = jnp.zeros(num, jnp.int32).at[ids].set(slots)[ids]
  return Rows(ids, place, jnp.where(place == slots, ids, num).astype(jnp.int32))


def take(tree, rows: Mapping[str, Rows], sizes: Mapping[str, int]):
  """A tree with the rows in place of all that is one row for each row of a table.

  Args:
    tree: parameters, or the state of an optimizer of them: what belongs to a table is
      found by its name at the end of the path and by its number of rows.
    rows: name of a table, as in `js.core.named_leaves`, -> `Rows`.
    sizes: the same names -> rows of the whole table.

  Returns:
    The tree, tables (n, ...).
  """
  part = lambda name, x: x if name is None else x[rows[name].ids]
  return _mapped(part, tree, sizes)


def put(tree, parts, rows: Mapping[str, Rows], sizes: Mapping[str, int]):
  """`tree` with the rows of `parts` written back; other leaves are those of `parts`."""
  write = lambda name, x, part: (
    part if name is None else x.at[rows[name].target].set(part, mode='drop')
  )
  return _mapped(write, tree, sizes, parts)


def _mapped(function, tree, sizes, *others):
  def leaf(path, x, *more):
    keys = (getattr(k, 'key', getattr(k, 'name', getattr(k, 'idx', k))) for k in path)
    full = '/' + '/'.join(map(str, keys))
    found = [n for n in sizes if full.endswith('/' + n) and x.shape[:1] == (sizes[n],)]
    return function(found[0] if found else None, x, *more)

  return jax.tree_util.tree_map_with_path(leaf, tree, *others)


def make_step(loss_fn: Callable, tx, localize: Callable, sizes: Mapping[str, int]):
  """Builds a step whose cost grows with the batch, not with the tables.

      R = the rows in the batch;   (p_R, s_R) <- tx.update(dL/dp_R, s_R, p_R)

  With plain gradient descent that is the step on whole tables, because all other rows
  have no gradient. Optimizers with a memory become lazy: the moments of a row decay, and
  move it, only in steps that see it, while the step count of Adam's bias correction is
  that of the run.

  Args:
    loss_fn: `(params, batch, data) -> loss`, with tables of the rows only.
    tx: an optimizer that works on each weight apart; of the sparse ones, `static`.
    localize: `(batch, data) -> ({table: ids}, finish)`; `finish({table: place})` returns
      the batch and the data with slots in the place of indices.
    sizes: table -> number of its rows.

  Returns:
    A step as `js.training.make_step` returns, of one device.

  Raises:
    ValueError: masks that change, which are decided on whole tables; several devices, at
      the first call.
  """
  if hasattr(tx.update, 'parts') and js.rules.parts_of(tx).when is not None:
    raise ValueError('row_sparse: got masks that change, wanted none, or fixed ones.')

  def step(state, batch, data=None, *, axis=None):
    if axis is not None and jax.lax.axis_size(axis) > 1:
      raise ValueError(
        f'row_sparse: got {jax.lax.axis_size(axis)} devices, wanted one, or execution'
        " 'jit': the rows of each are others."
      )
    ids, finish = localize(batch, data)
    rows = {name: rows_of(i, sizes[name]) for name, i in ids.items()}
    local = finish({name: r.place for name, r in rows.items()})
    # Fused into what comes after, a gather would read tables that are being written,
    # and XLA would copy them whole.
    params, opt_state = jax.lax.optimization_barrier(
      tuple(take(x, rows, sizes) for x in (state.params, state.opt_state))
    )
    loss, grads = jax.value_and_grad(loss_fn)(params, *local)
    updates, opt_state = tx.update(grads, opt_state, params)
    params = jax.tree.map(jnp.add, params, updates)
    state = state._replace(
      step=state.step + 1,
      params=put(state.params, params, rows, sizes),
      opt_state=put(state.opt_state, opt_state, rows, sizes),
    )
    return state, {'loss': loss, 'finite': jnp.isfinite(loss)}

  return step

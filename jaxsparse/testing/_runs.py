"""Checks that need a run of their own: extra arguments, NaN, donation, disk, vmap."""

import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsparse import core, rules
from jaxsparse.testing import _history


def check_extra_args(history: _history.History) -> None:
  """Extra arguments of `update` reach the inner optimizer.

  Args:
    history: from `train`; its transform is built again.

  Raises:
    AssertionError: the inner optimizer did not get `value`.

  Example:
    >>> import jaxsparse as js
    >>> make_tx = lambda inner, seed: js.transforms.static(inner, 0.75, seed=seed)
    >>> js.testing.check_extra_args(js.testing.train(make_tx, steps=0))
  """
  got = []

  def update(grads, state, params=None, *, value=None, **extra_args):
    del params, extra_args
    got.append(value)
    return grads, state

  inner = optax.GradientTransformationExtraArgs(lambda p: optax.EmptyState(), update)
  tx = history.make_tx(inner, 0)
  params, state = rules.init(tx, history.prepare(_history.small_params()))
  # Tracing is enough to see what arrives.
  jax.eval_shape(lambda v: tx.update(params, state, params, value=v)[0], 1.0)
  _history.require(
    got and got[0] is not None, 'the inner optimizer did not get the argument `value`.'
  )


def check_nan(
  history: _history.History, *, dense_gradient: bool = False, steps: int = 6
) -> None:
  """A gradient that is NaN off the mask reaches neither parameters nor moments.

  Args:
    history: from `train`.
    dense_gradient: the rule gives the inner optimizer the gradients off the mask
      (straight-through): then only the parameters are looked at.
    steps: updates made.

  Raises:
    AssertionError: the leaf that holds a NaN.
  """

  def spoil(grads, state):
    leaves, treedef = jax.tree.flatten(grads)
    pairs = zip(_history.masks_of(grads, state), leaves, strict=True)
    return treedef.unflatten([jnp.where(m, g, jnp.nan) for m, g in pairs])

  step = jax.jit(_history.make_step(history.tx, spoil))
  params, state = history.params[0], history.states[0]
  for i in range(steps):
    params, state = step(params, state, float(i))
    inner_states = [s.inner_state for s in core.sparse_states(state)]
    seen = {'params': params, 'inner_state': None if dense_gradient else inner_states}
    for name, x in zip(*core.named_leaves(seen)[:2]):
      if jnp.issubdtype(x.dtype, jnp.floating):
        _history.require(
          not np.any(np.isnan(np.asarray(x, np.float32))),
          f'after {i + 1} steps with NaN gradients off the mask {name} has a NaN.',
        )


def check_donation(history: _history.History) -> None:
  """Params and state may be donated: no buffer is shared, none is the caller's.

  Args:
    history: from `train` with the default params and an int or no seed.

  Raises:
    AssertionError: a deleted array of the caller's, or values that differ from a
      run without donation.
  """
  # A typed key: an int has no buffer that could be donated.
  seed, start = jax.random.key(0), _history.small_params()
  tx = history.make_tx(history.inner, seed)
  step = jax.jit(_history.make_step(tx), donate_argnums=(0, 1))
  params, state = rules.init(tx, history.prepare(start))
  for i in range(len(history.params) - 1):
    params, state = step(params, state, float(i))
  for name, x in zip(*core.named_leaves({'params': start, 'seed': seed})[:2]):
    _history.require(not x.is_deleted(), f'{name} of the caller was donated.')
  wanted = (history.params[-1], history.states[-1])
  _history.require_equal(wanted, (params, state), 'donated')


def check_checkpoint(history: _history.History) -> None:
  """Orbax stores the state in the middle of a run, and the run goes on bit for bit.

  Args:
    history: from `train`; it is saved and restored after half of the steps.

  Raises:
    AssertionError: the leaf that differs, restored or at the end.
  """
  import orbax.checkpoint as ocp

  steps = len(history.params) - 1
  half = steps // 2
  saved = {'params': history.params[half], 'state': history.states[half]}
  with tempfile.TemporaryDirectory() as folder, ocp.StandardCheckpointer() as store:
    store.save(pathlib.Path(folder) / 'run', saved)
    store.wait_until_finished()
    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, saved)
    restored = store.restore(pathlib.Path(folder) / 'run', target)
  _history.require_equal(saved, restored, 'saved and restored')
  params, state = restored['params'], restored['state']
  for i in range(half, steps):
    params, state = history.step(params, state, float(i))
  wanted = (history.params[-1], history.states[-1])
  _history.require_equal(wanted, (params, state), 'resumed')


def step_axes(state):
  """The `in_axes` of a state over seeds: all is batched but the step counts.

  With the step unbatched a `cond` on it stays a `cond`; otherwise `vmap` selects
  and every step pays for new masks.

  Args:
    state: any state that contains a KeepSparseState.

  Returns:
    A tree for `jax.vmap(..., in_axes=...)`.

  Example:
    >>> import jax, jax.numpy as jnp, jaxsparse as js, optax
    >>> start = lambda seed: js.init(
    ...     js.transforms.static(optax.sgd(0.1), 0.75, seed=seed), jnp.ones((8, 8)))
    >>> _, state = start(0)
    >>> axes = js.testing.step_axes(state)
    >>> params, states = jax.vmap(start, out_axes=(0, axes))(jnp.arange(2))
    >>> states.masks.shape, states.step.shape
    ((2, 8, 8), ())
  """

  is_sparse_state = lambda x: isinstance(x, core.KeepSparseState)

  def axes(x):
    if not is_sparse_state(x):
      return 0
    # By position: step (unbatched), masks, memory, inner state, key.
    whole = core.KeepSparseState(None, 0, 0, 0, 0)
    return whole._replace(inner_state=step_axes(x.inner_state))

  return jax.tree.map(axes, state, is_leaf=is_sparse_state)


def check_vmap(history: _history.History, *, batch_step=False, steps=4) -> None:
  """`vmap` over seeds takes the steps that each seed takes by itself.

  Args:
    history: from `train`; its transform is built again, with a tracer as the seed.
    batch_step: whether the step count is batched like all else.
    steps: updates made.

  Raises:
    AssertionError: masks or params that differ from a single run's; with an unbatched
      step, a `cond` that became a selection.
  """

  def begin(seed):
    start = history.prepare(_history.small_params())
    return rules.init(history.make_tx(history.inner, seed), start)

  seeds = jnp.arange(2)
  axes = (0, 0 if batch_step else step_axes(history.states[0]))
  many = jax.vmap(begin, out_axes=axes)(seeds)
  singles = [begin(seed) for seed in seeds]
  step = _history.make_step(history.tx)
  many_step = jax.vmap(step, in_axes=(*axes, None), out_axes=axes)
  if not batch_step:
    had, has = (
      _num_conds(jax.make_jaxpr(f)(*args, 0.0).eqns)
      for f, args in ((step, singles[0]), (many_step, many))
    )
    _history.require(had == has, f'of {had} cond on the step vmap leaves {has}.')
  many_step = jax.jit(many_step)
  for i in range(steps):
    many = many_step(*many, float(i))
    singles = [history.step(*single, float(i)) for single in singles]
  for i, (params, state) in enumerate(singles):
    got = jax.tree.map(lambda x: x[i], (many[0], rules.get_masks(many[1])))  # noqa: B023
    wanted = (params, rules.get_masks(state))
    _history.require_equal(wanted, got, f'seed {i} under vmap', exact=False)


def _num_conds(eqns):
  """Counts `cond`, not those inside others: they break ties, and depend on data."""
  count = 0
  for eqn in eqns:
    # The primitive of `jax.jit` has either name, by the release of jax.
    inner = eqn.params.get('jaxpr') if eqn.primitive.name in ('jit', 'pjit') else None
    count += _num_conds(inner.eqns) if inner else eqn.primitive.name == 'cond'
  return count

"""Checks of one recorded run: protocol, counts, zeros, traces, grown weights."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxsparse import core, rules
from jaxsparse.testing import _history


def check_protocol(history: _history.History) -> None:
  """An optax transformation with one mask tree that lies along the params.

  `init` runs under `jit` and `eval_shape`, `update` refuses to go without params, and
  `js.get_masks` finds bool masks that broadcast to the params.

  Args:
    history: from `train`.

  Raises:
    AssertionError: what does not hold.

  Example:
    >>> import jaxsparse as js
    >>> make_tx = lambda inner, seed: js.transforms.static(inner, 0.75, seed=seed)
    >>> js.testing.check_protocol(js.testing.train(make_tx, steps=1))
  """
  tx, params, state = history.tx, history.params[0], history.states[0]
  _history.require(
    len(core.sparse_states(state)) == 1, 'wanted one KeepSparseState in the state.'
  )
  masks = _history.masks_of(params, state)
  names, leaves, _ = core.named_leaves(params)
  for name, m, p in zip(names, masks, leaves, strict=True):
    fits = m.ndim in (0, p.ndim) and np.broadcast_shapes(m.shape, p.shape) == p.shape
    _history.require(
      fits and m.dtype == jnp.bool_,
      f'{name}: the mask {m.dtype}{list(m.shape)} does not fit {list(p.shape)}.',
    )
  shapes = jax.eval_shape(tx.init, params)
  _history.require(
    jax.tree.structure(shapes) == jax.tree.structure(state),
    'init gives another tree under eval_shape.',
  )
  try:
    tx.update(params, state)
  except ValueError:
    return
  raise AssertionError('update(grads, state) without params must raise ValueError.')


def check_counts(
  history: _history.History,
  num_kept: Mapping[str, int] | Callable[[int], Mapping[str, int]],
) -> None:
  """The masks keep exactly as many weights as they should, after every step.

  Args:
    history: from `train`.
    num_kept: `{leaf name: weights kept}`, or a function from the number of steps
      made to it. Leaves that are left out must not be masked.

  Raises:
    AssertionError: the step, the leaf and both counts.

  Example:
    >>> import jaxsparse as js
    >>> make_tx = lambda inner, seed: js.transforms.static(
    ...     inner, 0.75, seed=seed, distribution=js.distributions.uniform)
    >>> history = js.testing.train(make_tx, steps=2)
    >>> js.testing.check_counts(history, {'dense1/kernel': 128, 'dense2/kernel': 64})
  """
  names, leaves, _ = core.named_leaves(history.params[0])
  for step, state in enumerate(history.states):
    wanted = num_kept(step) if callable(num_kept) else num_kept
    unknown = set(wanted) - set(names)
    _history.require(not unknown, f'num_kept: no leaf is called {sorted(unknown)}.')
    masks = _history.masks_of(history.params[0], state)
    for name, m, p in zip(names, masks, leaves, strict=True):
      kept = int(np.broadcast_to(m, p.shape).sum())
      _history.require(
        kept == wanted.get(name, p.size),
        f'after {step} steps {name} keeps {kept}, not {wanted.get(name, p.size)}.',
      )


def check_zeros(history: _history.History) -> None:
  """Every weight off the mask is exactly 0, from the start and after each step.

  Args:
    history: from `train`.

  Raises:
    AssertionError: the step, the leaf and how many are not 0.
  """
  for step, (params, state) in enumerate(
    zip(history.params, history.states, strict=True)
  ):
    for name, values in _history.off_mask(params, state):
      # `!= 0` also finds a NaN.
      wrong = int((values != 0).sum())
      _history.require(
        not wrong,
        f'after {step} steps {wrong} weights of {name} off the mask are not 0.',
      )


def check_one_trace(history: _history.History) -> None:
  """One compilation serves all steps, those that change the masks too.

  Args:
    history: from `train`.

  Raises:
    AssertionError: a second trace; an array of the state whose shape, dtype or weak
      type changes, or that is no jax array (a Python number compiles twice).
  """
  _history.require(
    history.num_traces == 1, f'the step was traced {history.num_traces} times.'
  )
  first, last = history.states[0], history.states[-1]
  names, before, treedef = core.named_leaves(first)
  _history.require(
    treedef == jax.tree.structure(last), 'the tree of the state changes in a step.'
  )
  for name, a, b in zip(names, before, jax.tree.leaves(last), strict=True):
    _history.require(
      isinstance(a, jax.Array), f'{name} in the state is a {type(a).__name__}.'
    )
    kinds = [(x.shape, x.dtype, getattr(x, 'weak_type', False)) for x in (a, b)]
    _history.require(
      kinds[0] == kinds[1],
      f'{name} in the state changes from {kinds[0]} to {kinds[1]}.',
    )


def check_masks_move(history: _history.History) -> None:
  """Some mask changes during the run: without that the other checks prove little.

  Args:
    history: from `train`.

  Raises:
    AssertionError: all masks stay as they were.
  """
  masks = [jax.tree.leaves(rules.get_masks(s)) for s in history.states]
  moved = any(
    not np.array_equal(a, b) for now in masks[1:] for a, b in zip(masks[0], now)
  )
  _history.require(moved, 'no mask changed; train longer, or with another `when`.')


def check_grown(history: _history.History) -> None:
  """Newly active weights start at 0, with the statistics of a fresh optimizer.

  A statistic is compared where its path ends in a parameter's path and it has that
  parameter's shape. It must be what `inner.init` gives at the new parameters (0 for
  Adam, not for Adagrad), or what a first step with gradient 0 makes of that. For
  rules whose grown weights start at 0.

  Args:
    history: from `train`; at least one weight must grow in it.

  Raises:
    AssertionError: the step, the leaf of the state, and both values.
  """
  grew = False
  names, leaves, _ = core.named_leaves(history.params[0])
  for step in range(1, len(history.states)):
    old, new = (
      jax.tree.leaves(rules.get_masks(history.states[i])) for i in (step - 1, step)
    )
    params = history.params[step]
    values = dict(zip(names, jax.tree.leaves(params)))
    grown = {
      n: np.broadcast_to(b & ~a, p.shape) for n, a, b, p in zip(names, old, new, leaves)
    }
    grew |= any(g.any() for g in grown.values())
    for name, g in grown.items():
      _history.require(
        not np.any(np.asarray(values[name])[g]),
        f'in step {step} weights of {name} grow at another value than 0.',
      )
    (state,) = core.sparse_states(history.states[step])
    fresh = history.inner.init(params)
    nothing = jax.tree.map(jnp.zeros_like, params)
    _, stepped = history.inner.update(nothing, fresh, params)
    _check_fresh(state.inner_state, (fresh, stepped), grown, step)
  _history.require(grew, 'no weight grew; train longer, or with another `when`.')


def _check_fresh(inner_state, allowed, grown, step):
  paths, arrays, _ = core.named_leaves(inner_state)
  allowed = zip(*map(jax.tree.leaves, allowed), strict=True)
  for path, a, values in zip(paths, arrays, allowed, strict=True):
    for name, g in grown.items():
      if not path.endswith('/' + name) or np.shape(a) != g.shape:
        continue
      got, *wanted = (np.asarray(x)[g] for x in (a, *values))
      _history.require(
        # Adafactor adds 1e-30 to the square of a gradient.
        any(np.allclose(got, w, rtol=1e-6, atol=1e-20) for w in wanted),
        f'in step {step} grown weights have {got[:3]} in {path} of the inner state,'
        f' where a fresh one has {wanted[0][:3]}.',
      )

"""A tiny training run that is recorded step by step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsparse import core, rules

# `(inner, seed) -> tx`; a transform that draws nothing ignores the seed.
MakeTx = Callable[[optax.GradientTransformation, Any], optax.GradientTransformation]


class History(NamedTuple):
  """What `train` saw.

  Attributes:
    make_tx: what `train` was given.
    tx: the transform, with its inner optimizer inside.
    inner: the inner optimizer.
    step: the compiled step, `(params, state, shift) -> (params, state)`.
    params: the parameters before the first step and after each one.
    states: the optimizer's states at the same moments.
    num_traces: how often the step was traced.
    prepare: what made the params of the dense start.
  """

  make_tx: MakeTx
  tx: optax.GradientTransformation
  inner: optax.GradientTransformation
  step: Callable
  params: list
  states: list
  num_traces: int
  prepare: Callable[[Any], Any]


def small_params(dtype=jnp.float32):
  """Two Dense layers and a norm's scale, random, as Linen would name them.

  The kernels are (16, 32) and (32, 8): groups of four fit into four shards of each.
  """
  draw = np.random.default_rng(0).normal

  def leaf(*shape):
    return jnp.asarray(draw(size=shape), dtype)

  return {
    'dense1': {'kernel': leaf(16, 32), 'bias': leaf(32)},
    'dense2': {'kernel': leaf(32, 8), 'bias': leaf(8)},
    'norm': {'scale': leaf(32)},
  }


def gradients(params, shift):
  """The gradient of |p - t|^2 / 2: dense, without ties, another in every step.

  Args:
    params: any pytree of float arrays.
    shift: float scalar; it moves the target t.

  Returns:
    A tree like the params.
  """
  names, leaves, treedef = core.named_leaves(params)

  def one(name, p):
    index = jnp.arange(p.size, dtype=jnp.float32).reshape(p.shape)
    # 7.3 is no multiple of pi: the values look random, at no cost. By name, so that
    # another container has the same targets.
    phase = shift + len(name) + sum(map(ord, name)) % 7
    return p - jnp.sin(7.3 * index + phase).astype(p.dtype)

  return treedef.unflatten(map(one, names, leaves))


def make_step(tx, edit_grads=None):
  """`(params, state, shift) -> (params, state)`: one step of the tiny problem.

  Args:
    tx: the transform.
    edit_grads: `(grads, state) -> grads`, to spoil the gradients.
  """

  def step(params, state, shift):
    grads = gradients(params, shift)
    if edit_grads is not None:
      grads = edit_grads(grads, state)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  return step


def train(
  make_tx: MakeTx,
  *,
  inner: optax.GradientTransformation | None = None,
  params=None,
  prepare: Callable[[Any], Any] = lambda params: params,
  steps: int = 8,
  seed=0,
) -> History:
  """Trains a tiny problem under `jit` and keeps every step.

  Args:
    make_tx: `(inner, seed) -> tx`.
    inner: the inner optimizer; None for Adam.
    params: the dense start; None for `small_params()`.
    prepare: makes of it what the transform takes; for a posterior its Gaussians, two
      fields that share each mask.
    steps: updates made; let the masks change at least twice.
    seed: what `make_tx` gets.

  Returns:
    A History for the `check_` functions.

  Example:
    >>> import jaxsparse as js
    >>> make_tx = lambda inner, seed: js.transforms.static(inner, 0.75, seed=seed)
    >>> history = js.testing.train(make_tx, steps=3)
    >>> len(history.params), history.num_traces
    (4, 1)
  """
  inner = optax.adam(1e-2) if inner is None else inner
  tx = make_tx(inner, seed)
  params = small_params() if params is None else params
  params, state = rules.init(tx, prepare(params))
  traces = []
  advance = make_step(tx)

  @jax.jit
  def step(*args):
    # Python runs only while jax traces.
    traces.append(None)
    return advance(*args)

  all_params, states = [params], [state]
  for i in range(steps):
    params, state = step(params, state, float(i))
    all_params.append(params)
    states.append(state)
  # A warning of the transform must fall into this run, not into a later one.
  jax.effects_barrier()
  return History(make_tx, tx, inner, step, all_params, states, len(traces), prepare)


def off_mask(params, state):
  """Yields (name, values off the mask) of every leaf, as NumPy arrays."""
  names, leaves, _ = core.named_leaves(params)
  for name, p, m in zip(names, leaves, masks_of(params, state), strict=True):
    yield name, np.asarray(p)[~np.broadcast_to(m, p.shape)]


def masks_of(params, state) -> list:
  """The masks along the leaves of the params.

  Where the params are several fields of one treedef, the masks are those of each; a
  scalar in the place of an array has none.
  """
  masks = rules.get_masks(state)
  treedef, found = jax.tree.structure(masks), jax.tree.leaves(masks)
  if jax.tree.structure(params) == treedef:
    return found
  is_field = lambda x: jax.tree.structure(x) == treedef
  fields = jax.tree.leaves(params, is_leaf=is_field)
  require(all(map(is_field, fields)), 'the masks have another tree than the params.')
  return [
    m if p.ndim else jnp.ones((), bool)
    for field in fields
    for p, m in zip(jax.tree.leaves(field), found, strict=True)
  ]


def require(condition, message: str) -> None:
  """Raises AssertionError, also under `python -O`."""
  if not condition:
    raise AssertionError(message)


def require_equal(a, b, what: str, *, exact: bool = True) -> None:
  """Asserts that two trees have the same values, naming the first leaf that differs.

  Args:
    a: a pytree of arrays and typed keys.
    b: another of the same structure.
    what: begins the message.
    exact: bit for bit (NaN equals NaN), or within 1e-5.
  """
  names, lefts, treedef = core.named_leaves(a)
  require(
    treedef == jax.tree.structure(b),
    f'{what}: the trees differ: {treedef} and {jax.tree.structure(b)}.',
  )
  for name, x, y in zip(names, lefts, jax.tree.leaves(b), strict=True):
    x, y = (_numbers(v) for v in (x, y))
    same = (
      np.array_equal(x, y, equal_nan=x.dtype.kind == 'f')
      if exact
      else np.allclose(x, y, rtol=1e-5, atol=1e-5, equal_nan=True)
    )
    require(
      x.dtype == y.dtype and x.shape == y.shape and same,
      f'{what}: {name} differs: {x.dtype}{list(x.shape)} and {y.dtype}{list(y.shape)}.',
    )


def _numbers(x):
  x = jnp.asarray(x)
  if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
    x = jax.random.key_data(x)
  # NumPy compares no bfloat16 with equal_nan.
  return np.asarray(x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x)

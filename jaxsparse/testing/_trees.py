"""Checks of what a transform does with trees and dtypes of every kind."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsparse import core, rules
from jaxsparse.testing import _history, _steps


class _Layer(NamedTuple):
  kernel: Any
  bias: Any


class _Scale(NamedTuple):
  scale: Any


class _Net(NamedTuple):
  dense1: _Layer
  dense2: _Layer
  norm: _Scale


def _bare(params):
  layers = (_Layer(**params['dense1']), _Layer(**params['dense2']))
  return _Net(*layers, _Scale(**params['norm']))


def check_containers(history: _history.History) -> None:
  """A Linen dict, an `nnx.State` and a bare pytree of one network train alike.

  Args:
    history: from `train` with the default params.

  Raises:
    AssertionError: a parameter or a mask that differs, by name.

  Example:
    >>> import jaxsparse as js
    >>> make_tx = lambda inner, seed: js.transforms.static(inner, 0.75, seed=seed)
    >>> js.testing.check_containers(js.testing.train(make_tx, steps=2))
  """
  from flax import nnx

  linen = _history.small_params()
  wanted = _last_by_name(history)
  nnx_state = nnx.State(jax.tree.map(nnx.Param, linen))
  for what, params in (('an nnx.State', nnx_state), ('a bare pytree', _bare(linen))):
    other = _history.train(
      history.make_tx,
      inner=history.inner,
      params=params,
      steps=len(history.params) - 1,
    )
    got = _last_by_name(other)
    _history.require_equal(wanted, got, f'a Linen dict and {what}')


def _last_by_name(history):
  trees = {
    'params': history.params[-1],
    'masks': rules.get_masks(history.states[-1]),
  }
  # By name: a NamedTuple has its leaves in another order than a dict.
  return {what: dict(zip(*core.named_leaves(t)[:2])) for what, t in trees.items()}


def check_dtype(history: _history.History, dtype=jnp.bfloat16, *, steps=4) -> None:
  """Parameters of another dtype keep it, and are exactly 0 off the mask.

  Args:
    history: from `train`; its transform is built again.
    dtype: a float dtype.
    steps: updates made.

  Raises:
    AssertionError: a parameter of another dtype, or not 0; a state that changes.
  """
  start = _history.small_params(dtype)
  other = _history.train(
    history.make_tx, params=start, prepare=history.prepare, steps=steps
  )
  # A posterior's rho is wider than the params that it was made for.
  wanted = jax.tree.leaves(history.prepare(start))
  for name, p, w in zip(*core.named_leaves(other.params[-1])[:2], wanted, strict=True):
    _history.require(p.dtype == w.dtype, f'{name} is {p.dtype} after {steps} steps.')
  _steps.check_zeros(other)
  _steps.check_one_trace(other)


def check_odd_trees(history: _history.History) -> None:
  """Nothing to prune is no error: an empty tree, dense leaves, scalars, zero size.

  Args:
    history: from `train`; its transform is built again.

  Raises:
    AssertionError: a mask that is no scalar, or values that are not finite.
  """
  trees: tuple[dict, ...] = (
    {},
    {'bias': jnp.ones(3), 'scale': jnp.ones(())},
    {'dense': {'kernel': jnp.ones((0, 4)), 'bias': jnp.ones(4)}},
  )
  for params in trees:
    other = _history.train(history.make_tx, params=params, steps=2)
    for m in jax.tree.leaves(rules.get_masks(other.states[-1])):
      _history.require(m.shape == () and bool(m), f'a mask {m} where none is pruned.')
    for p in jax.tree.leaves(other.params[-1]):
      _history.require(np.all(np.isfinite(p)), 'a parameter is not finite.')


def check_masked_node(history: _history.History, *, steps: int = 4) -> None:
  """Inside `optax.partition`, which hides other leaves behind `MaskedNode`.

  Args:
    history: from `train`; its transform is built again.
    steps: updates made.

  Raises:
    AssertionError: masks that do not lie along the params, weights that are not 0
      off the mask, a second trace.
  """

  def hidden(inner, seed):
    def label(params):
      names, _, treedef = core.named_leaves(params)
      return treedef.unflatten(['in' if 'dense1' in n else 'out' for n in names])

    return optax.partition(
      {'in': history.make_tx(inner, seed), 'out': optax.sgd(1e-2, momentum=0.9)}, label
    )

  other = _history.train(hidden, steps=steps)
  masks = rules.get_masks(other.states[-1])
  _history.require(
    jax.tree.structure(masks) == jax.tree.structure(other.params[0]),
    'under optax.partition the masks have another tree than the params.',
  )
  _history.require(
    masks['dense1']['kernel'].ndim == 2 and masks['dense2']['kernel'].ndim == 0,
    'under optax.partition the masks are not on the leaves that the transform got.',
  )
  _steps.check_zeros(other)
  _steps.check_one_trace(other)

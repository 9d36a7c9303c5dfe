"""All checks of one transform in a row."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from jaxsparse.testing import _devices, _history, _runs, _steps, _trees


def check_transform(
  make_tx: _history.MakeTx,
  *,
  num_kept: Mapping[str, int] | Callable[[int], Mapping[str, int]],
  moves: bool = True,
  grows: bool = False,
  dense_gradient: bool = False,
  any_tree: bool = True,
  steps: int = 8,
) -> None:
  """Runs every check on a transform: the conformance test of one's own method.

  The network is `small_params()`, so `num_kept` speaks of `dense1/kernel` (16, 32)
  and `dense2/kernel` (32, 8). Let `when` be true at least twice in `steps`. Checks on
  2 and 8 devices run where there are as many (`jax_num_cpu_devices`).

  Args:
    make_tx: `(inner, seed) -> tx`.
    num_kept: `{leaf name: weights kept}`, or a function from the steps made to it.
    moves: whether the masks change.
    grows: whether weights grow, at 0.
    dense_gradient: whether the inner optimizer gets gradients off the mask.
    any_tree: whether it takes other trees than `small_params()`.
    steps: updates made in the main run.

  Raises:
    AssertionError: the first check that fails, with what it saw.

  Example:
    >>> import jaxsparse as js
    >>> def make_tx(inner, seed):
    ...   return js.transforms.rigl(
    ...       inner, 0.75, seed=seed, when=js.schedules.every(2),
    ...       distribution=js.distributions.uniform)
    >>> js.testing.check_transform(
    ...     make_tx, num_kept={'dense1/kernel': 128, 'dense2/kernel': 64}, grows=True)
  """
  history = _history.train(make_tx, steps=steps)
  _steps.check_protocol(history)
  _steps.check_counts(history, num_kept)
  _steps.check_zeros(history)
  _steps.check_one_trace(history)
  if moves:
    _steps.check_masks_move(history)
  if grows:
    _steps.check_grown(history)
  _runs.check_extra_args(history)
  _runs.check_nan(history, dense_gradient=dense_gradient)
  _runs.check_donation(history)
  _runs.check_checkpoint(history)
  _runs.check_vmap(history)
  _runs.check_vmap(history, batch_step=True)
  _trees.check_dtype(history, jnp.bfloat16)
  if any_tree:
    _trees.check_containers(history)
    _trees.check_masked_node(history)
    _trees.check_odd_trees(history)
  for num_devices in (2, 8):
    if jax.local_device_count() >= num_devices:
      _devices.check_replicas(history, num_devices=num_devices)
  if jax.local_device_count() >= 4:
    _devices.check_sharded(history)

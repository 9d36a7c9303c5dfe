"""Batches from arrays that lie on the device: no data comes from the host in a step."""

from typing import Any

import jax

from jaxsparse import core
from jaxsparse.data import _plan


def gather(plan: _plan.Plan, arrays, step) -> tuple[Any, Any]:
  """The batch of a step, out of data that lies in device memory.

  Pure, and made for `jit` and `lax.scan`: where `step` is traced, the records are chosen
  on the device too. Give `plan` to the compiled function as an argument, and one program
  serves every seed.

  Args:
    plan: any plan.
    arrays: pytree of arrays (N, ...).
    step: int32 scalar, or an array of steps.

  Returns:
    `(batch, weights)`: the tree with leaves (batch_size, ...), and float32 (batch_size,);
    the shape of `step` comes before.

  Raises:
    ValueError: a leaf that does not hold N examples.

  Example:
    >>> import jax, jax.numpy as jnp, jaxsparse as js
    >>> plan = js.data.rs2(100, 4, ratio=0.2, rounds=3, seed=0)
    >>> x = jnp.arange(100.0)
    >>> @jax.jit
    ... def run(plan, x):
    ...   body = lambda total, step: (total + js.data.gather(plan, x, step)[0].sum(), ())
    ...   return jax.lax.scan(body, 0.0, jnp.arange(plan.total_steps))[0]
    >>> bool(run(plan, x) == x[plan.batch(jnp.arange(15))[0]].sum())
    True
  """
  for name, leaf in zip(*core.named_leaves(arrays)[:2]):
    if leaf.shape[:1] != (plan.num_examples,):
      raise ValueError(
        f'arrays: leaf {name!r} has shape {leaf.shape}, wanted'
        f' ({plan.num_examples}, ...), as many examples as the plan.'
      )
  indices, weights = plan.batch(step)
  return jax.tree.map(lambda x: x[indices], arrays), weights

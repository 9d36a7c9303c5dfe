"""Sums over draws of the weights, at the memory of one draw."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxsparse import core


def of_posterior(posterior, params, masks, mode: str) -> Callable[[jax.Array], Any]:
  """`key -> theta` for a mode of prediction."""
  if mode == 'sample':
    return lambda key: posterior.sample(params, masks, key)
  if mode == 'mean':
    return lambda key: posterior.mean(params, masks)
  if mode == 'lrt':
    return lambda key: posterior.noisy(params, masks, key, 'local')
  raise ValueError(f"mode={mode!r}: wanted 'sample', 'mean' or 'lrt'.")


def _check_positive(name: str, value) -> None:
  if isinstance(value, bool) or not isinstance(value, int) or value < 1:
    raise ValueError(f'{name}={value!r}: wanted an int of at least 1.')


def over_draws(draw, apply_fn, x, key, samples, chunk, start, add):
  """Adds up what a model gives for many draws.

  Args:
    draw: `key -> theta`.
    apply_fn: `(theta, x) -> outputs`.
    x: the batch.
    key: typed key.
    samples: number of draws.
    chunk: how many run together.
    start: `outputs -> sums`, from the outputs of one draw (shapes only).
    add: `(sums, outputs) -> sums`, of outputs with a leading axis of draws.

  Returns:
    The sums.
  """
  _check_positive('samples', samples)
  _check_positive('chunk', chunk)
  if samples % chunk:
    raise ValueError(f'chunk={chunk}: wanted a divisor of samples={samples}.')
  key = core.as_key(key)

  def run(index):
    # The key depends on the number of the draw alone: `chunk` changes no draw.
    return apply_fn(draw(jax.random.fold_in(key, index)), x)

  def body(sums, indices):
    return add(sums, jax.vmap(run)(indices)), None

  indices = jnp.arange(samples, dtype=jnp.uint32)
  # Shapes come from tracing: no draw is spent on them.
  sums = start(jax.eval_shape(run, indices[0]))
  return jax.lax.scan(body, sums, indices.reshape(-1, chunk))[0]

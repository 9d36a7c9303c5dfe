"""Whole counts from densities."""

from collections.abc import Mapping
import math

import jax
import jax.numpy as jnp

from jaxsparse import core

Leaves = Mapping[str, core.Leaf]


def total(leaves):
  """The weights of all leaves together."""
  return sum(leaf.size for leaf in leaves.values())


def lengths(leaf, axes):
  """The product of the lengths along some axes, 1 without axes."""
  return math.prod(leaf.shape[a] for a in axes)


def total_kept(leaves, sparsity):
  """`round((1 - sparsity) * total)`: an int, or an int32 array if it is an array."""
  size = total(leaves)
  if isinstance(sparsity, jax.Array):
    # Of the removed weights, so that sparsity 0 keeps all, whatever float32 can count.
    removed = jnp.round(sparsity.astype(jnp.float32) * jnp.float32(size))
    return jnp.clip(jnp.int32(size) - removed.astype(jnp.int32), 0, size)
  if not 0 <= sparsity < 1:
    raise ValueError(f'sparsity={sparsity}: wanted a fraction removed in [0, 1).')
  return round((1 - float(sparsity)) * size)


def share_out(leaves, densities, total_kept):
  """Whole counts that sum to `total_kept`, by largest remainder, as sparsities."""
  exact = {n: densities[n] * leaf.size for n, leaf in leaves.items()}
  # Float errors are no remainder: 49.999999999 weights are 50.
  kept = {n: min(int(exact[n] + 1e-6), leaves[n].size) for n in leaves}
  # Largest remainder first; ties keep the order of the leaves.
  by_remainder = sorted(leaves, key=lambda n: kept[n] - exact[n])
  missing = total_kept - sum(kept.values())
  # Leaves that are full, or empty, take no part, so one round may not be enough.
  while missing:
    step = 1 if missing > 0 else -1
    for name in by_remainder[::step]:
      if missing and 0 <= kept[name] + step <= leaves[name].size:
        kept[name] += step
        missing -= step
  return {n: 1 - kept[n] / max(leaf.size, 1) for n, leaf in leaves.items()}

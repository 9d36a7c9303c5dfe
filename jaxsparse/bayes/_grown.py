"""What a weight that grows starts from: mu = 0, and a sigma that fits its layer."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxsparse import core
from jaxsparse import masks as masks_lib
from jaxsparse.bayes import _held, _posterior

_SMALL_SIGMA = 1e-6


class SsviMemory(NamedTuple):
  """What the rule remembers.

  Attributes:
    rho: what a weight that grows starts from, one value per pruned Bayesian leaf (and
      per stacked layer), as the last decision found it.
  """

  rho: tuple[jax.Array, ...]


def leaves(family, mu) -> dict[str, core.Leaf]:
  """The leaves whose grown weights need a sigma."""
  bayesian = core.prunable_leaves(mu, family.bayesian, family.leaves)
  return {n: x for n, x in family.budget.pruned(mu).items() if n in bayesian}


def value(family, params, evidence) -> _posterior.Gaussian:
  """The parameters of a weight that grows: `MaskRule.grown_value`."""
  decision = evidence.decision
  wanted = leaves(family, _held.dense_structs(params.mu, decision.masks))
  found = dict(zip(wanted, decision.memory.rho, strict=True))
  names, rhos, treedef = core.named_leaves(params.rho)
  nodes = _held.nodes(decision.masks)
  filled = [
    _spread(found[n], r, mask) if n in found else jnp.zeros_like(r)
    for n, r, mask in zip(names, rhos, nodes, strict=True)
  ]
  zeros = jax.tree.map(jnp.zeros_like, params.mu)
  return _posterior.Gaussian(zeros, treedef.unflatten(filled))


def _spread(one, rho, mask):
  """A value per layer, for all weights of the layer."""
  if _held.is_held(mask):
    # Values are (*stack, places), while `one` has as many axes as the dense leaf.
    one = one.reshape(rho.shape[:-1] + (1,))
  return jnp.broadcast_to(one, rho.shape)


def rho(family, how, gaussian, masks, survivors) -> SsviMemory:
  """The rho of grown weights: a value per leaf, or per layer of a stacked one.

  Args:
    family: the settings.
    how: `grown_sigma`.
    gaussian: its parameters; on nonzeros, values.
    masks: the new masks, or patterns.
    survivors: bools like the masks, or like the values.
  """
  wanted = leaves(family, _held.dense_structs(gaussian.mu, masks))
  prior = family.prior_sigma(gaussian.mu, masks)
  rhos, alive = (core.named_subset(t, wanted) for t in (gaussian.rho, survivors))
  nodes = dict(zip(core.named_leaves(gaussian.mu)[0], _held.nodes(masks)))
  found = []
  for name, leaf in wanted.items():
    rho, shape = rhos[name], _slices(leaf)
    fixed = prior[name] if how == 'prior' else jnp.float32(_SMALL_SIGMA)
    start = family.link.rho(jnp.asarray(fixed, jnp.float32))
    start = jnp.broadcast_to(start, shape).astype(rho.dtype)
    if how in ('mean_rho', 'layer_median'):
      # Of rho, as in the released code: under exp_link a geometric mean of sigmas.
      statistic = _mean if how == 'mean_rho' else _median
      held = _held.is_held(nodes[name])
      axes = (rho.ndim - 1,) if held else leaf.unit_axes
      mask = jnp.broadcast_to(alive[name], rho.shape)
      # With nobody left to ask, a new weight starts at the prior.
      fallback = family.link.rho(prior[name]).astype(rho.dtype)
      start = statistic(rho, mask, axes, fallback).reshape(shape)
    found.append(start)
  return SsviMemory(tuple(found))


def _slices(leaf):
  # The shape of a sum over `unit_axes` with keepdims.
  return tuple(n if a in leaf.stack_axes else 1 for a, n in enumerate(leaf.shape))


def _mean(rho, mask, axes, fallback):
  count = core.count_true(mask, axes)
  total = jnp.sum(jnp.where(mask, rho, jnp.zeros_like(rho)), axes, keepdims=True)
  mean = total / jnp.maximum(count, 1).astype(rho.dtype)
  return jnp.where(count > 0, mean, fallback)


def _median(rho, mask, axes, fallback):
  """By selection: what is below the upper half, and what is above the lower one."""
  count = core.count_true(mask, axes)
  # The upper half; of an odd number the middle one is the largest of the lower.
  upper = masks_lib.top_k_mask(masks_lib.exclude(~mask, rho), count // 2, axes)
  low = jnp.max(jnp.where(mask & ~upper, rho, -jnp.inf), axes, keepdims=True)
  high = jnp.min(jnp.where(upper, rho, jnp.inf), axes, keepdims=True)
  median = jnp.where(count % 2 == 1, low, 0.5 * (low + high))
  return jnp.where(count > 0, median, fallback)

"""Independent Gaussians on the active weights: the functions of every posterior."""

from collections.abc import Callable, Mapping
import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxsparse import core, rules
from jaxsparse import masks as masks_lib
from jaxsparse.bayes import _criteria, _estimators, _held, _links, _noise, _posterior


@dataclasses.dataclass(frozen=True)
class Family:
  """The settings that dense and sparse posteriors share.

  Attributes:
    budget: what may be pruned, and in which structure.
    bayesian: which leaves have a sigma: as `prunable`.
    prior_scale, init_scale: standard deviations, see `mean_field`.
    init_mean: `(key, shape) -> mu`, or None for the model's own initial weights.
    relative: whether scales are in units of 1/sqrt(fan_in * density).
    link: how rho gives sigma.
    leaves: overrides of `js.leaves_of`.

  Raises:
    ValueError: a scale that is no positive number, a link or predicate that is none.
  """

  budget: rules.Budget
  bayesian: core.Prunable
  prior_scale: Any
  init_scale: Any
  init_mean: Callable | None
  relative: bool
  link: _links.Link
  leaves: core.LeafOverrides | None

  def __post_init__(self):
    for value in _values(self.prior_scale):
      _check_positive('prior_scale', value)
    for value in _values(self.init_scale):
      if not callable(value):
        _check_positive('init_scale', value)
    if not isinstance(self.link, _links.Link):
      raise ValueError(f'link={self.link!r}: wanted a Link such as js.bayes.exp_link.')

  def unit(self, leaf: core.Leaf, density):
    """What a scale of 1 means for a leaf: keeps a layer's output near size 1."""
    if not self.relative:
      return jnp.ones((), jnp.float32)
    # A bias or an embedding is not summed over: its own size is that of the output.
    fan_in = leaf.fan_in if core.kernels(leaf) else 1
    return 1 / jnp.sqrt(fan_in * jnp.asarray(density, jnp.float32))

  def prior_sigma(self, params, masks) -> dict[str, jax.Array]:
    """`{name: standard deviation of the prior}` of the Bayesian leaves."""
    dense = _held.dense_structs(params, masks)
    bayesian = core.prunable_leaves(dense, self.bayesian, self.leaves)
    scales = _per_leaf(self.prior_scale, bayesian, 'prior_scale')
    active = dict(zip(core.named_leaves(params)[0], _held.nodes(masks), strict=True))
    density = lambda n, leaf: _held.density(active[n], leaf)
    return {n: scales[n] * self.unit(x, density(n, x)) for n, x in bayesian.items()}


class _Entry(NamedTuple):
  """One leaf as all functions see it; `leaf` is None where it is deterministic.

  On nonzeros `mask` is the pattern, and `mu` and `rho` are values.
  """

  name: str
  leaf: core.Leaf | None
  mu: jax.Array
  rho: jax.Array
  mask: Any


def _entries(family, params, masks):
  """`([entry per leaf], treedef of the model's params)`."""
  dense = _held.dense_structs(params.mu, masks)
  bayesian = core.prunable_leaves(dense, family.bayesian, family.leaves)
  names, mus, treedef = core.named_leaves(params.mu)
  columns = zip(
    names, mus, jax.tree.leaves(params.rho), _held.nodes(masks), strict=True
  )
  return [_Entry(n, bayesian.get(n), *rest) for n, *rest in columns], treedef


def make(family: Family, densities: Callable) -> _posterior.Posterior:
  """The posterior of a family.

  Args:
    family: the settings.
    densities: `mu -> {leaf name: share of active weights}` at the start.

  Returns:
    A Posterior without a rule.
  """

  def over_leaves(function):
    def apply(params, masks, *args):
      entries, treedef = _entries(family, params, masks)
      return treedef.unflatten([function(family, e, *args) for e in entries])

    return apply

  def total(function):
    def add(params, masks, *args):
      entries, _ = _entries(family, params, masks)
      prior = family.prior_sigma(params.mu, masks)
      active = [e for e in entries if e.leaf is not None]
      terms = [function(family, e, prior[e.name], *args) for e in active]
      return sum(terms, jnp.zeros((), jnp.float32))

    return add

  def log_prob(params, masks, theta):
    entries, _ = _entries(family, params, masks)
    pairs = zip(entries, _held.values_of(theta), strict=True)
    terms = [_log_prob(family, e, x) for e, x in pairs]
    return sum(terms, jnp.zeros((), jnp.float32))

  return _posterior.Posterior(
    init=lambda key, params: start(family, densities(params), key, params),
    sample=over_leaves(lambda *args: _held.whole(_sample(*args), args[1].mask)),
    mean=over_leaves(lambda _, e: _held.whole(_through(e.mask, e.mu), e.mask)),
    sigma=over_leaves(_whole_sigma),
    kl=total(_kl),
    log_prob=log_prob,
    noisy=over_leaves(_noisy),
    prune=lambda params, masks, keep: _prune(family, params, masks, keep),
  )


def start(family, density, key, params, patterns=None) -> _posterior.Gaussian:
  """`Posterior.init`; with patterns, of params that are values there."""
  dense = params if patterns is None else _held.dense_structs(params, patterns)
  bayesian = core.prunable_leaves(dense, family.bayesian, family.leaves)
  scales = _per_leaf(family.init_scale, bayesian, 'init_scale')
  names, mus, treedef = core.named_leaves(params)
  rhos, means = [], []
  for name, mu in zip(names, mus):
    if name not in bayesian:
      means.append(mu)
      rhos.append(jnp.zeros((), jnp.float32))
      continue
    scale, leaf_key = scales[name], core.leaf_key(key, name)
    mu_key, sigma_key = jax.random.split(leaf_key)
    sigma = scale(sigma_key, mu.shape) if callable(scale) else scale
    sigma = sigma * family.unit(bayesian[name], density.get(name, 1.0))
    # In bfloat16 no update of log sigma would be large enough to count.
    dtype = jnp.promote_types(mu.dtype, jnp.float32)
    rhos.append(jnp.broadcast_to(family.link.rho(sigma), mu.shape).astype(dtype))
    drawn = mu if family.init_mean is None else family.init_mean(mu_key, mu.shape)
    means.append(jnp.asarray(drawn, mu.dtype))
  return _posterior.Gaussian(treedef.unflatten(means), treedef.unflatten(rhos))


def _through(mask, mu):
  """Exactly 0 off the mask, with the gradient of all weights, which growth reads."""
  if _held.is_held(mask) or not mask.ndim:
    return mu
  return mu - jax.lax.stop_gradient(jnp.where(mask, jnp.zeros_like(mu), mu))


def _sigma(family, e: _Entry):
  if e.leaf is None:
    return jnp.zeros((), e.mu.dtype)
  sigma = family.link.sigma(e.rho)
  # Off the mask rho is 0, which exp_link takes for a sigma of 1.
  if not _held.is_held(e.mask):
    sigma = jnp.where(e.mask, sigma, jnp.zeros_like(sigma))
  return sigma.astype(e.mu.dtype)


def _whole_sigma(family, e: _Entry):
  sigma = _sigma(family, e)
  return _held.whole(sigma, e.mask) if sigma.ndim else sigma


def _sample(family, e: _Entry, key):
  mean = _through(e.mask, e.mu)
  if e.leaf is None:
    return mean
  pattern = _held.plain(e.mask) if _held.is_held(e.mask) else None
  key = core.leaf_key(key, e.name)
  noise = _noise.normal(key, e.mu.shape, e.mu.dtype, pattern)
  return mean + _sigma(family, e) * noise


def _noisy(family, e: _Entry, key, method):
  is_table = e.name.split('/')[-1] == 'embedding'
  # Only a product can carry its noise to the outputs: a bias or scale is drawn.
  if e.leaf is None or not (core.kernels(e.leaf) or is_table):
    return _held.whole(_sample(family, e, key), e.mask)
  key = core.leaf_key(key, e.name)
  if e.leaf.stack_axes:
    # A scan slices every array of a node along its first axes.
    key = jax.random.split(key, tuple(e.leaf.shape[a] for a in e.leaf.stack_axes))
  mu, sigma = _through(e.mask, e.mu), _sigma(family, e)
  # Growth follows the gradient of the mean: only its product is looked at.
  return _estimators.Noisy(
    _held.whole(mu, e.mask), _held.whole(sigma, _held.plain(e.mask)), key, method
  )


def _kl(family, e: _Entry, prior):
  """Closed form; not by expm1, which XLA computes slowly: a draw has made sigma."""
  mu, rho = e.mu.astype(jnp.float32), e.rho.astype(jnp.float32)
  ratio = family.link.log_sigma(rho) - jnp.log(prior)
  squares = (family.link.sigma(rho) / prior) ** 2 + (mu / prior) ** 2
  each = 0.5 * (squares - 1 - 2 * ratio)
  # The mask is no random variable: what is off it has no KL.
  return jnp.sum(jnp.where(_held.active(e.mask), each, jnp.zeros_like(each)))


def _log_prob(family, e: _Entry, theta):
  mask = _held.active(e.mask)
  # What a pattern has no place for is padding, and no weight off the mask.
  off = jnp.any(~mask & (theta != 0)) & (not _held.is_held(e.mask))
  if e.leaf is None:
    return jnp.where(off, -jnp.inf, 0.0)
  log_sigma = family.link.log_sigma(e.rho).astype(jnp.float32)
  scaled = (theta - e.mu).astype(jnp.float32) * jnp.exp(-log_sigma)
  each = -0.5 * scaled**2 - log_sigma - 0.5 * math.log(2 * math.pi)
  inside = jnp.sum(jnp.where(mask, each, jnp.zeros_like(each)))
  return jnp.where(off, -jnp.inf, inside)


def scores(family, criterion, params, masks):
  """Removal scores, a tree like the means; |mu| where a leaf is deterministic."""
  entries, treedef = _entries(family, params, masks)
  found = [
    jnp.abs(e.mu)
    if e.leaf is None
    else criterion(
      e.mu, family.link.sigma(e.rho).astype(e.mu.dtype), _held.active(e.mask)
    )
    for e in entries
  ]
  return treedef.unflatten(found)


def _prune(family, params, masks, keep):
  if not 0 < keep <= 1:
    raise ValueError(f'keep={keep}: wanted a share of the active weights in (0, 1].')
  for name, mask in zip(core.named_leaves(params.mu)[0], _held.nodes(masks)):
    if _held.is_held(mask):
      raise ValueError(f'{name}: held as nonzeros; js.compact.densify comes first.')
  leaves = family.budget.pruned(params.mu)
  structures = family.budget.structures(leaves)
  worth = core.named_subset(scores(family, _criteria.snr, params, masks), leaves)
  active, kept = core.named_subset(masks, leaves), {}
  for name, leaf in leaves.items():
    mask = active[name]
    mask = mask if mask.ndim else jnp.broadcast_to(mask, leaf.shape)
    count = structures[name].count(leaf, mask).astype(jnp.float32)
    # A share of at least one unit: no layer is emptied.
    num_kept = jnp.maximum(jnp.floor(keep * count + 0.5), 1).astype(jnp.int32)
    chosen = masks_lib.exclude(~mask, worth[name])
    kept[name] = structures[name].select(leaf, chosen, num_kept) & mask
  masks = masks_lib.from_named(params.mu, kept)
  mu = masks_lib.apply(masks, params.mu)
  rho = jax.tree.map(
    lambda m, r: jnp.where(m, r, jnp.zeros_like(r)) if r.ndim else r, masks, params.rho
  )
  return _posterior.Gaussian(mu, rho), masks


def _per_leaf(value, leaves, what):
  if not isinstance(value, Mapping):
    return dict.fromkeys(leaves, value)
  found = core.match(value, tuple(leaves), what)
  for name in leaves:
    if name not in found:
      raise ValueError(f"{what}: no pattern matches {name}; add '*' for the rest.")
  return found


def _values(given):
  return list(given.values()) if isinstance(given, Mapping) else [given]


def _check_positive(what, value):
  try:
    good = 0 < value < math.inf
  except TypeError:
    good = False
  if not good:
    raise ValueError(f'{what}={value!r}: wanted a positive number.')

"""SSVI: sparse subspace variational inference (Li et al. 2024)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxsparse import core, criteria, distributions, rules, schedules
from jaxsparse import masks as masks_lib
from jaxsparse.bayes import _criteria, _family, _grown, _held, _links, _posterior

_SIGMAS = ('mean_rho', 'prior', 'eps', 'layer_median')


class Alternation(NamedTuple):
  """How the subspace moves; see `ssvi` for the values."""

  drop_fraction: Any
  criterion: Callable
  growth: core.Criterion
  grown_sigma: str
  scope: str
  keep_repicked: bool


def ssvi_rule(family: _family.Family, alternation: Alternation) -> core.MaskRule:
  """The rule of `ssvi`: drop-and-grow over (mu, rho) pairs that share one mask.

  Args:
    family: the Gaussians, with the budget of what is pruned.
    alternation: how the subspace moves.

  Returns:
    A MaskRule whose params are a `Gaussian`.
  """
  budget, how = family.budget, alternation
  fraction = schedules.as_fraction(how.drop_fraction, 'drop_fraction')

  def init(evidence):
    masks = budget.masks(evidence.params[0], criteria.random(evidence))
    if how.scope == 'global' and how.criterion is not _criteria.magnitude:
      _check_comparable(family, evidence.params[0])
    # At the start whatever is active counts as a survivor.
    return masks, remember(evidence, masks, masks)

  def drop_scores(evidence):
    gaussian = _posterior.Gaussian(*evidence.params)
    return _family.scores(family, how.criterion, gaussian, evidence.masks)

  def remember(evidence, masks, survivors):
    gaussian = _posterior.Gaussian(*evidence.params)
    return _grown.rho(family, how.grown_sigma, gaussian, masks, survivors)

  def held_start(values, patterns, key):
    # A start without dense weights, see `js.compact.init`.
    if isinstance(values, _posterior.Gaussian):
      raise ValueError('make_params: makes a Gaussian; wanted the params of the model.')
    mu = _held.dense_structs(values, patterns)
    nodes = dict(zip(core.named_leaves(mu)[0], _held.nodes(patterns), strict=True))
    pruned = budget.pruned(mu).items()
    density = {name: _held.density(nodes[name], leaf) for name, leaf in pruned}
    gaussian = _family.start(family, density, key, values, patterns)
    survivors = jax.tree.map(_held.active, patterns, is_leaf=_held.is_held)
    memory = _grown.rho(family, how.grown_sigma, gaussian, patterns, survivors)
    return gaussian, memory

  rewiring = core.Rewiring(
    budget,
    drop_scores,
    grow_scores=how.growth,
    growth=_supply(how.growth),
    fraction=fraction,
    remember=remember,
    pool=how.scope == 'global',
    keep_repicked=how.keep_repicked,
  )
  return core.MaskRule(
    init=init,
    update=rules.rewire(rewiring),
    fields=_fields,
    edit_grads=_edit_grads,
    grown_value=lambda params, evidence: _grown.value(family, params, evidence),
    budget=budget,
    rewiring=rewiring,
    random_start=True,
    held_start=held_start,
  )


def _supply(growth) -> str:
  """What an execution on nonzeros has to supply for it."""
  if growth is criteria.random:
    return 'random'
  return 'gradient' if growth is _criteria.gradient else 'a criterion of its own'


def ssvi(
  sparsity,
  *,
  seed,
  when: core.When,
  drop_fraction=0.3,
  criterion: Callable = _criteria.snr,
  growth: core.Criterion = _criteria.gradient,
  grown_sigma: str = 'mean_rho',
  scope: str = 'layer',
  keep_repicked: bool = False,
  skip_step: bool = False,
  distribution: core.Distribution = distributions.erk,
  structure=masks_lib.Unstructured(),
  prunable: core.Prunable = core.kernels,
  bayesian: core.Prunable = core.kernels,
  prior_scale=0.7,
  init_scale=0.05,
  init_mean=None,
  relative: bool = True,
  link: _links.Link = _links.exp_link,
  leaves: core.LeafOverrides | None = None,
) -> _posterior.Posterior:
  r"""A Gaussian on a subspace of constant size that moves as training goes on.

  .. math:: \theta = \gamma \odot (\mu + \sigma(\rho) \odot \epsilon), \quad
    \|\gamma\|_0 = const

  The variational parameters are trained by any optimizer (`js.bayes.optimizer`) on
  any estimate of the ELBO (`js.bayes.negative_elbo`). At the steps of `when`, in each
  leaf with K active weights, drop the floor(f K) with the smallest criterion; add as
  many of the others, with the largest |dL/dmu|, at mu = 0 and sigma as `grown_sigma`
  says, without moments. The mask has no distribution: uncertainty is that of the
  weights; several runs, or several masks of a cyclic one, add that of the structure.

  Against the released code (`ssvi_released`) sigma is in units of the layer's fan-in,
  and its logarithm is learned: as published it does not move in float32.

  Source: Li, Miao, Qiu and Zhang 2024, Training Bayesian neural networks with sparse
  subspace variational inference (arXiv 2402.11025), algorithm 1.

  Args:
    sparsity: fraction removed in [0, 1), or a mapping path pattern -> fraction.
    seed: int, integer tracer or typed key, of the random start.
    when: `step -> bool`, when to rewire, such as `js.schedules.every(100, stop=...)`.
    drop_fraction: share of the active weights replaced, a number or schedule.
    criterion: `(mu, sigma, active) -> scores` such as `js.bayes.snr`, `magnitude` or
      `e_abs`; a pruned leaf that is deterministic goes by |mu|.
    growth: `Evidence -> scores`: `js.bayes.gradient`, which reads this step's
      gradients (one minibatch, with noise) unless `update` gets `growth=` (at the
      mean, or over several minibatches), or `js.criteria.random`.
    grown_sigma: `'mean_rho'` (of the layer's survivors, before the link),
      `'layer_median'` (theirs), `'prior'`, or `'eps'` (1e-6).
    scope: `'layer'`, or `'global'`: all weights compete when dropped and when added,
      and only the total is constant.
    keep_repicked: whether a weight that is dropped and added in one step keeps its
      values and moments, as in the released code.
    skip_step: whether an update of the masks takes the place of the optimizer's step.
    distribution: shares the sparsity out among the leaves.
    structure: which weights go together; may be a mapping from path pattern.
    prunable: which leaves are sparse, see `js.kernels`.
    bayesian: which leaves have a sigma; the others are deterministic.
    prior_scale: standard deviation of the prior, see `mean_field`.
    init_scale: initial sigma, see `mean_field`.
    init_mean: `(key, shape) -> mu`; None keeps the model's own initial weights.
    relative: whether scales are in units of 1/sqrt(fan_in * density), with the density
      of the current mask.
    link: how rho gives sigma.
    leaves: overrides of `js.leaves_of`.

  Returns:
    A Posterior.

  Raises:
    ValueError: an argument out of range; a global scope with another structure than
      `Unstructured()`.

  Example:
    >>> import jax, jax.numpy as jnp, jaxsparse as js, optax
    >>> posterior = js.bayes.ssvi(
    ...     0.75, seed=0, when=js.schedules.every(100, stop=7500),
    ...     drop_fraction=js.schedules.cosine(0.3, 7500))
    >>> params = posterior.init(jax.random.key(0), {'kernel': jnp.ones((8, 8))})
    >>> tx = js.bayes.optimizer(posterior, optax.adam(5e-3), rho=optax.adam(1e-2))
    >>> params, opt_state = js.init(tx, params)
    >>> theta = posterior.sample(params, js.get_masks(opt_state), jax.random.key(1))
    >>> int((theta['kernel'] != 0).sum())
    16
  """
  _check(grown_sigma, scope, criterion, growth, structure)
  budget = rules.Budget(sparsity, distribution, structure, prunable, leaves)
  budget.require_constant('ssvi')
  family = _family.Family(
    budget, bayesian, prior_scale, init_scale, init_mean, relative, link, leaves
  )
  alternation = Alternation(
    drop_fraction, criterion, growth, grown_sigma, scope, keep_repicked
  )
  rule = ssvi_rule(family, alternation)
  densities = lambda mu: _start_densities(budget, seed, mu)
  return _family.make(family, densities)._replace(
    rule=rule, when=when, seed=seed, skip_step=skip_step
  )


def _check(grown_sigma, scope, criterion, growth, structure):
  if grown_sigma not in _SIGMAS:
    raise ValueError(f'grown_sigma={grown_sigma!r}: wanted one of {_SIGMAS}.')
  if scope not in ('layer', 'global'):
    raise ValueError(f"scope={scope!r}: wanted 'layer' or 'global'.")
  for what, given in (('criterion', criterion), ('growth', growth)):
    if not callable(given):
      raise ValueError(f'{what}={given!r}: wanted a function such as js.bayes.snr.')
  if scope == 'global' and structure != masks_lib.Unstructured():
    raise ValueError(
      f"scope='global': compares single weights, js.masks.Unstructured(); got"
      f' {structure!r}.'
    )


def _check_comparable(family, mu):
  others = set(family.budget.pruned(mu)) - set(_grown.leaves(family, mu))
  if others:
    raise ValueError(
      f"scope='global': {min(others)} is pruned but deterministic, so it goes by |mu|,"
      ' which does not compare with the criterion of the others; wanted'
      ' criterion=js.bayes.magnitude, or the leaf in bayesian=.'
    )


def _start_densities(budget, seed, mu):
  """`{name: share of active weights}` of the masks that `rule.init` will draw."""
  leaves = budget.pruned(mu)
  # The key that the wrapper gives the rule: a distribution may read the scores.
  key = jax.random.fold_in(core.as_key(seed), 0)
  evidence = core.Evidence((mu,), None, None, None, jnp.zeros((), jnp.int32), key)
  scores = core.named_subset(criteria.random(evidence), leaves)
  kept, structures = budget.num_kept(leaves, scores), budget.structures(leaves)
  return {n: kept[n] / structures[n].num_units(leaf) for n, leaf in leaves.items()}


def _fields(params):
  # Gradients may carry a third field, which only growth reads.
  growth = getattr(params, 'growth', None)
  return (params.mu, params.rho) if growth is None else (*params[:2], growth)


def _edit_grads(grads, params, masks, memory):
  own = _posterior.Gaussian(grads.mu, grads.rho)
  return core.mask_grads(own, params, masks, memory)

"""Static sparse training: random pruning, and pruning at initialisation."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from jaxsparse import core, criteria, distributions, rules
from jaxsparse import masks as masks_lib


def static_rule(
  budget: rules.Budget,
  criterion: core.Criterion = criteria.random,
  *,
  redraw: bool = False,
  iterations: int = 1,
) -> core.MaskRule:
  """The rule of `static`: masks are chosen once, at init.

  Args:
    budget: what is pruned, and how much.
    criterion: scores at init.
    redraw: whether only the layerwise fractions of the criterion are kept and the
      positions are drawn at random.
    iterations: rounds of pruning, the density falling as d**(i / iterations).

  Returns:
    A MaskRule without `update`.

  Raises:
    ValueError: a sparsity that moves.
  """

  budget.require_constant('static')

  def masks_at(evidence, step, budget):
    scores = criterion(evidence)
    # Between rounds a weight that is gone may score higher than one that is left.
    if evidence.masks is not None:
      scores = jax.tree.map(
        lambda m, s: masks_lib.exclude(~m, s), evidence.masks, scores
      )
    if redraw:
      drawn = criteria.random(evidence)
      return budget.masks(evidence.params[0], drawn, step=step, shares=scores)
    return budget.masks(evidence.params[0], scores, step=step)

  def init(evidence):
    if iterations == 1:
      return masks_at(evidence, None, budget), None
    final = budget.sparsity

    def sparsity(step):
      share = jnp.minimum(jnp.asarray(step, jnp.float32) / iterations, 1.0)
      # The last round is exact; a power of a power would be off by a rounding.
      return jnp.where(share >= 1, final, 1.0 - (1.0 - final) ** share)

    gradual = dataclasses.replace(budget, sparsity=sparsity)
    # The first round has no masks to start from; it gives the loop its carry.
    first = masks_at(evidence, jnp.int32(1), gradual)

    def prune_again(i, masks):
      return masks_at(evidence._replace(masks=masks), i + 1, gradual)

    # A loop in the program: unrolled, the criterion would be compiled once per round.
    return jax.lax.fori_loop(1, iterations, prune_again, first), None

  return core.MaskRule(
    init=init,
    grown_value=None,
    budget=budget,
    random_start=criterion is criteria.random and iterations == 1,
  )


def _given_rule(masks: core.Masks) -> core.MaskRule:
  """The rule that takes the masks as they are, after a look at their shapes."""

  def init(evidence):
    params = evidence.params[0]
    if jax.tree.structure(masks) != jax.tree.structure(params):
      names, got = core.named_leaves(params)[0], core.named_leaves(masks)[0]
      lacking, more = (sorted({*a} - {*b}) for a, b in ((names, got), (got, names)))
      raise ValueError(
        f'masks: of another model; they lack {", ".join(lacking) or "nothing"}, and'
        f' {", ".join(more) or "nothing"} is in them only. Their tree is'
        f' {jax.tree.structure(masks)}.'
      )
    names, values, _ = core.named_leaves(params)
    given = jax.tree.leaves(masks)
    for name, mask, value in zip(names, given, values):
      shape, wanted = jnp.shape(mask), jnp.shape(value)
      broadcastable = len(shape) in (0, len(wanted)) and all(
        n in (1, w) for n, w in zip(shape, wanted)
      )
      if not broadcastable or jnp.result_type(mask) != jnp.bool_:
        raise ValueError(
          f'masks: {name} has shape {shape} and dtype {jnp.result_type(mask)}; wanted'
          f' bool, broadcastable to {wanted}.'
        )
    # Copied: the state may be donated, these arrays are the caller's.
    copies = {n: jnp.array(m, copy=True) for n, m in zip(names, given)}
    return masks_lib.from_named(params, copies), None

  return core.MaskRule(init=init, grown_value=None)


def static(
  inner: optax.GradientTransformation,
  sparsity=None,
  *,
  masks: core.Masks | None = None,
  seed=None,
  distribution: core.Distribution = distributions.erk,
  structure=masks_lib.Unstructured(),
  criterion: core.Criterion = criteria.random,
  redraw: bool = False,
  iterations: int = 1,
  prunable: core.Prunable = core.kernels,
  leaves: core.LeafOverrides | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Trains with masks that are fixed at init.

  With the default criterion this is random pruning; `criterion=js.criteria.snip(loss,
  batch)` and its siblings prune at initialisation; `masks=` fine-tunes a sparse
  model that somebody brings. Unlike the published code of random pruning, counts
  are exact, not Bernoulli.

  Source: Liu et al. 2022, The Unreasonable Effectiveness of Random Pruning
  (arXiv 2202.02643), section 3.

  Args:
    inner: the optimizer.
    sparsity: fraction removed in [0, 1), or a mapping path pattern -> fraction, or ->
      weights kept (an int): what a distribution returned is one.
    masks: bool tree like the params; then nothing else is looked at.
    seed: int, integer tracer or typed key; needed by the random criterion.
    distribution: shares the sparsity out among the leaves.
    structure: which weights go together; may be a mapping from path pattern.
    criterion: `Evidence -> scores`, evaluated at init.
    redraw: keep the criterion's layerwise fractions, draw positions at random.
    iterations: rounds of pruning (SynFlow: 100).
    prunable: which leaves, see `js.kernels`.
    leaves: overrides of `js.leaves_of`.

  Returns:
    An optax transformation.

  Raises:
    ValueError: neither or both of `sparsity` and `masks`; a sparsity outside
      [0, 1), or one that moves; no seed where one is needed; iterations that are not
      positive.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js, optax
    >>> tx = js.transforms.static(optax.adam(1e-3), sparsity=0.75, seed=0)
    >>> params, opt_state = js.init(tx, {'kernel': jnp.ones((8, 8))})
    >>> int(js.get_masks(opt_state)['kernel'].sum())
    16
  """
  if (sparsity is None) == (masks is None):
    raise ValueError('static: give either sparsity= or masks=.')
  if masks is not None:
    return rules.keep_sparse(inner, _given_rule(masks))
  if seed is None and (redraw or criterion is criteria.random):
    raise ValueError('static: random masks need seed=; there is no default.')
  is_int = isinstance(iterations, int)
  if (
    not is_int or iterations < 1 or (iterations > 1 and not isinstance(sparsity, float))
  ):
    raise ValueError(
      f'static: iterations={iterations}, sparsity={sparsity!r}: wanted an int of 1 or'
      ' more, and one float for several rounds.'
    )
  budget = rules.Budget(sparsity, distribution, structure, prunable, leaves)
  rule = static_rule(budget, criterion, redraw=redraw, iterations=iterations)
  return rules.keep_sparse(inner, rule, seed=seed)

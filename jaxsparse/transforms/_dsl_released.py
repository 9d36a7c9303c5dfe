"""DSL with the settings of its authors' released code, to compare with."""

import jax
import jax.numpy as jnp
import optax

from jaxsparse import core, criteria, distributions, rules, schedules
from jaxsparse import masks as masks_lib


def dsl_released_rule(budget: rules.Budget, drop_fraction) -> core.MaskRule:
  """The rule of `dsl_released`.

  Args:
    budget: what is pruned; its sparsity is that of every leaf.
    drop_fraction: number or schedule, share of the active weights replaced.

  Returns:
    A MaskRule that leaves gradients dense and moments as they are.

  Raises:
    ValueError: a sparsity that is no number, a drop fraction outside [0, 1].
  """
  budget.require_constant('dsl_released')
  if not isinstance(budget.sparsity, float):
    raise ValueError(
      f'dsl_released: sparsity={budget.sparsity!r}; wanted one float for all leaves.'
    )
  fraction = schedules.as_fraction(drop_fraction, 'drop_fraction')

  def init(evidence):
    params = evidence.params[0]
    leaves = budget.pruned(params)
    drawn = core.named_subset(criteria.random(evidence), leaves)
    # Every weight by itself: how many there are is random too.
    # Random scores lie below 2**31.
    level = jnp.uint32(round((1 - budget.sparsity) * 2**31))
    return masks_lib.from_named(params, {n: x < level for n, x in drawn.items()}), None

  def update(evidence, memory):
    decision = rules.drop_grow(
      budget,
      evidence,
      drop_scores=criteria.magnitude(evidence),
      grow_scores=jax.tree.map(jnp.abs, evidence.grads[0]),
      fraction=fraction(evidence.step),
      share=_rounded_up,
    )
    # None: what is dropped and grown at once counts as having stayed.
    return decision._replace(survivors=None, memory=memory)

  return core.MaskRule(
    init=init,
    update=update,
    edit_grads=_dense_grads,
    decides_on_update=True,
    budget=budget,
    resets_moments=False,
  )


def _dense_grads(grads, params, masks, memory):
  del params, masks, memory
  return grads


def _rounded_up(fraction, count):
  product = jnp.ceil(fraction * count.astype(jnp.float32)).astype(jnp.int32)
  return jnp.minimum(product, count)


def dsl_released(
  inner: optax.GradientTransformation,
  sparsity: float,
  *,
  seed,
  interval: int,
  total_steps: int,
  initial: float = 0.5,
  final: float = 0.005,
  prunable: core.Prunable = '*',
  leaves: core.LeafOverrides | None = None,
) -> optax.GradientTransformationExtraArgs:
  """DSL as its authors released it: what `dsl` is to be compared with.

  Every weight starts active with probability 1 - sparsity, so that the budget is
  random. The optimizer gets dense gradients and keeps its moments of weights off the
  mask. After every `interval`-th step, in every leaf with K active weights,

      f_t = final + (initial - final) / 2 (1 + cos(pi t / total_steps))
      drop the ceil(f_t K) smallest |w|;  grow as many, by the last |dL/dw|,

  to the very end. New weights start at 0; what is dropped and grown at once keeps its
  value. Unlike there, ties never change the budget: that code drops every weight of the
  threshold's magnitude, and grows active ones where too few gradients are nonzero.

  Source: Wang et al. 2024, Dynamic Sparse Learning (arXiv 2402.02855), and the code of
  the authors.

  Args:
    inner: the optimizer.
    sparsity: expected fraction removed from every leaf, in [0, 1).
    seed: int, integer tracer or typed key, of the random start.
    interval: steps from one update of the masks to the next.
    total_steps: optimizer steps of the whole run.
    initial: share of active weights replaced at the start.
    final: the same at the end.
    prunable: which leaves; all of them, biases too, unless told otherwise.
    leaves: overrides of `js.leaves_of`.

  Returns:
    An optax transformation.

  Raises:
    ValueError: a sparsity outside [0, 1) or no float; an interval or a length below 1.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js, optax
    >>> tx = js.transforms.dsl_released(
    ...     optax.adam(1e-3), 0.5, seed=0, interval=100, total_steps=1000)
    >>> params, opt_state = js.init(tx, {'embedding': jnp.ones((100, 16))})
    >>> 700 < int(js.get_masks(opt_state)['embedding'].sum()) < 900
    True
  """
  for name, value in (('interval', interval), ('total_steps', total_steps)):
    if not isinstance(value, int) or value < 1:
      raise ValueError(f'dsl_released: {name}={value!r}: wanted an int of at least 1.')
  budget = rules.Budget(
    sparsity, distributions.uniform, masks_lib.Unstructured(), prunable, leaves
  )
  # Its steps are counted from 1, ours from 0.
  cosine, every = (
    schedules.cosine(initial, total_steps, final),
    schedules.every(interval),
  )
  rule = dsl_released_rule(budget, lambda step: cosine(step + 1))
  return rules.keep_sparse(inner, rule, lambda step: every(step + 1), seed=seed)

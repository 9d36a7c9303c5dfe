"""DSL: dynamic sparse learning for recommenders (Wang et al. 2024)."""

from collections.abc import Mapping
import functools

import jax
import optax

from jaxsparse import core, criteria, distributions, rules, schedules
from jaxsparse import masks as masks_lib
from jaxsparse.transforms import _dsl_steps

_SCOPES = ('global', 'joint', 'row', 'tensor')
_GROWTHS = ('accumulated', 'ema', 'last')


def is_table(leaf: core.Leaf) -> bool:
  """Whether a leaf is an embedding table as Flax names it: `.../embedding`, two axes.

  Example:
    >>> import jaxsparse as js
    >>> js.transforms.is_table(js.Leaf('user/embedding', (10, 4)))
    True
  """
  return leaf.name.split('/')[-1] == 'embedding' and len(leaf.shape) == 2


def dsl_rule(
  budget: rules.Budget,
  drop_fraction,
  *,
  scope: str = 'tensor',
  floor: int = 1,
  growth: str = 'accumulated',
  decay: float = 0.9,
  start: core.Criterion = criteria.random,
  look_ahead: bool = True,
  frequencies: Mapping[str, jax.Array] | None = None,
  frequency_power: float = 0.25,
  rotate: core.When | None = None,
  tables: core.Prunable = is_table,
) -> core.MaskRule:
  """The rule of `dsl`, whose docstring has the arguments.

  Args:
    budget: what is pruned, and how much.
    drop_fraction: number or schedule, share of the active weights replaced.
    scope, floor, growth, decay, start, look_ahead: see `dsl`.
    frequencies, frequency_power, tables: see `dsl`.
    rotate: steps that turn the tables; `keep_sparse` needs them in its `when` too.

  Returns:
    A MaskRule. It has a `rewiring`, for training on nonzeros, where it goes by the last
    gradient, in any scope but `'row'`, without rotations and frequencies.

  Raises:
    ValueError: an argument out of range.
  """
  budget.require_constant('dsl')
  _check(scope, floor, growth, decay)
  fraction = schedules.as_fraction(drop_fraction, 'drop_fraction')
  how = _dsl_steps.How(
    budget, fraction, scope, rules.Rows(tables, floor, scope == 'row'), growth, decay,
    start, frequencies, frequency_power, rotate,
  )  # fmt: skip

  def update(evidence, memory):
    rewire = lambda: _dsl_steps.rewire(how, evidence, memory)
    if rotate is None:
      return rewire()
    turn = lambda: _dsl_steps.rotate(how, evidence, memory)
    # A cond within that of the wrapper: eigenvectors only where a rotation is due.
    return jax.lax.cond(rotate(evidence.step), turn, rewire)

  rewiring = None
  if growth == 'last' and scope != 'row' and rotate is None and not frequencies:
    rewiring = core.Rewiring(
      budget,
      drop_scores=criteria.magnitude,
      grow_scores=_last_gradient,
      growth='gradient',
      fraction=fraction,
      pool=_dsl_steps.pool_of(how),
      rows=how.rows,
    )
  return core.MaskRule(
    init=functools.partial(_dsl_steps.init, how),
    update=update,
    grown_value=functools.partial(_dsl_steps.grown_value, how),
    decides_on_update=look_ahead,
    budget=budget,
    rewiring=rewiring,
    observe=None if growth == 'last' else functools.partial(_dsl_steps.observe, how),
    settled_memory=functools.partial(_dsl_steps.fresh_memory, how),
  )


def _last_gradient(evidence):
  return jax.tree.map(abs, evidence.grads[0])


def dsl(
  inner: optax.GradientTransformation,
  sparsity,
  *,
  seed,
  when: core.When,
  drop_fraction=0.3,
  scope: str = 'tensor',
  floor: int = 1,
  growth: str = 'accumulated',
  decay: float = 0.9,
  start: core.Criterion = criteria.random,
  look_ahead: bool = True,
  frequencies: Mapping[str, jax.Array] | None = None,
  frequency_power: float = 0.25,
  rotate: core.When | None = None,
  distribution: core.Distribution = distributions.uniform,
  prunable: core.Prunable = is_table,
  tables: core.Prunable = is_table,
  leaves: core.LeafOverrides | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Trains embedding tables sparse from scratch, at a constant budget.

  At the steps of `when`, with K active weights in a tensor (or in all that compete):

      drop the floor(f_t K) smallest |w_ij| f_i^p, but leave `floor` in each row;
      grow as many, by |sum of dL/dw since the last update|; they start at 0.

  The total stays exact to the weight. As published, the budget never leaves a tensor and
  growth goes by one batch, whose users and items it favours: `dsl_released` is that
  code. The paper's schedule is `when=js.schedules.every(n)` with
  `drop_fraction=js.schedules.cosine(0.5, total_steps, 0.005)`; a `stop` leaves the last
  steps to weights that stay.

  Two tables whose rows are multiplied only meet where both supports are. `rotate` turns
  them so that supports overlap: `E <- E Q` with the eigenvectors Q of `sum E' E`, then the
  largest stay. The scores of a dot product, also after a propagation, do not see Q.

  Source: Wang et al. 2024, Dynamic Sparse Learning: A Novel Paradigm for Efficient
  Recommendation (arXiv 2402.02855), section 3; growth by accumulated gradients as in
  SparseRec (arXiv 2411.12205).

  Args:
    inner: the optimizer.
    sparsity: fraction removed in [0, 1), or a mapping path pattern -> fraction, or ->
      weights kept (an int).
    seed: int, integer tracer or typed key, of the random start.
    when: `step -> bool`, when to drop and grow.
    drop_fraction: share of active weights replaced, a number or schedule.
    scope: within what the budget moves: each `'tensor'`; each `'row'` of a table (other
      tensors by themselves); `'joint'`, all tables together; `'global'`, all leaves.
    floor: active weights that no row of a table goes below; 0 for none.
    growth: `'accumulated'`, the signed sum of gradients since the last update, `'ema'`,
      their moving average, or `'last'`. The first two keep a dense float32 copy.
    decay: of the moving average, in [0, 1).
    start: scores of the first support: `js.criteria.random` (in scope `'row'` all rows
      begin alike), `js.criteria.popularity`, `js.criteria.factorization`.
    look_ahead: whether magnitudes are those after the optimizer's step.
    frequencies: path pattern -> how often each row is seen, (rows,); None for f_i = 1.
    frequency_power: p.
    rotate: `step -> bool`, once early in the run; None for never. Moments of the tables
      start afresh, and that step's update of them is the rotation alone.
    distribution: shares the sparsity out among the leaves at the start.
    prunable: which leaves; `('*',)` or a predicate for more than tables.
    tables: which of them have rows.
    leaves: overrides of `js.leaves_of`.

  Returns:
    An optax transformation.

  Raises:
    ValueError: an argument out of range; at init, fewer weights than the floor wants,
      `frequencies` that fit no table, tables of several widths that are to be rotated.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js, optax
    >>> tx = js.transforms.dsl(
    ...     optax.adam(1e-3), 0.75, seed=0, when=js.schedules.every(100, stop=7500),
    ...     drop_fraction=js.schedules.cosine(0.5, 7500, 0.005), scope='joint')
    >>> tables = {name: {'embedding': jnp.ones((5, 8))} for name in ('user', 'item')}
    >>> params, opt_state = js.init(tx, tables)
    >>> int(js.get_masks(opt_state)['user']['embedding'].sum())
    10
  """
  budget = rules.Budget(
    sparsity, distribution, masks_lib.Unstructured(), prunable, leaves
  )
  rule = dsl_rule(
    budget, drop_fraction, scope=scope, floor=floor, growth=growth, decay=decay,
    start=start, look_ahead=look_ahead, frequencies=frequencies,
    frequency_power=frequency_power, rotate=rotate, tables=tables,
  )  # fmt: skip
  due = when if rotate is None else schedules.either(when, rotate)
  return rules.keep_sparse(inner, rule, due, seed=seed)


def _check(scope, floor, growth, decay):
  if scope not in _SCOPES:
    raise ValueError(f'scope={scope!r}: wanted one of {", ".join(_SCOPES)}.')
  if growth not in _GROWTHS:
    raise ValueError(f'growth={growth!r}: wanted one of {", ".join(_GROWTHS)}.')
  if not isinstance(floor, int) or floor < 0:
    raise ValueError(f'floor={floor!r}: wanted an int of 0 or more.')
  if not 0 <= decay < 1:
    raise ValueError(f'decay={decay!r}: wanted a number in [0, 1).')

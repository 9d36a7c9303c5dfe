"""The protocols and records that every room shares."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxsparse.core import _leaves

Params = Any
Masks = Any  # The treedef of one field of the params, bool leaves broadcastable to it.
Memory = Any
Scores = Mapping[str, jax.Array]  # leaf name -> array of the leaf's shape
Sparsities = Mapping[str, Any]  # leaf name -> fraction removed


class Schedule(Protocol):
  """`step -> number`, as in optax."""

  def __call__(self, step: ArrayLike) -> ArrayLike: ...


class When(Protocol):
  """`step -> bool`: whether the masks are decided anew in this step."""

  def __call__(self, step: ArrayLike) -> ArrayLike: ...


class Distribution(Protocol):
  """How a total sparsity is shared out among leaves.

  A value of the result is a sparsity in [0, 1] (a Python float, or a traced float
  scalar), or an integer array: then it is the number of weights kept, which is
  exact where a float32 fraction of a large leaf would not be.
  """

  def __call__(
    self,
    leaves: Mapping[str, _leaves.Leaf],
    sparsity: Any,
    scores: Scores | None = None,
  ) -> Sparsities: ...


class Structure(Protocol):
  """Which sets of weights are kept or removed together; the only top-k."""

  def num_units(self, leaf: _leaves.Leaf) -> int:
    """How many units (all slices together) a leaf has."""
    ...

  def unit_size(self, leaf: _leaves.Leaf) -> int:
    """How many weights a full unit has."""
    ...

  def check(self, leaf: _leaves.Leaf, sparsity: float) -> None:
    """Raises ValueError, naming the leaf, for what this structure cannot do."""
    ...

  def select(self, leaf: _leaves.Leaf, scores, num_kept) -> jax.Array:
    """The mask of the `num_kept` units with the largest scores."""
    ...

  def count(self, leaf: _leaves.Leaf, mask) -> jax.Array:
    """How many units a mask keeps, an int32 scalar."""
    ...

  def survivors(self, leaf: _leaves.Leaf, scores, num_kept) -> jax.Array:
    """As `select`, for the units that a drop leaves alive before a growth."""
    ...


class Evidence(NamedTuple):
  """What a rule may look at when it decides.

  Attributes:
    params: the fields of the parameters before this step's update.
    updated_params: the same after it; None unless `decides_on_update`.
    grads: the unmasked gradients of the fields; None at init.
    masks: the current masks; None at init.
    step: int32 scalar, 0 at init.
    key: this step's typed key; None for a rule without a seed.
    decision: what the rule has just decided, for `grown_value` only; None elsewhere.
  """

  params: tuple[Params, ...]
  updated_params: tuple[Params, ...] | None
  grads: tuple[Params, ...] | None
  masks: Masks | None
  step: jax.Array
  key: jax.Array | None
  decision: 'Decision | None' = None


class Criterion(Protocol):
  """`Evidence -> scores`: a tree like one field; the larger, the more worth keeping."""

  def __call__(self, evidence: Evidence) -> Params: ...


class Decision(NamedTuple):
  """What a rule's `update` returns.

  Attributes:
    masks: the new masks.
    survivors: the units that were active before and stayed so all along; a kept
      weight that is no survivor is a grown one. None: `old & new`, which cannot
      see a weight that was dropped and grown again in the same step.
    memory: the rule's new memory.
  """

  masks: Masks
  survivors: Masks | None
  memory: Memory


def _one_field(params: Params) -> tuple[Params, ...]:
  return (params,)


def mask_grads(grads: Params, params: Params, masks: Masks, memory: Memory):
  """The default `edit_grads`: 0 off the mask, by `where`, so a NaN there is lost."""
  del params, memory
  return jax.tree.map(lambda g, m: jnp.where(m, g, jnp.zeros_like(g)), grads, masks)


def _keep_updates(updates, params, masks, memory):
  del params, masks
  return updates, memory


def _inner_params(params: Params, memory: Memory) -> Params:
  del memory
  return params


def zeros_grown(params: Params, evidence: Evidence) -> Params:
  """The default `grown_value`: grown weights start at 0."""
  del evidence
  return jax.tree.map(jnp.zeros_like, params)


class Rewiring(NamedTuple):
  """A drop-and-grow rule said as data, so that every execution reads the same rule.

  Attributes:
    budget: a `rules.Budget`: what is pruned, and in which structure.
    drop_scores: the worth of active weights; elementwise, so that it can be evaluated
      on the active weights alone.
    grow_scores: the worth of inactive weights.
    growth: what an execution on nonzeros has to supply for `grow_scores`: `'random'`,
      nothing but a key, or `'gradient'`, gradients off the mask. Anything else: dense
      scores, which only an execution with masks has.
    fraction: schedule, the share of the active units that is replaced.
    remember: `(evidence, masks, survivors) -> memory` after a decision, from what
      survived alone: sums over survivors, so that it can be computed on their values.
      None for a rule that remembers nothing.
    pool: whether the weights of all leaves compete; or of which, as `prunable` says it.
    rows: a `rules.Rows`, whose floor no row of a table goes below; None for none.
    keep_repicked: whether what is dropped and grown at once keeps its values and
      moments.
  """

  budget: Any
  drop_scores: Criterion
  grow_scores: Criterion
  growth: str
  fraction: Schedule
  remember: Callable[[Evidence, Masks, Masks], Memory] | None = None
  pool: bool | _leaves.Prunable = False
  rows: Any = None
  keep_repicked: bool = False


class MaskRule(NamedTuple):
  """A sparsification method as pure functions.

  Trees named `params`, `grads`, `updates` and `masks` below have the treedef of the
  whole parameters: `keep_sparse` repeats the mask of one field over all fields.
  `Evidence` holds fields, and the masks of one field.

  Attributes:
    init: `Evidence -> (masks, memory)`.
    update: `(Evidence, memory) -> Decision`, under the one `lax.cond`; None for a
      rule whose masks never change.
    fields: `params -> (tree, ...)`, trees of one treedef that share one mask.
    edit_grads: `(grads, params, masks, memory) -> grads` for the inner optimizer.
    inner_params: `(params, memory) -> params` that the inner optimizer steps: a
      dense latent for straight-through rules.
    edit_updates: `(updates, params, masks, memory) -> (updates, memory)`, each
      step, on the new masks; `keep_sparse` then removes what is off the mask.
    grown_value: `(params, Evidence) -> params`, the value of grown weights; None for
      a rule that never grows, which spares the reset of moments.
    decides_on_update: whether `update` reads `Evidence.updated_params` (then the
      decision comes after the inner optimizer, which costs one more pass).
    budget: a `rules.Budget`: what is pruned, for who has to describe the leaves; None
      where the rule has none.
    rewiring: what `update` does, where that is dropping and growing; else None. Then
      `edit_grads` does no more than mask, and `grown_value` reads only what was
      decided, so that both mean the same on nonzeros alone.
    settled_at: the step from which on a second decision changes nothing; None where
      nobody knows it.
    random_start: whether `init` draws units at random, whatever the params are, and
      remembers nothing but what `held_start` says: then a start on nonzeros may draw
      them itself.
    held_start: `(values, patterns, key) -> (params, memory)`, what training on nonzeros
      starts from where the params have several fields, from the values of the first.
    settled_memory: `masks -> memory` of a rule that edits or observes gradients or
      updates only until it has settled; None where it does not, or goes on doing so.
    observe: `(Evidence, memory) -> memory` in every step, before anything is decided:
      for a rule that gathers what it decides on, such as gradients over several steps.
    resets_moments: whether what does not stay active loses its moments. False only to
      compare with code that keeps them.
  """

  init: Callable[[Evidence], tuple[Masks, Memory]]
  update: Callable[[Evidence, Memory], Decision] | None = None
  fields: Callable[[Params], tuple[Params, ...]] = _one_field
  edit_grads: Callable[..., Params] = mask_grads
  inner_params: Callable[[Params, Memory], Params] = _inner_params
  edit_updates: Callable[..., tuple[Params, Memory]] = _keep_updates
  grown_value: Callable[[Params, Evidence], Params] | None = zeros_grown
  decides_on_update: bool = False
  budget: Any = None
  rewiring: Rewiring | None = None
  settled_at: int | None = None
  random_start: bool = False
  held_start: Callable[..., tuple[Params, Memory]] | None = None
  settled_memory: Callable[[Masks], Memory] | None = None
  observe: Callable[[Evidence, Memory], Memory] | None = None
  resets_moments: bool = True


class KeepSparseState(NamedTuple):
  """The state of `keep_sparse`.

  Attributes:
    step: int32 scalar, the number of updates made.
    masks: bool tree with the treedef of one field of the params; a leaf is
      broadcastable to its parameter and a scalar True where nothing is pruned.
    memory: what the rule remembers.
    inner_state: the state of the wrapped optimizer.
    key: the typed key that per-step keys are folded from; None without a seed.
  """

  step: jax.Array
  masks: Masks
  memory: Memory
  inner_state: Any
  key: jax.Array | None


def _is_sparse_state(x) -> bool:
  return isinstance(x, KeepSparseState)


def sparse_states(tree) -> list[KeepSparseState]:
  """Every `KeepSparseState` of a tree, in its order; those inside of one stay there.

  Args:
    tree: an optimizer's state, or anything that contains one.

  Returns:
    A list, empty where nothing is sparse.
  """
  leaves = jax.tree.leaves(tree, is_leaf=_is_sparse_state)
  return [x for x in leaves if _is_sparse_state(x)]

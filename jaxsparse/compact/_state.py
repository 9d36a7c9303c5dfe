"""What compact training remembers besides the values, and how it is found."""

from typing import Any, NamedTuple

import jax

from jaxsparse import core, sparse


class Candidates(NamedTuple):
  """The best inactive units of one leaf, in no order: what RigL may grow.

  Stacked layers have leading axes on every array.

  Attributes:
    inputs: int32 (n,), the input of each unit.
    rows: int32 (n,), its row: output / block.
    scores: float32 (n,), the mean |gradient| over the unit; uint32 random numbers for a
      rule that grows at random.
    valid: bool (n,), False where there were fewer inactive units.
  """

  inputs: jax.Array
  rows: jax.Array
  scores: jax.Array
  valid: jax.Array


class CompactState(NamedTuple):
  """The state of an optimizer that steps nonzeros.

  Attributes:
    step: int32 scalar, the number of updates made.
    patterns: a tree with the treedef of the params (of a posterior, of its means); a
      leaf is a `sparse.Pattern` or a `sparse.NMPattern`, or a scalar True where nothing
      is pruned. The only integers of compact training.
    memory: what the rule remembers.
    inner_state: the state of the wrapped optimizer, moments along the values.
    key: the typed key that per-step keys are folded from; None without a seed.
    refused: of leaves that compete with one another, `{name: int32}`: the units that
      the last rewiring wanted of a leaf without room for them, else 0; None where
      budgets do not move.
  """

  step: jax.Array
  patterns: Any
  memory: core.Memory
  inner_state: Any
  key: jax.Array | None
  refused: dict[str, jax.Array] | None = None


def is_pattern(x) -> bool:
  """Whether a node of a tree is a pattern: for `is_leaf`."""
  return sparse.is_pattern(x)


def named_patterns(patterns) -> dict[str, sparse.Pattern]:
  """`{name: pattern}` of the sparse leaves of a tree of patterns."""
  names, leaves, _ = core.named_leaves(patterns, is_leaf=is_pattern)
  return {n: p for n, p in zip(names, leaves) if is_pattern(p)}


def get_patterns(opt_state) -> Any:
  """The patterns that an optimizer's state holds, wherever in it they are.

  Args:
    opt_state: a state that contains a `CompactState`.

  Returns:
    A tree with the treedef of the params, or of a posterior's means; a leaf is a
    `sparse.Pattern`, or a scalar True where nothing is pruned.

  Raises:
    ValueError: there is none in it, or there are several.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js, optax
    >>> tx = js.transforms.static(optax.adam(1e-3), 0.5, seed=0)
    >>> params, opt_state = js.init(tx, {'kernel': jnp.ones((4, 4))})
    >>> tx, params, opt_state = js.compact.convert(tx, params, opt_state)
    >>> js.compact.get_patterns(opt_state)['kernel'].capacity
    8
  """
  return find(opt_state).patterns


def find(opt_state) -> CompactState:
  """The one state of compact training in a state."""
  is_state = lambda x: isinstance(x, CompactState)
  found = [s for s in jax.tree.leaves(opt_state, is_leaf=is_state) if is_state(s)]
  if len(found) != 1:
    raise ValueError(
      f'opt_state: {len(found)} states of compact training in it; wanted one, as'
      ' js.compact.convert returns it.'
    )
  return found[0]

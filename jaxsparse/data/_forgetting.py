"""Forgetting events: how often training unlearns a record."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxsparse.data import _record_inputs


class ForgettingState(NamedTuple):
  """What is remembered of each record, in 6 bytes; a tree that checkpoints save.

  Attributes:
    correct: (N,) bool, whether it was predicted correctly when last seen.
    learned: (N,) bool, whether it ever was.
    events: (N,) int32, times that it went from correct to wrong.
  """

  correct: jax.Array
  learned: jax.Array
  events: jax.Array


def forgetting_init(num_examples: int) -> ForgettingState:
  """The state before training: nothing is learned, nothing forgotten.

      correct_i = learned_i = False,  events_i = 0

  Args:
    num_examples: N.

  Returns:
    A ForgettingState.

  Raises:
    ValueError: fewer than one example.

  Example:
    >>> import jaxsparse as js
    >>> js.data.forgetting_init(2).events.tolist()
    [0, 0]
  """
  total = _record_inputs.as_count('num_examples', num_examples)
  return ForgettingState(
    jnp.zeros(total, bool), jnp.zeros(total, bool), jnp.zeros(total, jnp.int32)
  )


def forgetting_update(state: ForgettingState, indices, correct) -> ForgettingState:
  r"""Counts the records of a batch, or of an epoch, that are no longer correct.

  .. math:: e_i \leftarrow e_i + [\text{acc}_i^{t} > \text{acc}_i^{t+1}]

  Pure; works in `jit` and in `lax.scan`. Costs O(B).

  Args:
    state: as returned before.
    indices: (B,) integers: the records seen, each at most once in a call.
    correct: (B,) bool: whether each is predicted correctly now.

  Returns:
    The next state.

  Raises:
    ValueError: indices that are no integers, or shapes that differ; outside `jit` also
      a record outside [0, N) or twice.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> state = js.data.forgetting_init(2)
    >>> for correct in ([True, False], [False, False], [True, False]):
    ...   state = js.data.forgetting_update(state, jnp.arange(2), jnp.array(correct))
    >>> js.data.forgetting_scores(state).tolist()
    [1.0, inf]

  Toneva et al., An Empirical Study of Example Forgetting, ICLR 2019, algorithm 1.
  """
  correct = jnp.asarray(correct)
  if correct.ndim != 1 or correct.dtype != bool:
    raise ValueError(
      f'correct: shape {correct.shape}, dtype {correct.dtype}; wanted (B,) bool.'
    )
  total = state.events.shape[0]
  indices = _record_inputs.as_distinct(indices, correct.shape[0], total)
  return _update(state, indices, correct)


@jax.jit
def _update(state, indices, correct):
  forgotten = state.correct[indices] & ~correct
  return ForgettingState(
    # Needs distinct records: of two writes to one place either may win.
    state.correct.at[indices].set(correct),
    # Once learned, always learned: the maximum of bools is `or`.
    state.learned.at[indices].max(correct),
    state.events.at[indices].add(forgotten.astype(jnp.int32)),
  )


def forgetting_scores(
  state: ForgettingState, never_learned: float = jnp.inf
) -> jax.Array:
  r"""Forgetting events as scores.

  .. math:: s_i = e_i \text{ if ever learned, else } \texttt{never\_learned}

  Costs O(N).

  Args:
    state: after training.
    never_learned: the score of a record that was never predicted correctly: infinite
      in the paper; 0 in some published comparisons, which then drops them first.

  Returns:
    (N,) float32, larger for harder records. Most tie: see `top_scores`.

  Example:
    >>> import jaxsparse as js
    >>> js.data.forgetting_scores(js.data.forgetting_init(2), never_learned=0).tolist()
    [0.0, 0.0]

  Toneva et al., An Empirical Study of Example Forgetting, ICLR 2019, section 3.
  """
  return jnp.where(
    state.learned, state.events.astype(jnp.float32), jnp.float32(never_learned)
  )

"""AUM: the margin of a record's own class, averaged over training."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxsparse.data import _record_inputs


class AumState(NamedTuple):
  """Sums over training, in 8 bytes a record; a tree that checkpoints save.

  Attributes:
    total: (N,) float32, the sum of the margins seen.
    seen: (N,) int32, how many they are.
  """

  total: jax.Array
  seen: jax.Array


def aum_init(num_examples: int) -> AumState:
  """The state before training: no margin is seen.

      total_i = 0,  seen_i = 0

  Args:
    num_examples: N.

  Returns:
    An AumState.

  Raises:
    ValueError: fewer than one example.

  Example:
    >>> import jaxsparse as js
    >>> js.data.aum_init(2).seen.tolist()
    [0, 0]
  """
  total = _record_inputs.as_count('num_examples', num_examples)
  return AumState(jnp.zeros(total, jnp.float32), jnp.zeros(total, jnp.int32))


def aum_update(state: AumState, indices, logits, labels) -> AumState:
  r"""Adds the margins of a batch, or of an epoch.

  .. math:: m_i = z_{i, y_i} - \max_{c \ne y_i} z_{ic}

  Of logits, not of probabilities. Pure; works in `jit` and in `lax.scan`. Costs O(B C).

  Args:
    state: as returned before.
    indices: (B,) integers: the records seen, each at most once in a call.
    logits: (B, C) of at least two classes.
    labels: (B,) integers in [0, C).

  Returns:
    The next state.

  Raises:
    ValueError: shapes or dtypes that do not fit; outside `jit` also a label out of
      range, or a record outside [0, N) or twice.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> logits = jnp.array([[3.0, 1.0], [3.0, 1.0]])
    >>> state = js.data.aum_update(
    ...     js.data.aum_init(2), jnp.arange(2), logits, jnp.array([0, 1]))
    >>> js.data.aum_scores(state).tolist()
    [-2.0, 2.0]

  Pleiss et al., Identifying Mislabeled Data using the Area Under the Margin Ranking,
  NeurIPS 2020, section 3.
  """
  logits = _record_inputs.as_matrix('logits', logits)
  if logits.shape[1] < 2:
    raise ValueError(f'logits: shape {logits.shape}; wanted at least two classes.')
  labels, _ = _record_inputs.as_labels(labels, *logits.shape)
  total = state.total.shape[0]
  indices = _record_inputs.as_distinct(indices, logits.shape[0], total)
  return _update(state, indices, logits, labels)


@jax.jit
def _update(state, indices, logits, labels):
  own = jax.nn.one_hot(labels, logits.shape[1], dtype=bool)
  # `own` marks one class, whose maximum is its logit.
  most = lambda which: jnp.max(jnp.where(which, logits, -jnp.inf), axis=1)
  return AumState(
    state.total.at[indices].add(most(own) - most(~own)),
    state.seen.at[indices].add(1),
  )


def aum_scores(state: AumState) -> jax.Array:
  r"""Minus the mean margin of each record.

  .. math:: s_i = -\frac1T \sum_t m_i^{(t)}

  What `ccs` takes in its paper: mislabelled records have the largest of these scores.
  Costs O(N).

  Args:
    state: after training.

  Returns:
    (N,) float32, larger for harder records; 0 for those never seen.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> state = js.data.AumState(jnp.array([6.0]), jnp.array([3]))
    >>> js.data.aum_scores(state).tolist()
    [-2.0]

  Pleiss et al., NeurIPS 2020, section 3.
  """
  return _scores(state)


@jax.jit
def _scores(state):
  # A record that was never seen has 0 / 1.
  return -state.total / jnp.maximum(state.seen, 1).astype(jnp.float32)

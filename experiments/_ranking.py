"""How well unseen items are ranked: full rankings, a chunk of users at a time."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import datasets


class Target(NamedTuple):
  """Users whose items are to be found, in chunks, as padded lists.

  Attributes:
    users: int32 (chunks, size); users beyond the last repeat the first, with nothing to
      be found.
    known: int32 (chunks, size, ...), items that are no candidates.
    wanted: int32 (chunks, size, ...), items to be found.
    others: int32 (chunks, size, ...), the only other candidates; None for all items.
  """

  users: jax.Array
  known: jax.Array
  wanted: jax.Array
  others: jax.Array | None


def target(wanted, known, num_users: int, num_items: int, chunk: int, others=None):
  """A `Target` of the users who have something to be found; others are not ranked.

  Args:
    wanted: (N, 2), pairs to be found.
    known: (M, 2), pairs that are no candidates.
    num_users: users of the set.
    num_items: items of the set.
    chunk: users whose scores are held at a time.
    others: (L, 2), the candidates beside what is wanted; None for all items.

  Returns:
    A `Target`.

  Raises:
    ValueError: nobody has anything to be found.
  """
  users = np.unique(np.asarray(wanted)[:, 0])
  if not len(users):
    raise ValueError('split: no user has an item to be found in it.')
  count = -(-len(users) // chunk)
  padded = np.resize(users, count * chunk).reshape(count, chunk).astype(np.int32)

  def lists(pairs):
    rows = datasets.padded_lists(pairs, num_users, num_items)
    return jnp.asarray(rows[padded])

  found = lists(wanted)
  real = np.arange(count * chunk).reshape(count, chunk, 1) < len(users)
  return Target(
    jnp.asarray(padded),
    lists(known),
    jnp.where(real, found, num_items),
    None if others is None else lists(others),
  )


def top_k(scores, known, k: int, wanted=None, others=None):
  """The best candidates of each user.

  Args:
    scores: float32 (users, items).
    known: padded lists (users, ...) of items that are no candidates.
    k: how many.
    wanted: with `others`, the padded lists of the only candidates.
    others: see `wanted`.

  Returns:
    int32 (users, k) items; the number of items where a user has fewer candidates.
  """
  num = scores.shape[1]
  rows = jnp.arange(scores.shape[0])[:, None]
  scores = scores.at[rows, known].set(-jnp.inf, mode='drop')
  if others is not None:
    allowed = jnp.zeros(scores.shape, bool)
    for lists in (others, wanted):
      allowed = allowed.at[rows, lists].set(True, mode='drop')
    scores = jnp.where(allowed, scores, -jnp.inf)
  values, items = jax.lax.top_k(scores, k)
  return jnp.where(values > -jnp.inf, items, num).astype(jnp.int32)


def user_metrics(hits, num_wanted, ks: Sequence[int]) -> dict[str, jax.Array]:
  """What each user's list is worth.

      recall@K = hits / |wanted|            recall@K_min = hits / min(K, |wanted|)
      ndcg@K = sum over hits 1 / log2(rank + 1), over that of min(K, |wanted|) hits
      hit_rate@K = any hit                  mrr@K = 1 / rank of the first hit, else 0

  Args:
    hits: bool (users, K'), whether the item of each rank is wanted, K' the largest K.
    num_wanted: int (users,), at least 1.
    ks: the Ks.

  Returns:
    `{name: float32 (users,)}`.
  """
  ranks = jnp.arange(1, hits.shape[1] + 1, dtype=jnp.float32)
  gain = 1.0 / jnp.log2(ranks + 1.0)
  ideal = jnp.cumsum(gain)
  found, wanted = {}, num_wanted.astype(jnp.float32)
  for k in ks:
    hit = hits[:, :k].astype(jnp.float32)
    count = hit.sum(1)
    best = jnp.minimum(num_wanted, k)
    found[f'recall@{k}'] = count / wanted
    found[f'recall@{k}_min'] = count / best
    found[f'ndcg@{k}'] = (hit * gain[None, :k]).sum(1) / ideal[best - 1]
    found[f'hit_rate@{k}'] = jnp.minimum(count, 1.0)
    found[f'mrr@{k}'] = jnp.max(hit / ranks[None, :k], axis=1)
  return found


def metric_names(ks: Sequence[int]) -> list[str]:
  """The names of what `evaluator` returns, in its order."""
  kinds = ('recall@{}', 'recall@{}_min', 'ndcg@{}', 'hit_rate@{}', 'mrr@{}')
  return [n.format(k) for k in ks for n in (*kinds, 'coverage@{}')]


def evaluator(score: Callable, num_items: int, ks: Sequence[int]):
  """Builds `(params, data, Target) -> {name: float}`, compiled once.

  Means over the users of a target; `coverage@K` is the share of all items that stand in
  any of their lists. Scores of users and items are held for one chunk only.

  Args:
    score: `(params, data, users, known) -> (users, items)`.
    num_items: items of the set.
    ks: lengths of the lists.

  Returns:
    The function.

  Raises:
    ValueError: a K that is no int from 1 to the number of items.
  """
  if not ks or any(not isinstance(k, int) or not 1 <= k <= num_items for k in ks):
    raise ValueError(f'ks: got {ks}, wanted ints from 1 to {num_items}.')
  most = max(ks)

  @jax.jit
  def ranked(params, data, goal: Target):
    def chunk(part):
      scores = score(params, data, part.users, part.known).astype(jnp.float32)
      best = top_k(scores, part.known, most, part.wanted, part.others)
      wanted = jnp.zeros((len(best), num_items + 1), bool)
      rows = jnp.arange(len(best))[:, None]
      wanted = wanted.at[rows, part.wanted].set(True).at[:, num_items].set(False)
      count = jnp.sum(part.wanted < num_items, axis=1)
      values = user_metrics(wanted[rows, best], jnp.maximum(count, 1), ks)
      real = (count > 0)[:, None]
      shown = jnp.where(real, best, num_items)
      return {k: jnp.where(real[:, 0], v, 0.0).sum() for k, v in values.items()}, shown, real.sum()  # fmt: skip

    sums, shown, counts = jax.lax.map(chunk, goal)
    total = counts.sum()
    means = {k: v.sum() / total for k, v in sums.items()}
    for k in ks:
      seen = jnp.zeros(num_items + 1, bool).at[shown[..., :k].reshape(-1)].set(True)
      means[f'coverage@{k}'] = seen[:num_items].mean()
    return means

  def evaluate(params, data, goal: Target) -> dict[str, float]:
    found = ranked(params, data, goal)
    return {name: float(found[name]) for name in metric_names(ks)}

  return evaluate

"""Items that a user has not taken, and lists of items as rows of a matrix."""

import numpy as np


def pair_codes(pairs, num_items: int) -> np.ndarray:
  """Pairs as sorted int64 numbers `user * num_items + item`, none twice.

  Example:
    >>> from experiments import datasets
    >>> datasets.pair_codes([[1, 0], [0, 2], [1, 0]], 3).tolist()
    [2, 3]
  """
  pairs = np.asarray(pairs, np.int64).reshape(-1, 2)
  return np.unique(pairs[:, 0] * num_items + pairs[:, 1])


def sample_negatives(
  users, num_items: int, taken: np.ndarray, step: int, seed: int
) -> np.ndarray:
  """A uniform item for each user, among those that are not taken.

  Args:
    users: int (B,).
    num_items: items of the set.
    taken: sorted codes of `pair_codes`, for training those of the training pairs and
      of all that evaluation ranks against them.
    step: of training, from 0.
    seed: an int in [0, 2**63).

  Returns:
    int32 (B,), a function of the arguments alone.

  Raises:
    ValueError: a user who has taken all items, or so many that none was found.

  Example:
    >>> from experiments import datasets
    >>> taken = datasets.pair_codes([[0, 0], [0, 1]], 3)
    >>> datasets.sample_negatives([0, 0], 3, taken, step=0, seed=0).tolist()
    [2, 2]
  """
  base = np.asarray(users, np.int64) * num_items
  chosen = np.zeros(len(base), np.int64)
  missing = np.arange(len(base))
  # NumPy promises the raw words of a bit generator for ever.
  source = np.random.Philox(key=[seed, step])
  for _ in range(1000):
    draw = (source.random_raw(len(missing)) % np.uint64(num_items)).astype(np.int64)
    chosen[missing] = draw
    codes = base[missing] + draw
    place = np.searchsorted(taken, codes)
    hit = taken[np.minimum(place, len(taken) - 1)] == codes if len(taken) else None
    missing = missing[hit] if hit is not None else missing[:0]
    if not missing.size:
      return chosen.astype(np.int32)
  raise ValueError(
    f'negatives: user {int(base[missing[0]]) // num_items} has taken (nearly) all of the'
    f' {num_items} items; none was left to draw.'
  )


def evaluation_negatives(split, count: int, seed: int) -> np.ndarray:
  """`count` items for each user to rank the test items among, none of them ever taken.

  Args:
    split: a `RatingSplit`.
    count: items for each user, different ones.
    seed: of the draws.

  Returns:
    int32 (users * count, 2), pairs.

  Raises:
    ValueError: a user has fewer items left.
  """
  taken = [split.train, split.validation, split.test, *split.known.values()]
  codes = pair_codes(np.concatenate(taken), split.num_items)
  users, rows = np.arange(split.num_users), []
  free = split.num_items - np.bincount(codes // split.num_items, minlength=len(users))
  if free.min() < count:
    raise ValueError(
      f'eval_negatives: got {count}, but user {int(free.argmin())} has only'
      f' {int(free.min())} items left.'
    )
  for step in range(count):
    items = sample_negatives(users, split.num_items, codes, step, seed)
    rows.append(np.stack([users, items], axis=1))
    codes = np.union1d(codes, pair_codes(rows[-1], split.num_items))
  return np.concatenate(rows).astype(np.int32)


def padded_lists(pairs, num_rows: int, fill: int, length: int = 0) -> np.ndarray:
  """The items of each user as a row.

  Args:
    pairs: int (N, 2), user and item.
    num_rows: users.
    fill: what stands after the last item of a row.
    length: columns at least.

  Returns:
    int32 (users, most items of a user).

  Example:
    >>> from experiments import datasets
    >>> datasets.padded_lists([[0, 5], [2, 1], [0, 3]], 3, fill=9).tolist()
    [[5, 3], [9, 9], [1, 9]]
  """
  pairs = np.asarray(pairs, np.int64).reshape(-1, 2)
  pairs = pairs[np.argsort(pairs[:, 0], kind='stable')]
  counts = np.bincount(pairs[:, 0], minlength=num_rows)
  rows = np.full((num_rows, max(counts.max(initial=0), length, 1)), fill, np.int32)
  starts = np.cumsum(counts) - counts
  rows[pairs[:, 0], np.arange(len(pairs)) - starts[pairs[:, 0]]] = pairs[:, 1]
  return rows

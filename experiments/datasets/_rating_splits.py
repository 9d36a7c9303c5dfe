"""Training, validation and test of ratings, fixed by a hash of the ids."""

import hashlib
from typing import NamedTuple
import zlib

import numpy as np

from experiments.datasets import _ratings

SPLITS = ('fold_in', 'given', 'leave_one_out', 'random')
_TRAIN, _VALIDATION, _TEST = 0, 1, 2


class RatingSplit(NamedTuple):
  """Pairs to learn from and pairs to be found, as indices.

  Attributes:
    num_users: users of the set.
    num_items: items of the set.
    train: int32 (N, 2), user and item, sorted.
    validation: int32 (M, 2), what is to be found while settings are chosen.
    test: int32 (L, 2), what is to be found in the end.
    known: `{'validation': (K, 2), 'test': (K', 2)}`, what is known of the users when
      their items are ranked, and therefore no candidate: training, for test with
      validation; under `fold_in` the other items of the users who were held out.
    digest: of all of it: two splits are the same where this is.
  """

  num_users: int
  num_items: int
  train: np.ndarray
  validation: np.ndarray
  test: np.ndarray
  known: dict[str, np.ndarray]
  digest: str


def split_ratings(
  ratings: _ratings.Ratings, kind: str = 'random', seed: int = 0
) -> RatingSplit:
  """Divides ratings; the same ids and seed give the same parts in any file order.

  Args:
    ratings: of `load_ratings`.
    kind: `'random'`: of the n items of each user, in an order by hash, floor(n / 10) but
      one at least are for test, as many for validation; users with fewer than 3 items
      are in training only. `'leave_one_out'`: the last item in time is for test, the one
      before for validation. `'fold_in'`: tenths of the users are held out for validation
      and for test; a fifth of their items is to be found, the rest is known. `'given'`:
      the set's own test part, with a validation part as under `'random'`.
    seed: of the hash.

  Returns:
    A `RatingSplit`.

  Raises:
    ValueError: an unknown kind; a set without times or without a test part of its own.

  Example:
    >>> from experiments import datasets
    >>> split = datasets.split_ratings(datasets.load_ratings('synthetic_low_rank'))
    >>> len(split.train) > 8 * len(split.test)
    True
  """
  if kind not in SPLITS:
    raise ValueError(f'split: got {kind!r}, wanted one of {", ".join(SPLITS)}.')
  pair_hash = hash_pairs(ratings, seed)
  if kind == 'fold_in':
    return _fold_in(ratings, pair_hash, seed)
  if kind == 'leave_one_out':
    if len(np.unique(ratings.times)) < 2:
      raise ValueError(f'{ratings.name}: leave_one_out needs times, and it has none.')
    part = _from_the_end(ratings.users, (pair_hash, ratings.times), lambda n: n >= 3)
  elif kind == 'given':
    if ratings.given_test is None:
      raise ValueError(f'{ratings.name}: has no test part of its own; wanted another.')
    part = np.where(ratings.given_test, _TEST, _TRAIN)
    rest = np.flatnonzero(~ratings.given_test)
    drawn = _from_the_end(ratings.users[rest], (pair_hash[rest],), _tenth)
    part[rest] = np.where(drawn == _TEST, _VALIDATION, _TRAIN)
  else:
    part = _from_the_end(ratings.users, (pair_hash,), _tenth)
  parts = [_pairs(ratings, part == p) for p in (_TRAIN, _VALIDATION, _TEST)]
  known = {
    'validation': parts[0],
    'test': _sorted(np.concatenate([parts[0], parts[1]])),
  }
  return _finished(ratings, parts, known)


def hash_pairs(ratings: _ratings.Ratings, seed: int) -> np.ndarray:
  """uint64 (N,): a hash of the two ids of each pair and the seed."""
  users, items = (
    np.array([zlib.crc32(i.encode()) for i in ids], np.uint64)
    for ids in (ratings.user_ids, ratings.item_ids)
  )
  return _mixed((users[ratings.users] << np.uint64(32)) | items[ratings.items], seed)


def _mixed(x: np.ndarray, seed: int) -> np.ndarray:
  """splitmix64: neighbours go far apart."""
  x = x + np.uint64((0x9E3779B97F4A7C15 * (2 * seed + 1)) % 2**64)
  for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
    x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
  return x ^ (x >> np.uint64(31))


def _tenth(count):
  return np.where(count >= 3, np.maximum(count // 10, 1), 0)


def _from_the_end(users, keys, share) -> np.ndarray:
  """The part of each pair: of each user's, by the keys, the last `share(n)` are for test.

  As many before them are for validation.
  """
  order = np.lexsort((*keys, users))
  counts = np.bincount(users, minlength=users.max() + 1)
  ends = np.cumsum(counts)
  from_end = ends[users[order]] - np.arange(len(users))
  size = np.asarray(share(counts)).astype(int)[users[order]]
  sorted_part = np.where(
    from_end <= size, _TEST, np.where(from_end <= 2 * size, _VALIDATION, _TRAIN)
  )
  part = np.empty(len(users), int)
  part[order] = sorted_part
  return part


def _fold_in(ratings, pair_hash, seed) -> RatingSplit:
  ids = np.array([zlib.crc32(i.encode()) for i in ratings.user_ids], np.uint64)
  ranks = np.argsort(np.argsort(_mixed(ids, seed), kind='stable'), kind='stable')
  tenths = (10 * ranks) // len(ids)
  held = {'validation': 8, 'test': 9}
  train = _pairs(ratings, tenths[ratings.users] < 8)
  found, known = {}, {}
  fifth = lambda n: np.where(n >= 2, np.maximum(n // 5, 1), 0)
  for name, tenth in held.items():
    rows = np.flatnonzero(tenths[ratings.users] == tenth)
    hidden = np.zeros(len(ratings.users), bool)
    if rows.size:
      part = _from_the_end(ratings.users[rows], (pair_hash[rows],), fifth)
      hidden[rows] = part == _TEST
    found[name] = _pairs(ratings, hidden)
    known[name] = _pairs(ratings, ~hidden & (tenths[ratings.users] == tenth))
  return _finished(ratings, [train, found['validation'], found['test']], known)


def _pairs(ratings, mask) -> np.ndarray:
  return _sorted(np.stack([ratings.users[mask], ratings.items[mask]], axis=1))


def _sorted(pairs):
  return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))].astype(np.int32)


def _finished(ratings, parts, known) -> RatingSplit:
  if not len(parts[0]) or not len(parts[2]):
    raise ValueError(
      f'{ratings.name}: {len(parts[0])} pairs to learn from and {len(parts[2])} to test'
      ' on; wanted some of both.'
    )
  # By ids: another order of the rows in the file gives other indices.
  digest = hashlib.sha256()
  for part in parts:
    names = sorted(f'{ratings.user_ids[u]} {ratings.item_ids[i]}' for u, i in part)
    digest.update('\n'.join(names).encode() + b'\0')
  return RatingSplit(
    len(ratings.user_ids), len(ratings.item_ids), *parts, known, digest.hexdigest()[:16]
  )

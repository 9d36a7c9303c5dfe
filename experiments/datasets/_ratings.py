"""Who liked what, and when: rating files, and a set that needs no file."""

from collections.abc import Iterable, Iterator
import pathlib
from typing import NamedTuple

import numpy as np

# What lies in the folder of each set, the first that is there is read.
_FILES = {
  'gowalla': ('gowalla/train.txt',),
  'ml-100k': ('ml-100k/ml-100k.inter', 'ml-100k.inter', 'ml-100k/u.data'),
  'ml-1m': ('ml-1m/ml-1m.inter', 'ml-1m.inter', 'ml-1m/ratings.dat', 'ratings.dat'),
}
RATING_SETS = ('synthetic_low_rank', *_FILES)


class Ratings(NamedTuple):
  """Pairs of a user and an item, no pair twice.

  Attributes:
    name: as given to `load_ratings`.
    users: int32 (N,), indices into `user_ids`.
    items: int32 (N,), indices into `item_ids`.
    values: float32 (N,), the ratings; 1 where the file has none.
    times: float64 (N,), seconds; 0 where the file has none.
    user_ids: the ids of the file, in the order in which they come there.
    item_ids: the same of the items.
    given_test: bool (N,) of a set that comes with a test part, else None.
    repeated: how many rows were left out since their pair had come before.
  """

  name: str
  users: np.ndarray
  items: np.ndarray
  values: np.ndarray
  times: np.ndarray
  user_ids: tuple[str, ...]
  item_ids: tuple[str, ...]
  given_test: np.ndarray | None
  repeated: int


def load_ratings(name: str, data_dir: str | None = None) -> Ratings:
  """Loads a set of ratings.

  A pair that comes again in a file counts once, as it came first.

  Args:
    name: 'synthetic_low_rank' (`low_rank_ratings`), 'ml-100k', 'ml-1m', 'gowalla',
      `file:PATH`, or `tfds:NAME`, a prepared set of TFDS such as
      'tfds:movielens/100k-ratings'.
    data_dir: where `ml-100k/ml-100k.inter` and so on, or TFDS's sets, lie.

  Returns:
    `Ratings`. Formats are told by the file: `.inter` has tab-separated columns under a
    typed header (`user_id:token`, `item_id:token`, `rating:float`, `timestamp:float`);
    `.dat` has `user::item::rating::time`; `.data` the same with tabs; `train.txt` has a
    line `user item item ...` for each user, beside a `test.txt` of the same form.

  Raises:
    ValueError: an unknown name, no file, and what is wrong in a file, by name and line.

  Example:
    >>> from experiments import datasets
    >>> ratings = datasets.load_ratings('synthetic_low_rank')
    >>> len(ratings.user_ids), len(ratings.item_ids)
    (300, 200)
  """
  if name == 'synthetic_low_rank':
    return low_rank_ratings()
  if name.startswith('file:'):
    return read_ratings(name.removeprefix('file:'), name)
  if name.startswith('tfds:'):
    return _indexed(name, _prepared(name.removeprefix('tfds:'), data_dir), name)
  if name not in _FILES:
    raise ValueError(
      f'unknown rating set {name!r}; wanted one of {", ".join(RATING_SETS)}, or'
      ' file:PATH, or tfds:NAME.'
    )
  if data_dir is None:
    raise ValueError(f'--data_dir: wanted the folder with {_FILES[name][0]}.')
  root = pathlib.Path(data_dir).expanduser()
  for path in (root / file for file in _FILES[name]):
    if path.exists():
      return read_ratings(path, name)
  raise ValueError(f'--data_dir: {root} has none of {", ".join(_FILES[name])}.')


def read_ratings(path, name: str | None = None) -> Ratings:
  """Reads one file of ratings, see `load_ratings`.

  Args:
    path: the file.
    name: what to call the set; None for the name of the file.

  Returns:
    `Ratings`.

  Raises:
    ValueError: no such file, an unknown format, and what is wrong in it, by line.
  """
  path = pathlib.Path(path).expanduser()
  if not path.is_file():
    raise ValueError(f'{path}: no such file.')
  if path.name == 'train.txt':
    rows = list(_adjacency(path))
    num_train = len(rows)
    rows += list(_adjacency(path.with_name('test.txt')))
    return _indexed(name or path.parent.name, rows, path, num_train)
  readers = {'.inter': _inter, '.dat': _separated('::'), '.data': _separated('\t')}
  if path.suffix not in readers:
    raise ValueError(
      f'{path}: unknown format; wanted .inter, .dat, .data, or train.txt beside test.txt.'
    )
  return _indexed(name or path.stem, readers[path.suffix](path), path)


def low_rank_ratings(
  num_users: int = 300, num_items: int = 200, rank: int = 4, seed: int = 0
) -> Ratings:
  """Synthetic ratings: each user rates the items that suit their tastes best.

  User u takes 12 to 60 items, those with the largest `<p_u, q_i> + b_i + noise`, where p
  and q are normal in `rank` dimensions and the noise has a Gumbel distribution.

  Args:
    num_users: users.
    num_items: items, at least 60.
    rank: the dimension of tastes.
    seed: of all that is drawn.

  Returns:
    `Ratings`, called 'synthetic_low_rank'.

  Example:
    >>> from experiments import datasets
    >>> len(datasets.low_rank_ratings(num_users=20).users) > 20 * 12
    True
  """
  if num_items < 60 or num_users < 1 or rank < 1:
    raise ValueError(
      f'low_rank_ratings: num_users={num_users}, num_items={num_items}, rank={rank};'
      ' wanted 1, 60 and 1 at least.'
    )
  rng = np.random.Generator(np.random.Philox(key=[seed, 7]))
  users, items = rng.random((num_users, rank)), rng.random((num_items, rank))
  score = 8 * (users - 0.5) @ (items - 0.5).T * np.sqrt(12 / rank)
  score += rng.random(num_items)
  score -= 0.5 * np.log(-np.log(rng.random(score.shape) * (1 - 1e-9) + 1e-12))
  counts = 12 + np.floor(49 * rng.random(num_users) ** 2).astype(int)
  rows = []
  for user, count in enumerate(counts):
    best = np.argsort(-score[user], kind='stable')[:count]
    # They come in any order: the last in time must not be the worst.
    order = np.argsort(rng.random(count), kind='stable')
    rows += [(f'u{user}', f'i{i}', 1.0, float(t), 0) for t, i in enumerate(best[order])]
  return _indexed('synthetic_low_rank', rows, None)


_Row = tuple[str, str, float, float, int]


def _lines(path: pathlib.Path) -> Iterator[tuple[int, str]]:
  # The films of MovieLens-1M are in Latin 1; its ratings are plain digits.
  text = path.read_text('utf-8', 'replace')
  for number, line in enumerate(text.splitlines(), 1):
    if line.strip():
      yield number, line


def _prepared(name: str, data_dir) -> Iterator[_Row]:
  """Rows of a MovieLens set that TFDS has prepared as array_record."""
  import tensorflow_datasets as tfds

  try:
    source = tfds.data_source(name, split='train', data_dir=data_dir, download=False)
  except Exception as error:  # TFDS has a type for every way not to find a set.
    raise ValueError(
      f'--data_dir: {data_dir} has no {name} that was prepared as array_record ({error}).'
      " Once, where TensorFlow is: tfds.builder(name, file_format='array_record')"
      '.download_and_prepare().'
    ) from error
  text = lambda x: x.decode() if isinstance(x, bytes) else str(x)
  for number, row in enumerate(source, 1):
    try:
      ids = text(row['user_id']), text(row['movie_id'])
      yield *ids, float(row['user_rating']), float(row['timestamp']), number
    except KeyError as error:
      raise ValueError(
        f'{name}: no {error} in it; wanted user_id, movie_id, user_rating and timestamp.'
      ) from error


def _inter(path: pathlib.Path) -> Iterator[_Row]:
  """Rows under a typed header, in any order of columns."""
  lines = _lines(path)
  number, header = next(lines, (1, ''))
  columns = [c.strip() for c in header.split('\t')]
  names = [c.split(':')[0] for c in columns]
  if 'user_id' not in names or 'item_id' not in names or ':' not in columns[0]:
    raise ValueError(
      f'{path}, line {number}: got {header.strip()[:80]!r}, wanted a typed header with'
      ' user_id:token and item_id:token.'
    )
  place = {name: names.index(name) for name in names}
  for number, line in lines:
    words = line.split('\t')
    if len(words) != len(names):
      raise _bad(path, number, line, f'{len(names)} columns')
    value, time = (
      _number(path, number, line, words[place[n]]) if n in place else default
      for n, default in (('rating', 1.0), ('timestamp', 0.0))
    )
    user, item = words[place['user_id']].strip(), words[place['item_id']].strip()
    yield _checked(path, number, line, user), item, value, time, number


def _separated(mark: str):
  """Reads `user, item, rating, time` between marks."""

  def read(path: pathlib.Path) -> Iterator[_Row]:
    for number, line in _lines(path):
      words = line.strip().split(mark)
      if len(words) != 4:
        shown = mark.replace('\t', '<tab>')
        raise _bad(path, number, line, f'user{shown}item{shown}rating{shown}time')
      value, time = (_number(path, number, line, w) for w in words[2:])
      yield _checked(path, number, line, words[0]), words[1], value, time, number

  return read


def _adjacency(path: pathlib.Path) -> Iterator[_Row]:
  """A user and their items a line, all of them indices."""
  if not path.is_file():
    raise ValueError(f'{path}: no such file; wanted train.txt beside test.txt.')
  for number, line in _lines(path):
    for word in (words := line.split()):
      if not word.isdecimal() or int(word) >= 2**31:
        raise _bad(
          path, number, line, f'indices from 0 to 2**31 - 1, not {word[:20]!r}'
        )
    # A user with no item in this part has a line with nothing but their index.
    for item in words[1:]:
      yield words[0], item, 1.0, 0.0, number


def _number(path, number, line, word) -> float:
  try:
    value = float(word)
  except ValueError as error:
    raise _bad(path, number, line, f'a number, not {word[:20]!r}') from error
  if not np.isfinite(value):
    raise _bad(path, number, line, f'a finite number, not {word[:20]!r}')
  return value


def _checked(path, number, line, word) -> str:
  if not word:
    raise _bad(path, number, line, 'a user and an item')
  return word


def _bad(path, number, line, wanted) -> ValueError:
  return ValueError(
    f'{path}, line {number}: got {line.strip()[:80]!r}, wanted {wanted}.'
  )


def _indexed(name: str, rows: Iterable[_Row], path, num_train=None) -> Ratings:
  """Indices in the order of first appearance; a pair that comes again is left out."""
  users: dict[str, int] = {}
  items: dict[str, int] = {}
  seen: dict[tuple[int, int], None] = {}
  found, test, repeated = [], [], 0
  for index, (user, item, value, time, number) in enumerate(rows):
    if not item:
      raise ValueError(f'{path}, line {number}: wanted a user and an item.')
    pair = (users.setdefault(user, len(users)), items.setdefault(item, len(items)))
    if pair in seen:
      repeated += 1
      continue
    seen[pair] = None
    found.append((value, time))
    test.append(num_train is not None and index >= num_train)
  if not found:
    raise ValueError(f'{path}: no rating in it.')
  pairs = np.array(list(seen), np.int32)
  values = np.array(found, np.float64)
  return Ratings(
    name, pairs[:, 0], pairs[:, 1], values[:, 0].astype(np.float32), values[:, 1],
    tuple(users), tuple(items), None if num_train is None else np.array(test), repeated,
  )  # fmt: skip

"""Rating files of every format, what is wrong in them, and splits of ratings."""

import numpy as np
import pytest

from experiments import datasets

_INTER = 'user_id:token\titem_id:token\trating:float\ttimestamp:float\n'


def _written(folder, name, text):
  path = folder / name
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text)
  return path


def _plain(ratings):
  return [
    (ratings.user_ids[u], ratings.item_ids[i], float(v), float(t))
    for u, i, v, t in zip(ratings.users, ratings.items, ratings.values, ratings.times)
  ]


_ROWS = [('7', 'a', 3.0, 10.0), ('5', 'b', 4.0, 20.0), ('7', 'b', 1.5, 30.0)]


@pytest.mark.parametrize(
  'name, text',
  [
    ('x.inter', _INTER + ''.join('\t'.join(map(str, r)) + '\n' for r in _ROWS)),
    # Columns in another order, one more, an empty line.
    (
      'y.inter',
      'rating:float\titem_id:token\textra:token\tuser_id:token\ttimestamp:float\n\n'
      + ''.join(f'{v}\t{i}\t-\t{u}\t{t}\n' for u, i, v, t in _ROWS),
    ),
    ('ratings.dat', ''.join('::'.join(map(str, r)) + '\n' for r in _ROWS)),
    ('u.data', '\n'.join('\t'.join(map(str, r)) for r in _ROWS)),
  ],
)
def test_every_format_reads_the_same(tmp_path, name, text):
  ratings = datasets.read_ratings(_written(tmp_path, name, text))
  assert _plain(ratings) == _ROWS
  assert ratings.users.dtype == ratings.items.dtype == np.int32
  assert ratings.given_test is None and ratings.repeated == 0


def test_adjacency_lists(tmp_path):
  train = _written(tmp_path, 'gowalla/train.txt', '0 3 1 \n1 3\n2\n')
  _written(tmp_path, 'gowalla/test.txt', '0 4\n1 1 3\n')
  ratings = datasets.load_ratings('gowalla', str(tmp_path))
  pairs = [(u, i) for u, i, _, _ in _plain(ratings)]
  assert pairs == [('0', '3'), ('0', '1'), ('1', '3'), ('0', '4'), ('1', '1')]
  # A test pair that is in training too counts there; item 4 is cold.
  assert ratings.given_test.tolist() == [False, False, False, True, True]
  assert ratings.repeated == 1
  split = datasets.split_ratings(ratings, 'given')
  assert len(split.test) == 2 and len(split.train) == 3
  (train.parent / 'test.txt').unlink()
  with pytest.raises(ValueError, match='test.txt: no such file'):
    datasets.load_ratings('gowalla', str(tmp_path))


def test_a_pair_that_comes_again_counts_once_as_it_came_first(tmp_path):
  text = _INTER + '1\ta\t5\t9\n1\ta\t1\t3\n2\ta\t4\t1\n'
  ratings = datasets.read_ratings(_written(tmp_path, 'x.inter', text))
  assert _plain(ratings) == [('1', 'a', 5.0, 9.0), ('2', 'a', 4.0, 1.0)]
  assert ratings.repeated == 1


@pytest.mark.parametrize(
  'name, text, message',
  [
    ('x.inter', '1\t2\t3\t4\n', r'x.inter, line 1: .*typed header'),
    ('x.inter', '', 'x.inter, line 1: .*typed header'),
    ('x.inter', _INTER, 'x.inter: no rating'),
    ('x.inter', _INTER + '1\t2\t3\n', "x.inter, line 2: got '1.*wanted 4 columns"),
    ('x.inter', _INTER + '1\t2\tgood\t4\n', "line 2: .*a number, not 'good'"),
    ('x.inter', _INTER + '1\t2\tnan\t4\n', "line 2: .*a finite number, not 'nan'"),
    ('x.inter', _INTER + '1\t2\t3\t4\n\t2\t3\t4\n', 'line 3: .*a user and an item'),
    ('x.inter', _INTER + '1\t\t3\t4\n', 'line 2: wanted a user and an item'),
    ('r.dat', '1::2::3\n', 'r.dat, line 1: .*user::item::rating::time'),
    ('r.dat', '1::2::3::4\n1::2::x::4\n', "r.dat, line 2: .*a number, not 'x'"),
    ('r.csv', '1,2,3\n', 'r.csv: unknown format'),
    ('train.txt', '0 1\n1 -2\n', r"train.txt, line 2: .*indices.*not '-2'"),
    ('train.txt', '0 1\n1 9999999999\n', "line 2: .*not '9999999999'"),
  ],
)
def test_what_is_wrong_is_told_by_file_and_line(tmp_path, name, text, message):
  path = _written(tmp_path, name, text)
  with pytest.raises(ValueError, match=message):
    datasets.read_ratings(path)


@pytest.mark.parametrize(
  'name, data_dir, message',
  [
    ('ml-9', None, 'unknown rating set.*ml-100k'),
    ('ml-100k', None, '--data_dir: wanted the folder with ml-100k/ml-100k.inter'),
    ('ml-1m', '/nowhere', '/nowhere has none of ml-1m/ml-1m.inter'),
    ('file:/nowhere/x.inter', None, '/nowhere/x.inter: no such file'),
  ],
)
def test_sets_that_are_not_there(name, data_dir, message):
  with pytest.raises(ValueError, match=message):
    datasets.load_ratings(name, data_dir)


def test_a_prepared_set_of_tfds(monkeypatch):
  tfds = pytest.importorskip('tensorflow_datasets')
  rows = [
    dict(user_id=b'7', movie_id=b'a', user_rating=np.float32(3), timestamp=np.int64(9)),
    dict(user_id=b'5', movie_id=b'a', user_rating=np.float32(4), timestamp=np.int64(8)),
  ]
  given = {}
  monkeypatch.setattr(
    tfds, 'data_source', lambda name, **kwargs: given.update(kwargs, name=name) or rows
  )
  ratings = datasets.load_ratings('tfds:movielens/100k-ratings', '/data')
  assert _plain(ratings) == [('7', 'a', 3.0, 9.0), ('5', 'a', 4.0, 8.0)]
  assert given['name'] == 'movielens/100k-ratings' and given['data_dir'] == '/data'
  del rows[1]['timestamp']
  with pytest.raises(ValueError, match="no 'timestamp' in it"):
    datasets.load_ratings('tfds:movielens/100k-ratings', '/data')


def test_a_set_that_tfds_has_not_prepared(tmp_path):
  pytest.importorskip('tensorflow_datasets')
  with pytest.raises(
    ValueError, match='has no movielens/100k-ratings that was prepared'
  ):
    datasets.load_ratings('tfds:movielens/100k-ratings', str(tmp_path))


def test_names_find_their_files(tmp_path):
  _written(tmp_path, 'ml-1m/ratings.dat', '1::2::3::4\n1::3::3::4\n')
  assert datasets.load_ratings('ml-1m', str(tmp_path)).name == 'ml-1m'


# --- splits ------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def ratings():
  return datasets.low_rank_ratings(num_users=60, num_items=80)


def _named(ratings, pairs):
  return {(ratings.user_ids[u], ratings.item_ids[i]) for u, i in pairs}


def _shuffled(ratings, seed=1):
  """The same ratings from a file in another order."""
  order = np.random.default_rng(seed).permutation(len(ratings.users))
  users = dict.fromkeys(ratings.users[order].tolist())
  items = dict.fromkeys(ratings.items[order].tolist())
  to = lambda new: {old: i for i, old in enumerate(new)}
  return ratings._replace(
    users=np.array([to(users)[u] for u in ratings.users[order].tolist()], np.int32),
    items=np.array([to(items)[i] for i in ratings.items[order].tolist()], np.int32),
    values=ratings.values[order],
    times=ratings.times[order],
    user_ids=tuple(ratings.user_ids[u] for u in users),
    item_ids=tuple(ratings.item_ids[i] for i in items),
  )


@pytest.mark.parametrize('kind', ['random', 'leave_one_out', 'fold_in'])
def test_parts_are_disjoint_complete_and_stable(ratings, kind):
  split = datasets.split_ratings(ratings, kind, seed=3)
  parts = [_named(ratings, p) for p in (split.train, split.validation, split.test)]
  folded = [_named(ratings, split.known[p]) for p in ('validation', 'test')]
  every = parts + folded if kind == 'fold_in' else parts
  assert sum(map(len, every)) == len(set().union(*every)) == len(ratings.users)
  for part in ('validation', 'test'):
    wanted = _named(ratings, getattr(split, part))
    assert wanted and not wanted & _named(ratings, split.known[part])
  other = _shuffled(ratings)
  again = datasets.split_ratings(other, kind, seed=3)
  assert again.digest == split.digest
  assert _named(other, again.test) == parts[2]
  if kind != 'leave_one_out':
    assert datasets.split_ratings(ratings, kind, seed=4).digest != split.digest


def test_the_hash_is_the_same_for_ever(tmp_path):
  rows = (f'{u}\t{i}\t1\t0\n' for u in range(3) for i in range(12))
  path = _written(tmp_path, 'x.inter', _INTER + ''.join(rows))
  split = datasets.split_ratings(datasets.read_ratings(path), 'random', 0)
  # A change of it would change every result that was published with it.
  assert (
    split.test.tolist() == [[0, 8], [1, 6], [2, 5]]
    and split.digest == 'b605077881448aeb'
  )


def test_tenths_of_each_user(ratings):
  split = datasets.split_ratings(ratings, 'random')
  counts = np.bincount(ratings.users)
  for part in (split.validation, split.test):
    np.testing.assert_array_equal(
      np.bincount(part[:, 0], minlength=60), np.maximum(counts // 10, 1)
    )
  np.testing.assert_array_equal(
    split.known['test'], np.array(sorted([*map(tuple, split.train), *map(tuple, split.validation)]))
  )  # fmt: skip


def test_the_last_in_time_is_left_out(ratings):
  split = datasets.split_ratings(ratings, 'leave_one_out')
  for name, place in (('test', -1), ('validation', -2)):
    for user, item in getattr(split, name)[:10]:
      own = ratings.users == user
      order = np.argsort(ratings.times[own], kind='stable')
      assert ratings.items[own][order[place]] == item
  untimed = ratings._replace(times=np.zeros(len(ratings.users)))
  with pytest.raises(ValueError, match='needs times'):
    datasets.split_ratings(untimed, 'leave_one_out')


def test_users_who_are_held_out_are_not_trained_on(ratings):
  split = datasets.split_ratings(ratings, 'fold_in')
  users = [set(p[:, 0].tolist()) for p in (split.train, split.validation, split.test)]
  assert [len(u) for u in users] == [48, 6, 6] and not users[0] & (users[1] | users[2])
  assert users[2] == set(split.known['test'][:, 0].tolist())


def test_users_with_few_items_are_in_training_only(tmp_path):
  text = _INTER + '1\ta\t1\t1\n1\tb\t1\t2\n' + ''.join(f'2\t{i}\t1\t{i}\n' for i in range(5))  # fmt: skip
  ratings = datasets.read_ratings(_written(tmp_path, 'x.inter', text))
  split = datasets.split_ratings(ratings, 'random')
  assert set(split.test[:, 0].tolist()) == {1} and len(split.train) == 5
  alone = datasets.read_ratings(_written(tmp_path, 'y.inter', _INTER + '1\ta\t1\t1\n'))
  with pytest.raises(ValueError, match='1 pairs to learn from and 0 to test on'):
    datasets.split_ratings(alone, 'random')


def test_bad_kinds_are_refused(ratings):
  with pytest.raises(ValueError, match="got 'thirds', wanted one of fold_in, given"):
    datasets.split_ratings(ratings, 'thirds')
  with pytest.raises(ValueError, match='no test part of its own'):
    datasets.split_ratings(ratings, 'given')


# --- negatives ---------------------------------------------------------------------------


def test_negatives_are_uniform_and_never_taken(ratings):
  split = datasets.split_ratings(ratings)
  taken = datasets.pair_codes(split.train, split.num_items)
  users = split.train[:, 0]
  drawn = [datasets.sample_negatives(users, 80, taken, s, 0) for s in range(20)]
  codes = datasets.pair_codes([[u, i] for d in drawn for u, i in zip(users, d)], 80)
  assert not np.isin(codes, taken).any()
  own = users == 0
  free = np.setdiff1d(np.arange(80), split.train[own][:, 1])
  counts = np.bincount(np.concatenate([d[own] for d in drawn]), minlength=80)[free]
  mean = counts.mean()
  assert np.abs(counts - mean).max() < 6 * np.sqrt(mean) + 1
  np.testing.assert_array_equal(
    drawn[3], datasets.sample_negatives(users, 80, taken, 3, 0)
  )
  assert not np.array_equal(drawn[3], drawn[4])


def test_negatives_of_training_and_of_evaluation_are_disjoint(ratings):
  split = datasets.split_ratings(ratings)
  others = datasets.evaluation_negatives(split, 10, seed=0)
  assert np.bincount(others[:, 0]).tolist() == [10] * 60
  everything = np.concatenate([split.train, split.validation, split.test])
  both = [datasets.pair_codes(p, 80) for p in (others, everything)]
  assert len(both[0]) == 600 and not np.isin(*both).any()
  taken = datasets.pair_codes(np.concatenate([split.train, others]), 80)
  drawn = datasets.sample_negatives(split.train[:, 0], 80, taken, 0, 0)
  pairs = np.stack([split.train[:, 0], drawn], axis=1)
  assert not np.isin(datasets.pair_codes(pairs, 80), both[0]).any()
  with pytest.raises(ValueError, match='eval_negatives: got 80'):
    datasets.evaluation_negatives(split, 80, seed=0)


def test_a_user_who_has_taken_everything_has_no_negative():
  taken = datasets.pair_codes([[1, i] for i in range(4)], 4)
  with pytest.raises(ValueError, match='user 1 has taken'):
    datasets.sample_negatives([0, 1], 4, taken, 0, 0)


def test_synthetic_ratings_are_those_of_their_seed():
  one, same, other = (datasets.low_rank_ratings(30, 70, seed=s) for s in (0, 0, 1))
  np.testing.assert_array_equal(one.items, same.items)
  assert not np.array_equal(one.items[:50], other.items[:50])
  assert set(np.bincount(one.users)) <= set(range(12, 61))
  with pytest.raises(ValueError, match='num_items=10'):
    datasets.low_rank_ratings(num_items=10)

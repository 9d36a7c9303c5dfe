import tarfile

import numpy as np
import pytest

from experiments import datasets

_TABLE = np.arange(40.0).reshape(10, 4) ** 1.5


def _write(root, **changes):
  """A set of ten rows and two splits, as the archive has them."""
  folder = root / 'UCI_Datasets' / 'yacht' / 'data'
  folder.mkdir(parents=True)
  files = {
    'data': '\n'.join(' '.join(f'{x:.6f}' for x in row) for row in _TABLE) + '\n',
    'index_features': '0\n1\n2\n',
    'index_target': '3\n',
    'n_splits': '2\n',
    'index_train_0': '0\n1\n2\n3\n4\n5\n6\n',
    'index_test_0': '7\n8\n9\n',
    # The archive writes some of its integers so.
    'index_train_1': '9.0e+00\n8\n7\n6\n5\n4\n3\n',
    'index_test_1': '0\n1\n2\n',
    **changes,
  }
  for name, text in files.items():
    if text is not None:
      (folder / f'{name}.txt').write_text(text)
  return folder


def test_a_folder_and_its_archive_are_the_same_set(tmp_path):
  _write(tmp_path)
  archive = tmp_path / 'sets.tar.gz'
  with tarfile.open(archive, 'w:gz') as tar:
    tar.add(tmp_path / 'UCI_Datasets', 'UCI_Datasets')
  for where in (tmp_path, tmp_path / 'UCI_Datasets', archive):
    data = datasets.load_regression('yacht', str(where))
    np.testing.assert_allclose(data.features, _TABLE[:, :3], atol=1e-6)
    np.testing.assert_allclose(data.targets, _TABLE[:, 3], atol=1e-6)
    assert data.train.tolist() == [list(range(7)), [9, 8, 7, 6, 5, 4, 3]]
    assert data.test.tolist() == [[7, 8, 9], [0, 1, 2]]


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'data': '1 2\n3 x\n'}, r'data.txt, line 2: .*x'),
    ({'data': '1 2\n\n3\n'}, r'data.txt, line 3: .* wanted 2 finite'),
    ({'data': '1 nan\n'}, r'data.txt, line 1: .* finite'),
    ({'data': ''}, r'data.txt: an empty file'),
    ({'index_target': '4\n'}, r'index_target.txt, line 1: got 4, .* \[0, 4\)'),
    ({'index_test_1': '0\n1\n2.5\n'}, r'index_test_1.txt, line 3: got 2.5'),
    ({'index_test_1': None}, r'index_test_1.txt: no such file'),
    ({'index_test_1': '0\n1\n3\n'}, r'index_test_1.txt: some row is in it twice'),
    ({'index_test_1': '0\n1\n'}, r'index_test_1.txt: 2 rows, the first split has 3'),
  ],
)
def test_what_is_wrong_in_a_file_is_said_with_its_line(tmp_path, changes, message):
  _write(tmp_path, **changes)
  with pytest.raises(ValueError, match=message):
    datasets.load_regression('yacht', str(tmp_path))


def test_where_there_is_no_set(tmp_path):
  load = datasets.load_regression
  (tmp_path / 'broken.tar.gz').write_bytes(b'no archive')
  (tmp_path / 'other').mkdir()
  tarfile.open(tmp_path / 'empty.tar.gz', 'w:gz').close()
  with pytest.raises(ValueError, match='unknown regression set'):
    load('boat')
  with pytest.raises(ValueError, match='--data_dir: wanted the archive'):
    load('yacht')
  with pytest.raises(ValueError, match='has no folder yacht'):
    load('yacht', str(tmp_path / 'other'))
  with pytest.raises(ValueError, match='a damaged archive'):
    load('yacht', str(tmp_path / 'broken.tar.gz'))
  with pytest.raises(ValueError, match='the archive has no folder yacht/data'):
    load('yacht', str(tmp_path / 'empty.tar.gz'))


def test_diabetes_is_divided_as_the_protocol_has_it():
  data = datasets.load_regression('diabetes')
  for train, test in zip(data.train, data.test):
    assert sorted([*train, *test]) == list(range(442))
  assert len({tuple(test) for test in data.test}) == 20
  assert (
    data.test[0, :4].tolist()
    == datasets.load_regression('diabetes').test[0, :4].tolist()
  )


def test_units_are_those_of_the_training_rows_alone():
  features = np.random.default_rng(0).normal(3, 5, (10, 3))
  features[:, 1] = 0.1  # Constant: a sum of ten of them is not exactly 1.
  train, test = np.arange(7)[None], np.arange(7, 10)[None]
  data = datasets.RegressionData('x', features, features[:, 0] ** 2, train, test)
  found = datasets.standardize(data)
  np.testing.assert_allclose(found.train[0].mean(axis=1), 0, atol=1e-6)
  np.testing.assert_allclose(found.train[0].std(axis=1), [[1, 0, 1]], atol=1e-6)
  back = found.test[1] * found.std[:, None] + found.mean[:, None]
  np.testing.assert_allclose(back, data.targets[test], rtol=1e-5)
  features[8], data.targets[9] = 1e6, 1e6
  changed = datasets.standardize(data)
  for a, b in zip(found.train, changed.train):
    np.testing.assert_array_equal(a, b)

"""Loading: TFDS names, the embedded digits, and what goes wrong."""

import os
import pathlib
import random
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from sklearn import datasets as sklearn_datasets
import tensorflow_datasets as tfds

from experiments import datasets
from experiments.datasets import digits


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  return tmp_path / 'cache' / 'jaxsparse'


@pytest.fixture(scope='module')
def tfds_dir(tmp_path_factory):
  """A TFDS directory in which `digits` is prepared."""
  path = tmp_path_factory.mktemp('tfds')
  datasets.load('digits', data_dir=str(path))
  return path


def _rows(images):
  return {image.tobytes() for image in images}


def test_digits_are_all_of_scikit_learns(tfds_dir):
  data = datasets.load('digits', data_dir=str(tfds_dir), validation=0.0)
  images = np.concatenate([data.train[0], data.test[0]])
  labels = np.concatenate([data.train[1], data.test[1]])
  source = sklearn_datasets.load_digits()
  assert images.shape == (1797, 8, 8, 1) and images.dtype == np.uint8
  assert len(data.validation[1]) == 0 and data.validation[0].shape[1:] == (8, 8, 1)

  def sortable(images, labels):
    return sorted(zip(map(bytes, images), labels.tolist()))

  levels = np.round(images[..., 0] * (16 / 255)).astype(np.uint8)
  expected = source.images.astype(np.uint8)
  assert sortable(levels, labels) == sortable(expected, source.target)


def test_digits_test_split_is_a_fifth_of_each_class(tfds_dir):
  data = datasets.load('digits', data_dir=str(tfds_dir), validation=0.0)
  totals = np.bincount(sklearn_datasets.load_digits().target)
  np.testing.assert_array_equal(np.bincount(data.test[1]), totals // 5)
  assert data.num_classes == 10 and data.class_names == tuple('0123456789')


def test_digits_load_like_any_other_tfds_name(tfds_dir):
  assert digits.Builder.name == 'digits'
  source = tfds.data_source('digits', split='test', data_dir=str(tfds_dir))
  data = datasets.load('digits', data_dir=str(tfds_dir))
  np.testing.assert_array_equal(source[7]['image'], data.test[0][7])
  assert source[7]['label'] == data.test[1][7]
  assert 'tensorflow' not in sys.modules


def test_validation_is_a_stratified_part_of_train(tfds_dir):
  whole = datasets.load('digits', data_dir=str(tfds_dir), validation=0.0)
  data = datasets.load('digits', data_dir=str(tfds_dir), validation=0.2)
  again = datasets.load('digits', data_dir=str(tfds_dir), validation=0.2)
  other = datasets.load('digits', data_dir=str(tfds_dir), validation=0.2, seed=1)
  np.testing.assert_array_equal(data.validation[0], again.validation[0])
  assert _rows(data.validation[0]) != _rows(other.validation[0])
  assert len(data.validation[1]) == round(0.2 * len(whole.train[1]))
  assert len(data.train[1]) + len(data.validation[1]) == len(whole.train[1])
  assert _rows(data.train[0]) | _rows(data.validation[0]) == _rows(whole.train[0])
  shares = np.bincount(data.validation[1]) / np.bincount(whole.train[1])
  assert np.abs(shares - 0.2).max() < 1 / 100
  for a, b in zip(whole.test, data.test):
    np.testing.assert_array_equal(a, b)


def test_mean_and_std_are_those_of_the_training_images_alone(tfds_dir):
  data = datasets.load('digits', data_dir=str(tfds_dir), validation=0.5)
  images = data.train[0] / 255
  np.testing.assert_allclose(data.mean, images.mean((0, 1, 2)))
  np.testing.assert_allclose(data.std, images.std((0, 1, 2)))


def test_digits_are_prepared_in_the_cache_when_no_directory_is_given(
  monkeypatch, tmp_path, own_cache
):
  monkeypatch.delenv('TFDS_DATA_DIR', raising=False)
  monkeypatch.setenv('HOME', str(tmp_path))
  assert len(datasets.load('digits').test[1]) == 355
  written = own_cache / 'tfds' / 'digits' / '1.0.0'
  before = {f: f.stat().st_mtime_ns for f in written.iterdir()}
  datasets.load('digits')
  assert before == {f: f.stat().st_mtime_ns for f in written.iterdir()}


def test_digits_fall_back_on_the_cache_where_the_directory_cannot_be_written(
  tmp_path, own_cache
):
  (tmp_path / 'file').write_text('')
  data = datasets.load('digits', data_dir=str(tmp_path / 'file' / 'tfds'))
  assert len(data.test[1]) == 355 and (own_cache / 'tfds' / 'digits').is_dir()


_LOAD = """
import sys
from experiments import datasets
print(len(datasets.load('digits', data_dir=sys.argv[1]).test[1]))
"""


def _start(path):
  command = [sys.executable, '-c', _LOAD, str(path)]
  return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_two_processes_may_prepare_at_once(tmp_path):
  processes = [_start(tmp_path) for _ in range(2)]
  assert [p.communicate()[0].strip() for p in processes] == ['355', '355']
  assert [p.name for p in tmp_path.iterdir() if p.name != 'cache'] == ['digits']


def test_a_killed_preparation_does_no_harm(tmp_path):
  process = _start(tmp_path)
  deadline = time.time() + 60
  while not list(tmp_path.glob('.digits-*/digits/*')) and time.time() < deadline:
    time.sleep(0.001)
  process.kill()
  process.communicate()
  left = list(tmp_path.glob('.digits-*'))
  assert left, 'the process was not killed in the middle'
  assert not (tmp_path / 'digits' / '1.0.0').exists()
  an_hour_ago = time.time() - 4000
  os.utime(left[0], (an_hour_ago, an_hour_ago))
  assert len(datasets.load('digits', data_dir=str(tmp_path)).test[1]) == 355
  assert not list(tmp_path.glob('.digits-*'))


def test_an_unprepared_name_says_which_command_prepares_it(tmp_path):
  with pytest.raises(ValueError) as error:
    datasets.load('cifar10', data_dir=str(tmp_path))
  command = str(error.value).splitlines()[-1]
  assert command.strip().startswith('pip install tensorflow-cpu && python -c "')
  code = command.split('python -c "')[1].rstrip('"')
  compile(code, 'command', 'exec')
  assert f"tfds.builder('cifar10', data_dir='{tmp_path}'" in code
  assert "file_format='array_record'" in code


def test_a_wrong_name_lists_the_right_ones(tfds_dir):
  with pytest.raises(ValueError, match='unknown name.*fashion_mnist.*Ready.*digits'):
    datasets.load('fashon_mnist', data_dir=str(tfds_dir))
  with pytest.raises(ValueError, match='unknown name'):
    datasets.load('../secret', data_dir=str(tfds_dir))


@pytest.mark.parametrize(
  'arguments, message',
  [({'validation': 1.0}, 'validation: got 1.0'), ({'seed': -1}, 'seed: got -1')],
)
def test_bad_arguments_are_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    datasets.load('digits', **arguments)


def _spoil_record(path: pathlib.Path):
  record = next(path.glob('*train*'))
  record.write_bytes(record.read_bytes()[: record.stat().st_size // 2])


def _spoil_info(path: pathlib.Path):
  (path / 'dataset_info.json').write_text('{')


def _remove_record(path: pathlib.Path):
  next(path.glob('*test*')).unlink()


def _other_format(path: pathlib.Path):
  info = path / 'dataset_info.json'
  info.write_text(info.read_text().replace('array_record', 'tfrecord'))


@pytest.mark.parametrize(
  'spoil, message',
  [
    (_spoil_record, 'train is damaged'),
    (_remove_record, 'test is damaged'),
    (_spoil_info, 'not a readable TFDS data set'),
    (_other_format, 'prepared as tfrecord'),
  ],
)
def test_damaged_files_are_named(tfds_dir, tmp_path, spoil, message):
  shutil.copytree(tfds_dir / 'digits', tmp_path / 'digits')
  spoil(tmp_path / 'digits' / '1.0.0')
  with pytest.raises(ValueError, match=f'{tmp_path}/digits/1.0.0: .*{message}'):
    datasets.load('digits', data_dir=str(tmp_path))


def test_the_newest_version_is_taken_and_an_older_one_on_request(tfds_dir, tmp_path):
  source = tfds_dir / 'digits' / '1.0.0'
  for version in ('1.9.0', '1.10.0'):
    target = tmp_path / 'digits' / version
    shutil.copytree(source, target)
    info = target / 'dataset_info.json'
    info.write_text(info.read_text().replace('1.0.0', version))
  _spoil_info(tmp_path / 'digits' / '1.10.0')
  with pytest.raises(ValueError, match=r'1\.10\.0: not a readable'):
    datasets.load('digits', data_dir=str(tmp_path))
  data = datasets.load('digits:1.9.0', data_dir=str(tmp_path))
  assert len(data.test[1]) == 355


@pytest.mark.data
@pytest.mark.parametrize('name', ['mnist', 'fashion_mnist'])
def test_prepared_sets_are_read_and_cached(name, data_dir, own_cache):
  if not (data_dir / name).is_dir():
    pytest.skip(f'{name} is not prepared in the data directory')
  data = datasets.load(name, data_dir=str(data_dir))
  assert data.train[0].shape == (54000, 28, 28, 1)
  assert data.validation[0].shape == (6000, 28, 28, 1)
  assert data.test[0].shape == (10000, 28, 28, 1)
  source = tfds.data_source(name, split='test', data_dir=str(data_dir), download=False)
  for index in (0, 4321, 9999):
    np.testing.assert_array_equal(source[index]['image'], data.test[0][index])
    assert source[index]['label'] == data.test[1][index]
  (cache,) = own_cache.glob('*.npz')
  before = cache.stat().st_mtime_ns
  again = datasets.load(name, data_dir=str(data_dir))
  np.testing.assert_array_equal(data.train[0], again.train[0])
  assert cache.stat().st_mtime_ns == before


def test_mnist1d_is_the_published_set_and_leaves_random_numbers_alone():
  before = np.random.get_state()[1].copy(), random.getstate()
  data = datasets.load('mnist1d', validation=0.0)
  assert (np.random.get_state()[1] == before[0]).all()
  assert random.getstate() == before[1]
  (x, y), (x_test, y_test) = data.train, data.test
  assert (x.shape, x_test.shape) == ((4000, 40, 1, 1), (1000, 40, 1, 1))
  assert x.dtype == np.float32 and y.dtype == np.int32
  assert (np.bincount(y) + np.bincount(y_test) == 500).all()
  np.testing.assert_allclose(data.mean, x.mean(), atol=1e-6)
  np.testing.assert_allclose(data.std, x.std(), rtol=1e-5)
  # Whole, the set has been centred and scaled by its maker.
  both = np.concatenate([x, x_test])
  assert abs(both.mean()) < 1e-6 and abs(both.std() - 1) < 1e-6

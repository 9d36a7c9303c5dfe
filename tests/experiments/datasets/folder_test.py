"""Folders and archives of images."""

import os
import tarfile

import numpy as np
from PIL import Image
import pytest

from experiments import datasets
from experiments.datasets import _arrays

_GREY = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  return tmp_path / 'cache' / 'jaxsparse'


def _write(path, pixels):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path):
  """Two classes, four training images and one test image each."""
  root = tmp_path / 'images'
  for index, label in enumerate(('cat', 'dog')):
    for number in range(4):
      _write(root / 'train' / label / f'{number}.png', _GREY + 10 * index + number)
    _write(root / 'test' / label / '0.png', _GREY + 10 * index)
  return root


def _load(path, validation=0.25):
  return datasets.load(f'folder:{path}', validation=validation)


def test_a_folder_is_read_in_the_order_of_its_paths(folder):
  data = _load(folder, validation=0.0)
  assert data.class_names == ('cat', 'dog')
  assert data.train[1].tolist() == [0] * 4 + [1] * 4
  assert data.test[1].tolist() == [0, 1]
  np.testing.assert_array_equal(data.train[0][5, ..., 0], _GREY + 11)
  assert data.train[0].dtype == np.uint8 and data.train[1].dtype == np.int32


def test_validation_takes_the_same_share_of_each_class(folder):
  data = _load(folder)
  assert sorted(data.validation[1].tolist()) == [0, 1]
  assert sorted(data.train[1].tolist()) == [0] * 3 + [1] * 3


@pytest.mark.parametrize('suffix, mode', [('tar', 'w'), ('tar.gz', 'w:gz')])
@pytest.mark.parametrize('inside', ['', './', 'some/where'])
def test_an_archive_gives_the_same(folder, tmp_path, suffix, mode, inside):
  path = tmp_path / f'images.{suffix}'
  with tarfile.open(path, mode) as tar:
    # In another order than the paths'.
    tar.add(folder / 'train', os.path.join(inside, 'train'))
    tar.add(folder / 'test', os.path.join(inside, 'test'))
  expected, data = _load(folder), _load(path)
  for a, b in zip((*expected.train, *expected.test), (*data.train, *data.test)):
    np.testing.assert_array_equal(a, b)


def test_grey_becomes_rgb_beside_colour(folder):
  colour = np.stack([_GREY, _GREY[::-1], 255 - _GREY], axis=-1)
  _write(folder / 'train' / 'cat' / '9.png', colour)
  data = _load(folder, validation=0.0)
  assert data.image_shape == (6, 8, 3) and len(data.mean) == 3
  np.testing.assert_array_equal(data.train[0][4], colour)
  np.testing.assert_array_equal(data.train[0][0], np.repeat(_GREY[..., None], 3, -1))


def test_alpha_is_dropped_and_sixteen_bits_are_cut(folder):
  rgba = np.stack([_GREY, _GREY + 1, _GREY + 2, np.full_like(_GREY, 7)], axis=-1)
  _write(folder / 'train' / 'cat' / '0.png', rgba)
  deep = _GREY.astype(np.uint16) * 256 + 200
  _write(folder / 'train' / 'cat' / '1.png', deep)
  grey_alpha = np.stack([_GREY, np.full_like(_GREY, 7)], axis=-1)
  Image.fromarray(grey_alpha, 'LA').save(folder / 'train' / 'cat' / '2.png')
  data = _load(folder, validation=0.0)
  np.testing.assert_array_equal(data.train[0][0], rgba[..., :3])
  for index in (1, 2):
    np.testing.assert_array_equal(data.train[0][index, ..., 0], _GREY)


def test_palette_and_cmyk_become_rgb(folder):
  flat = np.full((6, 8, 3), (255, 0, 0), np.uint8)
  Image.fromarray(flat).convert('P').save(folder / 'train' / 'cat' / '0.png')
  Image.fromarray(flat).convert('CMYK').save(folder / 'train' / 'cat' / '1.jpg')
  data = _load(folder, validation=0.0)
  np.testing.assert_array_equal(data.train[0][0], flat)
  assert data.image_shape == (6, 8, 3)


def test_a_changed_folder_is_decoded_again_and_replaces_its_cache(folder, own_cache):
  first = _load(folder, validation=0.0)
  again = _load(folder, validation=0.0)
  np.testing.assert_array_equal(first.train[0], again.train[0])
  _write(folder / 'train' / 'cat' / '7.png', _GREY)
  assert len(_load(folder, validation=0.0).train[1]) == 9
  assert len(list(own_cache.iterdir())) == 1


def test_a_cached_archive_is_not_decoded_again(folder, monkeypatch):
  first = _load(folder)

  def fail(*_):
    raise AssertionError('decoded')

  monkeypatch.setattr(_arrays, 'decode_image', fail)
  np.testing.assert_array_equal(first.train[0], _load(folder).train[0])


def test_a_broken_cache_is_decoded_again(folder, own_cache):
  first = _load(folder)
  (cache,) = own_cache.iterdir()
  cache.write_bytes(cache.read_bytes()[:-200])
  np.testing.assert_array_equal(first.train[0], _load(folder).train[0])
  data = bytearray(cache.read_bytes())
  data[200] ^= 1  # In the pixels: the checksum of the member tells.
  cache.write_bytes(data)
  np.testing.assert_array_equal(first.train[0], _load(folder).train[0])


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(
  folder, tmp_path, monkeypatch
):
  (tmp_path / 'file').write_text('')
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
  assert len(_load(folder).test[1]) == 2


def _other_size(folder):
  _write(folder / 'train' / 'dog' / '2.png', _GREY[:4])


def _broken_image(folder):
  path = folder / 'train' / 'dog' / '2.png'
  path.write_bytes(path.read_bytes()[:45])


def _no_image(folder):
  (folder / 'train' / 'dog' / '2.png').write_text('hello')


def _empty_class(folder):
  (folder / 'train' / 'emu').mkdir()
  (folder / 'train' / 'emu' / 'note.txt').write_text('')


def _one_sided_class(folder):
  _write(folder / 'train' / 'emu' / '0.png', _GREY)


def _no_test(folder):
  (folder / 'test').rename(folder / 'exam')


@pytest.mark.parametrize(
  'spoil, message',
  [
    (_other_size, r'train/dog/2\.png: 4x8 pixels, but .* 6x8'),
    (_broken_image, r'train/dog/2\.png: not a readable image'),
    (_no_image, r'train/dog/2\.png: not a readable image'),
    (_empty_class, 'train/emu: no image in this class'),
    (_one_sided_class, 'only one of train and test has emu'),
    (_no_test, 'no images found; want train/<class>'),
  ],
)
def test_what_is_wrong_in_a_folder_is_named(folder, spoil, message):
  spoil(folder)
  with pytest.raises(ValueError, match=message):
    _load(folder)


def test_a_path_that_does_not_exist_is_named(tmp_path):
  with pytest.raises(ValueError, match='folder:.*nowhere: want a directory'):
    _load(tmp_path / 'nowhere')


@pytest.mark.parametrize('keep', [0.5, 0.0])
def test_a_damaged_archive_is_named(folder, tmp_path, keep):
  path = tmp_path / 'images.tar.gz'
  with tarfile.open(path, 'w:gz') as tar:
    tar.add(folder, '.')
  data = path.read_bytes()
  path.write_bytes(data[: int(len(data) * keep)])
  with pytest.raises(ValueError, match=r'images\.tar\.gz: a damaged archive'):
    _load(path)

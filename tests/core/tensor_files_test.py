"""Files of named tensors: whole ones only, in one order, of one kind."""

import numpy as np
import pytest
import safetensors.numpy

from jaxsparse import core

_KIND = ('mine', 2)


def test_the_same_tensors_are_the_same_file(tmp_path):
  tensors = {'b': np.arange(3, dtype=np.int8), 'a': np.ones((0, 2), np.float32)}
  paths = [tmp_path / name for name in 'xy']
  sizes = [core.save_tensors(p, _KIND, tensors, {'m': {2: (1,)}}) for p in paths]
  assert paths[0].read_bytes() == paths[1].read_bytes()
  assert sizes == [p.stat().st_size for p in paths]
  manifest, found = core.load_tensors(paths[0], _KIND)
  assert manifest['m'] == {'2': [1]}
  assert found.keys() == tensors.keys()
  for name, array in tensors.items():
    assert found[name].dtype == array.dtype and found[name].shape == array.shape
  # A flipped bit anywhere behind the header.
  data = bytearray(paths[0].read_bytes())
  data[-1] ^= 4
  paths[0].write_bytes(data)
  with pytest.raises(ValueError, match='b is missing or damaged'):
    core.load_tensors(paths[0], _KIND)
  with pytest.raises(ValueError, match='version 2; this jaxsparse reads 3'):
    core.load_tensors(paths[0], ('mine', 3))
  safetensors.numpy.save_file({'a': np.ones(1)}, paths[1])
  with pytest.raises(ValueError, match="format is None; wanted 'mine'"):
    core.load_tensors(paths[1], _KIND)
  with pytest.raises(FileNotFoundError):
    core.load_tensors(tmp_path / 'nowhere', _KIND)


def test_a_digest_sees_the_dtype_and_the_shape():
  ones = np.ones(2, np.int32)
  others = ones.astype(np.float32), ones[:, None], ones + 1
  assert len({core.digest(x) for x in (ones, *others)}) == 4
  assert core.digest(ones[::1]) == core.digest(np.ones(4, np.int32)[::2])
  assert core.digest({'a': 1, 'b': 2}) == core.digest({'b': 2, 'a': 1})


def test_a_tree_of_what_a_file_names():
  named = {'a/b': np.ones(2), 'c': np.ones(1)}
  assert core.tree_like('f', named, named)['a']['b'] is named['a/b']
  with pytest.raises(ValueError, match='f: a/b is not in like'):
    core.tree_like('f', named, named, {'c': np.ones(1)})

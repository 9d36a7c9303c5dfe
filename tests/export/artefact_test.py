"""Sparse models in a file: what is saved is what is loaded, and nothing else is."""

import json

from flax import nnx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy

import jaxsparse as js


class _Net(nn.Module):
  @nn.compact
  def __call__(self, x, ids):
    x = nn.relu(nn.Conv(8, (3, 3), name='conv')(x))
    x = nn.relu(nn.Dense(16, name='dense')(x.reshape(x.shape[0], -1)))
    x = x + nn.Embed(30, 16, name='embed')(ids)
    return nn.Dense(3, name='head', param_dtype=jnp.bfloat16)(x)


_INPUTS = jax.random.normal(jax.random.key(1), (2, 4, 4, 2)), jnp.array([3, 29])


def _start():
  """`(params, masks, values, patterns)` of one model."""
  params = jax.jit(_Net().init)(jax.random.key(0), *_INPUTS)['params']
  rng = np.random.default_rng(0)
  blocks = np.repeat(rng.permutation(512) < 26, 4)
  masks = {
    'conv/kernel': rng.permutation(144) < 14,
    'dense/kernel': blocks,
    'embed/embedding': rng.permutation(480) < 240,
  }
  named = dict(zip(*js.core.named_leaves(params)[:2]))
  masks = {n: m.reshape(named[n].shape) for n, m in masks.items()}
  masks = js.masks.from_named(params, masks)
  params = js.masks.apply(masks, params)
  sparse = lambda m, p, block=1: js.sparse.from_mask(p, m, block=block) if m.ndim else p
  weights = jax.tree.map(sparse, masks, params)
  weights['dense']['kernel'] = sparse(
    masks['dense']['kernel'], params['dense']['kernel'], 4
  )
  return params, masks, *_split(weights)


def _is_sparse(x):
  return isinstance(x, js.sparse.SparseArray)


def _split(weights):
  """The values and the patterns of a tree, as compact training has them."""
  one = lambda x: x.values if _is_sparse(x) else x
  two = lambda x: x.pattern if _is_sparse(x) else jnp.ones((), bool)
  return (jax.tree.map(f, weights, is_leaf=_is_sparse) for f in (one, two))


def _dense(params):
  whole = lambda x: js.sparse.to_dense(x) if _is_sparse(x) else x
  return jax.tree.map(whole, params, is_leaf=_is_sparse)


def _assert_same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
    assert x.dtype == y.dtype
    np.testing.assert_array_equal(x, y)


def test_masked_and_compact_models_are_the_same_file(tmp_path):
  params, masks, values, patterns = _start()
  paths = [tmp_path / f'{name}.safetensors' for name in ('masked', 'compact')]
  size = js.export.save(paths[0], params, masks, {'epoch': 3})
  js.export.save(paths[1], values, patterns, {'epoch': 3})
  assert paths[0].read_bytes() == paths[1].read_bytes()
  assert size == paths[0].stat().st_size
  # Nothing is left behind.
  assert sorted(tmp_path.iterdir()) == sorted(paths)

  exported = js.export.load(paths[0])
  assert isinstance(exported, js.export.Exported)
  assert exported.metadata == {'epoch': 3} and exported.program is None
  _assert_same(_dense(exported.params), params)
  kernel = exported.params['dense']['kernel']
  assert kernel.pattern.format.block == 4
  js.sparse.check(kernel)
  _assert_same(exported.params, js.compact.join(values, patterns))
  apply_fn = js.layers.bind(_Net(), js.compact.handler('reference'))
  got = jax.jit(apply_fn)({'params': exported.params}, *_INPUTS)
  want = jax.jit(_Net().apply)({'params': params}, *_INPUTS)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)

  # 14 weights and as many gaps of a byte; 26 blocks; 240 weights by bits.
  sizes = {n: x.nbytes for n, x in safetensors.numpy.load_file(paths[0]).items()}
  assert sizes == {
    'values/conv/kernel': 56, 'places/conv/kernel': 14,
    'values/dense/kernel': 416, 'places/dense/kernel': 26,
    'values/embed/embedding': 960, 'places/embed/embedding': 60,
    'array/conv/bias': 32, 'array/dense/bias': 64, 'array/head/bias': 6,
    'array/head/kernel': 96,
  }  # fmt: skip


def test_the_size_follows_the_nonzeros(tmp_path):
  sizes = []
  for kept in (0, 1000, 10_000):
    mask = np.zeros(1_000_000, bool)
    mask[np.random.default_rng(0).permutation(mask.size)[:kept]] = True
    mask = mask.reshape(1000, 1000)
    path = tmp_path / f'{kept}.safetensors'
    sizes.append(js.export.save(path, {'w': mask.astype(np.float32)}, {'w': mask}))
    weight = js.export.load(path).params['w']
    np.testing.assert_array_equal(js.sparse.to_dense(weight), mask)
  empty, few, many = sizes
  # 4 bytes a value, 2 a place; 10,000 are 1 % of the weights.
  assert empty < 700 and few - empty < 6100 and many - empty < 60_100


def test_stacked_layers_containers_and_masks_that_broadcast(tmp_path):
  rng = np.random.default_rng(0)
  kernel = rng.normal(size=(3, 8, 4)).astype(np.float32)
  masks = {
    # Layers of 1, 2 and 3 weights; a mask of whole inputs.
    'blocks': {'kernel': rng.permuted(np.arange(32) < [[1], [2], [3]], axis=1)},
    'last': {'kernel': rng.permutation(np.arange(8) < 2)[:, None]},
  }
  masks['blocks']['kernel'] = masks['blocks']['kernel'].reshape(3, 8, 4)
  params = {'blocks': {'kernel': kernel}, 'last': {'kernel': kernel[0]}}
  params = jax.tree.map(lambda p, m: jnp.where(m, p, 0), params, masks)
  path = tmp_path / 'model.safetensors'
  state = nnx.State(jax.tree.map(nnx.Param, params))
  boxed = jax.tree.map(jnp.asarray, nnx.State(jax.tree.map(nnx.Param, masks)))
  js.export.save(path, state, boxed, leaves={'blocks/*': js.stacked()})
  loaded = js.export.load(path, jax.eval_shape(lambda: state)).params
  assert isinstance(loaded, nnx.State)
  weight = loaded['blocks']['kernel'].get_value()
  assert weight.pattern.count.tolist() == [1, 2, 3]
  dense = jax.vmap(js.sparse.to_dense)(weight)
  np.testing.assert_array_equal(dense, params['blocks']['kernel'])
  # What was loaded can be saved again, without its padding.
  values, patterns = _split(js.export.load(path).params)
  again = tmp_path / 'again.safetensors'
  js.export.save(again, values, patterns)
  assert again.read_bytes() == path.read_bytes()
  for changes, message in (
    ({'more': {'kernel': jnp.ones(2)}}, 'more/kernel is not in the file'),
    ({'last': {}}, 'last/kernel is not in like'),
    ({'last': {'kernel': jnp.ones((4, 8))}}, r'last/kernel is float32\[8, 4\]'),
  ):
    with pytest.raises(ValueError, match=message):
      js.export.load(path, {**params, **changes})


def _reseal(head, change):
  """Changes the manifest as somebody would who has this library."""
  manifest = json.loads(head['jaxsparse'])
  change(manifest)
  del manifest['crc32']
  head['jaxsparse'] = json.dumps({**manifest, 'crc32': js.core.digest(manifest)})


def _damage(head, tensors):
  head['jaxsparse'] = head['jaxsparse'].replace('[8, 8]', '[4, 8]')


def _flip(head, tensors):
  tensors['values/w'] = tensors['values/w'] + 1


def _places(places):
  def change(head, tensors):
    tensors['places/w'] = places = np.array(_new, np.uint8)
    digest = js.core.digest(places)
    _reseal(head, lambda m: m['tensors'].update({'places/w': digest}))

  _new = places
  return change


def _entry(**options):
  return lambda head, _: _reseal(head, lambda m: m['leaves']['w'].update(options))


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda head, _: head.clear(), "format is None; wanted 'jaxsparse.export'"),
    (
      lambda head, _: _reseal(head, lambda m: m.update(version=2)),
      'version 2; .* reads 1',
    ),
    (_damage, 'its manifest is damaged'),
    (lambda _, tensors: tensors.pop('values/w'), 'values/w is missing'),
    (_flip, 'values/w is missing or damaged'),
    (_places([1, 0]), 'w cannot be read: a place twice'),
    (_places([1, 99]), 'w cannot be read: .* beyond the 64'),
    (_places([1]), 'w cannot be read: 2 values for 1 blocks'),
    (_entry(places='runs'), "w cannot be read: places in an unknown code, 'runs'"),
    (_entry(places='bits'), 'w cannot be read: 2 bytes of bits for 64 places'),
    (_entry(block=5), 'w cannot be read: Format: block=5'),
  ],
)
def test_what_cannot_be_read_is_refused(tmp_path, change, message):
  mask = np.zeros((8, 8), bool)
  mask[[1, 4], [2, 3]] = True
  path = tmp_path / 'model.safetensors'
  js.export.save(path, {'w': mask.astype(np.float32)}, {'w': mask})
  with safetensors.safe_open(path, 'np') as file:
    head, tensors = file.metadata(), {n: file.get_tensor(n) for n in file.keys()}
  change(head, tensors)
  safetensors.numpy.save_file(tensors, path, metadata=head)
  with pytest.raises(ValueError, match=message):
    js.export.load(path)


def test_what_cannot_be_saved_is_refused(tmp_path):
  path, ones = tmp_path / 'model.safetensors', np.ones((2, 2), np.float32)
  eye = np.eye(2, dtype=bool)
  for params, masks, message in (
    ({'w': ones * eye}, {}, 'masks_or_patterns: another tree'),
    ({'w': ones}, {'w': eye}, 'params: w has nonzeros off its mask'),
    ({'w': ones}, {'w': np.ones(2, bool)}, r'w: mask bool\[2\] does not fit'),
    ({'w': ones}, {'w': np.zeros((), bool)}, 'w: a scalar mask False'),
    ({'w': ones[0]}, {'w': eye.any(0)}, r'w: shape \(2,\) .* cannot be compact'),
    ({'w': ones.astype(complex)}, {'w': eye}, 'w: dtype complex128; a file holds'),
  ):
    with pytest.raises(ValueError, match=message):
      js.export.save(path, params, masks)
  pattern = js.sparse.from_mask(ones, eye).pattern
  with pytest.raises(ValueError, match=r'w has shape \(3,\); its pattern wants \(2,\)'):
    js.export.save(path, {'w': np.ones(3)}, {'w': pattern})
  with pytest.raises(ValueError, match='metadata: wanted what JSON can hold'):
    js.export.save(path, {}, {}, {'x': ones})
  path.write_bytes(b'not this')
  with pytest.raises(ValueError, match='no safetensors file'):
    js.export.load(path)
  assert [f.name for f in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize('stack', [(), (2,)])
def test_nm_weights_are_written_along_the_axis_that_is_contracted(tmp_path, stack):
  rng = np.random.default_rng(0)
  shape = (*stack, 16, 6)
  kept = rng.random((*stack, 4, 4, 6)).argsort(-2) < 1
  mask = jnp.asarray(kept.reshape(shape))
  params = {
    'kernel': jnp.where(mask, jnp.asarray(rng.normal(size=shape), 'float32'), 0)
  }
  leaf = js.Leaf(
    'kernel',
    shape,
    'float32',
    tuple(range(len(stack))),
    (len(stack),),
    (len(stack) + 1,),
  )
  fmt = js.sparse.Format((16, 6), nm=(1, 4))
  make = lambda p, m: js.sparse.from_mask(p, m, format=fmt)
  for _ in stack:
    make = jax.vmap(make)
  weight = make(params['kernel'], mask)
  paths = [tmp_path / f'{name}.safetensors' for name in ('masked', 'compact', 'single')]
  js.export.save(paths[0], params, {'kernel': mask}, leaves={'kernel': leaf})
  js.export.save(paths[1], {'kernel': weight.values}, {'kernel': weight.pattern})
  assert paths[0].read_bytes() == paths[1].read_bytes()
  exported = js.export.load(paths[0])
  _assert_same(exported.params['kernel'], weight)
  tensors = safetensors.numpy.load_file(paths[0])
  # A bit for each weight, in the order of the values: output by output.
  bits = np.unpackbits(tensors['places/kernel'])[: mask.size]
  np.testing.assert_array_equal(
    bits.reshape(*stack, 6, 16), np.swapaxes(np.asarray(mask), -1, -2)
  )
  np.testing.assert_array_equal(tensors['values/kernel'], weight.values.reshape(-1))
  if stack:
    return
  # Held as single weights, as on a CPU, it is the same file.
  single = js.sparse.from_mask(params['kernel'], mask)
  js.export.save(paths[2], {'kernel': single.values}, {'kernel': single.pattern})
  assert paths[2].read_bytes() == paths[0].read_bytes()

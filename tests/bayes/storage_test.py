"""Posteriors on disk, and draws that hold their nonzeros only."""

import dataclasses
import json

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors
import safetensors.numpy

import jaxsparse as js

_PARAMS = {
  'dense1': {'kernel': jnp.arange(1.0, 769).reshape(16, 48) / 100},
  'dense2': {'kernel': jnp.ones((48, 4), jnp.bfloat16), 'bias': jnp.ones(4)},
}
_POSTERIOR = js.bayes.ssvi(
  {'dense1/kernel': 0.98, 'dense2/kernel': 0.5}, seed=0, when=js.schedules.never
)


def _start(params=_PARAMS):
  gaussian = _POSTERIOR.init(jax.random.key(0), params)
  tx = js.bayes.optimizer(_POSTERIOR, optax.adam(1e-2))
  gaussian, opt_state = js.init(tx, gaussian)
  return gaussian, js.get_masks(opt_state), opt_state


def _assert_same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
    assert x.dtype == y.dtype
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
      x, y = jax.random.key_data(x), jax.random.key_data(y)
    np.testing.assert_array_equal(x, y)


def test_what_is_saved_is_what_is_loaded(tmp_path):
  params, masks, _ = _start()
  path = tmp_path / 'posterior.safetensors'
  size = js.bayes.save_posterior(path, params, masks, {'link': 'exp_link'})
  stored = js.bayes.load_posterior(path)
  assert isinstance(stored, js.bayes.Stored) and stored.metadata == {'link': 'exp_link'}
  _assert_same((stored.params, stored.masks), (params, masks))
  key = jax.random.key(1)
  _assert_same(
    _POSTERIOR.sample(stored.params, stored.masks, key),
    _POSTERIOR.sample(params, masks, key),
  )
  # 15 weights by index, 96 of 192 by bits; a bias, whose rho is a scalar.
  sizes = {n: x.nbytes for n, x in safetensors.numpy.load_file(path).items()}
  assert sizes == {
    'mu/dense1/kernel': 60, 'rho/dense1/kernel': 60, 'mask/dense1/kernel': 60,
    'mu/dense2/kernel': 192, 'rho/dense2/kernel': 384, 'mask/dense2/kernel': 24,
    'mu/dense2/bias': 16, 'rho/dense2/bias': 4,
  }  # fmt: skip
  assert size == path.stat().st_size
  # Over an old file, which stays whole until then; nothing else is left behind.
  js.bayes.save_posterior(path, params, masks)
  assert js.bayes.load_posterior(path).metadata == {}
  assert [f.name for f in tmp_path.iterdir()] == [path.name]


def test_containers_and_masks_that_broadcast(tmp_path):
  state = nnx.State(jax.tree.map(nnx.Param, _PARAMS))
  params = _POSTERIOR.init(jax.random.key(0), state)
  rows = {'dense1/kernel': jnp.arange(16).reshape(16, 1) % 4 == 0}
  masks = js.masks.from_named(state, rows)
  params = jax.tree.map(
    lambda x, m: jnp.where(m, x, 0) if x.ndim else x, params, js.bayes.Gaussian(masks, masks)
  )  # fmt: skip
  path = tmp_path / 'posterior.safetensors'
  js.bayes.save_posterior(path, params, masks)
  like = jax.eval_shape(lambda: state)
  stored = js.bayes.load_posterior(path, like)
  _assert_same((stored.params, stored.masks), (params, masks))
  # The names are Linen's too.
  linen = js.bayes.load_posterior(path, _PARAMS).params.mu
  np.testing.assert_array_equal(
    linen['dense1']['kernel'], params.mu['dense1']['kernel'][...]
  )


def _tampered(path, change):
  with safetensors.safe_open(path, 'np') as file:
    head, tensors = (
      file.metadata(), {name: file.get_tensor(name) for name in file.keys()},
    )  # fmt: skip
  change(head, tensors)
  safetensors.numpy.save_file(tensors, path, metadata=head)


def _flip(head, tensors):
  tensors['rho/dense1/kernel'] = tensors['rho/dense1/kernel'] + 1


def _swap_mask(head, tensors):
  mask = tensors['mask/dense2/kernel'] = tensors['mask/dense2/kernel'] | 128
  manifest = json.loads(head['manifest'])
  manifest['crc32']['mask/dense2/kernel'] = _crc(mask)
  head['manifest'] = json.dumps(manifest)


def _crc(array):
  import zlib

  seed = zlib.crc32(f'{array.dtype} {array.shape}'.encode())
  return zlib.crc32(array.tobytes(), seed)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda head, tensors: head.clear(), 'no posterior; its format is None'),
    (lambda head, tensors: head.update(version='2'), 'version 2; .* reads 1'),
    (lambda head, tensors: tensors.pop('mu/dense2/bias'), 'mu/dense2/bias is missing'),
    (_flip, 'rho/dense1/kernel is missing or damaged'),
    (_swap_mask, 'dense2/kernel has 96 values for another mask'),
  ],
)
def test_what_cannot_be_read_is_refused(tmp_path, change, message):
  params, masks, _ = _start()
  mask = np.asarray(masks['dense2']['kernel']).copy()
  mask.flat[0], mask.flat[np.flatnonzero(mask)[-1]] = False, False
  mask.flat[np.flatnonzero(~mask.ravel())[1]] = True
  while mask.sum() < 96:
    mask.flat[np.flatnonzero(~mask.ravel())[1]] = True
  masks['dense2']['kernel'] = jnp.asarray(mask)
  path = tmp_path / 'posterior.safetensors'
  js.bayes.save_posterior(path, params, masks)
  _tampered(path, change)
  with pytest.raises(ValueError, match=message):
    js.bayes.load_posterior(path)


def test_what_does_not_fit(tmp_path):
  params, masks, _ = _start()
  path = tmp_path / 'posterior.safetensors'
  path.write_bytes(b'not this')
  with pytest.raises(ValueError, match='no safetensors file'):
    js.bayes.load_posterior(path)
  with pytest.raises(FileNotFoundError):
    js.bayes.load_posterior(tmp_path / 'nowhere')
  with pytest.raises(ValueError, match='masks: another tree'):
    js.bayes.save_posterior(path, params, {})
  wrong = {**masks, 'dense1': {'kernel': jnp.ones((16, 2), bool)[0]}}
  with pytest.raises(ValueError, match=r'dense1/kernel: mask bool\[2\]'):
    js.bayes.save_posterior(path, params, wrong)
  with pytest.raises(ValueError, match='metadata: wanted what JSON can hold'):
    js.bayes.save_posterior(path, params, masks, {'x': jnp.ones(2)})
  js.bayes.save_posterior(path, params, masks)
  for changes, message in (
    ({'dense3': {'kernel': jnp.ones(2)}}, 'dense3/kernel is not in the file'),
    ({'dense1': {}}, 'dense1/kernel is not in like'),
    ({'dense1': {'kernel': jnp.ones((48, 16))}}, r'dense1/kernel is float32\[16, 48\]'),
  ):
    with pytest.raises(ValueError, match=message):
      js.bayes.load_posterior(path, {**_PARAMS, **changes})


def test_orbax_keeps_a_posterior_and_its_masks_bit_for_bit(tmp_path):
  params, masks, opt_state = _start()
  saved = {'params': params, 'opt_state': opt_state}
  with js.checkpoint.open_dir(tmp_path / 'run') as checkpoints:
    checkpoints.save(1, saved)
    checkpoints.wait()
    found = checkpoints.restore(jax.tree.map(jnp.zeros_like, saved)).state
  _assert_same(found, saved)
  key = jax.random.key(2)
  _assert_same(
    _POSTERIOR.sample(found['params'], js.get_masks(found['opt_state']), key),
    _POSTERIOR.sample(params, masks, key),
  )


def test_sparse_draws_are_the_draws():
  params, masks, _ = _start()
  key = jax.random.key(3)
  dense = _POSTERIOR.sample(params, masks, key)
  theta = js.bayes.sample_sparse(_POSTERIOR, params, masks, key)
  held = theta['dense1']['kernel']
  assert isinstance(held, js.sparse.SparseArray) and held.values.size == 15
  kernels = {n: js.sparse.to_dense(theta[n]['kernel']) for n in theta}
  for name, kernel in kernels.items():
    np.testing.assert_array_equal(kernel, dense[name]['kernel'])
  np.testing.assert_array_equal(theta['dense2']['bias'], dense['dense2']['bias'])

  counts = {'dense1/kernel': 15, 'dense2/kernel': 96}
  draw = lambda masks, **given: js.bayes.sample_sparse(
    _POSTERIOR, params, masks, key, **given
  )
  traced = jax.jit(lambda m: draw(m, capacity=counts))(masks)
  np.testing.assert_allclose(traced['dense1']['kernel'].values, held.values, rtol=1e-6)
  with pytest.raises(ValueError, match='capacity: dense1/kernel has a traced mask'):
    jax.jit(draw)(masks)


def test_stacked_axes_that_do_not_lead_are_refused():
  params = {'layers': {'kernel': jnp.ones((4, 3, 4))}}
  axes = dict(stack_axes=(1,), in_axes=(0,), out_axes=(2,))
  leaves = {'layers/kernel': lambda leaf: dataclasses.replace(leaf, **axes)}
  posterior = js.bayes.mean_field(leaves=leaves)
  gaussian = posterior.init(jax.random.key(0), params)
  masks = {'layers': {'kernel': jnp.ones((4, 3, 4), bool)}}
  with pytest.raises(ValueError, match=r'layers/kernel: stacked axes \(1,\)'):
    js.bayes.sample_sparse(posterior, gaussian, masks, jax.random.key(1), leaves=leaves)


@pytest.mark.long
def test_sparse_draws_of_stacked_layers_and_attention():
  shapes = {'layers': (3, 8, 8), 'query': (8, 2, 4), 'out': (2, 4, 8)}
  params = {n: {'kernel': jnp.ones(s)} for n, s in shapes.items()}
  leaves = {'layers/kernel': js.stacked()}
  posterior = js.bayes.mean_field(leaves=leaves)
  gaussian = posterior.init(jax.random.key(0), params)
  draw = np.random.default_rng(0).random
  masks = {n: {'kernel': jnp.asarray(draw(s) < 0.3)} for n, s in shapes.items()}
  key = jax.random.key(1)
  dense = posterior.sample(gaussian, masks, key)
  theta = js.bayes.sample_sparse(posterior, gaussian, masks, key, leaves=leaves)
  layers = jax.vmap(js.sparse.to_dense)(theta['layers']['kernel'])
  np.testing.assert_array_equal(layers, dense['layers']['kernel'])
  for name, in_axes in (('query', 1), ('out', 2)):
    held = theta[name]['kernel']
    assert held.pattern.format.in_axes == in_axes
    np.testing.assert_array_equal(js.sparse.to_dense(held), dense[name]['kernel'])

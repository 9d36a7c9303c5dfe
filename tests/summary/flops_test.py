"""FLOPs from the trace, against counts done by hand."""

import functools

from flax import linen as nn
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse as js


def _count(module, *inputs, masks=None):
  params = jax.eval_shape(module.init, jax.random.key(0), *inputs)
  return js.summary.flops(module.apply, params, *inputs, masks=masks)


def _conv_by_hand(out_positions, window, in_per_group, out_features):
  return 2 * out_positions * np.prod(window) * in_per_group * out_features


def test_dense_with_batch_axes():
  found = _count(nn.Dense(5), jnp.ones((2, 7, 3)))
  assert found.leaves == {'params/bias': (0, 0), 'params/kernel': (420, 420)}
  assert (found.dense, found.sparse, found.unattributed) == (2 * 2 * 7 * 3 * 5, 420, 0)
  assert found.ratio == 1 and not found.notes


def test_lenet_300_100_counts_two_flops_per_weight_and_example():
  model = nn.Sequential([nn.Dense(300), nn.relu, nn.Dense(100), nn.relu, nn.Dense(10)])
  assert _count(model, jnp.ones((32, 784))).dense == 32 * 2 * 266_200


@pytest.mark.parametrize(
  ('conv', 'expected'),
  [
    # Positions x window x input features per group x output features.
    (nn.Conv(8, (3, 3)), _conv_by_hand(2 * 12 * 10, (3, 3), 4, 8)),
    (nn.Conv(8, (3, 3), strides=2), _conv_by_hand(2 * 6 * 5, (3, 3), 4, 8)),
    (nn.Conv(8, (3, 3), padding='VALID'), _conv_by_hand(2 * 10 * 8, (3, 3), 4, 8)),
    (
      nn.Conv(8, (3, 3), kernel_dilation=2, padding='VALID'),
      _conv_by_hand(2 * 8 * 6, (3, 3), 4, 8),
    ),
    (
      nn.Conv(8, (3, 2), feature_group_count=2),
      _conv_by_hand(2 * 12 * 10, (3, 2), 2, 8),
    ),
    # Depthwise: one input feature per output feature.
    (
      nn.Conv(4, (5, 5), strides=(2, 1), feature_group_count=4),
      _conv_by_hand(2 * 6 * 10, (5, 5), 1, 4),
    ),
    # Every input position reaches every tap of the window once.
    (nn.ConvTranspose(8, (3, 3), strides=(2, 2)), _conv_by_hand(2 * 120, (3, 3), 4, 8)),
  ],
)
def test_convolutions(conv, expected):
  found = _count(conv, jnp.ones((2, 12, 10, 4)))
  assert found.leaves['params/kernel'] == (expected, expected)
  assert found.dense == expected


def test_batch_groups_count_what_an_explicit_loop_counts():
  x, kernel = jnp.ones((6, 9, 3)), jnp.ones((5, 3, 4))
  conv = functools.partial(
    jax.lax.conv_general_dilated,
    window_strides=(1,),
    padding='VALID',
    dimension_numbers=('NWC', 'WIO', 'NWC'),
    batch_group_count=2,
  )
  found = js.summary.flops(lambda k, x: conv(x, k), kernel, x)
  # Each half of the batch meets half of the output features.
  assert found.dense == 2 * (2 * 3 * 5 * (5 * 3) * 2)
  assert found.dense == _grouped_by_hand(x.shape, kernel.shape, groups=2)


def _grouped_by_hand(x_shape, kernel_shape, groups):
  total = 0
  for _ in range(groups):
    for _ in range(x_shape[0] // groups):
      for _ in range(x_shape[1] - kernel_shape[0] + 1):
        total += 2 * kernel_shape[0] * kernel_shape[1] * (kernel_shape[2] // groups)
  return total


def test_a_group_convolution_agrees_with_the_compiler():
  # Without padding, XLA's own analysis counts the same products.
  model = nn.Conv(16, (3, 3), padding='VALID', feature_group_count=4, use_bias=False)
  x = jnp.ones((2, 11, 11, 8))
  params = model.init(jax.random.key(0), x)
  analysis = jax.jit(model.apply).lower(params, x).compile().cost_analysis()
  assert js.summary.flops(model.apply, params, x).dense == analysis['flops']


def test_attention_scores_belong_to_no_parameter():
  batch, length, width, heads = 2, 5, 8, 2
  x = jnp.ones((batch, length, width))
  found = _count(nn.MultiHeadDotProductAttention(num_heads=heads), x)
  projection = 2 * batch * length * width * width
  for name in ('query', 'key', 'value', 'out'):
    assert found.leaves[f'params/{name}/kernel'] == (projection, projection)
  # Scores, then the weighted sum of values.
  assert found.unattributed == 2 * (2 * batch * length * length * width)
  assert found.dense == 4 * projection + found.unattributed


def test_scanned_layers_count_each_layer():
  class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
      return nn.relu(nn.Dense(8)(x)), None

  class Stack(nn.Module):
    @nn.compact
    def __call__(self, x):
      scan = nn.scan(
        nn.remat(Layer),
        variable_axes={'params': 0},
        split_rngs={'params': True},
        length=3,
      )
      return scan(name='stack')(x, None)[0]

  x = jnp.ones((4, 8))
  params = Stack().init(jax.random.key(0), x)['params']
  mask = np.zeros((3, 8, 8), bool)
  mask[0] = True
  masks = jax.tree.map(lambda p: jnp.array(mask) if p.ndim == 3 else True, params)
  masks = jax.tree.map(jnp.asarray, masks)
  found = js.summary.flops(
    lambda p, x: Stack().apply({'params': p}, x), params, x, masks=masks
  )
  dense = 3 * 2 * 4 * 8 * 8
  assert found.leaves['stack/Dense_0/kernel'] == (dense, dense // 3)
  assert (found.dense, found.sparse) == (dense, dense // 3)


def test_resnet_block_with_projection_and_batch_norm():
  class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
      norm = functools.partial(nn.BatchNorm, use_running_average=True)
      y = nn.relu(norm()(nn.Conv(32, (3, 3), 2, use_bias=False)(x)))
      y = norm()(nn.Conv(32, (3, 3), use_bias=False)(y))
      return nn.relu(y + norm()(nn.Conv(32, (1, 1), 2, use_bias=False)(x)))

  found = _count(Block(), jnp.ones((1, 16, 16, 16)))
  expected = (
    2 * 8 * 8 * 9 * 16 * 32,
    2 * 8 * 8 * 9 * 32 * 32,
    2 * 8 * 8 * 1 * 16 * 32,
  )
  for i, count in enumerate(expected):
    assert found.leaves[f'params/Conv_{i}/kernel'] == (count, count)
  assert found.dense == sum(expected)
  assert not found.notes


def test_sparse_flops_follow_the_masks():
  params = {'a': jnp.ones((4, 6)), 'b': jnp.ones((6, 2))}
  masks = {'a': jnp.arange(24).reshape(4, 6) < 6, 'b': jnp.array([[True, False]])}
  apply_fn = lambda p, x: jax.nn.relu(x @ p['a']) @ p['b']
  found = js.summary.flops(apply_fn, params, jnp.ones((10, 4)), masks=masks)
  assert found.leaves == {'a': (480, 120), 'b': (240, 120)}
  assert (found.dense, found.sparse) == (720, 240)
  assert found.ratio == pytest.approx(1 / 3)


_MASK = np.eye(4, dtype=bool)


@pytest.mark.parametrize(
  'weight',
  [
    lambda w, x: w.T,
    lambda w, x: w.astype(jnp.bfloat16).astype(jnp.float32),
    lambda w, x: w.reshape(2, 2, 4).transpose(2, 0, 1).reshape(4, 4),
    lambda w, x: w * _MASK,
    lambda w, x: jnp.where(_MASK, w, 0),
    lambda w, x: w * (x[0, 0] > 0),
    lambda w, x: w * (x[:1] > 0),
    lambda w, x: w / jnp.linalg.norm(w),
    lambda w, x: w * jnp.sum(x),
    lambda w, x: (w - w.mean(0, keepdims=True)) / w.std(0, keepdims=True),
    lambda w, x: jnp.pad(w, ((0, 0), (1, 1)))[:, 1:-1],
    lambda w, x: jax.checkpoint(jax.jit(lambda w: 2 * w))(w),
    lambda w, x: jax.lax.dynamic_slice(w, (0, 0), (4, 4)),
    lambda w, x: w * jax.random.bernoulli(jax.random.key(0), 0.5, w.shape),
  ],
)
def test_a_weight_stays_itself(weight):
  def apply_fn(params, x):
    return jnp.tanh(x) @ weight(params['w'], x)

  found = js.summary.flops(apply_fn, {'w': jnp.ones((4, 4))}, jnp.ones((3, 4)))
  assert found.leaves == {'w': (96, 96)}


def test_masks_and_keys_among_the_inputs_leave_a_weight_itself():
  def apply_fn(params, mask, key, x):
    return x @ (params['w'] * mask * jax.random.normal(key, mask.shape))

  inputs = (jnp.array(_MASK), jax.random.key(0), jnp.ones((3, 4)))
  found = js.summary.flops(apply_fn, {'w': jnp.ones((4, 4))}, *inputs)
  assert found.leaves == {'w': (96, 96)}


def test_a_rotated_weight_has_no_zeros_left():
  masks = {'w': jnp.array(_MASK)}
  rotation = np.ones((4, 4), np.float32)
  apply_fn = lambda p, x: x @ (rotation @ p['w'])
  x = jnp.ones((3, 4))
  found = js.summary.flops(apply_fn, {'w': jnp.ones((4, 4))}, x, masks=masks)
  # Rotating can skip zeros; what follows cannot.
  assert found.leaves == {'w': (128, 32)} and found.unattributed == 96


def test_scales_and_biases_do_not_claim_products():
  class Model(nn.Module):
    @nn.compact
    def __call__(self, x):
      x = x + self.param('pos_embedding', nn.initializers.zeros, x.shape)
      return nn.Dense(3)(nn.LayerNorm()(x))

  found = _count(Model(), jnp.ones((2, 4)))
  assert {n: f for n, f in found.leaves.items() if f[0]} == {
    'params/Dense_0/kernel': (48, 48)
  }


def test_weight_norm_belongs_to_the_kernel_beside_its_scale():
  params = {'kernel': jnp.ones((4, 3)), 'scale': jnp.ones((3,))}
  apply_fn = lambda p, x: x @ (p['kernel'] * p['scale'][None])
  found = js.summary.flops(apply_fn, params, jnp.ones((2, 4)))
  assert found.leaves == {'kernel': (48, 48), 'scale': (0, 0)}


def test_embeddings_cost_nothing_to_look_up_and_something_to_attend():
  class Tied(nn.Module):
    @nn.compact
    def __call__(self, ids):
      embed = nn.Embed(11, 4)
      return embed.attend(nn.Dense(4)(embed(ids)))

  found = _count(Tied(), jnp.ones((3,), jnp.int32))
  assert found.leaves['params/Embed_0/embedding'] == (2 * 3 * 4 * 11,) * 2
  assert found.leaves['params/Dense_0/kernel'] == (2 * 3 * 4 * 4,) * 2
  assert _count(nn.Embed(11, 4), jnp.ones((3,), jnp.int32)).dense == 0


def test_a_product_of_parameters_is_dense_and_says_so():
  params = {'a': jnp.ones((4, 2)), 'b': jnp.ones((2, 4))}
  masks = {'a': jnp.zeros((4, 2), bool), 'b': jnp.zeros((2, 4), bool)}
  x = jnp.ones((3, 4))
  found = js.summary.flops(lambda p, x: x @ (p['a'] @ p['b']), params, x, masks=masks)
  # a @ b mixes both, and its result has no zeros to exploit.
  assert found.dense == found.sparse == found.unattributed == 2 * 4 * 2 * 4 + 2 * 3 * 16
  assert 'a, b' in found.notes[0]


def test_control_flow():
  w, x = jnp.ones((4, 4)), jnp.ones((3, 4))
  once = 2 * 3 * 4 * 4
  count = lambda f: js.summary.flops(f, {'w': w}, x)

  looped = count(lambda p, x: jax.lax.fori_loop(0, 5, lambda _, x: x @ p['w'], x))
  assert looped.leaves['w'] == (5 * once,) * 2 and not looped.notes

  def branches(p, x):
    twice = lambda x: x @ p['w'] @ p['w']
    return jax.lax.cond(x.sum() > 0, twice, lambda x: x @ p['w'], x)

  branched = count(branches)
  assert branched.leaves['w'] == (2 * once,) * 2
  assert branched.notes == ('a cond is counted as its dearest branch',)

  def unknown(p, x):
    return jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: x @ p['w'], x)

  assert count(unknown).leaves['w'] == (once, once)
  assert count(unknown).notes == ('a while loop of unknown length is counted once',)


def test_a_carry_that_turns_into_an_activation_claims_nothing():
  params = {'start': jnp.ones((3, 4)), 'w': jnp.ones((4, 4))}

  def recur(p, x):
    body = lambda h, x: (jnp.tanh(h @ p['w'] + x), None)
    return jax.lax.scan(body, p['start'], x)[0]

  found = js.summary.flops(recur, params, jnp.ones((6, 3, 4)))
  assert found.leaves == {'start': (0, 0), 'w': (6 * 2 * 3 * 4 * 4,) * 2}


def test_custom_derivatives_and_their_gradients():
  @jax.custom_vjp
  def project(w, x):
    return x @ w

  project.defvjp(lambda w, x: (x @ w, (w, x)), lambda r, g: (r[1].T @ g, g @ r[0].T))
  params, x = {'w': jnp.ones((4, 4))}, jnp.ones((3, 4))
  apply_fn = lambda p, x: project(p['w'], x).sum()
  assert js.summary.flops(apply_fn, params, x).leaves == {'w': (96, 96)}
  # Backward: one product with the weight, and one that forms its dense gradient.
  both = js.summary.flops(jax.grad(apply_fn, argnums=(0, 1)), params, x)
  assert both.leaves == {'w': (192, 192)} and both.unattributed == 96


@pytest.mark.parametrize('devices', [1, 2, 4])
def test_split_work_counts_the_work_of_all_devices(devices):
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]), ('d',))
  spec = jax.sharding.PartitionSpec
  split = jax.shard_map(
    lambda w, x: x @ w, mesh=mesh, in_specs=(spec(), spec('d')), out_specs=spec('d')
  )
  mapped = jax.pmap(
    lambda w, x: x @ w, in_axes=(None, 0), devices=jax.devices()[:devices]
  )
  params, x = {'w': jnp.ones((4, 4))}, jnp.ones((8, 4))
  found = js.summary.flops(lambda p, x: split(p['w'], x), params, x)
  assert found.leaves == {'w': (256, 256)}
  x = x.reshape(devices, -1, 4)
  found = js.summary.flops(lambda p, x: mapped(p['w'], x), params, x)
  assert found.leaves == {'w': (256, 256)}


def test_vmap_over_models_counts_each():
  params, x = {'w': jnp.ones((5, 4, 4))}, jnp.ones((3, 4))
  found = js.summary.flops(
    jax.vmap(lambda p, x: x @ p['w'], in_axes=(0, None)), params, x
  )
  assert found.leaves == {'w': (5 * 96,) * 2}


def test_nnx_gives_the_names_and_numbers_of_linen():
  class Model(nnx.Module):
    def __init__(self, rngs):
      self.hidden = nnx.Linear(4, 6, rngs=rngs)
      self.out = nnx.Conv(6, 2, (3,), rngs=rngs)

    def __call__(self, x):
      return self.out(nnx.relu(self.hidden(x)))

  graph, params = nnx.split(Model(nnx.Rngs(0)), nnx.Param)
  found = js.summary.flops(
    lambda p, x: nnx.merge(graph, p)(x), params, jnp.ones((2, 5, 4))
  )
  assert found.leaves['hidden/kernel'][0] == 2 * 10 * 4 * 6
  assert found.leaves['out/kernel'][0] == 2 * 10 * 3 * 6 * 2
  assert found.dense == 480 + 720


def test_opaque_kernels_are_named():
  from jax.experimental import pallas as pl

  def double(w_ref, out_ref):
    out_ref[...] = 2 * w_ref[...]

  def apply_fn(p, x):
    shape = jax.ShapeDtypeStruct(p['w'].shape, p['w'].dtype)
    return x @ pl.pallas_call(double, out_shape=shape, interpret=True)(p['w'])

  found = js.summary.flops(apply_fn, {'w': jnp.ones((4, 4))}, jnp.ones((3, 4)))
  assert found.dense == 96
  assert found.notes == ('the FLOPs of pallas_call are not counted',)


def test_no_parameters_and_no_products():
  found = js.summary.flops(lambda p, x: x, {}, jnp.ones(3))
  assert found == js.summary.Flops(dense=0, sparse=0, leaves={}, unattributed=0)
  assert found.ratio == 1

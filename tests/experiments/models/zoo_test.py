"""The models: counts from the literature, leaf names, dtypes, widths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import models
from jaxsparse import core

_GREY, _RGB = (28, 28, 1), (32, 32, 3)


def _sample(image_shape, batch=1):
  return jax.ShapeDtypeStruct((batch, *image_shape), jnp.float32)


def _params(model, image_shape):
  return jax.eval_shape(model.init, jax.random.key(0), _sample(image_shape))[0]


def _num_kernel_weights(params):
  leaves = core.prunable_leaves(params, core.kernels)
  return sum(leaf.size for leaf in leaves.values())


@pytest.mark.parametrize(
  'name, image_shape, options, num_params, num_weights',
  [
    # LeNet-300-100 and Caffe's LeNet-5: 266,610 and 431,080 (Han et al., 2015: 267k
    # and 431k).
    ('MLP', _GREY, {}, 266610, 266200),
    ('LeNet5', _GREY, {}, 431080, 430500),
    # 25*6 + 25*6*16 + 256*120 + 120*84 + 84*10 weights and 6 + 16 + 120 + 84 + 10.
    ('LeNet5', _GREY, {'features': [6, 16, 120, 84]}, 44426, 44190),
    # He et al., table 6: 0.27M and 1.7M, with shortcuts that have no parameters.
    ('ResNet', _RGB, {'shortcut': 'pad'}, 269722, 268336),
    ('ResNet', _RGB, {'shortcut': 'pad', 'depth': 110}, 1727962, 1719856),
    # The fixture of random pruning: 270,896 weights that may be masked.
    ('ResNet', _RGB, {}, 272474, 270896),
    ('ResNet', _RGB, {'norm': 'group'}, 272474, 270896),
    # Zagoruyko & Komodakis, table 4: 36.5M and, for WRN-16-8, 11.0M.
    ('WideResNet', _RGB, {'depth': 28, 'widen': 10}, 36479194, 36461232),
    ('WideResNet', _RGB, {'depth': 16, 'widen': 8}, 10961370, 10954160),
    ('ViT', _RGB, {}, 683050, 669120),
  ],
)
def test_counts(name, image_shape, options, num_params, num_weights):
  model = models.build(name, 10, image_shape, options=options)
  assert models.num_params(model, _sample(image_shape)) == num_params
  assert _num_kernel_weights(_params(model, image_shape)) == num_weights


def test_resnet_20_has_the_layers_of_the_erk_fixture():
  params = _params(models.build('ResNet', 10, _RGB), _RGB)
  leaves = core.prunable_leaves(params, core.kernels)
  assert leaves['stem/kernel'].shape == (3, 3, 3, 16)
  assert leaves['stage1_block1/conv1/kernel'].shape == (3, 3, 16, 16)
  assert leaves['stage2_block1/conv1/kernel'].shape == (3, 3, 16, 32)
  assert leaves['stage2_block1/shortcut/kernel'].shape == (1, 1, 16, 32)
  assert leaves['stage3_block2/conv1/kernel'].shape == (3, 3, 64, 64)
  assert leaves['head/kernel'].shape == (64, 10)
  assert len(leaves) == 1 + 18 + 2 + 1


@pytest.mark.parametrize(
  'name, image_shape, options',
  [
    ('MLP', _GREY, {}),
    ('MLP', _GREY, {'features': [20, 30, 40], 'width': 0.3, 'dropout': 0.5}),
    ('ResNet', _RGB, {}),
    ('ResNet', _RGB, {'depth': 8, 'norm': 'group', 'width': 0.3}),
    ('ResNet', _RGB, {'depth': 8, 'shortcut': 'pad'}),
  ],
)
def test_linen_and_nnx_have_the_same_leaves(name, image_shape, options):
  linen = models.build(name, 10, image_shape, options=options)
  nnx = models.build(name, 10, image_shape, api='nnx', options=options)
  trees = [_params(model, image_shape) for model in (linen, nnx)]
  names = [core.named_leaves(tree)[0] for tree in trees]
  assert names[0] == names[1]
  assert core.leaves_of(trees[0]) == core.leaves_of(trees[1])


@pytest.mark.parametrize(
  'norm, train', [('batch', False), ('batch', True), ('group', True)]
)
def test_linen_and_nnx_compute_the_same(norm, train):
  options = {'depth': 8, 'width': 0.5, 'norm': norm}
  image_shape = (8, 8, 3)
  linen = models.build('ResNet', 5, image_shape, options=options)
  nnx = models.build('ResNet', 5, image_shape, api='nnx', options=options)
  images = jnp.asarray(np.random.RandomState(1).randn(4, *image_shape), jnp.float32)
  shapes = jax.eval_shape(linen.init, jax.random.key(0), images)
  random = np.random.RandomState(0)
  # Positive, as variances must be.
  params, state = jax.tree.map(
    lambda x: jnp.asarray(random.uniform(0.01, 0.2, x.shape), x.dtype), shapes
  )
  like = jax.eval_shape(nnx.init, jax.random.key(0), images)
  # The same arrays under the treedefs of NNX: the names are in one order.
  nnx_params, nnx_state = (
    jax.tree.unflatten(jax.tree.structure(b), jax.tree.leaves(a))
    for a, b in zip((params, state), like)
  )
  apply = jax.jit(
    lambda model, *a: model.apply(*a, images, train=train), static_argnums=0
  )
  expected, expected_state = apply(linen, params, state)
  logits, new_state = apply(nnx, nnx_params, nnx_state)
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
  for a, b in zip(jax.tree.leaves(new_state), jax.tree.leaves(expected_state)):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  'name, image_shape, api, options',
  [
    ('MLP', (8, 8, 1), 'linen', {}),
    ('MLP', (8, 8, 1), 'nnx', {}),
    ('LeNet5', (16, 16, 1), 'linen', {'width': 0.2}),
    ('ResNet', (8, 8, 3), 'linen', {'depth': 8}),
    ('ResNet', (8, 8, 3), 'nnx', {'depth': 8}),
    ('WideResNet', (8, 8, 3), 'linen', {'depth': 10, 'widen': 1}),
    ('ViT', (8, 8, 3), 'linen', {'depth': 1}),
  ],
)
def test_bfloat16_computes_but_keeps_params_state_and_logits_float32(
  name, image_shape, api, options
):
  options = {'dtype': 'bfloat16', **options}
  model = models.build(name, 3, image_shape, api=api, options=options)
  images = _sample(image_shape, 4)

  def step(key, images):
    params, state = model.init(key, images)
    return params, state, model.apply(params, state, images, train=True, key=key)

  key = jax.random.key(0)
  for leaf in jax.tree.leaves(jax.eval_shape(step, key, images)):
    assert leaf.dtype == jnp.float32
  jaxpr = str(jax.make_jaxpr(step)(key, images))
  products = [
    line for line in jaxpr.splitlines() if 'dot_general' in line or 'conv_gen' in line
  ]
  assert products and all(':bf16[' in line for line in products)


@pytest.mark.parametrize('name', ['MLP', 'LeNet5', 'ResNet', 'WideResNet', 'ViT'])
def test_counts_grow_with_the_width_and_one_unit_is_the_least(name):
  image_shape = (16, 16, 3)

  def count(width):
    model = models.build(name, 3, image_shape, options={'width': width})
    return models.num_params(model, _sample(image_shape))

  counts = [count(width) for width in (1e-6, 0.1, 0.5, 1.0, 1.5)]
  assert counts == sorted(set(counts))
  with pytest.raises(ValueError, match='width: got 0'):
    count(0)


@pytest.mark.parametrize(
  'name, image_shape, options, message',
  [
    ('ResNet', _RGB, {'depth': 18}, 'depth: got 18, want 6n'),
    ('ResNet', _RGB, {'norm': 'layer'}, "norm: got 'layer'"),
    ('ResNet', _RGB, {'shortcut': 'none'}, "shortcut: got 'none'"),
    ('WideResNet', _RGB, {'depth': 20}, r'depth: got 20, want 6n \+ 4'),
    ('WideResNet', _RGB, {'norm': 'layer'}, "norm: got 'layer'"),
    ('ViT', (30, 30, 3), {}, 'patch: 4 does not divide'),
    ('LeNet5', (8, 8, 1), {}, 'want 16x16 pixels'),
    ('LeNet5', _GREY, {'features': [6]}, 'want two or more'),
  ],
)
def test_what_does_not_exist_is_refused(name, image_shape, options, message):
  model = models.build(name, 10, image_shape, options=options)
  with pytest.raises(ValueError, match=message):
    model.init(jax.random.key(0), jnp.zeros((1, *image_shape)))


@pytest.mark.parametrize(
  'arguments, message',
  [
    ({'name': 'Resnet'}, "unknown name 'Resnet'.*LeNet5, MLP, ResNet.*mean ResNet"),
    ({'name': 'from_linen'}, 'unknown name'),
    ({'name': 'NnxMLP'}, 'unknown name'),
    ({'name': 'ViT', 'api': 'nnx'}, "api='nnx' want one of MLP, ResNet"),
    ({'name': 'MLP', 'api': 'haiku'}, "api: got 'haiku'"),
    ({'name': 'MLP', 'options': {'widht': 1}}, 'MLP: unknown option widht.*width'),
    ({'name': 'MLP', 'api': 'nnx', 'options': {'rngs': 1}}, 'unknown option rngs'),
    ({'name': 'MLP', 'options': {'dtype': 'int8'}}, "dtype: got 'int8'"),
  ],
)
def test_build_names_what_is_right(arguments, message):
  with pytest.raises(ValueError, match=message):
    models.build(num_classes=10, image_shape=(8, 8, 1), **arguments)


def test_exports_are_sorted():
  assert list(models.__all__) == sorted(models.__all__)

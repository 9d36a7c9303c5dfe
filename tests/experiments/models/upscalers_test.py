"""Networks of super-resolution: counts from the literature, shapes, attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import models
from experiments.models import _upscale, swinir
from jaxsparse import core


def _sample(channels, size=(16, 16)):
  return jax.ShapeDtypeStruct((1, *size, channels), jnp.float32)


@pytest.mark.parametrize(
  'name, scale, channels, options, num_weights, num_rest',
  [
    ('EDSR', 2, 3, {}, 1_367_424, 2_435),
    ('EDSR', 3, 3, {}, 1_551_744, 2_755),
    ('EDSR', 4, 3, {}, 1_514_880, 2_691),
    (
      'EDSR', 4, 3, {'features': 256, 'blocks': 32, 'residual_scale': 0.1},
      43_070_976, 18_947,
    ),
    ('EDSR', 2, 3, {'features': 16, 'blocks': 4}, 30_816, 227),
    # 25*64 + 9*64*32 + 9*32*4 weights, 64 + 32 + 4 biases.
    ('ESPCN', 2, 1, {}, 21_184, 100),
    # 25*56 + 56*12 + 4*9*12*12 + 12*56 + 81*56 (Dong et al.: 12,464).
    ('FSRCNN', 3, 1, {}, 12_464, 345),
    ('SwinIR', 2, 3, {}, 861_300, 48_852),
    ('SwinIR', 4, 3, {}, 880_740, 48_888),
  ],
)  # fmt: skip
def test_counts(name, scale, channels, options, num_weights, num_rest):
  model = models.build_upscaler(name, scale, channels, options=options)
  sample = _sample(channels)
  params, _ = jax.eval_shape(model.init, jax.random.key(0), sample)
  leaves = core.prunable_leaves(params, core.kernels)
  assert sum(leaf.size for leaf in leaves.values()) == num_weights
  assert models.num_params(model, sample) == num_weights + num_rest


@pytest.mark.parametrize('scale', [2, 3, 4])
@pytest.mark.parametrize(
  'name, options',
  [
    ('EDSR', {'features': 4, 'blocks': 1}),
    ('ESPCN', {'features': [4, 4]}),
    ('FSRCNN', {'width': 0.1}),
    ('SwinIR', {'features': 6, 'depths': [2], 'dtype': 'bfloat16'}),
  ],
)
def test_any_size_becomes_larger(name, options, scale):
  model = models.build_upscaler(name, scale, 3, options=options)
  out, _ = jax.eval_shape(
    lambda key, x: model.apply(model.init(key, x)[0], {}, x, train=False),
    jax.random.key(0),
    _sample(3, (9, 20)),
  )
  assert out.shape == (1, 9 * scale, 20 * scale, 3) and out.dtype == jnp.float32


def test_pixel_shuffle_has_the_published_order():
  x = jnp.arange(8).reshape(1, 1, 1, 8)
  first, second = _upscale.pixel_shuffle(x, 2)[0].transpose(2, 0, 1).tolist()
  assert first == [[0, 1], [2, 3]] and second == [[4, 5], [6, 7]]


@pytest.mark.long
def test_attention_sees_its_window_only():
  """Also where windows are shifted: nothing wraps around the image."""
  for shift in (0, 2):
    layer = swinir._Attention(heads=1, window=4, shift=shift, dtype=jnp.float32)
    x = jax.random.normal(jax.random.key(0), (1, 8, 8, 2))
    params = layer.init(jax.random.key(1), x)
    seen = jax.grad(lambda x: jnp.sum(layer.apply(params, x)[0, 0, 0]))(x)  # noqa: B023
    reached = np.abs(np.asarray(seen[0])).sum(-1) > 1e-12
    size = 4 if shift == 0 else 2
    wanted = np.zeros((8, 8), bool)
    wanted[:size, :size] = True
    np.testing.assert_array_equal(reached, wanted)


def test_positions_are_read_by_distance():
  offsets = swinir._offsets(3)
  assert offsets.min() == 0 and offsets.max() == 24
  # The same step, one to the right, from everywhere.
  assert len({int(offsets[i, i + 1]) for i in (0, 1, 3, 4, 6, 7)}) == 1


def test_branches_are_dropped_in_training_only():
  block = swinir._SwinBlock(1, 4, 0, 1.0, drop_path=0.9, dtype=jnp.float32)
  x = jax.random.uniform(jax.random.key(0), (50, 4, 4, 2))
  params = jax.jit(lambda key: block.init(key, x, False))(jax.random.key(1))
  run = jax.jit(block.apply, static_argnames='train')
  trained = run(params, x, train=True, rngs={'dropout': jax.random.key(2)})
  # Of some images both branches, of none only some pixels.
  same = np.asarray(trained == x)
  assert 25 < same.all((1, 2, 3)).sum() < 50
  assert (same.all((1, 2, 3)) | ~same.all(-1).any((1, 2))).all()
  assert not np.asarray(run(params, x, train=False) == x).all((1, 2, 3)).any()


@pytest.mark.parametrize(
  'name, scale, options, message',
  [
    ('EDS', 2, {}, "unknown name 'EDS'; want one of EDSR, ESPCN, FSRCNN, SwinIR"),
    ('EDSR', 2, {'depth': 2}, 'EDSR: unknown option depth; want one of features, blo'),
    ('EDSR', 5, {}, 'scale: got 5, want 2, 3, 4 or 8'),
  ],
)
def test_what_there_is_not_is_refused(name, scale, options, message):
  with pytest.raises(ValueError, match=message):
    model = models.build_upscaler(name, scale, 3, options=options)
    jax.eval_shape(model.init, jax.random.key(0), _sample(3))

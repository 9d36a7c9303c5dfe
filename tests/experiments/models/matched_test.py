"""The small dense network."""

import jax
import jax.numpy as jnp
import pytest

from experiments import models

_SAMPLE = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)


def _make(name, options=None):
  return lambda width: models.build(
    name, 10, (16, 16, 3), options={**(options or {}), 'width': width}
  )


@pytest.mark.parametrize(
  'name, options',
  [
    ('MLP', {}),
    ('LeNet5', {}),
    ('ResNet', {'depth': 8}),
    ('WideResNet', {'depth': 10}),
    ('ViT', {'depth': 2}),
  ],
)
def test_the_width_is_the_largest_that_fits(name, options):
  make = _make(name, options)
  target = models.num_params(make(1.0), _SAMPLE) // 10
  width = models.matched_width(make, target, _SAMPLE)
  assert 0 < width < 1
  assert models.num_params(make(width), _SAMPLE) <= target
  assert models.num_params(make(width + 1 / 4096), _SAMPLE) > target


def test_the_whole_model_itself_fits():
  make = _make('MLP')
  target = models.num_params(make(1.0), _SAMPLE)
  width = models.matched_width(make, target, _SAMPLE)
  assert models.num_params(make(width), _SAMPLE) == target and 1 <= width < 1.01


def test_a_budget_below_one_unit_per_layer_is_refused():
  with pytest.raises(ValueError, match='target_params: got 10, but one unit'):
    models.matched_width(_make('MLP'), 10, _SAMPLE)


def test_a_count_without_compute_is_that_of_real_params():
  make = _make('LeNet5')
  model = make(0.25)
  init = jax.jit(model.init)
  params, _ = init(jax.random.key(0), jnp.zeros(_SAMPLE.shape))
  assert sum(x.size for x in jax.tree.leaves(params)) == models.num_params(
    model, _SAMPLE
  )

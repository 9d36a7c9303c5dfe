"""A growing penalty, beside NumPy."""

import jax
import numpy as np
import optax
import pytest

import jaxsparse as js


def _greg(**kwargs):
  kwargs = {'num_pruning_steps': 12, 'every': 2, 'start': 2, **kwargs}
  return js.transforms.greg(optax.sgd(0.1), 0.75, **kwargs)


def test_the_steps_are_those_of_numpy():
  tx = _greg(num_growing_steps=6, penalty=0.3)
  kernel = jax.random.normal(jax.random.key(0), (8, 6))
  params, state = js.init(tx, {'kernel': kernel})
  update = jax.jit(tx.update)
  w, penalty, bottom = np.asarray(kernel), np.zeros((8, 6), np.float32), None
  for step in range(15):
    grads = {'kernel': jax.random.normal(jax.random.key(step), (8, 6))}
    updates, state = update(grads, state, params)
    params = optax.apply_updates(params, updates)
    if step == 2:
      bottom = np.zeros(48, bool)
      bottom[np.argsort(np.abs(w), axis=None)[:36]] = True
      bottom = bottom.reshape(8, 6)
    # Grown before steps 4, 6, 8, and then at its ceiling of 0.3.
    if step in (4, 6, 8):
      penalty = penalty + np.float32(0.1) * bottom
    w = w - np.float32(0.1) * (np.asarray(grads['kernel']) + penalty * w)
    if step >= 11:
      w, penalty = np.where(bottom, 0, w), 0 * penalty
    np.testing.assert_allclose(params['kernel'], w, rtol=1e-4, atol=1e-6)
    assert int(js.get_masks(state)['kernel'].sum()) == (12 if step >= 11 else 48)
    w = np.asarray(params['kernel'])
  assert not state.memory.penalty['kernel'].any()


def test_the_default_growth_is_the_published_one():
  growth = js.transforms._greg.Growth(100_000, reselect=True)
  assert growth.increment == pytest.approx(1e-4)


@pytest.mark.parametrize(
  'kwargs, message',
  [
    ({'penalty': 0.0}, 'greg: penalty=0.0: wanted a positive number'),
    ({'every': 0}, 'greg: every=0: wanted an int of at least 1'),
    ({'start': -1}, 'greg: start=-1: wanted an int of at least 0'),
    ({'start': 12}, 'start=12, num_growing_steps=None: wanted their sum within'),
    ({'num_growing_steps': 11}, 'num_growing_steps=11: wanted their sum within num_pr'),
  ],
)
def test_bad_arguments_are_refused(kwargs, message):
  with pytest.raises(ValueError, match=message):
    _greg(**kwargs)

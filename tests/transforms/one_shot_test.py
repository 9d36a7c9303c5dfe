"""One-shot pruning: dense before, pruned once, fixed after."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse as js


def _run(tx, params, grads, num):
  params, state = js.init(tx, params)
  history = []
  for _ in range(num):
    updates, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    history.append((params, js.get_masks(state)))
  return history


def test_golden():
  tx = js.transforms.one_shot(optax.sgd(1.0), 0.5, step=1)
  # Dense it would be 4 3 / 2 1, then 3 3 / 3 0.5 and 2 3 / 4 0 after the steps.
  params = {'kernel': jnp.array([[4.0, 3.0], [2.0, 1.0]])}
  grads = {'kernel': jnp.array([[1.0, 0.0], [-1.0, 0.5]])}
  history = _run(tx, params, grads, 4)
  kernels = [p['kernel'].tolist() for p, _ in history]
  assert kernels == [
    [[3.0, 3.0], [3.0, 0.5]],
    [[0.0, 3.0], [4.0, 0.0]],
    [[0.0, 3.0], [5.0, 0.0]],
    [[0.0, 3.0], [6.0, 0.0]],
  ]
  counts = [int(m['kernel'].sum()) for _, m in history]
  assert counts == [4, 2, 2, 2]


def test_fine_tuning_keeps_the_masks():
  tx = js.transforms.one_shot(optax.adam(0.5), 0.75, step=0)
  params = {'kernel': jax.random.normal(jax.random.key(0), (6, 6))}
  grads = {'kernel': jax.random.normal(jax.random.key(1), (6, 6))}
  history = _run(tx, params, grads, 5)
  first = np.asarray(history[0][1]['kernel'])
  assert first.sum() == 9
  for p, m in history:
    np.testing.assert_array_equal(m['kernel'], first)
    assert not np.asarray(p['kernel'])[~first].any()


def test_global_pool_needs_no_equal_shares():
  tx = js.transforms.one_shot(
    optax.sgd(0.0), 0.5, step=0, distribution=js.distributions.global_pool
  )
  params = {'a': jnp.array([[1.0, 1.0], [1.0, 9.0]]), 'b': jnp.full((2, 2), 2.0)}
  ((_, masks),) = _run(tx, params, params, 1)
  assert [int(m.sum()) for m in masks.values()] == [1, 3]


def test_the_start_is_dense_also_where_the_first_step_prunes():
  tx = js.transforms.one_shot(
    optax.sgd(0.0), {'a': jnp.int32(1), '*': 3}, step=0
  )  # Counts, as a distribution that reads scores returns them.
  params = {'a': jnp.ones((2, 2)), 'b': jnp.ones((2, 2))}
  _, state = js.init(tx, params)
  assert [int(m.sum()) for m in state.masks.values()] == [4, 4]
  ((_, masks),) = _run(tx, params, params, 1)
  assert [int(m.sum()) for m in masks.values()] == [1, 3]


def test_what_the_start_cannot_meet_is_refused_at_init():
  tx = js.transforms.one_shot(optax.sgd(0.1), 0.9, step=5, structure=js.masks.NM(1, 2))
  with pytest.raises(
    ValueError, match=r'kernel: NM\(1, 2\) has sparsity 0.5, but 0.875'
  ):
    tx.init({'kernel': jnp.ones((4, 4))})


@pytest.mark.parametrize(
  'kwargs, message',
  [
    ({'sparsity': 0.5, 'step': -1}, 'one_shot: step=-1: wanted an int of 0 or more'),
    ({'sparsity': 0.5, 'step': 2.5}, 'one_shot: step=2.5: wanted an int'),
    ({'sparsity': 1.0, 'step': 1}, r'sparsity=1.0.*\[0, 1\)'),
  ],
)
def test_bad_arguments_are_refused(kwargs, message):
  with pytest.raises(ValueError, match=message):
    js.transforms.one_shot(optax.sgd(0.1), **kwargs)


def test_sparsity_per_path():
  tx = js.transforms.one_shot(optax.sgd(0.0), {'a': 0.5, '*': 0.25}, step=0)
  params = {'a': jnp.ones((2, 4)), 'b': jnp.ones((2, 4))}
  ((_, masks),) = _run(tx, params, params, 1)
  assert [int(m.sum()) for m in masks.values()] == [4, 6]


def test_a_wrapper_at_a_wrong_place_is_reported():
  """The only change of the masks is late: the step after it looks."""
  one_shot = js.transforms.one_shot(optax.sgd(0.1), 0.5, step=2)
  tx = optax.chain(one_shot, optax.scale(0.5))
  params, state = js.init(tx, {'kernel': jnp.arange(1.0, 9.0).reshape(2, 4)})
  with pytest.warns(RuntimeWarning, match='at step 3 .* off their mask: kernel'):
    for _ in range(6):
      updates, state = tx.update(params, state, params)
      params = optax.apply_updates(params, updates)
    jax.effects_barrier()

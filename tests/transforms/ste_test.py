"""Straight-through training of a dense latent."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse as js


def _ste(inner, sparsity=0.5, **kwargs):
  return js.transforms.ste(
    inner, sparsity, distribution=js.distributions.uniform, **kwargs
  )


def test_golden():
  tx = _ste(optax.sgd(1.0))
  params, state = js.init(tx, {'kernel': jnp.array([[4.0, 3.0], [2.0, 1.0]])})
  assert params['kernel'].tolist() == [[4.0, 3.0], [0.0, 0.0]]
  assert state.memory.latent['kernel'].tolist() == [[4.0, 3.0], [2.0, 1.0]]
  # The gradient passes the mask: the pruned 2 becomes 5 and replaces the 3.
  grads = {'kernel': jnp.array([[0.0, 0.0], [-3.0, 0.5]])}
  updates, state = tx.update(grads, state, params)
  params = optax.apply_updates(params, updates)
  assert state.memory.latent['kernel'].tolist() == [[4.0, 3.0], [5.0, 0.5]]
  assert params['kernel'].tolist() == [[4.0, 0.0], [5.0, 0.0]]
  # The 3 is not forgotten: it comes back when the 5 has gone.
  grads = {'kernel': jnp.array([[0.0, 0.0], [4.5, 0.0]])}
  updates, state = tx.update(grads, state, params)
  params = optax.apply_updates(params, updates)
  assert params['kernel'].tolist() == [[4.0, 3.0], [0.0, 0.0]]


def _numpy_ste(latent, num_kept, grads_of, lr, momentum, steps):
  trace = np.zeros_like(latent)
  for step in range(steps):
    order = np.argsort(-np.abs(latent).ravel())[:num_kept]
    mask = np.isin(np.arange(latent.size), order).reshape(latent.shape)
    grads = grads_of(np.where(mask, latent, 0), step)
    trace = grads + np.float32(momentum) * trace
    latent = latent - np.float32(lr) * trace
    yield mask, latent


def _grads_of(params, step):
  noise = np.random.RandomState(step).randn(*params.shape).astype(np.float32)
  return np.float32(0.4) * (params - noise)


def test_equals_numpy():
  tx = _ste(optax.sgd(0.1, momentum=0.9), 0.75)
  start = jax.random.normal(jax.random.key(0), (6, 8))
  params, state = js.init(tx, {'kernel': start})
  update, moves = jax.jit(tx.update), 0
  run = _numpy_ste(np.asarray(start), 12, _grads_of, 0.1, 0.9, 20)
  for step, (mask, latent) in enumerate(run):
    np.testing.assert_array_equal(state.masks['kernel'], mask)
    grads = {'kernel': _grads_of(np.asarray(params['kernel']), step)}
    updates, state = update(grads, state, params)
    params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(
      state.memory.latent['kernel'], latent, rtol=1e-4, atol=1e-6
    )
    shown = js.masks.apply(state.masks, state.memory.latent)
    np.testing.assert_allclose(params['kernel'], shown['kernel'], rtol=1e-6, atol=1e-7)
    assert not np.any(np.asarray(params['kernel'])[~np.asarray(state.masks['kernel'])])
    moves += int((np.asarray(state.masks['kernel']) != mask).sum())
  assert moves > 10


def test_weight_decay_acts_on_the_latent():
  inner = optax.chain(optax.add_decayed_weights(0.5), optax.sgd(1.0))
  tx = _ste(inner)
  params, state = js.init(tx, {'kernel': jnp.array([[4.0, 3.0], [2.0, 1.0]])})
  _, state = tx.update({'kernel': jnp.zeros((2, 2))}, state, params)
  assert state.memory.latent['kernel'].tolist() == [[2.0, 1.5], [1.0, 0.5]]


def test_leaves_that_are_not_pruned_train_as_without_it():
  params = {'bias': jnp.array([1.0, 2.0]), 'kernel': jnp.ones((2, 2))}
  tx = _ste(optax.adam(0.1))
  sparse, state = js.init(tx, params)
  plain = optax.adam(0.1)
  dense, plain_state = params, plain.init(params)
  for _ in range(3):
    grads = jax.tree.map(lambda p: p + 1.0, dense)
    updates, state = tx.update({**grads, 'kernel': sparse['kernel']}, state, sparse)
    sparse = optax.apply_updates(sparse, updates)
    updates, plain_state = plain.update(grads, plain_state, dense)
    dense = optax.apply_updates(dense, updates)
  np.testing.assert_allclose(sparse['bias'], dense['bias'], rtol=1e-6)
  assert state.masks['bias'].shape == ()


def test_when_says_how_often_masks_are_chosen():
  tx = _ste(optax.sgd(1.0), when=js.schedules.every(2))
  params, state = js.init(tx, {'kernel': jnp.array([[2.0, 1.0]])})
  grads = {'kernel': jnp.array([[1.5, 0.0]])}
  masks = []
  for _ in range(3):
    updates, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    masks.append(state.masks['kernel'].astype(int).tolist())
  # The latent is .5 1, then -1 1, then -2.5 1; the mask is looked at in step 2.
  assert masks == [[[1, 0]]] * 3
  assert state.memory.latent['kernel'].tolist() == [[-2.5, 1.0]]
  assert params['kernel'].tolist() == [[-2.5, 0.0]]


def test_bad_sparsity_is_refused():
  with pytest.raises(ValueError, match=r'sparsity=1.0.*\[0, 1\)'):
    _ste(optax.sgd(0.1), 1.0)

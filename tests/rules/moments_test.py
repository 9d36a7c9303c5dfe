"""Moments of grown weights, and of weights that skip a step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsparse.rules import _moments

PARAMS = {'bias': jnp.arange(1.0, 5.0), 'kernel': jnp.arange(1.0, 13.0).reshape(3, 4)}
GROWN = {
  'bias': jnp.zeros((), bool),
  'kernel': jnp.zeros((3, 4), bool).at[0, 0].set(True).at[2, 1].set(True),
}

OPTIMIZERS = {
  'sgd': optax.sgd(0.1, momentum=0.9),
  'adam': optax.adam(0.1),
  'adam_bf16': optax.adam(0.1, mu_dtype=jnp.bfloat16),
  'amsgrad': optax.amsgrad(0.1),
  'adagrad': optax.adagrad(0.1),
  'rmsprop': optax.rmsprop(0.1, initial_scale=0.7, momentum=0.9),
  'lion': optax.lion(0.1),
  'lamb': optax.lamb(0.1),
  'prodigy': optax.contrib.prodigy(0.1),
  'schedule_free': optax.contrib.schedule_free(optax.sgd(0.1), 0.1),
  'chain': optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1)),
  'injected': optax.inject_hyperparams(optax.adam)(learning_rate=0.1),
  'partition': optax.partition(
    {'a': optax.adam(0.1), 'b': optax.adagrad(0.2)}, {'bias': 'a', 'kernel': 'b'}
  ),
}


# `reset` asks for what stays as it is.
KEPT = jax.tree.map(jnp.logical_not, GROWN)


def _warm(inner, params, steps=3):
  state = inner.init(params)
  for _ in range(steps):
    grads = jax.tree.map(lambda p: 2 * p + 1.0, params)
    updates, state = inner.update(grads, state, params)
    params = optax.apply_updates(params, updates)
  return params, state


def _leaves(state):
  return jax.tree_util.tree_leaves_with_path(state)


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_reset_gives_grown_weights_what_init_gives(name):
  inner = OPTIMIZERS[name]
  params, state = _warm(inner, PARAMS)
  started = jax.tree.map(lambda g, p: jnp.where(g, 0.25, p), GROWN, params)
  new = _moments.reset(inner, started, state, KEPT)
  assert jax.tree.structure(new) == jax.tree.structure(state)
  fresh, seen = inner.init(started), 0
  for (path, n), (_, s), (_, f) in zip(_leaves(new), _leaves(state), _leaves(fresh)):
    assert n.dtype == s.dtype, path
    grown = np.zeros(n.shape, bool)
    if n.shape == (3, 4):
      grown, seen = np.asarray(GROWN['kernel']), seen + 1
    np.testing.assert_array_equal(np.where(grown, f.astype(s.dtype), s), n, str(path))
  assert seen


@pytest.mark.parametrize(
  'name, wanted', [('adagrad', 0.1), ('rmsprop', 0.7), ('adam', 0.0)]
)
def test_the_values_that_a_fresh_start_has(name, wanted):
  inner = OPTIMIZERS[name]
  params, state = _warm(inner, PARAMS)
  new = _moments.reset(inner, params, state, KEPT)
  moments = [x for x in jax.tree.leaves(new) if x.shape == (3, 4)]
  assert any(x[0, 0] == np.float32(wanted) for x in moments)
  assert all(x[0, 1] != np.float32(wanted) for x in moments)


@pytest.mark.parametrize('name', ['prodigy', 'schedule_free'])
def test_copies_of_params_start_at_the_grown_value(name):
  inner = OPTIMIZERS[name]
  params, state = _warm(inner, PARAMS)
  started = jax.tree.map(lambda g, p: jnp.where(g, 0.25, p), GROWN, params)
  new = _moments.reset(inner, started, state, KEPT)
  copies = [
    x for x in jax.tree.leaves(new) if x.shape == (3, 4) and x[0, 0] == x[2, 1] == 0.25
  ]
  assert len(copies) == 1


def test_factored_statistics_are_left_alone():
  inner = optax.adafactor(0.1, min_dim_size_to_factor=2, momentum=0.9)
  params, state = _warm(inner, PARAMS)
  new = _moments.reset(inner, params, state, KEPT)
  shapes = set()
  for (path, n), (_, s) in zip(_leaves(new), _leaves(state)):
    if n.shape != (3, 4):
      np.testing.assert_array_equal(n, s, str(path))
      shapes.add(n.shape)
    else:
      assert n[0, 0] == 0 and n[0, 1] == s[0, 1] != 0
  # The row and column statistics were really there.
  assert {(3,), (4,)} <= shapes


def test_factored_statistics_of_a_square_matrix_of_one_are_no_moments():
  # (1,) placeholders of adafactor meet a parameter of that shape.
  params = {'kernel': jnp.ones((1,)), 'other': jnp.ones((4, 4))}
  inner = optax.adafactor(0.1, min_dim_size_to_factor=2)
  params, state = _warm(inner, params)
  kept = {'kernel': jnp.zeros(1, bool), 'other': jnp.ones((), bool)}
  new = _moments.reset(inner, params, state, kept)
  assert jax.tree.structure(new) == jax.tree.structure(state)


def test_reset_without_moments_and_without_params():
  for params in (PARAMS, {}):
    inner = optax.sgd(0.1)
    kept = jax.tree.map(lambda p: jnp.zeros(p.shape, bool), params)
    state = inner.init(params)
    assert _moments.reset(inner, params, state, kept) == state


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_hold_keeps_moments_and_lets_counts_advance(name):
  inner = OPTIMIZERS[name]
  params, old = _warm(inner, PARAMS)
  grads = jax.tree.map(lambda p: p - 3.0, params)
  _, new = inner.update(grads, old, params)
  held = _moments.hold(inner, params, old, new, jnp.bool_(True))
  for (path, h), (_, o), (_, n) in zip(_leaves(held), _leaves(old), _leaves(new)):
    wanted = o if h.shape in ((3, 4), (4,)) else n
    np.testing.assert_array_equal(h, wanted, str(path))
  let_go = _moments.hold(inner, params, old, new, jnp.bool_(False))
  jax.tree.map(np.testing.assert_array_equal, let_go, new)


def test_counts_do_advance_when_moments_are_held():
  inner = OPTIMIZERS['adam']
  params, old = _warm(inner, PARAMS)
  _, new = inner.update(params, old, params)
  held = _moments.hold(inner, params, old, new, jnp.bool_(True))
  assert (int(old[0].count), int(held[0].count)) == (3, 4)
  np.testing.assert_array_equal(held[0].mu['kernel'], old[0].mu['kernel'])


def test_along_marks_moments_by_their_parameter():
  inner = optax.adam(0.1)
  state = inner.init(PARAMS)
  marks = _moments.along(inner, PARAMS, state, {'bias': 'b', 'kernel': 'k'})
  assert marks == [None, 'b', 'k', 'b', 'k']


def test_along_with_masked_parameters():
  inner = optax.masked(optax.trace(0.9), {'bias': False, 'kernel': True})
  state = inner.init(PARAMS)
  marks = _moments.along(inner, PARAMS, state, {'bias': 'b', 'kernel': 'k'})
  assert marks == ['k']

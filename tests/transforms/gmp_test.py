"""Gradual magnitude pruning: golden masks, and a NumPy run of many steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse as js


def _bits(mask):
  return np.asarray(mask).astype(int).tolist()


def _ramp(final, stop):
  return lambda step: final * jnp.minimum(jnp.asarray(step, jnp.float32) / stop, 1.0)


def test_golden():
  # 0, 2, 4 of 8 weights go after steps 0, 1, 2; the step subtracts the gradient.
  tx = js.transforms.gmp(optax.sgd(1.0), _ramp(0.5, 2), when=js.schedules.always)
  start = jnp.array([[8.0, -7.0, 6.0, -5.0], [4.0, -3.0, 2.0, -1.0]])
  params, state = js.init(tx, {'kernel': start})
  assert _bits(state.masks['kernel']) == [[1] * 4] * 2
  zero = jnp.zeros((2, 4))
  # At step 1 the -7 becomes 0.5 and the 1 becomes -9: after the update it is large.
  moved = zero.at[0, 1].set(-7.5).at[1, 3].set(8.0)
  wanted = [
    (zero, [[1, 1, 1, 1], [1, 1, 1, 1]]),
    (moved, [[1, 0, 1, 1], [1, 1, 0, 1]]),
    (zero, [[1, 0, 1, 1], [0, 0, 0, 1]]),
    # Later steps keep what is pruned, however large its gradient.
    (zero.at[0, 1].set(99.0), [[1, 0, 1, 1], [0, 0, 0, 1]]),
  ]
  for grads, mask in wanted:
    updates, state = tx.update({'kernel': grads}, state, params)
    params = optax.apply_updates(params, updates)
    assert _bits(state.masks['kernel']) == mask
    assert _bits(params['kernel'] != 0) == mask
  assert params['kernel'].tolist() == [[8.0, 0.0, 6.0, -5.0], [0.0, 0.0, 0.0, -9.0]]


def test_golden_gradual_nm():
  tx = js.transforms.gmp(
    optax.sgd(0.0),
    _ramp(0.75, 3),
    when=js.schedules.always,
    structure=js.masks.NM(1, 4),
  )
  params, state = js.init(tx, {'kernel': jnp.array([[1.0], [4.0], [3.0], [2.0]])})
  masks = []
  for _ in range(4):
    updates, state = tx.update(params, state, params)
    params = optax.apply_updates(params, updates)
    masks.append(_bits(state.masks['kernel'][:, 0]))
  assert masks == [[1, 1, 1, 1], [0, 1, 1, 1], [0, 1, 1, 0], [0, 1, 0, 0]]


def test_a_start_above_zero_prunes_the_start():
  sparsity = js.schedules.cubic(0.75, start=1, stop=3, initial=0.5)
  tx = js.transforms.gmp(optax.sgd(0.0), sparsity, when=js.schedules.always)
  params, _ = js.init(tx, {'kernel': jnp.array([[1.0, 2.0], [3.0, 4.0]])})
  assert params['kernel'].tolist() == [[0.0, 0.0], [3.0, 4.0]]


SHAPES = {'a': (6, 8), 'b': (8, 5)}
STEPS, PERIOD, START, STOP, FINAL = 32, 3, 4, 25, 0.85


def _gradient(params, step):
  noise = np.random.RandomState(step)
  return {
    k: np.float32(0.5) * (np.asarray(p) - noise.randn(*p.shape).astype(np.float32))
    for k, p in params.items()
  }


def _numpy_gmp(params):
  """Zhu & Gupta with Adam, written down from the two papers."""
  lr, b1, b2, eps = 0.02, 0.9, 0.999, 1e-8
  masks = {k: np.ones(p.shape, bool) for k, p in params.items()}
  mu = {k: np.zeros(p.shape) for k, p in params.items()}
  nu = {k: np.zeros(p.shape) for k, p in params.items()}
  for step in range(STEPS):
    grads = _gradient(params, step)
    for k, p in params.items():
      g = np.where(masks[k], grads[k], 0).astype(float)
      mu[k] = b1 * mu[k] + (1 - b1) * g
      nu[k] = b2 * nu[k] + (1 - b2) * g**2
      m, v = mu[k] / (1 - b1 ** (step + 1)), nu[k] / (1 - b2 ** (step + 1))
      p = p - lr * m / (np.sqrt(v) + eps)
      if step % PERIOD == 0 and step >= PERIOD:
        share = (min(max(step, START), STOP) - START) / (STOP - START)
        removed = round(FINAL * p.size) * (1 - (1 - share) ** 3)
        kept = np.flatnonzero(masks[k])
        num_kept = p.size - round(removed)
        order = kept[np.argsort(-np.abs(p.ravel()[kept]))]
        masks[k] = np.isin(np.arange(p.size), order[:num_kept]).reshape(p.shape)
      params[k] = np.where(masks[k], p, 0).astype(np.float32)
    yield {k: m.copy() for k, m in masks.items()}, dict(params)


def test_equals_numpy_over_many_steps():
  tx = js.transforms.gmp(
    optax.adam(0.02),
    js.schedules.cubic(FINAL, START, STOP),
    when=js.schedules.every(PERIOD),
    distribution=js.distributions.uniform,
  )
  keys = jax.random.split(jax.random.key(0), 2)
  params = {k: jax.random.normal(key, SHAPES[k]) for k, key in zip(SHAPES, keys)}
  reference = _numpy_gmp({k: np.asarray(p) for k, p in params.items()})
  params, state = js.init(tx, params)
  update, counts = jax.jit(tx.update), []
  for step, (masks, values) in enumerate(reference):
    updates, state = update(_gradient(params, step), state, params)
    params = optax.apply_updates(params, updates)
    for k in SHAPES:
      np.testing.assert_array_equal(state.masks[k], masks[k], f'{k} at {step}')
      np.testing.assert_allclose(params[k], values[k], rtol=1e-3, atol=1e-5)
    counts.append(int(state.masks['a'].sum()))
  assert counts[0] == 48 and counts[-1] == round(0.15 * 48)
  assert counts == sorted(counts, reverse=True) and len(set(counts)) > 5


def test_global_pool_prunes_by_one_threshold():
  tx = js.transforms.gmp(
    optax.sgd(0.0),
    _ramp(0.5, 1),
    when=js.schedules.always,
    distribution=js.distributions.global_pool,
  )
  params = {
    'a': jnp.arange(1.0, 9.0).reshape(2, 4),
    'b': jnp.arange(5.0, 13.0).reshape(2, 4),
  }
  params, state = js.init(tx, params)
  for _ in range(2):
    updates, state = tx.update(params, state, params)
    params = optax.apply_updates(params, updates)
  assert _bits(state.masks['a']) == [[0, 0, 0, 0], [0, 0, 1, 1]]
  assert int(state.masks['b'].sum()) == 6


def test_saliency_prunes_by_weight_and_gradient():
  tx = js.transforms.gmp(
    optax.sgd(0.0),
    _ramp(0.5, 1),
    when=js.schedules.always,
    criterion=js.criteria.saliency,
  )
  params, state = js.init(tx, {'kernel': jnp.array([[1.0, 2.0], [3.0, 4.0]])})
  grads = {'kernel': jnp.array([[9.0, 8.0], [1.0, 0.0]])}
  for _ in range(2):
    updates, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)
  assert _bits(state.masks['kernel']) == [[1, 1], [0, 0]]


def test_nothing_comes_back_for_a_nan_or_a_falling_schedule():
  falling = lambda step: jnp.where(jnp.asarray(step) == 1, 0.25, 0.5)
  tx = js.transforms.gmp(optax.sgd(1.0), falling, when=js.schedules.always)
  start = {'kernel': jnp.array([[1.0, 2.0], [3.0, 4.0]])}
  params, state = js.init(tx, start)
  for bad in (0.0, 0.0, jnp.nan):
    grads = {'kernel': jnp.zeros((2, 2)).at[1, 0].set(bad)}
    updates, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)
  assert _bits(state.masks['kernel']) == [[0, 0], [0, 1]]


def test_schedules_per_path():
  sparsity = {'a': _ramp(0.5, 1), '*': _ramp(0.25, 1)}
  tx = js.transforms.gmp(optax.sgd(0.0), sparsity, when=js.schedules.at(1))
  params = {'a': jnp.ones((2, 4)), 'b': jnp.ones((2, 4))}
  params, state = js.init(tx, params)
  for _ in range(2):
    _, state = tx.update(params, state, params)
  assert [int(m.sum()) for m in state.masks.values()] == [4, 6]


def test_bad_sparsity_is_refused():
  with pytest.raises(ValueError, match=r'sparsity=1.0.*\[0, 1\)'):
    js.transforms.gmp(optax.sgd(0.1), _ramp(1.0, 2), when=js.schedules.always)


@pytest.mark.long
def test_lamp_in_rounds_keeps_what_lamp_at_once_keeps():
  """What earlier rounds pruned is worth nothing; it empties no leaf."""
  draw = np.random.default_rng(0).normal
  start = {n: jnp.asarray(draw(size=(8, 8)), jnp.float32) for n in 'abc'}
  tx = js.transforms.gmp(
    optax.sgd(0.0),
    _ramp(0.8, 4),
    when=js.schedules.always,
    distribution=js.distributions.lamp,
  )
  params, state = js.init(tx, start)
  for _ in range(5):
    updates, state = tx.update(params, state, params)
    params = optax.apply_updates(params, updates)
  scores = {n: jnp.abs(p) for n, p in start.items()}
  wanted = js.distributions.lamp(js.leaves_of(start), 0.8, scores)
  assert {n: int(m.sum()) for n, m in state.masks.items()} == wanted
  assert min(wanted.values()) > 0


def test_a_schedule_may_add_to_the_step():
  ahead = lambda step: 0.5 * jnp.minimum((step + 1) / 2, 1.0)
  tx = js.transforms.gmp(optax.sgd(0.1), ahead, when=js.schedules.always)
  _, state = js.init(tx, {'kernel': jnp.arange(8.0).reshape(2, 4)})
  assert int(state.masks['kernel'].sum()) == 6

"""SR-STE: golden masks, its equation in NumPy, and what its decay is for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse as js


def test_golden():
  tx = js.transforms.sr_ste(optax.sgd(0.5), 1, 2, decay=0.4)
  start = jnp.array([[4.0, -1.0], [2.0, 3.0]])
  params, state = js.init(tx, {'kernel': start})
  assert params['kernel'].tolist() == [[4.0, 0.0], [0.0, 3.0]]
  grads = {'kernel': jnp.array([[2.0, 0.0], [-4.0, 0.0]])}
  updates, state = tx.update(grads, state, params)
  # Kept 4 and 3 have no decay; 2 - 0.5 (-4 + 0.4 * 2) = 3.6, and -1 becomes -0.8.
  np.testing.assert_allclose(
    state.memory.latent['kernel'], [[3.0, -0.8], [3.6, 3.0]], rtol=1e-6
  )
  # In the first column the pruned weight has overtaken.
  params = optax.apply_updates(params, updates)
  np.testing.assert_allclose(params['kernel'], [[0.0, 0.0], [3.6, 3.0]], rtol=1e-6)


def _numpy_mask(latent, n, m):
  """Groups of m along the input axis."""
  groups = np.abs(latent).reshape(-1, m, latent.shape[1])
  rank = np.argsort(np.argsort(-groups, axis=1), axis=1)
  return (rank < n).reshape(latent.shape)


def _grads_of(params, step):
  noise = np.random.RandomState(step).randn(*params.shape).astype(np.float32)
  return np.float32(0.4) * (params - noise)


@pytest.mark.parametrize(
  'n, m, decay, momentum', [(2, 4, 2e-1, 0.0), (1, 4, 5e-2, 0.9)]
)
def test_equals_its_equation(n, m, decay, momentum):
  tx = js.transforms.sr_ste(optax.sgd(0.1, momentum or None), n, m, decay=decay)
  latent = np.random.RandomState(99).randn(8, 6).astype(np.float32)
  params, state = js.init(tx, {'kernel': jnp.asarray(latent)})
  update, trace, moves = jax.jit(tx.update), 0.0, 0
  for step in range(20):
    mask = _numpy_mask(latent, n, m)
    np.testing.assert_array_equal(state.masks['kernel'], mask)
    shown = np.where(mask, latent, 0)
    np.testing.assert_allclose(params['kernel'], shown, rtol=1e-4, atol=1e-6)
    gradient = _grads_of(shown, step) + np.float32(decay) * np.where(mask, 0, latent)
    trace = gradient + np.float32(momentum) * trace
    latent = latent - np.float32(0.1) * trace
    grads = {'kernel': _grads_of(np.asarray(params['kernel']), step)}
    updates, state = update(grads, state, params)
    params = optax.apply_updates(params, updates)
    moves += (mask != _numpy_mask(latent, n, m)).sum()
  assert moves > 10


def test_exactly_n_of_every_m_at_every_step():
  tx = js.transforms.sr_ste(optax.adam(0.3), 2, 4)
  params = {'conv': {'kernel': jax.random.normal(jax.random.key(0), (3, 3, 8, 2))}}
  params, state = js.init(tx, params)
  update = jax.jit(tx.update)
  for step in range(4):
    grads = {'conv': {'kernel': _grads_of(np.asarray(params['conv']['kernel']), step)}}
    updates, state = update(grads, state, params)
    params = optax.apply_updates(params, updates)
    nonzero = np.asarray(params['conv']['kernel']) != 0
    assert (nonzero.reshape(3, 3, 2, 4, 2).sum(axis=3) == 2).all()


def test_decay_zero_is_straight_through():
  params = {'kernel': jax.random.normal(jax.random.key(0), (4, 3))}
  grads = {'kernel': jax.random.normal(jax.random.key(1), (4, 3))}
  results = []
  for tx in (
    js.transforms.sr_ste(optax.sgd(0.5), 2, 4, decay=0.0),
    js.transforms.ste(
      optax.sgd(0.5),
      0.5,
      structure=js.masks.NM(2, 4),
      distribution=js.distributions.uniform,
    ),
  ):
    start, state = js.init(tx, params)
    updates, state = tx.update(grads, state, start)
    results.append((updates, state.masks, state.memory))
  jax.tree.map(np.testing.assert_array_equal, *results)


def _decay_of_kept(inner, decay):
  """The negative control: what the mask keeps decays, not what it removes."""
  budget = js.rules.Budget(0.75, js.distributions.uniform, js.masks.NM(1, 4))

  def edit_grads(grads, latent, masks, memory):
    del memory
    return jax.tree.map(lambda g, w, m: g + decay * w * m, grads, latent, masks)

  rule = js.transforms.ste_rule(budget)._replace(edit_grads=edit_grads)
  return js.keep_sparse(inner, rule, js.schedules.always)


def _sad(transform, decay):
  """Changed mask bits over a run of noisy regression, per weight."""
  keys = jax.random.split(jax.random.key(0), 3)
  teacher = jax.random.normal(keys[0], (32, 8)) / 6
  tx = transform(optax.sgd(0.005, momentum=0.9), decay=decay)
  params, state = js.init(tx, {'kernel': jax.random.normal(keys[1], (32, 8)) / 6})

  def loss(params, x):
    return jnp.mean((x @ (params['kernel'] - teacher)) ** 2)

  @jax.jit
  def step(params, state, key):
    grads = jax.grad(loss)(params, jax.random.normal(key, (16, 32)))
    updates, new = tx.update(grads, state, params)
    changed = jnp.sum(new.masks['kernel'] != state.masks['kernel'])
    return optax.apply_updates(params, updates), new, changed

  total = 0
  for key in jax.random.split(keys[2], 80):
    params, state, changed = step(params, state, key)
    total += int(changed)
  return total / 256


def test_masks_settle_with_larger_decay():
  """The published effect: SAD falls as lambda_W grows."""
  sr_ste = functools.partial(js.transforms.sr_ste, n=1, m=4)
  sad = [_sad(sr_ste, decay) for decay in (0.0, 0.1, 0.5)]
  assert sad[0] > 1.2 * sad[1] > 1.44 * sad[2]
  assert _sad(_decay_of_kept, 0.5) > 2 * sad[0]


@pytest.mark.parametrize(
  'args, kwargs, message',
  [
    ((0, 4), {}, r'NM\(n=0, m=4\): wanted 0 < n <= m'),
    ((5, 4), {}, r'NM\(n=5, m=4\): wanted 0 < n <= m'),
    ((2, 4), {'decay': -1.0}, 'sr_ste: decay=-1.0: wanted 0 or more'),
  ],
)
def test_bad_arguments_are_refused(args, kwargs, message):
  with pytest.raises(ValueError, match=message):
    js.transforms.sr_ste(optax.sgd(0.1), *args, **kwargs)


def test_a_stem_that_m_does_not_divide_is_named():
  params = {'stem': {'kernel': jnp.ones((3, 3, 3, 8))}}
  tx = js.transforms.sr_ste(optax.sgd(0.1))
  with pytest.raises(ValueError, match=r'stem/kernel: axis 2 .* 3.*m=4.*prunable'):
    tx.init(params)

"""SET: golden masks, and what is random."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse as js


def _set(inner=None, sparsity=0.5, seed=0, **kwargs):
  kwargs = {'when': js.schedules.at(0), 'drop_fraction': 0.5, **kwargs}
  return js.transforms.set(
    inner or optax.sgd(0.1),
    sparsity,
    seed=seed,
    distribution=js.distributions.uniform,
    **kwargs,
  )


def _start(tx, params, mask):
  masks = {'kernel': jnp.array(mask, bool)}
  return js.masks.apply(masks, params), tx.init(params)._replace(masks=masks)


def test_golden_drop():
  tx = _set()
  params = {'kernel': jnp.array([[4.0, -1.0, 7.0, 7.0], [-3.0, 2.0, 7.0, 7.0]])}
  start, state = _start(tx, params, [[1, 1, 0, 0], [1, 1, 0, 0]])
  grads = {'kernel': jnp.ones((2, 4))}
  updates, state = tx.update(grads, state, start)
  after = np.asarray(optax.apply_updates(start, updates)['kernel'])
  mask = np.asarray(state.masks['kernel'])
  # 4 and -3 stay and take the step; two of the other six come, at 0.
  assert mask[0, 0] and mask[1, 0] and mask.sum() == 4
  np.testing.assert_allclose(after, [[3.9, 0, 0, 0], [-3.1, 0, 0, 0]], rtol=1e-6)


def test_golden_growth_when_there_is_no_choice():
  tx = _set(drop_fraction=1.0, sparsity=0.0)
  start, state = _start(tx, {'kernel': jnp.full((2, 2), 3.0)}, [[1, 1], [1, 1]])
  updates, state = tx.update({'kernel': jnp.ones((2, 2))}, state, start)
  # All were dropped and grown again: they start anew.
  assert np.asarray(state.masks['kernel']).all()
  assert not np.asarray(optax.apply_updates(start, updates)['kernel']).any()


def test_growth_is_uniform_over_what_did_not_survive():
  """Chi-square over the six places for one of two grown weights."""
  params = {'kernel': jnp.array([[4.0, 1.0, 0.0, 0.0], [3.0, 2.0, 0.0, 0.0]])}
  mask = jnp.array([[1, 1, 0, 0], [1, 1, 0, 0]], bool)
  draws = 600

  def grow(seed):
    tx = _set(seed=seed)
    state = tx.init(params)._replace(masks={'kernel': mask})
    _, state = tx.update(params, state, params)
    return state.masks['kernel']

  # Without the report: a callback under vmap would be called for each draw.
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('JAXSPARSE_CHECK', 'off')
    masks = np.asarray(jax.jit(jax.vmap(grow))(jnp.arange(draws))).reshape(draws, 8)
  assert masks[:, [0, 4]].all() and (masks.sum(axis=1) == 4).all()
  counts = masks[:, [1, 2, 3, 5, 6, 7]].sum(axis=0)
  expected = draws / 3
  # Two of six without replacement: each count has a standard deviation of 11.5.
  assert np.abs(counts - expected).max() < 4.5 * 11.5
  assert counts.std() > 0


def test_growth_differs_from_step_to_step():
  tx = _set(when=js.schedules.always, sparsity=0.75, drop_fraction=0.5)
  params, state = js.init(tx, {'kernel': jnp.ones((8, 8))})
  masks = [state.masks['kernel']]
  for _ in range(3):
    updates, state = tx.update({'kernel': jnp.zeros((8, 8))}, state, params)
    params = optax.apply_updates(params, updates)
    masks.append(state.masks['kernel'])
  grown = [np.flatnonzero(b & ~a).tolist() for a, b in zip(masks, masks[1:])]
  assert len({tuple(g) for g in grown}) == 3 and all(grown)
  assert [int(m.sum()) for m in masks] == [16] * 4


def test_seed_decides_start_and_growth():
  def run(seed):
    tx = _set(seed=seed, sparsity=0.75)
    params, state = js.init(tx, {'kernel': jnp.ones((6, 6))})
    _, after = tx.update(params, state, params)
    return np.stack([state.masks['kernel'], after.masks['kernel']])

  np.testing.assert_array_equal(run(0), run(jax.random.key(0)))
  assert all((run(0) != run(1)).any(axis=(1, 2)))


def test_when_never_it_is_static():
  tx = _set(when=js.schedules.never)
  params, state = js.init(tx, {'kernel': jnp.ones((4, 4))})
  _, after = tx.update(params, state, params)
  np.testing.assert_array_equal(state.masks['kernel'], after.masks['kernel'])


@pytest.mark.parametrize(
  'kwargs, message',
  [
    ({'sparsity': -0.5}, r'sparsity=-0.5.*\[0, 1\)'),
    ({'drop_fraction': 2.0}, r'drop_fraction=2.0.*\[0, 1\]'),
  ],
)
def test_bad_arguments_are_refused(kwargs, message):
  with pytest.raises(ValueError, match=message):
    _set(**kwargs)

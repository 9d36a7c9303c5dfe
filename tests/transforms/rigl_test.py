"""RigL: golden masks, and a NumPy run of many steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse as js


def _bits(mask):
  return np.asarray(mask).astype(int).tolist()


def _rigl(inner, sparsity=0.5, **kwargs):
  kwargs = {'when': js.schedules.every(1), 'seed': 0, **kwargs}
  return js.transforms.rigl(
    inner, sparsity, distribution=js.distributions.uniform, **kwargs
  )


def _with_masks(tx, params, masks):
  """A start with masks that were written by hand."""
  masks = {k: jnp.array(m, bool) for k, m in masks.items()}
  state = tx.init(params)._replace(masks=masks)
  return js.masks.apply(masks, params), state


def test_golden_step():
  tx = _rigl(optax.sgd(0.1), drop_fraction=0.5, when=js.schedules.at(0))
  params = {'kernel': jnp.array([[4.0, -1.0, 7.0, 7.0], [-3.0, 2.0, 7.0, 7.0]])}
  start, state = _with_masks(tx, params, {'kernel': [[1, 1, 0, 0], [1, 1, 0, 0]]})
  grads = {'kernel': jnp.array([[1.0, 5.0, -6.0, 0.0], [2.0, 0.5, 3.0, -4.0]])}
  updates, state = tx.update(grads, state, start)
  after = optax.apply_updates(start, updates)
  # |w|: 4 1 / 3 2, so 1 and 2 go. |g| outside {4, 3}: 5 at the place of the dropped
  # 1, 0.5 at that of the 2, 6 0 3 4 elsewhere: the 6 and the 5 come.
  assert _bits(state.masks['kernel']) == [[1, 1, 1, 0], [1, 0, 0, 0]]
  # Survivors take the step (lr 0.1), grown weights start at 0, the dropped 2 is 0.
  np.testing.assert_allclose(
    after['kernel'], [[3.9, 0.0, 0.0, 0.0], [-3.2, 0.0, 0.0, 0.0]], rtol=1e-6
  )


def test_golden_step_as_published():
  tx = _rigl(optax.sgd(0.1), drop_fraction=0.5, when=js.schedules.at(0), skip_step=True)
  params = {'kernel': jnp.array([[4.0, -1.0, 7.0, 7.0], [-3.0, 2.0, 7.0, 7.0]])}
  start, state = _with_masks(tx, params, {'kernel': [[1, 1, 0, 0], [1, 1, 0, 0]]})
  grads = {'kernel': jnp.array([[1.0, 5.0, -6.0, 0.0], [2.0, 0.5, 3.0, -4.0]])}
  updates, state = tx.update(grads, state, start)
  after = optax.apply_updates(start, updates)
  assert _bits(state.masks['kernel']) == [[1, 1, 1, 0], [1, 0, 0, 0]]
  assert after['kernel'].tolist() == [[4.0, 0.0, 0.0, 0.0], [-3.0, 0.0, 0.0, 0.0]]


def test_golden_nm():
  tx = _rigl(optax.sgd(0.1), drop_fraction=0.25, structure=js.masks.NM(2, 4))
  params = {'kernel': jnp.array([[1.0, 8.0], [2.0, 7.0], [3.0, 6.0], [4.0, 5.0]])}
  start, state = _with_masks(tx, params, {'kernel': [[1, 1], [1, 1], [0, 0], [0, 0]]})
  # `every(1)` starts at step 1.
  state = state._replace(step=jnp.int32(1))
  grads = {'kernel': jnp.array([[0.0, 0.0], [0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])}
  updates, state = tx.update(grads, state, start)
  # One of four goes, the 1.0; its group takes the larger gradient.
  assert _bits(state.masks['kernel']) == [[0, 1], [1, 1], [0, 0], [1, 0]]
  assert float(optax.apply_updates(start, updates)['kernel'][3, 0]) == 0.0


def test_golden_channels():
  tx = _rigl(optax.sgd(0.0), drop_fraction=0.5, structure=js.masks.Channel())
  params = {'kernel': jnp.array([[1.0, 5.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])}
  start, state = _with_masks(tx, params, {'kernel': [[1, 1, 0, 0]]})
  state = state._replace(step=jnp.int32(1))
  grads = {'kernel': jnp.array([[0.0, 0.0, 3.0, 0.0], [0.0, 0.0, 0.0, 2.0]])}
  updates, state = tx.update(grads, state, start)
  assert _bits(state.masks['kernel']) == [[0, 1, 1, 0]]
  after = optax.apply_updates(start, updates)['kernel']
  assert after.tolist() == [[0.0, 5.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]


# --- many steps --------------------------------------------------------------------------

SHAPES = {'a': (6, 8), 'b': (8, 5)}
STEPS, PERIOD, STOP = 30, 4, 24
LR, MOMENTUM, FRACTION = 0.05, 0.9, 0.4


def _gradient(params, step):
  """Of a quadratic loss whose target moves: the same in NumPy and jax."""
  noise = np.random.RandomState(step)
  return {
    k: np.float32(0.3) * (np.asarray(p) - noise.randn(*p.shape).astype(np.float32))
    for k, p in params.items()
  }


def _numpy_rigl(params, masks, skip_step):
  """RigL with SGD and momentum, written down from the paper."""
  params = {k: np.where(masks[k], p, 0).astype(np.float32) for k, p in params.items()}
  masks = {k: m.copy() for k, m in masks.items()}
  traces = {k: np.zeros_like(p) for k, p in params.items()}
  for step in range(STEPS):
    grads = _gradient(params, step)
    due = step % PERIOD == 0 and PERIOD <= step < STOP
    for k, p in params.items():
      survivors = masks[k]
      if due:
        fraction = np.float32(FRACTION / 2 * (1 + np.cos(np.pi * step / STOP)))
        survivors = masks[k].ravel().copy()
        active = np.flatnonzero(survivors)
        num = int(np.floor(fraction * np.float32(len(active))))
        worst = active[np.argsort(np.abs(p.ravel()[active]), kind='stable')[:num]]
        survivors[worst] = False
        new = survivors.copy()
        free = np.flatnonzero(~survivors)
        best = np.argsort(-np.abs(grads[k].ravel()[free]), kind='stable')[:num]
        new[free[best]] = True
        masks[k], survivors = new.reshape(p.shape), survivors.reshape(p.shape)
        # What did not survive is 0 and has no momentum, whether grown or dropped.
        traces[k] = np.where(survivors, traces[k], 0)
        params[k] = p = np.where(survivors, p, 0)
        if skip_step:
          continue
      traces[k] = np.where(
        survivors, grads[k] + np.float32(MOMENTUM) * traces[k], 0
      ).astype(np.float32)
      params[k] = np.where(survivors, p - np.float32(LR) * traces[k], p)
    yield {k: m.copy() for k, m in masks.items()}, dict(params), dict(traces)


@pytest.mark.parametrize('skip_step', [False, True])
def test_equals_numpy_over_many_steps(skip_step):
  tx = _rigl(
    optax.sgd(LR, momentum=MOMENTUM),
    0.6,
    when=js.schedules.every(PERIOD, stop=STOP),
    drop_fraction=js.schedules.cosine(FRACTION, STOP),
    skip_step=skip_step,
  )
  keys = jax.random.split(jax.random.key(0), 2)
  dense = {k: jax.random.normal(key, SHAPES[k]) for k, key in zip(SHAPES, keys)}
  params, state = js.init(tx, dense)
  masks = {k: np.asarray(m) for k, m in state.masks.items()}
  update, moves = jax.jit(tx.update), 0
  for step, (wanted, values, traces) in enumerate(
    _numpy_rigl(jax.tree.map(np.asarray, dense), masks, skip_step)
  ):
    old = state.masks
    updates, state = update(_gradient(params, step), state, params)
    params = optax.apply_updates(params, updates)
    for k in SHAPES:
      np.testing.assert_array_equal(state.masks[k], wanted[k], f'{k} at {step}')
      np.testing.assert_allclose(params[k], values[k], rtol=1e-4, atol=1e-6)
      trace = np.where(wanted[k], state.inner_state[0].trace[k], 0)
      np.testing.assert_allclose(trace, traces[k], rtol=1e-4, atol=1e-6)
      moves += int((old[k] != state.masks[k]).sum())
  assert moves > 40


def test_counts_never_change_and_masks_do():
  tx = _rigl(optax.adam(0.1), 0.8, when=js.schedules.every(2), drop_fraction=0.5)
  params, state = js.init(tx, {'kernel': jax.random.normal(jax.random.key(1), (8, 8))})
  update, first = jax.jit(tx.update), state.masks['kernel']
  for step in range(6):
    grads = {'kernel': jnp.asarray(_gradient(params, step)['kernel'])}
    updates, state = update(grads, state, params)
    params = optax.apply_updates(params, updates)
    mask = state.masks['kernel']
    assert int(mask.sum()) == 13
    assert not np.any(np.asarray(params['kernel'])[~np.asarray(mask)])
    assert (step < 2) == bool(jnp.all(mask == first))


@pytest.mark.parametrize(
  'kwargs, message',
  [
    ({'sparsity': 1.0}, r'sparsity=1.0.*\[0, 1\)'),
    ({'drop_fraction': 1.5}, r'drop_fraction=1.5.*\[0, 1\]'),
    ({'drop_fraction': -0.1}, r'drop_fraction=-0.1.*\[0, 1\]'),
  ],
)
def test_bad_arguments_are_refused(kwargs, message):
  with pytest.raises(ValueError, match=message):
    _rigl(optax.sgd(0.1), **kwargs)

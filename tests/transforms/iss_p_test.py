"""Soft shrinkage by a percentage, beside NumPy, and its siblings."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse as js

_LR, _B1, _B2, _EPS = 1e-2, 0.9, 0.99, 1e-8


def _params(seed=0):
  keys = jax.random.split(jax.random.key(seed), 2)
  return {
    'conv': {'kernel': 0.1 * jax.random.normal(keys[0], (3, 3, 4, 8))},
    'dense': {'bias': jnp.ones(8), 'kernel': 0.1 * jax.random.normal(keys[1], (16, 8))},
  }


def _gradients(params, step):
  """Of no loss: any will do, as long as both sides see the same ones."""
  key = jax.random.fold_in(jax.random.key(7), step)
  names, leaves, treedef = js.core.named_leaves(params)
  return treedef.unflatten(
    [
      jax.random.normal(jax.random.fold_in(key, i), x.shape) + 0.3 * jnp.sin(9 * x)
      for i, x in enumerate(leaves)
    ]
  )


def _trace(tx, params, steps):
  """All params and states, the start first, by one compiled step."""

  @jax.jit
  def step(params, state, number):
    updates, state = tx.update(_gradients(params, number), state, params)
    return optax.apply_updates(params, updates), state

  state = tx.init(params)  # Dense at first: there is nothing to mask.
  trace = [(params, state)]
  for number in range(steps):
    params, state = step(params, state, number)
    trace.append((params, state))
  return trace


def _iss_p(inner=None, sparsity=0.75, **kwargs):
  inner = optax.adam(_LR, _B1, _B2, _EPS) if inner is None else inner
  kwargs = {'num_pruning_steps': 40, 'learning_rate': _LR, **kwargs}
  return js.transforms.iss_p(inner, sparsity, **kwargs)


class _NumpyIssP:
  """Adam in float32, then the shrinkage, with a sort for the threshold."""

  def __init__(self, params, sparsity, alpha, num_pruning_steps):
    self.params = {n: np.asarray(x, np.float32) for n, x in params.items()}
    self.first = {n: np.zeros_like(x) for n, x in self.params.items()}
    self.second = {n: np.zeros_like(x) for n, x in self.params.items()}
    self.masks = {n: np.ones(x.shape, bool) for n, x in self.params.items()}
    self.sparsity, self.alpha, self.last = sparsity, alpha, num_pruning_steps - 1

  def step(self, number, grads):
    for name, w in self.params.items():
      g = grads[name] * self.masks[name]
      self.first[name] = _B1 * self.first[name] + (1 - _B1) * g
      self.second[name] = _B2 * self.second[name] + (1 - _B2) * g**2
      m = self.first[name] / (1 - _B1 ** (number + 1))
      v = self.second[name] / (1 - _B2 ** (number + 1))
      w = w - _LR * m / (np.sqrt(v) + _EPS)
      if name.endswith('kernel') and number <= self.last:
        order = np.argsort(np.abs(w), axis=None)
        bottom = np.zeros(w.size, bool)
        bottom[order[: round(self.sparsity * w.size)]] = True
        bottom = bottom.reshape(w.shape)
        w = np.where(bottom, (0 if number == self.last else self.alpha) * w, w)
        if number == self.last:
          self.masks[name] = ~bottom
      self.params[name] = (w * self.masks[name]).astype(np.float32)


def _named(tree):
  names, leaves, _ = js.core.named_leaves(tree)
  return dict(zip(names, map(np.asarray, leaves)))


def test_fifty_steps_of_adam_are_those_of_numpy():
  params = _params()
  trace = _trace(_iss_p(), params, 50)
  other = _NumpyIssP(_named(params), 0.75, 0.95, 40)
  for number, (after, state) in enumerate(trace[1:]):
    other.step(number, _named(_gradients(trace[number][0], number)))
    masks = _named(js.get_masks(state))
    for name, value in _named(after).items():
      np.testing.assert_allclose(value, other.params[name], rtol=2e-4, atol=2e-6)
      # As float32 rounds, each goes on from the same weights.
      other.params[name] = value
      np.testing.assert_array_equal(
        np.broadcast_to(masks[name], value.shape), other.masks[name], err_msg=name
      )
  support = js.summary.support(trace[-1][1])
  jax.tree.map(np.testing.assert_array_equal, support, js.get_masks(trace[-1][1]))


def test_golden():
  tx = _iss_p(optax.sgd(1.0), 0.5, num_pruning_steps=3, learning_rate=1.0, alpha=0.5)
  params, state = js.init(tx, {'kernel': jnp.array([[8.0, 4.0], [2.0, 1.0]])})
  # The 1 grows by 2.5 a step: halved once, it passes the 4 in the second step.
  grads = {'kernel': jnp.array([[0.0, 0.0], [0.0, -2.5]])}
  seen, update = [], jax.jit(tx.update)
  for _ in range(4):
    updates, state = update(grads, state, params)
    params = optax.apply_updates(params, updates)
    seen.append(params['kernel'].ravel().tolist())
  assert seen == [
    [8, 4, 1, 1.75], [8, 2, 0.5, 4.25], [8, 0, 0, 6.75], [8, 0, 0, 9.25],
  ]  # fmt: skip


def test_alpha_1_is_the_dense_run_until_the_mask_is_hard():
  inner = optax.adam(_LR)
  sparse = _trace(_iss_p(inner, alpha=1.0, num_pruning_steps=8), _params(), 7)
  # Two programs, whose compilers fuse products and sums as they like.
  near = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
  for (a, _), (b, _) in zip(sparse, _trace(inner, _params(), 7)):
    jax.tree.map(near, a, b)


def test_alpha_0_is_iterative_hard_thresholding():
  # At a rate above the threshold: at a lower one, nothing could come back.
  tx = _iss_p(optax.adam(0.2), alpha=0.0, num_pruning_steps=6, learning_rate=0.2)
  trace = _trace(tx, _params(), 6)
  came_back = 0
  for (before, _), (after, state) in zip(trace, trace[1:]):
    a, b = before['conv']['kernel'], after['conv']['kernel']
    assert int((b != 0).sum()) == 72  # Exactly 0, while a mask of True lets it return.
    came_back += int(((a == 0) & (b != 0)).sum())
    kept = np.asarray(js.summary.support(state)['conv']['kernel'])
    np.testing.assert_array_equal(np.asarray(b) != 0, kept)
  assert came_back > 0


def test_a_shrunk_weight_forgets_in_twenty_steps():
  """It settles at alpha lr / (1 - alpha), and is within 1 / e of that after 20 steps."""
  tx = _iss_p(optax.sgd(_LR), 0.5, num_pruning_steps=200)
  params, state = js.init(tx, {'kernel': jnp.array([[5.0], [1e-6]])})
  grads = {'kernel': jnp.array([[0.0], [-1.0]])}

  def step(carry, _):
    updates, state = tx.update(grads, carry[1], carry[0])
    params = optax.apply_updates(carry[0], updates)
    return (params, state), params['kernel'][1, 0]

  (params, state), sizes = jax.lax.scan(step, (params, state), length=160)
  found = js.summary.shrinkage(params, state, alpha=0.95, learning_rate=_LR)['kernel']
  assert isinstance(found, js.summary.Shrinkage)
  assert found.ceiling == pytest.approx(19 * _LR)
  assert found.largest == float(sizes[-1]) == pytest.approx(found.ceiling, rel=1e-3)
  assert not found.can_return and found.threshold == 5.0
  # -1 / log(alpha) = 19.5 steps.
  assert 1 - sizes[18] / found.ceiling > np.exp(-1) > 1 - sizes[19] / found.ceiling


def test_global_threshold_and_groups():
  params = _params()
  params['dense']['kernel'] *= 4
  pool = _iss_p(distribution=js.distributions.global_pool)
  support = _named(js.summary.support(pool.init(params)))
  sizes = {n: np.abs(x) for n, x in _named(params).items() if n.endswith('kernel')}
  everything = np.concatenate([x.ravel() for x in sizes.values()])
  threshold = np.sort(everything)[-round(len(everything) / 4)]
  for name, size in sizes.items():
    np.testing.assert_array_equal(support[name], size >= threshold)

  groups = _iss_p(structure=js.masks.NM(1, 4))
  support = _named(js.summary.support(groups.init(params)))
  # Along the contracted axis: channels of the convolution, rows of the matrix.
  assert (support['conv/kernel'].reshape(9, 4, 8).sum(1) == 1).all()
  assert (support['dense/kernel'].reshape(4, 4, 8).sum(1) == 1).all()


def _kernels(state):
  return {n: m for n, m in _named(js.get_masks(state)).items() if m.ndim}


def test_the_bottom_set_may_be_kept_for_a_while():
  trace = _trace(_iss_p(refresh_every=3, num_pruning_steps=8), _params(), 8)
  supports = [np.asarray(js.summary.support(s)['conv']['kernel']) for _, s in trace[1:]]
  same = [bool((a == b).all()) for a, b in zip(supports, supports[1:])]
  # New in steps 0, 3, 6, and in the last one, 7.
  assert same[:2] + same[3:5] == [True] * 4 and not same[2] and not same[5]
  np.testing.assert_array_equal(
    supports[7], js.get_masks(trace[8][1])['conv']['kernel']
  )


def test_the_summary_says_that_the_network_is_dense_and_why():
  trace = _trace(_iss_p(num_pruning_steps=2), _params(), 2)
  (params, state), (_, before), (after, hard) = trace
  text = js.summary.table(params, state)
  assert 'all masks are True' in text and 'Shrunk, not pruned: 312 weights' in text
  assert 'Shrunk' not in js.summary.table(after, hard)
  previous = js.summary.support(before)
  found = js.summary.shrinkage(
    after, hard, alpha=0.95, learning_rate=_LR, previous=previous
  )
  assert found['conv/kernel'].changed == pytest.approx(
    np.mean(~np.asarray(previous['conv']['kernel'])[_kernels(hard)['conv/kernel']])
  )
  with pytest.raises(ValueError, match='no support of soft shrinkage'):
    js.summary.shrinkage(params, optax.EmptyState(), alpha=0.9, learning_rate=1.0)


def test_training_goes_on_with_nonzeros_once_the_mask_is_hard():
  tx = _iss_p(num_pruning_steps=3)
  params, state = js.init(tx, {'kernel': _params()['dense']['kernel']})
  with pytest.raises(ValueError, match='at step 0 its masks are not final; .* step 2'):
    js.compact.convert(tx, params, state)
  params, state = _trace(tx, params, 3)[-1]
  ctx, values, compact = js.compact.convert(tx, params, state)
  assert values['kernel'].shape == (32,) and compact.memory is None
  grads = _gradients(params, 3)
  mask = js.get_masks(state)['kernel']
  held = js.compact.convert(tx, {'kernel': grads['kernel'] * mask}, state)[1]
  updates, compact = ctx.update(held, compact, values)
  _, found, back = js.compact.densify(
    ctx, optax.apply_updates(values, updates), compact
  )
  updates, state = tx.update(grads, state, params)
  params = optax.apply_updates(params, updates)
  np.testing.assert_allclose(found['kernel'], params['kernel'], rtol=1e-6)
  jax.tree.map(np.testing.assert_array_equal, back.memory, state.memory)


def test_a_rate_that_falls_too_early_is_refused():
  falling = optax.cosine_decay_schedule(1e-3, 100)
  message = 'falls from 0.001 to 0.00.* by step .*, within the 50 pruning steps'
  with pytest.raises(ValueError, match=message):
    _iss_p(num_pruning_steps=50, learning_rate=falling)
  _iss_p(num_pruning_steps=50, learning_rate=falling, allow_decay=True)
  _iss_p(num_pruning_steps=50, learning_rate=falling, alpha=1.0)
  _iss_p(num_pruning_steps=50, learning_rate=js.schedules.hold(falling, 50))
  _iss_p(num_pruning_steps=50, learning_rate=optax.linear_schedule(0.0, 1e-3, 20))
  jax.jit(lambda x: _iss_p(num_pruning_steps=2, learning_rate=falling) and x)


@pytest.mark.parametrize(
  'kwargs, message',
  [
    ({'alpha': 1.5}, r'alpha=1.5: wanted a share that is kept in \[0, 1\]'),
    ({'num_pruning_steps': 0}, 'num_pruning_steps=0: wanted an int of at least 1'),
    ({'refresh_every': 0.5}, 'refresh_every=0.5: wanted an int of at least 1'),
    ({'sparsity': js.schedules.cubic(0.9, 0, 5)}, 'iss_p: sparsity=.* is a schedule'),
  ],
)
def test_bad_arguments_are_refused(kwargs, message):
  with pytest.raises(ValueError, match=message):
    _iss_p(**kwargs)


def test_iss_r_keeps_the_penalty_of_what_comes_back():
  tx = js.transforms.iss_r(
    optax.sgd(1.0), 0.5, num_pruning_steps=4, penalty=0.4, every=1
  )
  params, state = js.init(tx, {'kernel': jnp.array([[4.0], [3.0]])})
  # Without a penalty: 4 4 4, and 3 5 7.
  grads, seen = {'kernel': jnp.array([[0.0], [-2.0]])}, []
  update = jax.jit(tx.update)
  for _ in range(5):
    updates, state = update(grads, state, params)
    params = optax.apply_updates(params, updates)
    penalty = state.memory.penalty['kernel'][:, 0].tolist()
    seen.append((*params['kernel'][:, 0].tolist(), *penalty))
  # 4, then 4 * 0.9, 3.6 * 0.8, and pruned; what is left has no penalty.
  wanted = [
    (4, 5, 0.1, 0), (3.6, 7, 0.2, 0), (2.88, 9, 0.3, 0), (0, 11, 0, 0), (0, 13, 0, 0),
  ]  # fmt: skip
  np.testing.assert_allclose(seen, wanted, rtol=1e-5)

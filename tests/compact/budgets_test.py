"""Leaves that compete with one another: their budgets move, within their room."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse as js


@pytest.fixture
def quiet(monkeypatch):
  # Without reports, what is compiled can be kept for the next run.
  monkeypatch.setenv('JAXSPARSE_CHECK', 'off')


class _Factors(nn.Module):
  """Two tables whose rows meet, and a dense layer on top."""

  @nn.compact
  def __call__(self, users, items):
    user = nn.Embed(30, 8, name='user')(users)
    item = nn.Embed(20, 8, name='item')(items)
    return nn.Dense(3, name='head')(nn.relu(user * item))


def _batch():
  users, items = (
    jax.random.randint(jax.random.key(n), (64,), 0, size)
    for n, size in ((1, 30), (2, 20))
  )
  return (users, items), (users * 7 + items) % 3


def _loss(logits):
  labels = _batch()[1]
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def _dsl(**kwargs):
  kwargs = {
    'sparsity': 0.7, 'seed': 0, 'when': js.schedules.every(10, stop=150),
    'drop_fraction': js.schedules.cosine(0.4, 150), 'growth': 'last', **kwargs,
  }  # fmt: skip
  return js.transforms.dsl(optax.adam(1e-2), **kwargs)


def _start(tx, **kwargs):
  params = _Factors().init(jax.random.key(0), *_batch()[0])['params']
  masked = js.init(tx, params)
  return masked, js.compact.convert(tx, *masked, **kwargs)


def _steppers(tx, compact_tx):
  """The jitted steps of both executions."""
  ids, apply_fn = _batch()[0], js.compact.bind(_Factors())
  compact_loss = lambda p, patterns: _loss(apply_fn({'params': p}, patterns, *ids))

  def masked(params, state):
    loss = lambda p: _loss(_Factors().apply({'params': p}, *ids))
    updates, state = tx.update(jax.grad(loss)(params), state, params)
    return optax.apply_updates(params, updates), state

  def compact(params, state):
    growth = js.compact.growth_when_due(compact_tx, compact_loss, params, state)
    grads = jax.grad(compact_loss)(params, js.compact.get_patterns(state))
    updates, state = compact_tx.update(grads, state, params, growth=growth)
    return optax.apply_updates(params, updates), state

  return jax.jit(masked), jax.jit(compact)


def _counts(masks):
  names, leaves, _ = js.core.named_leaves(masks)
  return {n: int(m.sum()) for n, m in zip(names, leaves) if m.ndim}


@pytest.mark.parametrize(
  'kwargs',
  [
    pytest.param(
      dict(scope='global', prunable=('*/embedding', '*/kernel')),
      marks=pytest.mark.long,
    ),
    dict(scope='joint', floor=1),
    pytest.param(dict(scope='tensor', look_ahead=False), marks=pytest.mark.long),
  ],
)
def test_masked_and_compact_dsl_take_the_same_steps(kwargs, quiet):
  tx = _dsl(**kwargs)
  (params, state), (compact_tx, values, compact_state) = _start(tx, capacity_factor=4)
  first = _counts(js.get_masks(state))
  masked, compact = _steppers(tx, compact_tx)
  for _ in range(200):
    params, state = masked(params, state)
    values, compact_state = compact(values, compact_state)
  js.compact.check_capacity(compact_state)
  assert compact._cache_size() == 1
  for name, pattern in _patterns(compact_state).items():
    js.sparse.check(pattern, name)
  _, dense, dense_state = js.compact.densify(compact_tx, values, compact_state)
  found, wanted = (_counts(js.get_masks(s)) for s in (dense_state, state))
  assert found == wanted and sum(found.values()) == sum(first.values())
  assert (found == first) == (kwargs['scope'] == 'tensor')
  for a, b in zip(*map(jax.tree.leaves, ((dense, dense_state), (params, state)))):
    if jnp.issubdtype(a.dtype, jnp.inexact):
      np.testing.assert_allclose(a, b, rtol=5e-2, atol=2e-4)
    elif a.dtype == bool:
      np.testing.assert_array_equal(a, b)


def _patterns(state):
  names, leaves, _ = js.core.named_leaves(
    js.compact.get_patterns(state), is_leaf=js.sparse.is_pattern
  )
  return {n: p for n, p in zip(names, leaves) if js.sparse.is_pattern(p)}


@functools.cache
def _crowded():
  """`(tx, masked, compact, growth)`: a rewiring wants 12 weights where 10 have room.

  The weights of 'b' are the smallest, but all gradients off the masks are there.
  """
  first = jnp.arange(32).reshape(4, 8) < 8
  masks = {'a': {'kernel': first}, 'b': {'kernel': first}}
  budget = js.rules.Budget(
    0.75, js.distributions.uniform, js.masks.Unstructured(), js.kernels
  )
  rewiring = js.core.Rewiring(
    budget, js.criteria.magnitude,
    lambda evidence: jax.tree.map(jnp.abs, evidence.grads[0]), 'gradient',
    js.schedules.constant(0.25), pool=True,
  )  # fmt: skip
  rule = js.core.MaskRule(
    init=lambda evidence: (masks, None), update=js.rules.rewire(rewiring),
    budget=budget, rewiring=rewiring,
  )  # fmt: skip
  tx = js.keep_sparse(optax.adagrad(0.1), rule, js.schedules.always)
  sizes = 1 + jnp.arange(32.0).reshape(4, 8)
  params = {'a': {'kernel': sizes}, 'b': {'kernel': 100 + sizes}}
  masked = js.init(tx, params)
  grads = {'a': {'kernel': 0 * sizes}, 'b': {'kernel': sizes}}
  inputs, rows = jnp.divmod(jnp.arange(22, 32, dtype=jnp.int32), 8)
  at = lambda scores: js.compact.Candidates(
    inputs, rows, scores, jnp.ones(inputs.size, bool)
  )
  growth = {
    'a': {'kernel': at(jnp.zeros(10))},
    'b': {'kernel': at(grads['b']['kernel'].reshape(-1)[22:])},
  }
  return tx, masked, js.compact.convert(tx, *masked), grads, growth


def test_a_full_leaf_is_refused_and_resized_without_losing_the_run():
  tx, (params, state), compact, grads, growth = _crowded()
  ctx, values, compact_state = compact
  assert [x.shape for x in jax.tree.leaves(values)] == [(10,), (10,)]
  own = jax.tree.map(lambda v: jnp.zeros_like(v), values)
  own['b']['kernel'] = own['b']['kernel'].at[:8].set(1 + jnp.arange(8.0))

  with pytest.warns(RuntimeWarning, match=r'b/kernel \(10, wanted 12\).*resize'):
    updates, refused = ctx.update(own, compact_state, values, growth=growth)
    jax.effects_barrier()
  for a, b in zip(*map(jax.tree.leaves, (refused.patterns, compact_state.patterns))):
    np.testing.assert_array_equal(a, b)
  assert int(refused.step) == 1 and int(refused.refused['b/kernel']) == 12
  # The optimizer stepped all the same.
  assert np.count_nonzero(updates['b']['kernel']) == 8
  with pytest.raises(ValueError, match='b/kernel.*capacity_factor'):
    js.compact.check_capacity(refused)

  # With more room the rewiring that was refused is that of masked training.
  ctx, values, compact_state = js.compact.resize(
    *compact[:2], refused._replace(inner_state=compact_state.inner_state, step=compact_state.step),
    capacity_factor=1.5,
  )  # fmt: skip
  js.compact.check_capacity(compact_state)
  assert [x.shape for x in jax.tree.leaves(values)] == [(12,), (18,)]
  own = jax.tree.map(lambda v, n: jnp.pad(v, (0, n.size - v.size)), own, values)
  updates, compact_state = ctx.update(own, compact_state, values, growth=growth)
  js.compact.check_capacity(compact_state)
  _, dense, back = js.compact.densify(
    ctx, optax.apply_updates(values, updates), compact_state
  )
  updates, state = tx.update(grads, state, params)
  wanted = (optax.apply_updates(params, updates), state)
  assert int(state.masks['b']['kernel'].sum()) == 12
  for a, b in zip(*map(jax.tree.leaves, ((dense, back), wanted))):
    np.testing.assert_allclose(a, b, rtol=1e-6)
  smaller = js.compact.resize(ctx, values, compact_state, capacity_factor=1)
  assert [p.capacity for p in _patterns(smaller[2]).values()] == [4, 12]
  for name, pattern in _patterns(smaller[2]).items():
    js.sparse.check(pattern, name)


@pytest.mark.parametrize('factor', [0.9, float('inf'), '2'])
def test_a_bad_capacity_factor_is_refused(factor):
  tx, masked, compact, *_ = _crowded()
  with pytest.raises(ValueError, match='capacity_factor='):
    js.compact.convert(tx, *masked, capacity_factor=factor)
  with pytest.raises(ValueError, match='capacity_factor='):
    js.compact.resize(*compact, capacity_factor=factor)
  with pytest.raises(ValueError, match='wanted what js.compact.convert returned'):
    js.compact.resize(tx, *masked, capacity_factor=2)


@pytest.mark.long
def test_growth_at_random_moves_budgets_as_masks_do(quiet):
  """Of single steps of SSVI, whose leaves all compete; one of them is stacked."""
  leaf = js.Leaf('stack', (2, 8, 8), jnp.dtype('float32'), (0,), (1,), (2,))
  posterior = js.bayes.ssvi(
    0.75, seed=3, when=js.schedules.every(2), scope='global', drop_fraction=0.4,
    growth=js.criteria.random, leaves={'stack': leaf}, prunable=('kernel', 'stack'),
  )  # fmt: skip
  tx = js.bayes.optimizer(posterior, optax.adam(1e-2))
  draw = lambda n, shape: jax.random.normal(jax.random.key(n), shape)
  tree = {'kernel': draw(0, (12, 10)), 'stack': draw(1, leaf.shape)}
  params, state = js.init(tx, posterior.init(jax.random.key(2), tree))
  compact = js.compact.convert(tx, params, state, capacity_factor=3)
  ctx, values, compact_state = compact
  first = _counts(js.get_masks(state))

  @jax.jit
  def both(params, state, values, compact_state):
    grads = lambda tree: jax.tree.map(jnp.sin, tree)
    updates, state = tx.update(grads(params), state, params)
    own, compact_state = ctx.update(grads(values), compact_state, values)
    return (
      optax.apply_updates(params, updates), state,
      optax.apply_updates(values, own), compact_state,
    )  # fmt: skip

  for _ in range(9):
    params, state, values, compact_state = both(params, state, values, compact_state)
  js.compact.check_capacity(compact_state)
  _, dense, back = js.compact.densify(ctx, values, compact_state)
  assert _counts(js.get_masks(back)) == _counts(js.get_masks(state)) != first
  for a, b in zip(*map(jax.tree.leaves, ((dense, back.masks), (params, state.masks)))):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)

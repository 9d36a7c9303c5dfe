"""DSL: golden masks, budgets under every scope, and the released code in NumPy."""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse as js
from jaxsparse.criteria import _weights

_ALWAYS = js.schedules.always


def _bits(mask):
  return np.asarray(mask).astype(int).tolist()


def _dsl(inner, sparsity=0.5, **kwargs):
  kwargs = {'when': _ALWAYS, 'drop_fraction': 0.5, 'seed': 0, **kwargs}
  return js.transforms.dsl(inner, sparsity, **kwargs)


def _with_masks(tx, params, masks):
  """A start with masks that were written by hand."""
  masks = jax.tree.map(lambda m: jnp.array(m, bool), masks, is_leaf=_is_list)
  state = tx.init(params)._replace(masks=masks)
  return js.masks.apply(masks, params), state


def _is_list(x):
  return isinstance(x, list)


def _table(values):
  return {'embedding': jnp.array(values, jnp.float32)}


# Two rows of four; |w|: 4 1 / 3 2, the rest is off the mask.
_PARAMS = _table([[4.0, -1.0, 7.0, 7.0], [-3.0, 2.0, 7.0, 7.0]])
_MASKS = {'embedding': [[1, 1, 0, 0], [1, 1, 0, 0]]}
_GRADS = _table([[1.0, 5.0, -6.0, 0.0], [2.0, 0.5, 3.0, -4.0]])


@pytest.mark.parametrize(
  'scope, wanted',
  [
    # 1 and 2 go; the largest gradients off {4, 3} are the -6 and the 5 of row 0.
    ('tensor', [[1, 1, 1, 0], [1, 0, 0, 0]]),
    # The same go, but each row gets its own best: -6 and -4.
    ('row', [[1, 0, 1, 0], [1, 0, 0, 1]]),
  ],
)
def test_golden_step(scope, wanted):
  tx = _dsl(optax.sgd(0.0), scope=scope, growth='last')
  start, state = _with_masks(tx, _PARAMS, _MASKS)
  updates, state = tx.update(_GRADS, state, start)
  assert _bits(state.masks['embedding']) == wanted
  after = optax.apply_updates(start, updates)['embedding']
  assert after.tolist() == [[4.0, 0.0, 0.0, 0.0], [-3.0, 0.0, 0.0, 0.0]]


def test_the_floor_keeps_the_best_of_each_row():
  # Half go: without the floor 1 and 2, all of row 1.
  params = _table([[4.0, 3.0, 0.0, 0.0], [2.0, 1.0, 0.0, 0.0]])
  grads = _table([[0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 1.0, 1.0]])
  step = {}
  for floor in (0, 1):
    tx = _dsl(optax.sgd(0.0), growth='last', floor=floor)
    start, state = _with_masks(tx, params, _MASKS)
    step[floor] = _bits(tx.update(grads, state, start)[1].masks['embedding'])
  assert step[0] == [[1, 1, 1, 1], [0, 0, 0, 0]]
  # 1 is the smallest, and then 3: the 2 is the best of its row.
  assert step[1] == [[1, 0, 1, 1], [1, 0, 0, 0]]


def test_growth_adds_signed_gradients_up_and_forgets_them():
  tx = _dsl(optax.sgd(0.0), when=js.schedules.every(2), drop_fraction=0.25)
  start, state = _with_masks(tx, _PARAMS, _MASKS)
  one = _table([[0.0, 0.0, 6.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
  other = _table([[0.0, 0.0, -6.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
  for grads in (one, other, one):  # Due in the third; sums: 6 and 6.
    _, before = tx.update(grads, state, start)
    state = before
  # A tie of 6 and 6 would say nothing: one more, against the first.
  assert not jnp.any(state.memory.gradient['embedding'])
  tx = _dsl(optax.sgd(0.0), when=js.schedules.every(1), drop_fraction=0.25)
  start, state = _with_masks(tx, _PARAMS, _MASKS)
  _, state = tx.update(one, state, start)
  _, state = tx.update(other, state, start)
  # 0 against 4: the last gradient alone would have grown the other.
  assert _bits(state.masks['embedding']) == [[1, 0, 0, 1], [1, 1, 0, 0]]


def test_ema_and_its_memory_of_an_overflow():
  tx = _dsl(optax.sgd(0.0), growth='ema', decay=0.5, when=js.schedules.never)
  start, state = _with_masks(tx, _PARAMS, _MASKS)
  _, state = tx.update(_table([[2.0] * 4, [jnp.inf, jnp.nan, 0, 8]]), state, start)
  _, state = tx.update(_table([[4.0] * 4, [0.0] * 4]), state, start)
  assert state.memory.gradient['embedding'].tolist() == [[2.5] * 4, [0, 0, 0, 2]]


def test_frequencies_protect_rows():
  params = _table([[4.0, 3.0, 0.0, 0.0], [2.0, 1.9, 0.0, 0.0]])
  frequencies = {'embedding': jnp.array([1, 10000])}
  tx = _dsl(optax.sgd(0.0), growth='last', floor=0, frequencies=frequencies)
  start, state = _with_masks(tx, params, _MASKS)
  _, state = tx.update(_GRADS, state, start)
  # 1.9 * 10000^0.25 is 19: the 3 and the 4 go, and their place is taken by the best.
  assert _bits(state.masks['embedding']) == [[0, 1, 1, 0], [1, 1, 0, 0]]


# --- budgets -----------------------------------------------------------------------------


def _tables(key=0):
  keys = jax.random.split(jax.random.key(key), 3)
  return {
    'user': {'embedding': jax.random.normal(keys[0], (12, 6))},
    'item': {'embedding': jax.random.normal(keys[1], (7, 6))},
    'out': {'kernel': jax.random.normal(keys[2], (6, 4))},
  }


_ALL = lambda leaf: len(leaf.shape) == 2


@functools.cache
def _run(scope, rotate=None):
  """Masks and params after each of six steps; every step rewires."""
  tx = _dsl(
    optax.adam(0.1), 0.6, scope=scope, prunable=_ALL, drop_fraction=0.4,
    rotate=None if rotate is None else js.schedules.at(rotate),
  )  # fmt: skip
  params, state = js.init(tx, _tables())
  update = jax.jit(tx.update)
  seen = [(params, state.masks)]
  for i in range(6):
    grads = js.testing.gradients(params, float(i))
    updates, state = update(grads, state, params)
    params = optax.apply_updates(params, updates)
    seen.append((params, state.masks))
  return jax.tree.map(np.asarray, seen)


def _counts(masks):
  return {name: int(next(iter(leaf.values())).sum()) for name, leaf in masks.items()}


_SCOPES = ['tensor', 'row', 'joint', 'global']


@pytest.mark.parametrize(
  'scope, rotate',
  [
    *((scope, None) for scope in _SCOPES[:-1]),
    pytest.param('global', None, marks=pytest.mark.long),
    # Each is a program of its own.
    *(
      pytest.param(scope, 3, marks=[] if scope == 'joint' else [pytest.mark.long])
      for scope in _SCOPES
    ),
  ],
)
def test_the_budget_is_exact_in_every_step(scope, rotate):
  seen = _run(scope, rotate)
  first, moved = _counts(seen[0][1]), set()
  # 40 % of 72, 42 and 24.
  assert first == {'user': 29, 'item': 17, 'out': 9}
  for params, masks in seen:
    counts = _counts(masks)
    moved.add(tuple(counts.values()))
    users, items = masks['user']['embedding'], masks['item']['embedding']
    assert sum(counts.values()) == 55
    assert users.sum(1).min() >= 1 and items.sum(1).min() >= 1
    if scope in ('tensor', 'row'):
      assert counts == first
    if scope == 'joint':
      assert counts['out'] == 9
    if scope == 'row':
      start = seen[0][1]
      np.testing.assert_array_equal(users.sum(1), start['user']['embedding'].sum(1))
      assert set(users.sum(1)) == {2, 3} and set(items.sum(1)) == {2, 3}
    jax.tree.map(lambda p, m: np.testing.assert_array_equal(p[~m], 0), params, masks)
  assert (len(moved) > 1) == (scope in ('joint', 'global'))
  assert not np.array_equal(users, seen[0][1]['user']['embedding'])


def test_a_rotation_keeps_what_is_largest_of_the_turned_tables():
  (before, _), (after, masks) = _run('joint', 3)[3:5]
  tables = {n: before[n]['embedding'].astype(np.float64) for n in ('user', 'item')}
  _, vectors = np.linalg.eigh(sum(x.T @ x for x in tables.values()))
  for name, x in tables.items():
    turned = np.abs(x @ vectors[:, ::-1])
    mask, got = masks[name]['embedding'], np.abs(after[name]['embedding'])
    np.testing.assert_allclose(got[mask], turned[mask], rtol=1e-3, atol=1e-4)
  # Energy lies in the first columns, and so do the supports.
  columns = masks['user']['embedding'].sum(0)
  assert columns[0] > columns[-1]
  # The kernel is in no table: it was trained on.
  assert not np.array_equal(before['out']['kernel'], after['out']['kernel'])


def test_starts():
  tables = {n: x for n, x in _tables().items() if n != 'out'}
  frequencies = {'user/embedding': np.arange(12) ** 3}
  popular = js.criteria.popularity(frequencies, 1.0)
  masks = js.get_masks(_dsl(optax.sgd(0.1), start=popular).init(tables))
  rows = masks['user']['embedding'].sum(1)
  assert int(rows.sum()) == 36 and int(rows[-4:].sum()) > int(rows[:4].sum()) + 8
  matrix = np.random.default_rng(0).random((12, 7)) < 0.4
  matrix[10:, 1] = True
  svd = js.criteria.factorization(matrix, 'user/embedding', 'item/embedding')
  masks = js.get_masks(_dsl(optax.sgd(0.1), start=svd).init(tables))
  u, s, _ = np.linalg.svd(matrix.astype(float), full_matrices=False)
  strongest = np.abs(u[:, :6] * np.sqrt(s[:6])).argmax(1)
  kept = np.asarray(masks['user']['embedding'])
  assert kept.sum() == 36 and kept[np.arange(12), strongest].all()


def test_the_largest_draw_does_not_win_over_every_frequency(monkeypatch):
  bits = jnp.array([[2**31 - 1], [0]], jnp.uint32)
  monkeypatch.setattr(_weights, 'random', lambda evidence: {'embedding': bits})
  popular = js.criteria.popularity({'embedding': np.array([1, 10**9])}, 1.0)
  params = {'embedding': jnp.ones((2, 1))}
  evidence = js.core.Evidence((params,), None, None, None, 0, jax.random.key(0))
  scores = popular(evidence)['embedding']
  assert float(scores[0, 0]) < float(scores[1, 0]) < 0


@pytest.mark.long
def test_tensors_and_the_last_gradient_train_on_nonzeros():
  model = nn.Dense(8, use_bias=False)
  inputs = jax.random.normal(jax.random.key(1), (16, 12))
  target = jnp.sin(inputs[:, :8])
  how = dict(growth='last', floor=0, look_ahead=False, prunable=js.kernels)
  tx = _dsl(optax.sgd(0.5), **how, when=js.schedules.every(2))
  params, state = js.init(tx, model.init(jax.random.key(0), inputs)['params'])
  ctx, values, compact = js.compact.convert(tx, params, state)
  apply_fn = js.compact.bind(model)

  def loss(p):
    return jnp.mean((model.apply({'params': p}, inputs) - target) ** 2)

  def compact_loss(p, patterns):
    return jnp.mean((apply_fn({'params': p}, patterns, inputs) - target) ** 2)

  for _ in range(5):
    updates, state = tx.update(jax.grad(loss)(params), state, params)
    params = optax.apply_updates(params, updates)
    growth = js.compact.growth_when_due(ctx, compact_loss, values, compact)
    grads = jax.grad(compact_loss)(values, js.compact.get_patterns(compact))
    updates, compact = ctx.update(grads, compact, values, growth=growth)
    values = optax.apply_updates(values, updates)
  _, dense, back = js.compact.densify(ctx, values, compact)
  np.testing.assert_array_equal(back.masks['kernel'], state.masks['kernel'])
  np.testing.assert_allclose(dense['kernel'], params['kernel'], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  'kwargs, message',
  [
    (dict(growth='accumulated'), 'masks are not final'),
    (dict(growth='last', scope='row'), 'masks are not final'),
  ],
)
def test_other_rules_are_refused_on_nonzeros(kwargs, message):
  tx = _dsl(optax.adam(0.1), prunable=js.kernels, tables=js.kernels, **kwargs)
  params, state = js.init(tx, {'kernel': jnp.ones((8, 4))})
  with pytest.raises(ValueError, match=message):
    js.compact.convert(tx, params, state)


def test_after_its_stop_every_rule_trains_on_nonzeros():
  tx = _dsl(optax.adam(0.1), prunable=js.kernels, when=js.schedules.at(1))
  params, state = js.init(tx, {'kernel': jnp.ones((8, 4))})
  for _ in range(3):
    updates, state = tx.update(params, state, params)
    params = optax.apply_updates(params, updates)
  _, values, compact = converted = js.compact.convert(tx, params, state)
  # The gathered gradients are dense, and nothing wants them any more.
  assert compact.memory is None and values['kernel'].shape == (16,)
  _, _, back = js.compact.densify(*converted)
  assert jax.tree.structure(back) == jax.tree.structure(state)


@pytest.mark.parametrize(
  'kwargs, message',
  [
    ({'sparsity': 1.0}, r'sparsity=1.0.*\[0, 1\)'),
    ({'scope': 'table'}, "scope='table'.*global, joint, row, tensor"),
    ({'growth': 'sum'}, "growth='sum'.*accumulated, ema, last"),
    ({'floor': -1}, 'floor=-1'),
    ({'decay': 1.0}, r'decay=1.0.*\[0, 1\)'),
    ({'drop_fraction': 1.5}, r'drop_fraction=1.5.*\[0, 1\]'),
    ({'sparsity': 0.9}, 'item/embedding: 4 of 42 weights.*floor=1.*7 rows'),
    ({'floor': 7}, 'floor=7'),
    ({'prunable': _ALL, 'tables': 'no*'}, "tables|prunable.*'no\\*'"),
    ({'frequencies': {'user/*': jnp.ones(3)}}, r'user/embedding.*\(12, 6\).*\(3,\)'),
  ],
)
def test_bad_arguments_are_refused(kwargs, message):
  with pytest.raises(ValueError, match=message):
    tx = _dsl(optax.sgd(0.1), **kwargs)
    params, state = js.init(tx, _tables())
    tx.update(params, state, params)


def test_tables_of_two_widths_are_not_turned():
  params = {'a': _table(np.ones((4, 2))), 'b': _table(np.ones((4, 3)))}
  with pytest.raises(ValueError, match="rotate: .*'a/embedding': 2, 'b/embedding': 3"):
    _dsl(optax.sgd(0.1), rotate=js.schedules.at(1)).init(params)


@pytest.mark.parametrize(
  'criterion, message',
  [
    (lambda: js.criteria.popularity({'user/*': jnp.array([-1.0])}), 'frequencies'),
    (lambda: js.criteria.factorization(jnp.ones((3, 4)), 'user', 'item'), "'user'"),
    (
      lambda: js.criteria.factorization(
        jnp.ones((12, 7)), 'user/embedding', 'out/kernel'
      ),
      'out/kernel.*7 rows',
    ),
  ],
)
def test_bad_starts_are_refused(criterion, message):
  with pytest.raises(ValueError, match=message):
    _dsl(optax.sgd(0.1), start=criterion()).init(_tables())


# --- the released code -------------------------------------------------------------------

_STEPS, _INTERVAL, _LR = 20, 3, np.float32(0.05)


def _gradient(params, step):
  """Of a quadratic loss whose target moves: the same in NumPy and jax."""
  noise = np.random.RandomState(step)
  return {
    k: np.float32(0.3) * (np.asarray(p) - noise.randn(*p.shape).astype(np.float32))
    for k, p in params.items()
  }


def _numpy_released(params, masks):
  """The masking class of the release around Adam, written down from its description."""
  params = {k: np.where(masks[k], p, 0).astype(np.float32) for k, p in params.items()}
  masks = {k: m.copy() for k, m in masks.items()}
  m = {k: np.zeros_like(p) for k, p in params.items()}
  v = {k: np.zeros_like(p) for k, p in params.items()}
  for t in range(1, _STEPS + 1):
    grads = _gradient(params, t - 1)
    rate = np.float32(0.005 + 0.5 * (0.5 - 0.005) * (1 + np.cos(np.pi * t / _STEPS)))
    for k in params:
      # Dense gradients, and moments off the mask that are never cleared.
      m[k] = np.float32(0.9) * m[k] + np.float32(0.1) * grads[k]
      v[k] = np.float32(0.999) * v[k] + np.float32(0.001) * grads[k] ** 2
      hat_m, hat_v = m[k] / np.float32(1 - 0.9**t), v[k] / np.float32(1 - 0.999**t)
      weight = params[k] - _LR * hat_m / (np.sqrt(hat_v) + np.float32(1e-8))
      weight = np.where(masks[k], weight, 0).astype(np.float32)
      if t % _INTERVAL == 0:
        zeros, nonzeros = (~masks[k]).sum(), masks[k].sum()
        num = int(np.ceil(rate * np.float32(nonzeros)))
        threshold = np.sort(np.abs(weight).ravel())[zeros + num - 1]
        mask = np.abs(weight) > threshold
        gone = nonzeros - mask.sum()
        score = np.where(mask, 0, np.abs(grads[k])).ravel()
        mask = mask.ravel()
        mask[np.argsort(-score, kind='stable')[:gone]] = True
        masks[k] = mask.reshape(weight.shape)
      params[k] = np.where(masks[k], weight, 0).astype(np.float32)
    yield {k: x.copy() for k, x in masks.items()}, dict(params)


def test_released_equals_numpy_in_every_step():
  tx = js.transforms.dsl_released(
    optax.adam(float(_LR)), 0.6, seed=3, interval=_INTERVAL, total_steps=_STEPS
  )
  keys = jax.random.split(jax.random.key(0), 2)
  shapes = {'embedding': (9, 8), 'bias': (11,)}
  dense = {k: jax.random.normal(key, shapes[k]) for k, key in zip(shapes, keys)}
  params, state = js.init(tx, dense)
  masks = {k: np.asarray(m) for k, m in state.masks.items()}
  update, regrown, moves = jax.jit(tx.update), 0, 0
  wanted = _numpy_released(jax.tree.map(np.asarray, dense), masks)
  for step, (wanted_masks, values) in enumerate(wanted):
    old = state.masks
    updates, state = update(_gradient(params, step), state, params)
    params = optax.apply_updates(params, updates)
    for k in shapes:
      np.testing.assert_array_equal(state.masks[k], wanted_masks[k], f'{k} at {step}')
      np.testing.assert_allclose(params[k], values[k], rtol=1e-4, atol=1e-5)
      assert int(state.masks[k].sum()) == int(masks[k].sum())
      moves += int((old[k] != state.masks[k]).sum())
    if (step + 1) % _INTERVAL == 0:
      regrown += int(((params['embedding'] != 0) & old['embedding']).sum())
  assert moves > 20 and regrown


def test_the_released_start_is_a_coin_per_weight():
  make = lambda seed: js.transforms.dsl_released(
    optax.sgd(0.1), 0.5, seed=seed, interval=1, total_steps=2
  )
  table = {'embedding': jnp.ones((50, 40))}
  counts = {int(make(seed).init(table).masks['embedding'].sum()) for seed in range(4)}
  # 2000 coins: a standard deviation of 22.
  assert len(counts) > 1 and all(abs(c - 1000) < 5 * 22.4 for c in counts)


@pytest.mark.parametrize(
  'kwargs, message',
  [
    (dict(sparsity={'*': 0.5}), 'one float'),
    (dict(interval=0), 'interval=0'),
    (dict(total_steps=0), 'total_steps=0'),
  ],
)
def test_bad_arguments_of_the_released_are_refused(kwargs, message):
  kwargs = {'sparsity': 0.5, 'interval': 2, 'total_steps': 10, **kwargs}
  with pytest.raises(ValueError, match=message):
    js.transforms.dsl_released(optax.sgd(0.1), seed=0, **kwargs)


def test_what_a_table_is_and_what_its_rows_weigh():
  leaf = functools.partial(js.Leaf, dtype=np.dtype('float32'))
  assert js.transforms.is_table(leaf('a/embedding', (3, 2)))
  assert not js.transforms.is_table(leaf('a/kernel', (3, 2)))
  assert not js.transforms.is_table(leaf('embedding', (3, 2, 2)))
  params = {'a': {'embedding': jnp.ones((3, 2))}, 'b': jnp.ones(3)}
  weights = js.criteria.row_weights(params, {'a/*': jnp.array([0, 4, 9])}, 0.5, 'what')
  assert {n: w[:, 0].tolist() for n, w in weights.items()} == {'a/embedding': [1, 2, 3]}
  with pytest.raises(ValueError, match='what: b of shape'):
    js.criteria.row_weights(params, {'b': jnp.ones(3)}, 0.5, 'what')


def test_the_released_rule_wants_one_sparsity():
  budget = js.rules.Budget(
    {'*': 0.5}, js.distributions.uniform, js.masks.Unstructured(), '*'
  )
  with pytest.raises(ValueError, match='one float for all leaves'):
    js.transforms.dsl_released_rule(budget, 0.5)

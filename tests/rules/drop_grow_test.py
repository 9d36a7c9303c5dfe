"""The drop-and-grow engine."""

import functools
import math

import hypothesis as hp
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse as js

rules = js.rules
SHAPE = (4, 6)


def _uniform(leaves, sparsity, scores=None):
  del scores
  return dict.fromkeys(leaves, sparsity)


def _budget(structure=js.masks.Unstructured(), sparsity=0.5, **kwargs):
  return rules.Budget(sparsity, _uniform, structure, **kwargs)


@functools.partial(jax.jit, static_argnums=0)
def _decide(structure, mask, drop, grow, fraction):
  evidence = js.core.Evidence(
    ({'kernel': drop},), None, None, {'kernel': mask}, jnp.int32(0), None
  )
  decision = rules.drop_grow(
    _budget(structure), evidence, {'kernel': drop}, {'kernel': grow}, fraction
  )
  return decision.masks['kernel'], decision.survivors['kernel']


def _bits(x):
  return np.asarray(x).astype(int).tolist()


def test_golden():
  mask = jnp.array([[1, 1, 0, 0], [1, 1, 0, 0]], bool)
  worth = jnp.array([[4.0, 1.0, 0.0, 0.0], [3.0, 2.0, 0.0, 0.0]])
  grads = jnp.array([[9.0, 9.0, 5.0, 6.0], [9.0, 0.0, 8.0, 7.0]])
  # Two of four go: 1 and 2. Two come, from all but the survivors: the first dropped
  # one has the largest gradient and comes back, then the 8.
  new, alive = _decide(js.masks.Unstructured(), mask, worth, grads, 0.5)
  assert _bits(alive) == [[1, 0, 0, 0], [1, 0, 0, 0]]
  assert _bits(new) == [[1, 1, 0, 0], [1, 0, 1, 0]]


@pytest.mark.parametrize(
  'fraction, dropped', [(0, 0), (0.24, 0), (0.25, 1), (0.99, 3), (1, 4)]
)
def test_the_number_of_dropped_weights_is_a_floor(fraction, dropped):
  mask = jnp.array([[1, 1, 0, 0], [1, 1, 0, 0]], bool)
  scores = jnp.arange(8.0).reshape(2, 4)
  new, alive = _decide(js.masks.Unstructured(), mask, scores, -scores, fraction)
  assert int(alive.sum()) == 4 - dropped
  assert int(new.sum()) == 4


def test_leaves_that_are_not_pruned_keep_a_scalar_mask():
  params = {'bias': jnp.ones(3), 'kernel': jnp.ones((2, 2))}
  masks = {'bias': jnp.ones((), bool), 'kernel': jnp.eye(2, dtype=bool)}
  evidence = js.core.Evidence((params,), None, None, masks, jnp.int32(0), None)
  decision = rules.drop_grow(_budget(), evidence, params, params, 0.5)
  assert decision.masks['bias'].shape == decision.survivors['bias'].shape == ()
  assert decision.memory is None


def _reference(mask, drop, grow, fraction):
  """NumPy, for one layer of distinct numbers."""
  mask, drop, grow = mask.ravel(), drop.ravel(), grow.ravel()
  active = np.flatnonzero(mask)
  num_dropped = int(np.float32(fraction) * np.float32(len(active)))
  alive = active[np.argsort(drop[active])][num_dropped:]
  others = np.setdiff1d(np.arange(mask.size), alive)
  come = others[np.argsort(-grow[others])][:num_dropped]
  return np.union1d(alive, come), np.sort(alive)


def test_equals_numpy():
  rng = np.random.RandomState(0)
  for fraction in rng.rand(25):
    mask = rng.rand(*SHAPE) < rng.rand()
    drop, grow = rng.rand(2, *SHAPE).astype(np.float32)
    new, alive = _decide(js.masks.Unstructured(), mask, drop, grow, fraction)
    wanted_new, wanted_alive = _reference(mask, drop, grow, fraction)
    np.testing.assert_array_equal(np.flatnonzero(new), wanted_new)
    np.testing.assert_array_equal(np.flatnonzero(alive), wanted_alive)


_VALUES = st.sampled_from([0.0, 1.0, 2.0, 0.5, math.inf, math.nan])
_SCORES = st.lists(_VALUES, min_size=24, max_size=24).map(
  lambda x: np.float32(x).reshape(SHAPE)
)


@hp.settings(max_examples=60)
@hp.given(
  st.lists(st.booleans(), min_size=24, max_size=24),
  _SCORES,
  _SCORES,
  st.sampled_from([0.0, 0.3, 0.5, 1.0]),
)
def test_count_and_survivors_whatever_the_scores(bits, drop, grow, fraction):
  mask = np.reshape(bits, SHAPE)
  new, alive = map(
    np.asarray, _decide(js.masks.Unstructured(), mask, drop, grow, fraction)
  )
  assert new.sum() == mask.sum()
  assert not (alive & ~mask).any()
  assert not (alive & ~new).any()
  kept = mask.sum() - int(np.float32(fraction) * np.float32(mask.sum()))
  # A NaN weight may be worth less than an inactive one; then it is dropped too.
  assert kept - np.isnan(drop[mask]).sum() <= alive.sum() <= kept


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16', 'uint32'])
def test_other_dtypes_and_ties(dtype):
  mask = np.arange(24).reshape(SHAPE) % 3 == 0
  drop = jnp.full(SHAPE, 1.0, 'float32' if dtype == 'uint32' else dtype)
  new, alive = _decide(js.masks.Unstructured(), mask, drop, jnp.ones(SHAPE, dtype), 0.5)
  assert (int(new.sum()), int(alive.sum())) == (8, 4)
  assert not bool(jnp.any(alive & ~new)) and not bool(jnp.any(alive & ~mask))


def test_nan_weights_are_dropped_first_and_nan_gradients_grow_last():
  mask = jnp.array([[1, 1, 0, 0], [1, 1, 0, 0]], bool)
  drop = jnp.array([[jnp.nan, 1.0, 0.0, 0.0], [3.0, 2.0, 0.0, 0.0]])
  grow = jnp.array([[jnp.nan, 0.0, jnp.nan, 0.0], [0.0, 0.0, jnp.nan, 0.5]])
  new, alive = _decide(js.masks.Unstructured(), mask, drop, grow, 0.25)
  assert _bits(alive) == [[0, 1, 0, 0], [1, 1, 0, 0]]
  assert _bits(new) == [[0, 1, 0, 0], [1, 1, 0, 1]]


def test_infinite_gradients_do_not_push_out_survivors():
  mask = jnp.arange(24).reshape(SHAPE) % 2 == 0
  drop = jnp.arange(24.0).reshape(SHAPE)
  new, alive = _decide(
    js.masks.Unstructured(), mask, drop, jnp.full(SHAPE, jnp.inf), 0.25
  )
  assert int(alive.sum()) == 9 and not bool(jnp.any(alive & ~new))


def test_constant_fan_in_is_kept_while_the_drop_looks_at_the_layer():
  structure = js.masks.Unstructured('output')
  mask = jnp.array([[1, 1], [1, 1], [0, 0], [0, 0]], bool)
  drop = jnp.array([[1.0, 9.0], [2.0, 8.0], [0.0, 0.0], [0.0, 0.0]])
  grow = jnp.array([[0.0, 0.0], [0.0, 0.0], [5.0, 1.0], [6.0, 1.0]])
  new, alive = _decide(structure, mask, drop, grow, 0.5)
  assert _bits(alive) == [[0, 1], [0, 1], [0, 0], [0, 0]]
  assert _bits(new) == [[0, 1], [0, 1], [1, 0], [1, 0]]


def test_nm_keeps_n_per_group():
  structure = js.masks.NM(2, 4)
  rng = np.random.RandomState(1)
  shape = (8, 5)
  mask = structure.select(js.Leaf('k', shape, in_axes=(0,)), rng.rand(*shape), 20)
  drop, grow = rng.rand(2, *shape).astype(np.float32)
  new, alive = map(np.asarray, _decide(structure, mask, drop, grow, 0.5))
  assert (new.reshape(2, 4, 5).sum(axis=1) == 2).all()
  assert alive.sum() == 10 and not (alive & ~new).any()
  # The drop is over the layer: some group lost both, some none.
  assert set(alive.reshape(2, 4, 5).sum(axis=1).ravel()) == {0, 1, 2}
  # Within a group the best non-survivors grow.
  for group in np.ndindex(2, 5):
    rows = slice(group[0] * 4, group[0] * 4 + 4)
    others = np.where(alive[rows, group[1]], -1, grow[rows, group[1]])
    come = 2 - alive[rows, group[1]].sum()
    wanted = alive[rows, group[1]].copy()
    wanted[np.argsort(-others)[:come]] = True
    np.testing.assert_array_equal(new[rows, group[1]], wanted)


def test_channels():
  mask = jnp.array([[True, True, False, False]])
  drop = jnp.array([[1.0, 5.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
  grow = jnp.array([[0.0, 0.0, 3.0, 0.0], [0.0, 0.0, 0.0, 2.0]])
  new, alive = _decide(js.masks.Channel(), mask, drop, grow, 0.5)
  # Means: channel 0 has 1.0, channel 1 has 2.5; the gradient means are 1.5 and 1.0.
  assert _bits(alive) == [[0, 1, 0, 0]]
  assert _bits(new) == [[0, 1, 1, 0]]


def test_blocks():
  mask = jnp.kron(jnp.array([[1, 0], [1, 0]]), jnp.ones((2, 2))).astype(bool)
  drop = jnp.where(mask, jnp.arange(16.0).reshape(4, 4), 0.0)
  grow = jnp.zeros((4, 4)).at[3, 3].set(1.0)
  new, alive = _decide(js.masks.Block((2, 2)), mask, drop, grow, 0.5)
  assert _bits(alive) == [[0] * 4] * 2 + [[1, 1, 0, 0]] * 2
  assert _bits(new) == [[0] * 4] * 2 + [[1] * 4] * 2


def test_stacked_layers_are_rewired_apart():
  budget = _budget(leaves={'kernel': js.stacked()})
  mask = jnp.tile(jnp.array([[True, True, False, False]]), (3, 2, 1))
  drop = jnp.arange(24.0).reshape(3, 2, 4)
  evidence = js.core.Evidence(
    ({'kernel': drop},), None, None, {'kernel': mask}, jnp.int32(0), None
  )
  decision = rules.drop_grow(
    budget, evidence, {'kernel': drop}, {'kernel': drop}, jnp.float32(0.5)
  )
  alive, new = decision.survivors['kernel'], decision.masks['kernel']
  # By one threshold the first layer would have lost all of its weights.
  assert _bits(alive) == [[[0, 0, 0, 0], [1, 1, 0, 0]]] * 3
  assert np.asarray(new).sum(axis=(1, 2)).tolist() == [4, 4, 4]


def _pool(masks, drop, grow, fraction, structure=js.masks.Unstructured()):
  evidence = js.core.Evidence((drop,), None, None, masks, jnp.int32(0), None)
  return rules.drop_grow(_budget(structure), evidence, drop, grow, fraction, pool=True)


def test_golden_pool():
  masks = {
    'a': jnp.array([[1, 1, 0], [1, 0, 0]], bool),
    'b': jnp.array([[1, 1], [1, 0]], bool),
  }
  drop = {
    'a': jnp.array([[9.0, 8.0, 0.0], [7.0, 0.0, 0.0]]),
    'b': jnp.array([[1.0, 2.0], [3.0, 0.0]]),
  }
  grow = {
    'a': jnp.array([[0.0, 0.0, 5.0], [0.0, 6.0, 1.0]]),
    'b': jnp.array([[4.0, 0.0], [0.0, 0.5]]),
  }
  # Of six active weights three go: 1 and 2 of b, but not its best; then the 7 of a.
  decision = _pool(masks, drop, grow, 0.5)
  assert _bits(decision.survivors['a']) == [[1, 1, 0], [0, 0, 0]]
  assert _bits(decision.survivors['b']) == [[0, 0], [1, 0]]
  # The three largest gradients come: 6 and 5 in a, 4 in b where a weight was dropped.
  assert _bits(decision.masks['a']) == [[1, 1, 1], [0, 1, 0]]
  assert _bits(decision.masks['b']) == [[1, 0], [1, 0]]


def test_a_pool_keeps_its_total_and_no_leaf_is_emptied():
  draw = np.random.default_rng(0)
  shapes = {'a': (8, 4), 'b': (6, 6), 'c': (2, 3)}
  masks = {k: jnp.asarray(draw.random(s) < 0.4) for k, s in shapes.items()}
  # All that c has is worth less than anything else.
  scale = {'a': 1.0, 'b': 1.0, 'c': 1e-6}
  scores = lambda: {
    k: jnp.asarray(scale[k] * draw.random(s), jnp.float32) for k, s in shapes.items()
  }
  total = sum(int(m.sum()) for m in masks.values())
  decide = jax.jit(_pool)
  for fraction in (0.0, 0.3, 1.0):
    for _ in range(3):
      decision = decide(masks, scores(), scores(), fraction)
      new = decision.masks
      assert sum(int(m.sum()) for m in new.values()) == total
      assert all(int(m.sum()) >= 1 for m in new.values())
      gone = total - sum(int(m.sum()) for m in decision.survivors.values())
      assert gone == min(math.floor(np.float32(fraction) * total), total - 3)
      masks = new


def test_a_pool_is_of_single_weights():
  with pytest.raises(ValueError, match=r'a: weights compete.*Channel'):
    _pool(
      {'a': jnp.ones((2, 2), bool)},
      {'a': jnp.ones((2, 2))},
      {'a': jnp.ones((2, 2))},
      0.5,
      js.masks.Channel(),
    )


def test_golden_pool_of_some_leaves():
  masks = {'a': jnp.array([[1, 1]], bool), 'b': jnp.array([[1, 0]], bool)}
  masks['c'] = masks['b']
  drop = {k: jnp.array([v]) for k, v in {'a': [1.0, 2.0], 'b': [3, 0.0]}.items()}
  drop['c'] = jnp.array([[9.0, 0.0]])
  grow = {'a': jnp.array([[0.0, 0.0]]), 'b': jnp.array([[0.0, 4.0]])}
  grow['c'] = jnp.array([[0.0, 9.0]])
  evidence = js.core.Evidence((drop,), None, None, masks, jnp.int32(0), None)
  decision = rules.drop_grow(
    _budget(), evidence, drop, grow, 0.4, pool=lambda leaf: leaf.name in 'ab'
  )
  # Of three one goes, the 1 of a; the 4 of b comes. c keeps its only weight: 40 % of
  # one is none.
  assert {k: _bits(m)[0] for k, m in decision.masks.items()} == {
    'a': [0, 1],
    'b': [1, 1],
    'c': [1, 0],
  }


def test_who_is_in_a_pool():
  params = {name: jnp.ones((2, 2)) for name in 'abc'}
  leaves = js.leaves_of({name: params[name] for name in 'ab'})
  for pool, wanted in (
    (True, 'ab'), (False, ''), (('[bc]',), 'b'), (lambda leaf: leaf.name != 'b', 'a')
  ):  # fmt: skip
    assert ''.join(rules.pooled_leaves(pool, params, leaves)) == wanted


def test_rows_need_tables_of_single_weights():
  params = {'kernel': jnp.ones((2, 2, 2))}
  evidence = js.core.Evidence((params,), None, None, None, jnp.int32(0), None)
  evidence = evidence._replace(masks={'kernel': jnp.ones((2, 2, 2), bool)})
  rows = rules.Rows('*')
  with pytest.raises(ValueError, match='is no table'):
    rules.drop_grow(_budget(), evidence, params, params, 0.5, rows=rows)
  flat = jax.tree.map(lambda x: x[0], (evidence.params[0], evidence.masks))
  evidence = evidence._replace(params=flat[:1], masks=flat[1])
  structured = _budget(js.masks.Channel())
  with pytest.raises(ValueError, match='only as masks.Unstructured'):
    rules.drop_grow(structured, evidence, flat[0], flat[0], 0.5, rows=rows)

"""Metrics against a slow plain implementation; packed rows against dense ones."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import _packed, _ranking

_KS = (3, 7)


def _plain(scores, wanted, known, ks, others=None):
  """The metrics by their definitions, one user after another."""
  num_users, num_items = scores.shape
  values, shown = {}, {k: set() for k in ks}
  for user in range(num_users):
    goal = {i for u, i in wanted if u == user}
    if not goal:
      continue
    seen = {i for u, i in known if u == user}
    candidates = [i for i in range(num_items) if i not in seen]
    if others is not None:
      allowed = goal | {i for u, i in others if u == user}
      candidates = [i for i in candidates if i in allowed]
    ranked = sorted(candidates, key=lambda i: -scores[user, i])
    for k in ks:
      top = ranked[:k]
      shown[k] |= set(top)
      hits = [i in goal for i in top]
      ideal = sum(1 / math.log2(r + 2) for r in range(min(k, len(goal))))
      gain = sum(h / math.log2(r + 2) for r, h in enumerate(hits))
      first = next((1 / (r + 1) for r, h in enumerate(hits) if h), 0.0)
      for name, value in (
        (f'recall@{k}', sum(hits) / len(goal)),
        (f'recall@{k}_min', sum(hits) / min(k, len(goal))),
        (f'ndcg@{k}', gain / ideal),
        (f'hit_rate@{k}', float(any(hits))),
        (f'mrr@{k}', first),
      ):
        values.setdefault(name, []).append(value)
  means = {name: sum(v) / len(v) for name, v in values.items()}
  return {**means, **{f'coverage@{k}': len(shown[k]) / num_items for k in ks}}


def _problem(seed=0, num_users=23, num_items=31):
  rng = np.random.default_rng(seed)
  scores = rng.normal(size=(num_users, num_items)).astype(np.float32)
  draw = rng.random(scores.shape)
  draw[4] = 0.5  # A user with nothing to be found.
  draw[5] = np.where(np.arange(num_items) < 29, 0.95, 0.05)  # Two candidates.
  wanted, known = (np.argwhere(m) for m in (draw < 0.15, draw > 0.8))
  others = np.argwhere((draw > 0.3) & (draw < 0.45))
  return scores, wanted, known, others


@pytest.fixture(scope='module')
def evaluate():
  score = lambda params, data, users, known: params[users]
  return _ranking.evaluator(score, 31, _KS)


@pytest.mark.parametrize('chunk', [4, 64])
@pytest.mark.parametrize('sampled', [False, True])
def test_metrics_are_those_of_a_plain_implementation(evaluate, chunk, sampled):
  scores, wanted, known, others = _problem()
  others = others if sampled else None
  goal = _ranking.target(wanted, known, 23, 31, chunk, others)
  found = evaluate(jnp.asarray(scores), {}, goal)
  plain = _plain(scores, *(p.tolist() for p in (wanted, known)), _KS, others if others is None else others.tolist())  # fmt: skip
  assert list(found) == _ranking.metric_names(_KS) and set(found) == set(plain)
  for name, value in plain.items():
    assert found[name] == pytest.approx(value, abs=2e-6), name


def test_golden_user():
  hits = jnp.array([[False, True, False, True]])
  found = _ranking.user_metrics(hits, jnp.array([3]), (2, 4))
  got = {k: float(v[0]) for k, v in found.items()}
  # One of two, of three wanted; both hits in four ranks.
  assert got['recall@2'] == pytest.approx(1 / 3)
  assert got['recall@2_min'] == pytest.approx(1 / 2)
  assert got['recall@4'] == pytest.approx(2 / 3) == got['recall@4_min']
  ideal = 1 + 1 / math.log2(3) + 0.5
  assert got['ndcg@4'] == pytest.approx((1 / math.log2(3) + 1 / math.log2(5)) / ideal)
  assert got['mrr@2'] == 0.5 and got['hit_rate@2'] == 1.0


def test_perfect_and_useless_rankings(evaluate):
  _, wanted, known, _ = _problem()
  goal = _ranking.target(wanted, known, 23, 31, 8)
  scores = np.zeros((23, 31), np.float32)
  scores[wanted[:, 0], wanted[:, 1]] = 1
  best, worst = (evaluate(jnp.asarray(s), {}, goal) for s in (scores, -scores))
  assert best['ndcg@7'] == pytest.approx(1) and best['recall@7_min'] == pytest.approx(1)
  assert worst['recall@3'] < 0.2


def test_known_items_are_no_candidates():
  scores = jnp.array([[3.0, 2.0, 1.0]])
  assert _ranking.top_k(scores, jnp.array([[0, 3]]), 3).tolist() == [[1, 2, 3]]


@pytest.mark.parametrize('ks', [(), (0,), (32,), (2.0,)])
def test_bad_ks_are_refused(ks):
  with pytest.raises(ValueError, match='ks: got'):
    _ranking.evaluator(None, 31, ks)


def test_nobody_to_rank():
  with pytest.raises(ValueError, match='no user has an item'):
    _ranking.target(np.zeros((0, 2), int), np.zeros((0, 2), int), 3, 4, 2)


# --- packed rows -------------------------------------------------------------------------


def _sparse(rows, columns, seed=0):
  rng = np.random.default_rng(seed)
  table = rng.normal(size=(rows, columns)).astype(np.float32)
  mask = rng.random(table.shape) < 0.3
  mask[1] = False
  mask[2] = True
  return np.where(mask, table, 0), mask


@pytest.mark.parametrize(
  'columns, dtypes', [(8, ('uint8', 'uint8')), (256, ('uint8', 'uint16')), (300, ('uint16', 'uint16'))]
)  # fmt: skip
def test_packed_rows_are_the_table_in_as_many_bytes(columns, dtypes):
  table, mask = _sparse(9, columns)
  mask[0, 0], table[0, 0] = True, 0.0  # A kept weight may be 0.
  packed = _packed.pack(table, mask)
  assert (packed.columns.dtype, packed.counts.dtype) == dtypes
  assert int(packed.counts.astype(int).sum()) == mask.sum()
  np.testing.assert_array_equal(_packed.unpack(packed), table)
  np.testing.assert_array_equal(
    _packed.unpack(packed, jnp.array([2, 1])), table[[2, 1]]
  )
  widths = [np.dtype(d).itemsize for d in dtypes]
  assert _packed.num_bytes(packed) == mask.sum() * (4 + widths[0]) + 9 * widths[1]
  half = _packed.pack(table, mask, np.float16)
  np.testing.assert_array_equal(_packed.unpack(half), table.astype(np.float16))


def test_top_k_straight_from_packed_rows():
  (user, _), (item, _) = _sparse(12, 8), _sparse(400, 8, seed=1)
  assert (item != 0).sum() > 256  # More than the counts can count.
  packed = _packed.pack(user), _packed.pack(item)
  users, known = jnp.array([3, 0, 11]), jnp.array([[5, 6], [400, 400], [0, 400]])
  got = jax.jit(_packed.scores)(*packed, users)
  np.testing.assert_allclose(got, user[np.array(users)] @ item.T, rtol=1e-5, atol=1e-5)
  best = _ranking.top_k(got, known, 5)
  dense = _ranking.top_k(jnp.asarray(user[np.array(users)] @ item.T), known, 5)
  np.testing.assert_array_equal(best, dense)


def test_bad_tables_are_not_packed():
  with pytest.raises(ValueError, match=r'shape \(3,\)'):
    _packed.pack(np.ones(3))

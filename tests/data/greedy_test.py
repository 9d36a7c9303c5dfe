"""Each greedy selection against its definition, on whole matrices in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse as js
from jaxsparse.data import _greedy_facility, _greedy_geometry

N, C, H, K = 37, 3, 4, 9
_rng = np.random.default_rng(0)
ERRORS = _rng.normal(size=(N, C))
FEATURES = _rng.normal(size=(N, H))


def _written_out(errors, features):
  outer = errors[:, :, None] * features[:, None, :]
  return np.concatenate([errors, outer.reshape(len(errors), -1)], 1)


DENSE = _written_out(ERRORS, FEATURES)
FACTORED = js.data.LastLayerGradients(ERRORS, FEATURES)
BOTH = pytest.mark.parametrize('rows', [DENSE, FACTORED], ids=['dense', 'factored'])


def _greedy(gain, size=K, count=N):
  """Plain greedy: `gain(chosen, x)` of all others, the first of the largest."""
  chosen = []
  for _ in range(size):
    gains = [-np.inf if x in chosen else gain(chosen, x) for x in range(count)]
    chosen.append(int(np.argmax(gains)))
  return chosen


def _cosines(x):
  unit = x / np.linalg.norm(x, axis=1, keepdims=True)
  return unit @ unit.T


DISTANCES = np.linalg.norm(DENSE[:, None] - DENSE[None], axis=2)


@BOTH
def test_herding(rows):
  def gain(chosen, x):
    total = DENSE[[*chosen, x]].sum(0)
    return -np.linalg.norm((len(chosen) + 1) * DENSE.mean(0) - total)

  found = js.data.herding(rows, K)
  assert found.indices.tolist() == _greedy(gain) and found.weights is None


@BOTH
@pytest.mark.parametrize('start', [None, 5])
def test_k_center(rows, start):
  def gain(chosen, x):
    if chosen:
      return DISTANCES[x, chosen].min()
    return -np.linalg.norm(DENSE[x] - DENSE.mean(0)) if start is None else x == start

  found = js.data.k_center_greedy(rows, K, start=start)
  assert found.indices.tolist() == _greedy(gain)


def test_where_the_origin_lies_changes_nothing():
  craig = functools.partial(js.data.craig, chunk=16)
  for select in (js.data.herding, js.data.k_center_greedy, craig):
    near, far = select(DENSE, K), select(DENSE + 300, K)
    assert near.indices.tolist() == far.indices.tolist()


def test_k_center_covers_within_twice_the_best():
  x = _rng.normal(size=(10, 2))
  distance = np.linalg.norm(x[:, None] - x[None], axis=2)
  best = min(
    distance[:, [a, b, c]].min(1).max()
    for a in range(10)
    for b in range(a)
    for c in range(b)
  )
  chosen = np.asarray(js.data.k_center_greedy(x, 3).indices)
  assert distance[:, chosen].min(1).max() <= 2 * best
  with pytest.raises(ValueError, match=r'start=10: wanted an index in \[0, 10\)'):
    js.data.k_center_greedy(x, 3, start=10)


def test_facility_location():
  similarity = (1 + _cosines(DENSE)) / 2
  value = lambda chosen: similarity[:, chosen].max(1).sum() if chosen else 0.0
  gain = lambda chosen, x: value([*chosen, x]) - value(chosen)
  found = js.data.facility_location(FACTORED, K, chunk=16)
  assert found.indices.tolist() == _greedy(gain) and found.weights is None


@BOTH
def test_craig(rows):
  def gain(chosen, x):
    return -DISTANCES[:, [*chosen, x]].min(1).sum()

  wanted = _greedy(gain)
  found = js.data.craig(rows, K, chunk=16)
  assert found.indices.tolist() == wanted
  nearest = DISTANCES[:, wanted].argmin(1)
  assert found.weights.tolist() == np.bincount(nearest, minlength=K).tolist()
  assert found.weights.dtype == jnp.float32 and found.weights.sum() == N


@pytest.mark.parametrize('trade_off', [1.0, 3.0])
def test_graph_cut(trade_off):
  similarity = _cosines(DENSE)

  def value(chosen):
    inside = similarity[np.ix_(chosen, chosen)].sum() if chosen else 0.0
    return trade_off * similarity[:, chosen].sum() - inside

  gain = lambda chosen, x: value([*chosen, x]) - value(chosen)
  found = js.data.graph_cut(FACTORED, K, trade_off=trade_off)
  assert found.indices.tolist() == _greedy(gain)


@pytest.mark.parametrize(
  'select',
  [
    js.data.craig,
    js.data.facility_location,
    js.data.gradmatch,
    js.data.graph_cut,
    js.data.herding,
    js.data.k_center_greedy,
    js.data.mig,
  ],
)
def test_copies_and_ties(select):
  x = jnp.asarray(_rng.integers(0, 2, (12, 2)), jnp.float32)
  assert sorted(select(x, 12).indices.tolist()) == list(range(12))
  # Of equal gains the lower index.
  indices, weights = select(np.ones((12, 2)), 12)
  assert indices.tolist() == list(range(12))
  if select is js.data.craig:
    assert weights.tolist() == [12.0] + [0.0] * 11


def test_lazy_bounds_save_work_and_change_nothing():
  # Blobs: most records never come near to winning.
  x = np.repeat(10 * _rng.normal(size=(5, 3)), 40, 0) + _rng.normal(size=(200, 3))
  similarity = (1 + _cosines(x)) / 2
  value = lambda chosen: similarity[:, chosen].max(1).sum() if chosen else 0.0
  gain = lambda chosen, i: value([*chosen, i]) - value(chosen)
  found = js.data.facility_location(x, 6)
  assert found.indices.tolist() == _greedy(gain, 6, 200)


def test_stochastic_greedy_looks_at_a_sample():
  chosen = np.asarray(js.data.craig(DENSE, K, epsilon=0.2, seed=0).indices)
  assert len(set(chosen.tolist())) == K
  other = js.data.craig(DENSE, K, epsilon=0.2, seed=1).indices
  assert chosen.tolist() != other.tolist()
  # ceil(37 / 9 log 5) = 7 of 37 a step: worse than lazy, better than a random subset.
  cost = lambda s: DISTANCES[:, np.asarray(s)].min(1).sum()
  lazy = cost(js.data.craig(DENSE, K, chunk=16).indices)
  random = np.mean([cost(_rng.choice(N, K, replace=False)) for _ in range(100)])
  assert lazy <= cost(chosen) < random
  # A sample of everything is the plain greedy method.
  everything = js.data.craig(DENSE, K, epsilon=1e-30, seed=0)
  lazily = js.data.craig(DENSE, K, chunk=16)
  assert everything.indices.tolist() == lazily.indices.tolist()


def test_arguments_of_facility_location():
  with pytest.raises(ValueError, match='epsilon=0.1, seed=None: wanted both'):
    js.data.facility_location(DENSE, K, epsilon=0.1)
  with pytest.raises(ValueError, match='epsilon=None, seed=0: wanted both'):
    js.data.craig(DENSE, K, seed=0)
  with pytest.raises(ValueError, match=r'epsilon=1.0: wanted a number in \(0, 1\)'):
    js.data.craig(DENSE, K, epsilon=1.0, seed=0)
  with pytest.raises(ValueError, match='chunk=0'):
    js.data.facility_location(DENSE, K, chunk=0)
  with pytest.raises(ValueError, match='trade_off=-1'):
    js.data.graph_cut(DENSE, K, trade_off=-1)


def test_no_retrace_and_the_same_under_jit():
  calls = _greedy_geometry._herding._cache_size()
  first = js.data.herding(DENSE, K)
  again = js.data.herding(DENSE[::-1], K)
  assert _greedy_geometry._herding._cache_size() <= calls + 1
  assert first.indices.tolist() != again.indices.tolist()
  jitted = jax.jit(lambda x: js.data.herding(x, K))(jnp.asarray(DENSE, jnp.float32))
  assert jitted.indices.tolist() == first.indices.tolist() and jitted.weights is None


def test_nan_in_a_program_ends():
  select = jax.jit(lambda x: js.data.facility_location(x, K, chunk=16))
  found = select(np.full(DENSE.shape, np.nan, np.float32))
  assert len(set(found.indices.tolist())) == K


def _largest(jaxpr):
  """The largest array anywhere inside a traced computation."""
  sizes = [v.aval.size for e in jaxpr.eqns for v in e.outvars]
  for equation in jaxpr.eqns:
    for inner in jax.tree.leaves(list(equation.params.values())):
      inner = getattr(inner, 'jaxpr', inner)
      sizes += [_largest(inner)] if hasattr(inner, 'eqns') else []
  return max(sizes, default=0)


def test_no_array_has_a_place_for_each_pair():
  count, chunk = 512, 16
  x, probs = np.ones((count, 4)), np.full((count, 2), 0.5)
  calls = {
    'cal': (lambda x, p: js.data.cal(p, x, chunk=chunk), count * chunk),
    'craig': (lambda x, p: js.data.craig(x, 4, chunk=chunk), count * chunk),
    'herding': (lambda x, p: js.data.herding(x, 4), 4 * count),
    'gradmatch': (lambda x, p: js.data.gradmatch(x, 4), 4 * count),
    'graph_cut': (lambda x, p: js.data.graph_cut(x, 4), 4 * count),
    'k_center': (lambda x, p: js.data.k_center_greedy(x, 4), 4 * count),
  }
  for name, (call, most) in calls.items():
    found = _largest(jax.make_jaxpr(call)(x, probs).jaxpr)
    assert found <= most, f'{name}: {found}'
  assert _greedy_facility._REFRESH <= chunk

"""Sizes, ties and budgets: what all selections share."""

import collections
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse as js


def _lowbias32(i):
  mask = 2**32 - 1
  i = ((i ^ (i >> 16)) * 0x7FEB352D) & mask
  i = ((i ^ (i >> 15)) * 0x846CA68B) & mask
  return i ^ (i >> 16)


def test_top_scores_ties_by_hash_and_not_by_place():
  scores = [1.0, 2.0, 2.0, 2.0, 0.0, 2.0, np.inf, -np.inf, 2.0, 1.0]
  order = sorted(range(10), key=lambda i: (-scores[i], -_lowbias32(i)))
  for size in (4, 10):
    found = js.data.top_scores(np.array(scores), size)
    assert found.indices.tolist() == order[:size]
    assert found.indices.dtype == jnp.int32 and found.weights is None


def test_random_subset_is_uniform_and_without_replacement():
  draw = jax.jit(jax.vmap(lambda key: js.data.random_subset(6, 2, seed=key).indices))
  found = np.asarray(draw(jax.random.split(jax.random.key(0), 3000)))
  counts = collections.Counter(tuple(sorted(pair)) for pair in found.tolist())
  assert len(counts) == 15 and all(a != b for a, b in counts)
  # 200 of each are expected, with a standard deviation of 13.7.
  assert max(abs(c - 200) for c in counts.values()) < 4.5 * 13.7


def test_a_share_is_rounded_and_equals_its_count():
  scores = np.arange(10.0)
  assert js.data.top_scores(scores, 0.26).indices.tolist() == [9, 8, 7]
  assert js.data.top_scores(scores, 1.0).indices.shape == (10,)
  assert js.data.top_scores(scores, np.int64(1)).indices.shape == (1,)


@pytest.mark.parametrize(
  'size, message',
  [
    (0, r'size=0: wanted from 1 to 4'),
    (5, r'size=5: wanted from 1 to 4'),
    (0.0, r'size=0.0.*\(0, 1\]'),
    (1.5, r'size=1.5.*\(0, 1\]'),
    (float('nan'), r'size=nan'),
    (0.1, r'size=0.1 of 4 records keeps none'),
    (True, r'size=True: wanted an int'),
    ('2', r"size='2': wanted an int"),
  ],
)
def test_bad_sizes_are_refused_by_all(size, message):
  x, y = np.arange(8.0).reshape(4, 2), np.array([0, 1, 0, 1])
  rows = js.data.LastLayerGradients(x, x)
  calls = [
    lambda: js.data.top_scores(x[:, 0], size),
    lambda: js.data.random_subset(4, size, seed=0),
    lambda: js.data.herding(x, size),
    lambda: js.data.k_center_greedy(x, size),
    lambda: js.data.facility_location(x, size),
    lambda: js.data.craig(x, size),
    lambda: js.data.graph_cut(x, size),
    lambda: js.data.gradmatch(x, size),
    lambda: js.data.glister(rows, size, x, y, x, learning_rate=0.1),
    lambda: js.data.moderate(x, y, size),
    lambda: js.data.ccs(x[:, 0], size, hard_cutoff=0.0, seed=0),
    lambda: js.data.mig(x, size),
    lambda: js.data.class_budgets(y, size),
    lambda: js.data.per_class(js.data.herding, x, y, size),
  ]
  for call in calls:
    with pytest.raises(ValueError, match=message):
      call()


def test_class_budgets_are_exact_largest_remainders():
  rng = np.random.default_rng(0)
  for _ in range(30):
    counts = rng.integers(1, 30, 7)
    labels = rng.permutation(np.repeat(np.arange(7), counts))
    size = int(rng.integers(1, labels.size + 1))
    shares = [Fraction(size * int(n), int(labels.size)) for n in counts]
    wanted = [int(s) for s in shares]
    order = sorted(range(7), key=lambda c: (wanted[c] - shares[c], c))
    for c in order[: size - sum(wanted)]:
      wanted[c] += 1
    found = js.data.class_budgets(labels, size)
    assert found.tolist() == wanted and found.sum() == size
    assert (found <= counts).all()


def test_per_class_gives_each_class_its_rows_and_maps_back():
  labels = np.array([2, 0, 1, 0, 2, 2, 0, 0])
  data = {'scores': np.arange(8.0), 'x': np.arange(16.0).reshape(8, 2)}
  seen = []

  def select(part, size):
    seen.append((part['x'][:, 0].tolist(), size))
    return js.data.Selection(np.arange(size), np.full(size, float(size)))

  indices, weights = js.data.per_class(select, data, labels, 0.5)
  assert seen == [([2, 6, 12, 14], 2), ([4], 1), ([0, 8, 10], 1)]
  assert indices.tolist() == [1, 3, 2, 0]
  assert weights.tolist() == [2.0, 2.0, 1.0, 1.0]


def test_per_class_seeds_each_class_by_itself():
  select = lambda x, size, seed: js.data.random_subset(len(x), size, seed=seed)
  labels = np.arange(200) % 2
  found = js.data.per_class(select, np.zeros(200), labels, 100, seed=0)
  first, second = np.split(np.asarray(found.indices), 2)
  assert found.weights is None
  assert set(labels[first]) == {0} and set(labels[second]) == {1}
  assert (np.sort(first) // 2).tolist() != (np.sort(second) // 2).tolist()


def test_classes_that_are_empty_or_unknown_are_refused():
  labels = np.array([0, 2, 2])
  with pytest.raises(ValueError, match='no record of class 1 among 3'):
    js.data.class_budgets(labels, 1)
  with pytest.raises(ValueError, match='no record of class 1 among 4'):
    js.data.per_class(js.data.herding, np.ones((3, 2)), labels, 1, num_classes=4)
  with pytest.raises(ValueError, match=r'labels: from 0 to 2; wanted \[0, 2\)'):
    js.data.class_budgets(labels, 1, num_classes=2)
  with pytest.raises(ValueError, match='traced'):
    jax.jit(lambda y: js.data.class_budgets(y, 1))(labels)
  labels = np.array([0, 1, 1])
  with pytest.raises(ValueError, match='data: x has shape .2, 2.; wanted 3 rows'):
    js.data.per_class(js.data.herding, {'x': np.ones((2, 2))}, labels, 1)
  with pytest.raises(ValueError, match='select: indices of shape .2,. for class 0'):
    select = lambda x, size: js.data.Selection(np.arange(2), None)
    js.data.per_class(select, np.ones(3), labels, 2)


def test_a_plan_takes_a_selection():
  x = np.arange(24.0).reshape(12, 2) % 7
  build = lambda found: js.data.subset(
    *found, num_examples=12, batch_size=2, rounds=3, seed=0
  )
  # Without weights a posterior is that of the subset; with weights, of all records.
  assert build(js.data.herding(x, 4)).likelihood_size == 4
  chosen = js.data.craig(x, 4)
  plan = build(chosen)
  assert plan.likelihood_size == 12
  indices, weights = plan.batch(0)
  of_record = dict(zip(chosen.indices.tolist(), chosen.weights.tolist()))
  # In the plan their mean is 1.
  wanted = [of_record[i] / 3 for i in indices.tolist()]
  np.testing.assert_allclose(weights, wanted, rtol=1e-6)


def test_all_work_in_a_program():
  """Traced alone: nothing looks at a value, and sizes are static."""
  data, options = js.data, {'num_classes': 2}

  def scores(x, p, y, key):
    return {
      'least_confidence': data.least_confidence(p),
      'entropy': data.entropy(p),
      'margin': data.margin(p),
      'el2n': data.el2n(p, y),
      'grand': data.grand(lambda w, x: x * w, x[0, 0], x, y),
      'grand_last_layer': data.grand_last_layer(p, y, x),
      'deepfool_margin': data.deepfool_margin(lambda _, x: x, None, x),
      'cal': data.cal(p, x, neighbors=2),
      'prototype_distances': data.prototype_distances(x, y, **options),
      'ssp_prototypes': data.ssp_prototypes(x, 2, seed=key).scores,
      'gais_style': data.gais_style(x, y, seed=key, neighbors=2, **options)[0],
    }

  def selections(x, p, y, key):
    rows = data.last_layer_gradients(p, y, x)
    found = {
      'random_subset': data.random_subset(12, 3, seed=key),
      'top_scores': data.top_scores(x[:, 0], 3),
      'moderate': data.moderate(x, y, 3, **options),
      'ccs': data.ccs(x[:, 0], 3, hard_cutoff=0.1, seed=key),
      'herding': data.herding(x, 3),
      'k_center_greedy': data.k_center_greedy(rows, 3),
      'graph_cut': data.graph_cut(rows, 3),
      'craig': data.craig(rows, 3, epsilon=0.5, seed=key),
      'facility_location': data.facility_location(rows, 3),
      'gradmatch': data.gradmatch(rows, 3),
      'glister': data.glister(rows, 3, x, y, x, learning_rate=0.1),
      'mig': data.mig(x, 3, propagation=data.label_propagation(x[:2])),
    }
    return {name: selection.indices for name, selection in found.items()}

  x, y = np.ones((12, 2), np.float32), np.zeros(12, np.int32)
  arguments = x, x / 2, y, jax.random.key(0)
  for name, found in jax.eval_shape(scores, *arguments).items():
    assert (found.shape, found.dtype) == ((12,), jnp.float32), name
  for name, found in jax.eval_shape(selections, *arguments).items():
    assert (found.shape, found.dtype) == ((3,), jnp.int32), name


def test_what_is_no_data_is_refused():
  with pytest.raises(ValueError, match='scores: NaN at 1'):
    js.data.top_scores(np.array([0.0, np.nan]), 1)
  with pytest.raises(ValueError, match='features: NaN or inf in row 1'):
    js.data.herding(np.array([[0.0], [np.inf]]), 1)
  with pytest.raises(ValueError, match=r'features: shape \(3,\)'):
    js.data.k_center_greedy(np.ones(3), 1)
  with pytest.raises(ValueError, match='gradients.features: 3 rows; wanted 2'):
    rows = js.data.LastLayerGradients(np.ones((2, 2)), np.ones((3, 2)))
    js.data.gradmatch(rows, 1)
  with pytest.raises(ValueError, match='seed'):
    js.data.random_subset(3, 1, seed=0.5)
  with pytest.raises(ValueError, match='num_classes=None'):
    x = np.ones((4, 2))
    jax.jit(lambda y: js.data.moderate(x, y, 2))(np.zeros(4, int))

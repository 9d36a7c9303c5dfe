"""Prototypes, the moderate coreset and CCS against NumPy."""

import jax
import numpy as np
import pytest

import jaxsparse as js

_rng = np.random.default_rng(0)
N, C, H = 40, 3, 4
FEATURES = _rng.normal(size=(N, H))
LABELS = _rng.integers(0, C, N)


def _distances():
  means = np.stack([FEATURES[LABELS == c].mean(0) for c in range(C)])
  return np.linalg.norm(FEATURES - means[LABELS], axis=1)


def test_prototype_distances():
  found = js.data.prototype_distances(FEATURES, LABELS)
  np.testing.assert_allclose(found, _distances(), rtol=1e-5)
  # A class without records changes nothing for the others.
  more = js.data.prototype_distances(FEATURES, LABELS, num_classes=5)
  np.testing.assert_allclose(found, more, rtol=1e-6)


def test_moderate_is_nearest_to_the_median():
  distances = _distances()
  order = np.argsort(np.abs(distances - np.median(distances)))
  found = js.data.moderate(FEATURES, LABELS, 10)
  # The median of 40 lies between two records, which tie.
  assert set(found.indices.tolist()) == set(order[:10].tolist())
  assert found.weights is None


def _inertia(x, clusters):
  groups = [x[clusters == k] for k in np.unique(clusters)]
  return sum(((g - g.mean(0)) ** 2).sum() for g in groups)


def test_ssp_is_a_fixed_point_of_k_means():
  centers = 8 * _rng.normal(size=(C, H))
  x = np.concatenate([c + _rng.normal(size=(15, H)) for c in centers])
  found = js.data.ssp_prototypes(x, C, seed=0)
  assert isinstance(found, js.data.Prototypes)
  clusters = np.asarray(found.clusters)
  means = np.stack([x[clusters == k].mean(0) for k in range(C)])
  np.testing.assert_allclose(found.centroids, means, rtol=1e-4, atol=1e-4)
  distances = np.linalg.norm(x[:, None] - means[None], axis=2)
  assert clusters.tolist() == distances.argmin(1).tolist()
  np.testing.assert_allclose(found.scores, distances.min(1), rtol=1e-4, atol=1e-4)
  assert _inertia(x, clusters) <= _inertia(x, np.arange(45) // 15) + 1e-3


def test_ssp_keeps_a_share_of_each_cluster():
  x = np.concatenate([np.zeros((6, 1)), [[1.0], [-1.0]], 50 + np.zeros((3, 1)), [[53]]])
  found = js.data.ssp_prototypes(x, 2, seed=1)
  hard = js.data.per_class(js.data.top_scores, found.scores, found.clusters, 3)
  assert set(hard.indices.tolist()) == {6, 7, 11}
  easy = js.data.per_class(js.data.top_scores, -found.scores, found.clusters, 3)
  assert not set(easy.indices.tolist()) & {6, 7, 11}


def test_ssp_of_copies_and_of_bad_numbers():
  same = js.data.ssp_prototypes(np.ones((4, 2)), 3, seed=0)
  assert same.scores.tolist() == [0.0] * 4 and set(same.clusters.tolist()) == {0}
  with pytest.raises(ValueError, match='num_clusters=5: wanted at most 4'):
    js.data.ssp_prototypes(np.ones((4, 2)), 5, seed=0)
  with pytest.raises(ValueError, match='max_steps=0'):
    js.data.ssp_prototypes(np.ones((4, 2)), 1, seed=0, max_steps=0)


def _budgets(counts, size):
  """Equal shares, small strata first: algorithm 1 with its floors."""
  budgets, rest = [0] * len(counts), size
  for done, b in enumerate(np.argsort(counts, kind='stable')):
    budgets[b] = min(counts[b], rest // (len(counts) - done))
    rest -= budgets[b]
  assert rest == 0
  return budgets


def test_ccs_gives_strata_their_budgets():
  size, cutoff = 45, 0.3
  scores = _rng.gamma(1.0, size=100) - 3  # Some below 0.
  left = 100 - round(100 * cutoff)
  easy = np.argsort(scores)[:left]
  edges = np.linspace(scores[easy].min(), scores[easy].max(), 6)
  strata = np.clip(np.searchsorted(edges, scores, 'right') - 1, 0, 4)
  counts = np.bincount(strata[easy], minlength=5)
  select = lambda seed: js.data.ccs(
    scores, size, hard_cutoff=cutoff, seed=seed, num_strata=5
  )
  found = np.asarray(select(0).indices)
  assert set(found) <= set(easy) and len(set(found)) == size
  assert (np.diff(found) > 0).all()
  assert np.bincount(strata[found], minlength=5).tolist() == _budgets(counts, size)
  assert found.tolist() != select(1).indices.tolist()


def test_ccs_draws_evenly_within_a_stratum():
  scores = np.array([0.0, 0.0, 0.0, 0.0, 1.0, 9.0])
  draw = jax.jit(
    jax.vmap(
      lambda key: js.data.ccs(scores, 3, hard_cutoff=0.2, seed=key, num_strata=2)[0]
    )
  )
  found = np.asarray(draw(jax.random.split(jax.random.key(0), 2000)))
  counts = np.bincount(found.ravel(), minlength=6)
  # The 9 is cut off and the 1 is alone in its stratum; two of the four others.
  assert counts[4:].tolist() == [2000, 0]
  assert abs(counts[:4] - 1000).max() < 4.5 * np.sqrt(500)


def test_ccs_of_equal_scores_and_of_bad_numbers():
  same = js.data.ccs(np.ones(6), 3, hard_cutoff=0.0, seed=0)
  assert len(set(same.indices.tolist())) == 3
  scores = np.arange(10.0)
  with pytest.raises(
    ValueError, match='leaves 5 of 10 records; wanted at least size=6'
  ):
    js.data.ccs(scores, 6, hard_cutoff=0.5, seed=0)
  with pytest.raises(ValueError, match=r'hard_cutoff=1.0: wanted a share in \[0, 1\)'):
    js.data.ccs(scores, 2, hard_cutoff=1.0, seed=0)
  with pytest.raises(ValueError, match='scores: inf among them; wanted finite'):
    js.data.ccs(np.append(scores, np.inf), 2, hard_cutoff=0.0, seed=0)

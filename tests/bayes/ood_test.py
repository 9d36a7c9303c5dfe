"""Ranking metrics against scikit-learn and against loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics

import jaxsparse as js


def _scores(seed, inside, outside, decimals=None, shift=1.0):
  rng = np.random.default_rng(seed)
  scores = rng.normal(size=inside), rng.normal(size=outside) + shift
  if decimals is not None:
    scores = tuple(np.round(s, decimals) for s in scores)
  return tuple(s.astype(np.float32) for s in scores)


_CASES = {
  'plain': _scores(0, 60, 41),
  'ties': _scores(1, 100, 70, decimals=0),
  'reversed': _scores(2, 30, 30, shift=-2),
  'one': (np.float32([1.0]), np.float32([2.0])),
  'alike': (np.ones(5, np.float32), np.ones(3, np.float32)),
}
_cases = pytest.mark.parametrize('inside, outside', _CASES.values(), ids=_CASES)


@_cases
def test_ranking_metrics_are_those_of_scikit_learn(inside, outside):
  labels = np.r_[np.zeros(len(inside)), np.ones(len(outside))]
  scores = np.r_[inside, outside]
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
  close(js.bayes.auroc(inside, outside), sklearn.metrics.roc_auc_score(labels, scores))
  precision = sklearn.metrics.average_precision_score
  close(js.bayes.aupr(inside, outside), precision(labels, scores))
  close(js.bayes.aupr(-outside, -inside), precision(1 - labels, -scores))
  passing = [t for t in inside if np.mean(inside <= t) >= 0.95 - 1e-9]
  close(js.bayes.fpr95(inside, outside), np.mean(outside <= min(passing)))
  for metric in (js.bayes.auroc, js.bayes.aupr, js.bayes.fpr95):
    close(jax.jit(metric)(inside, outside), metric(inside, outside))


def test_infinite_scores_are_ranked_and_nan_is_refused():
  inside, outside = jnp.array([-jnp.inf, 0.0, 1.0]), jnp.array([jnp.inf, 0.5])
  np.testing.assert_allclose(js.bayes.auroc(inside, outside), 5 / 6, rtol=1e-6)
  bad = jnp.array([0.0, jnp.nan])
  for metric in (js.bayes.auroc, js.bayes.aupr, js.bayes.fpr95):
    with pytest.raises(ValueError, match='outside: NaN'):
      metric(inside, bad)
    assert np.isnan(jax.jit(metric)(bad, inside))
    with pytest.raises(ValueError, match=r'inside: shape \(0,\)'):
      metric(jnp.zeros(0), outside)
  with pytest.raises(ValueError, match=r'losses: 3; wanted 2'):
    js.bayes.risk_coverage(outside, inside)


def test_risk_coverage_without_ties():
  rng = np.random.default_rng(0)
  uncertainty, losses = rng.permutation(50).astype(float), rng.random(50)
  curve = js.bayes.risk_coverage(uncertainty, losses)
  assert isinstance(curve, js.bayes.RiskCoverage)
  ordered = losses[np.argsort(uncertainty)]
  want = [ordered[:k].mean() for k in range(1, 51)]
  np.testing.assert_allclose(curve.risk, want, rtol=1e-5)
  np.testing.assert_allclose(curve.coverage, np.arange(1, 51) / 50)
  np.testing.assert_allclose(curve.area, np.mean(want), rtol=1e-5)


def test_risk_coverage_is_the_mean_over_orders_of_ties():
  rng = np.random.default_rng(0)
  uncertainty = np.array([0, 1, 1, 1, 2, 2, 3], float)
  losses = np.array([0, 1, 0, 0, 1, 0, 1], float)
  risks = []
  for _ in range(4000):
    order = np.lexsort((rng.random(7), uncertainty))
    risks.append(np.cumsum(losses[order]) / np.arange(1, 8))
  error = 5 * np.std(risks, axis=0) / len(risks) ** 0.5 + 1e-6
  curve = js.bayes.risk_coverage(uncertainty, losses)
  assert (np.abs(curve.risk - np.mean(risks, axis=0)) < error).all()
  same = js.bayes.risk_coverage(np.zeros(7), losses)
  np.testing.assert_allclose(same.risk, losses.mean(), rtol=1e-6)
  jitted = jax.jit(js.bayes.risk_coverage)(uncertainty, losses)
  np.testing.assert_allclose(jitted.risk, curve.risk, rtol=1e-6)

"""Defects of published implementations: each is a case that must come out otherwise."""

import jax
import numpy as np

import jaxsparse as js

_rng = np.random.default_rng(0)


def test_herding_takes_the_nearest_and_not_the_farthest():
  """Picking the argmax of the distance leaves the mean farther away than chance does."""
  x = _rng.normal(size=(400, 8))
  gap = lambda chosen: np.linalg.norm(x[chosen].mean(0) - x.mean(0))
  found = gap(np.asarray(js.data.herding(x, 40).indices))
  random = np.mean([gap(_rng.choice(400, 40, replace=False)) for _ in range(50)])
  assert found < 0.2 * random


def test_cal_keeps_the_largest_divergence():
  """One record between two groups predicts otherwise than all its neighbours."""
  features = np.concatenate([np.zeros(6), np.ones(6)])[:, None]
  features = features + np.arange(12.0)[:, None] * 1e-3
  probs = np.array([[0.9, 0.1]] * 4 + [[0.1, 0.9]] + [[0.9, 0.1]] * 7)
  scores = js.data.cal(probs, features, neighbors=3)
  assert js.data.top_scores(scores, 1).indices.tolist() == [4]


def test_uncertain_records_are_kept_with_and_without_classes():
  """In one published suite the order turns round where classes are not balanced."""
  probs = np.array([[0.99, 0.01], [0.6, 0.4], [0.9, 0.1], [0.55, 0.45]])
  for score in (js.data.least_confidence, js.data.entropy, js.data.margin):
    scores = score(probs)
    assert js.data.top_scores(scores, 2).indices.tolist() == [3, 1]
    labels = np.array([0, 0, 1, 1])
    by_class = js.data.per_class(js.data.top_scores, scores, labels, 2)
    assert by_class.indices.tolist() == [1, 3]


def test_least_confidence_goes_by_probability_and_not_by_logit():
  """The record with the larger logit is the less certain one."""
  logits = np.array([[2.0, -3.0], [5.0, 4.9]])
  scores = js.data.least_confidence(jax.nn.softmax(logits))
  assert np.argmax(scores) == 1 and np.argmin(np.max(logits, 1)) == 0


def test_glister_updates_the_validation_gradient():
  """Without the update a one-shot product picks the same direction again and again."""
  # Two copies that raise the first class, and one that raises the second a bit less.
  errors = np.array([[-1.0, 0.5, 0.5], [-1.0, 0.5, 0.5], [0.45, -0.9, 0.45]])
  rows = js.data.LastLayerGradients(errors, np.zeros((3, 1)))
  logits, labels, features = np.zeros((2, 3)), np.array([0, 1]), np.zeros((2, 1))
  one_shot = errors @ (1 / 3 - np.eye(3)[labels]).mean(0)
  assert np.argsort(-one_shot, kind='stable').tolist() == [0, 1, 2]
  select = lambda rate: js.data.glister(
    rows, 2, logits, labels, features, learning_rate=rate
  )
  assert select(1e-6).indices.tolist() == [0, 1]
  assert select(1.0).indices.tolist() == [0, 2]


def test_grand_takes_the_softmax_once():
  """With two of them a confidently wrong record looks like a learned one."""
  logits = np.array([[12.0, 0.0], [12.0, 0.0], [0.1, 0.0]])
  labels, features = np.array([1, 0, 0]), np.zeros((3, 1))
  scores = js.data.grand_last_layer(jax.nn.softmax(logits), labels, features)
  np.testing.assert_allclose(scores[0], np.sqrt(2), rtol=1e-3)
  assert scores[0] > scores[2] > scores[1]
  # The logits as the parameters: every gradient is p - y.
  identity = lambda params, x: x + params
  full = js.data.grand(identity, np.zeros((1, 2)), logits, labels)
  np.testing.assert_allclose(full, scores, rtol=1e-3, atol=1e-4)


def test_ccs_keeps_the_last_stratum_of_negative_scores():
  """An upper end of 1.0001 times the maximum lies below it where scores are negative."""
  scores = np.array([-9.0, -8.0, -7.0, -1.0])
  found = js.data.ccs(scores, 4, hard_cutoff=0.0, seed=0, num_strata=3)
  assert found.indices.tolist() == [0, 1, 2, 3]


def test_budgets_do_not_lose_records_to_rounding():
  """`round(r n_c)` class by class gives 0 of 30 here where 3 were asked for."""
  labels = np.repeat(np.arange(10), 3)
  assert sum(round(0.1 * 3) for _ in range(10)) == 0
  assert js.data.class_budgets(labels, 0.1).sum() == 3

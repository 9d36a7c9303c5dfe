"""Calibration metrics against slow plain NumPy, and temperature scaling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import jaxsparse as js


def _case(seed, examples, classes, decimals=None, sharp=2.0):
  rng = np.random.default_rng(seed)
  logits = sharp * rng.normal(size=(examples, classes))
  probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  labels = np.array([rng.choice(classes, p=p) for p in probs])
  if decimals is not None:  # Many ties.
    probs = np.round(probs, decimals)
    probs[:, -1] = 1 - probs[:, :-1].sum(1)
    probs = np.clip(probs, 0, 1)
    probs /= probs.sum(1, keepdims=True)
  return probs.astype(np.float32), labels


_CASES = {
  'few': _case(0, 7, 3),
  'one': _case(1, 1, 2),
  'many': _case(2, 203, 10),
  'ties': _case(3, 120, 3, decimals=1),
  'sure': (np.eye(3, dtype=np.float32)[[0, 1, 2, 2]], np.array([0, 1, 2, 0])),
  'alike': (np.full((20, 4), 0.25, np.float32), np.arange(20) % 4),
}
_cases = pytest.mark.parametrize('probs, labels', _CASES.values(), ids=_CASES)


def _close(got, want):
  np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-6)


@_cases
def test_proper_scores(probs, labels):
  wide = probs.astype(np.float64)
  with np.errstate(divide='ignore'):
    logs = [-np.log(p[y]) for p, y in zip(wide, labels)]
  _close(js.bayes.negative_log_likelihood(probs, labels), np.mean(logs))
  squares = [
    sum((p[c] - (c == y)) ** 2 for c in range(len(p))) for p, y in zip(wide, labels)
  ]
  _close(js.bayes.brier(probs, labels), np.mean(squares))


def _bins_of_equal_width(values, bins):
  """Indices of each bin ((b)/M, (b+1)/M]."""
  edges = np.arange(1, bins) / np.float32(bins)
  place = [sum(v > e for e in edges.astype(np.float32)) for v in values]
  return [[i for i, b in enumerate(place) if b == k] for k in range(bins)]


def _bins_of_equal_mass(values, bins):
  """As the package uncertainty-calibration cuts them."""
  ordered = sorted(values)
  size = int(np.ceil(len(ordered) / bins))
  parts = [ordered[i : i + size] for i in range(0, len(ordered), size)]
  edges = [(a[-1] + b[0]) / np.float32(2) for a, b in zip(parts, parts[1:])]
  edges = sorted({*edges, np.float32(1)})
  place = np.searchsorted(edges, values)
  return [[i for i, b in enumerate(place) if b == k] for k in range(len(edges))]


def _top_label_l1(probs, labels, groups):
  confidence = probs.max(1).astype(np.float64)
  correct = probs.argmax(1) == labels
  return sum(
    len(g) / len(labels) * abs(confidence[g].mean() - correct[g].mean())
    for g in groups
    if g
  )


@_cases
def test_top_label_errors(probs, labels):
  confidence = probs.max(1)
  groups = _bins_of_equal_width(confidence, 15)
  got = js.bayes.ece_top_label_l1(probs, labels)
  _close(got, _top_label_l1(probs, labels, groups))
  for bins in (1, 4):
    got = js.bayes.ece_adaptive(probs, labels, bins=bins)
    groups = _bins_of_equal_mass(confidence, bins)
    _close(got, _top_label_l1(probs, labels, groups))


@_cases
def test_the_error_of_the_released_ssvi(probs, labels):
  def one_class(p, y):
    total = 0.0
    for g in _bins_of_equal_mass(p, 15):
      if len(g) < 2:
        continue
      gap = (p[g].astype(np.float64).mean() - y[g].mean()) ** 2
      total += len(g) / len(p) * (gap - y[g].mean() * (1 - y[g].mean()) / (len(g) - 1))
    return max(total, 0)

  classes = range(probs.shape[1])
  want = np.mean([one_class(probs[:, c], labels == c) for c in classes]) ** 0.5
  got = js.bayes.calibration_error_marginal_l2_debiased(probs, labels)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-4)


def test_order_does_not_matter_and_jit_gives_the_same():
  probs, labels = _CASES['ties']
  order = np.random.default_rng(0).permutation(len(labels))
  for metric in (
    js.bayes.negative_log_likelihood,
    js.bayes.brier,
    js.bayes.ece_top_label_l1,
    js.bayes.ece_adaptive,
    js.bayes.calibration_error_marginal_l2_debiased,
  ):
    value = metric(probs, labels)
    _close(metric(probs[order], labels[order]), value)
    _close(jax.jit(metric)(probs, labels), value)


def test_perfect_and_impossible_predictions():
  probs, labels = np.eye(3, dtype=np.float32), np.arange(3)
  for metric in (
    js.bayes.negative_log_likelihood,
    js.bayes.brier,
    js.bayes.ece_top_label_l1,
    js.bayes.ece_adaptive,
    js.bayes.calibration_error_marginal_l2_debiased,
  ):
    assert metric(probs, labels) == 0
  wrong = (labels + 1) % 3
  assert js.bayes.negative_log_likelihood(probs, wrong) == np.inf
  assert js.bayes.brier(probs, wrong) == 2
  # Logits say it without underflow, and shifted logits say the same.
  logits = jnp.array([[300.0, 0.0, -200.0]])
  nll = js.bayes.negative_log_likelihood_of_logits(logits - 1000, jnp.array([2]))
  _close(nll, 500)


def test_under_jit_what_cannot_be_checked_is_nan():
  run = jax.jit(js.bayes.negative_log_likelihood)
  assert np.isnan(run(jnp.eye(2), jnp.array([0, 5])))
  assert np.isnan(run(jnp.array([[jnp.nan, 0.5]]), jnp.array([0])))


_TWO = jnp.array([[0.5, 0.5]])


@pytest.mark.parametrize(
  'probs, labels, message',
  [
    (jnp.ones((2,)), jnp.array([0, 1]), r'probs: shape \(2,\)'),
    (jnp.ones((0, 2)), jnp.zeros(0, int), r'probs: shape \(0, 2\)'),
    (_TWO, jnp.array([0, 1]), r'labels: shape \(2,\)'),
    (_TWO, jnp.array([0.0]), 'labels: dtype float32'),
    (_TWO, jnp.array([2]), r'labels: from 2 to 2; wanted \[0, 2\)'),
    (_TWO, jnp.array([-1]), 'labels: from -1'),
    (2 * _TWO, jnp.array([0]), 'row 0 sums to 2; wanted probabilities. Logits'),
    (jnp.array([[1.5, -0.5]]), jnp.array([0]), 'probs: smallest -0.5'),
    (jnp.array([[jnp.nan, 0.5]]), jnp.array([0]), 'probs: NaN'),
    (jnp.array([[jnp.inf, 0.5]]), jnp.array([0]), 'wanted probabilities'),
  ],
)
def test_bad_input_is_named(probs, labels, message):
  with pytest.raises(ValueError, match=message):
    js.bayes.ece_top_label_l1(probs, labels)


def test_under_jit_a_label_below_0_is_nan_and_not_the_last_class():
  loss = jax.jit(js.bayes.negative_log_likelihood)
  assert np.isnan(loss(_TWO, jnp.array([-1]))) and np.isfinite(
    loss(_TWO, jnp.array([1]))
  )


def test_bins_are_checked():
  for metric in (js.bayes.ece_top_label_l1, js.bayes.ece_adaptive):
    with pytest.raises(ValueError, match='bins=0'):
      metric(_TWO, jnp.array([0]), bins=0)


def _logits(sharp):
  rng = np.random.default_rng(5)
  logits = rng.normal(size=(200, 4))
  probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  labels = np.array([rng.choice(4, p=p) for p in probs])
  return sharp * logits, labels


def test_temperature_is_the_optimum_for_any_scale():
  fit = jax.jit(js.bayes.temperature_scaling)
  for sharp in (0.02, 1.0, 40.0):
    logits, labels = _logits(sharp)

    def loss(log_temperature, logits=logits, labels=labels):
      z = logits / np.exp(log_temperature)
      z = z - z.max(1, keepdims=True)
      logs = z - np.log(np.exp(z).sum(1, keepdims=True))
      return -logs[np.arange(len(labels)), labels].mean()

    options = {'xatol': 1e-9}
    found = scipy.optimize.minimize_scalar(
      loss, bounds=(-7, 7), method='bounded', options=options
    )
    got = fit(logits.astype(np.float32), labels)
    np.testing.assert_allclose(got, np.exp(found.x), rtol=1e-4)
    # Shifted rows are the same predictions.
    np.testing.assert_allclose(
      fit((logits + 7).astype(np.float32), labels), got, rtol=1e-3
    )


def test_temperature_at_its_ends():
  labels = jnp.array([0, 1])
  right = 5 * jnp.eye(2)
  np.testing.assert_allclose(
    js.bayes.temperature_scaling(right, labels), 0.001, rtol=1e-3
  )
  wrong = js.bayes.temperature_scaling(-right, labels)
  np.testing.assert_allclose(wrong, 1000, rtol=1e-3)
  # A class that is impossible changes nothing; a label that is has no temperature.
  logits, labels = _logits(3.0)
  fitted = js.bayes.temperature_scaling(logits, labels)
  more = np.concatenate([logits, np.full((200, 1), -np.inf)], axis=1)
  _close(js.bayes.temperature_scaling(more, labels), fitted)
  more[0, labels[0]] = -np.inf
  assert np.isnan(js.bayes.temperature_scaling(more, labels))
  more[1, 0] = np.inf
  assert np.isnan(js.bayes.temperature_scaling(more, labels))
  with pytest.raises(ValueError, match='logits: NaN'):
    js.bayes.temperature_scaling(jnp.full((2, 2), jnp.nan), jnp.array([0, 1]))

"""Each score against brute force in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse as js

N, C, H = 23, 4, 5
_rng = np.random.default_rng(0)
LOGITS = 2 * _rng.normal(size=(N, C))
PROBS = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
LABELS = _rng.integers(0, C, N)
FEATURES = _rng.normal(size=(N, H))


def _close(found, wanted, rtol=1e-5, atol=1e-5):
  assert found.dtype == jnp.float32
  np.testing.assert_allclose(found, wanted, rtol, atol)


def test_scores_of_probabilities():
  ordered = np.sort(PROBS, 1)[:, ::-1]
  _close(js.data.least_confidence(PROBS), 1 - ordered[:, 0])
  _close(js.data.entropy(PROBS), -(PROBS * np.log(PROBS)).sum(1))
  _close(js.data.margin(PROBS), 1 - ordered[:, 0] + ordered[:, 1])
  errors = PROBS - np.eye(C)[LABELS]
  _close(js.data.el2n(PROBS, LABELS), np.sqrt((errors**2).sum(1)))


def test_a_tie_has_margin_one_and_certainty_no_entropy():
  probs = np.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
  assert js.data.margin(probs).tolist() == [1.0, 0.0]
  assert js.data.entropy(probs)[1] == 0


def test_el2n_is_the_mean_over_networks():
  others = PROBS[:, ::-1].copy()
  wanted = (js.data.el2n(PROBS, LABELS) + js.data.el2n(others, LABELS)) / 2
  _close(js.data.el2n(np.stack([PROBS, others]), LABELS), wanted)


def test_probabilities_must_be_some():
  with pytest.raises(ValueError, match='probs.*Logits go through jax.nn.softmax'):
    js.data.entropy(LOGITS)
  with pytest.raises(ValueError, match='at least two classes'):
    js.data.margin(np.ones((3, 1)))
  with pytest.raises(ValueError, match=r'labels: from 0 to 4; wanted \[0, 4\)'):
    js.data.el2n(PROBS[:2], np.array([0, 4]))
  with pytest.raises(ValueError, match=r'labels: shape \(3,\); wanted \(23,\)'):
    js.data.el2n(PROBS, np.zeros(3, int))
  with pytest.raises(ValueError, match='labels: dtype float'):
    js.data.el2n(PROBS[:2], np.zeros(2))


def _network(params, x):
  return jnp.tanh(x @ params['a']) @ params['b'] + params['c'][None]


def _params():
  draw = lambda *shape: _rng.normal(size=shape).astype(np.float32)
  return {'a': draw(H, 3), 'b': draw(3, C), 'c': np.zeros(C, np.float32)}


def test_grand_is_the_norm_of_the_whole_gradient():
  params, x = _params(), jnp.asarray(FEATURES, jnp.float32)
  # By hand: p - y goes back through the two layers.
  hidden = np.tanh(FEATURES @ np.asarray(params['a'], float))
  logits = hidden @ np.asarray(params['b'], float)
  probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  errors = probs - np.eye(C)[LABELS]
  back = errors @ np.asarray(params['b'], float).T * (1 - hidden**2)
  square = (errors**2).sum(1) * (1 + (hidden**2).sum(1))
  square += (back**2).sum(1) * (FEATURES**2).sum(1)
  # 23 records in chunks of 8: the last one is not full.
  found = js.data.grand(_network, params, x, LABELS, chunk=8)
  _close(found, np.sqrt(square), 1e-4)
  last = js.data.grand_last_layer(probs, LABELS, hidden)
  _close(last, np.sqrt((errors**2).sum(1) * (1 + (hidden**2).sum(1))), 1e-4)


def test_grand_takes_other_losses_and_trees_of_inputs():
  apply_fn = lambda params, inputs: inputs['x'] * params + inputs['y']
  loss = lambda out, label: 0.5 * jnp.sum((out - label[:, None]) ** 2, axis=1)
  inputs = {'x': np.array([[1.0], [2.0]]), 'y': np.array([[0.0], [1.0]])}
  found = js.data.grand(apply_fn, jnp.float32(3.0), inputs, np.array([1, 0]), loss=loss)
  # (3 x + y - label) x
  assert found.tolist() == [2.0, 14.0]
  with pytest.raises(ValueError, match='inputs: leading axes .*wanted one length'):
    js.data.grand(apply_fn, 1.0, {'x': np.ones(2), 'y': np.ones(3)}, np.zeros(2))
  with pytest.raises(ValueError, match='chunk=0'):
    js.data.grand(apply_fn, 1.0, inputs, np.zeros(2, int), chunk=0)


def test_last_layer_rows_are_the_gradients_of_a_dense_layer():
  rows = js.data.last_layer_gradients(PROBS, LABELS, FEATURES)

  def loss(w, b, h, y):
    return optax.softmax_cross_entropy_with_integer_labels(h @ w + b, y)

  bias = jnp.asarray(np.log(PROBS), jnp.float32)
  gradient = jax.jit(jax.vmap(jax.grad(loss, (0, 1)), (None, 0, 0, 0)))
  w, b = gradient(np.zeros((H, C)), bias, rows.features, jnp.asarray(LABELS))
  np.testing.assert_allclose(rows.errors, b, atol=1e-6)
  outer = np.einsum('ih,ic->ihc', rows.features, rows.errors)
  np.testing.assert_allclose(outer, w, atol=1e-6)


def _deepfool(w, b, x, steps=50):
  """Moosavi-Dezfooli et al. for a linear model, in float64."""
  moved, first = np.zeros_like(x), np.argmax(x @ w + b)
  for _ in range(steps):
    z = (x + moved) @ w + b
    if np.argmax(z) != first:
      break
    gaps, normals = np.abs(z - z[first]), w - w[:, [first]]
    with np.errstate(invalid='ignore'):
      ratio = gaps / np.linalg.norm(normals, axis=0)
    best = min((c for c in range(len(z)) if c != first), key=lambda c: ratio[c])
    step = ratio[best] * 1.0001 + 1e-6
    moved = moved + step * normals[:, best] / np.linalg.norm(normals[:, best])
  return np.linalg.norm(moved)


def test_deepfool_finds_the_boundaries_of_a_linear_model():
  w, b = _rng.normal(size=(H, C)), _rng.normal(size=C)
  affine = lambda params, x: x @ params[0] + params[1][None]
  params = jnp.asarray(w, jnp.float32), jnp.asarray(b, jnp.float32)
  x = jnp.asarray(FEATURES, jnp.float32)
  found = js.data.deepfool_margin(affine, params, x, chunk=8)
  _close(found, [-_deepfool(w, b, row) for row in FEATURES], 1e-3, 1e-4)


def test_deepfool_crosses_curved_boundaries_and_stops_when_told():
  # The prediction changes on the circle of radius 1.
  circle = lambda r, x: jnp.stack([jnp.sum(x**2, 1), jnp.full(len(x), r)], 1)
  x = np.array([[3.0, 4.0], [0.9, 0.0]])
  found = js.data.deepfool_margin(circle, jnp.float32(1.0), x)
  np.testing.assert_allclose(found, [-4.0, -0.1], atol=0.01)
  # One step of Newton from radius 5 to (25 + 1) / 10.
  one = js.data.deepfool_margin(circle, jnp.float32(1.0), x, max_steps=1)
  np.testing.assert_allclose(one[0], -2.4, atol=1e-2)
  flat = lambda r, x: jnp.zeros((len(x), 2)) + r[None]
  assert js.data.deepfool_margin(flat, np.array([1.0, 0.0]), x).tolist() == [0, 0]
  with pytest.raises(ValueError, match='logits of shape .1, 1.'):
    js.data.deepfool_margin(lambda _, x: x[:, :1], None, x)
  with pytest.raises(ValueError, match='inputs.*int32; wanted records of floats'):
    js.data.deepfool_margin(circle, 1.0, x.astype(int))


def _divergence(p, q):
  return (p * np.log(p / q)).sum()


@pytest.mark.parametrize('symmetric', [True, False])
def test_cal_is_the_divergence_from_the_nearest(symmetric):
  wanted = []
  for i in range(N):
    distance = ((FEATURES - FEATURES[i]) ** 2).sum(1)
    near = [j for j in np.argsort(distance) if j != i][:3]
    forward = np.mean([_divergence(PROBS[j], PROBS[i]) for j in near])
    backward = np.mean([_divergence(PROBS[i], PROBS[j]) for j in near])
    wanted.append((forward + backward) / 2 if symmetric else forward)
  found = js.data.cal(PROBS, FEATURES, neighbors=3, symmetric=symmetric, chunk=8)
  _close(found, wanted, 1e-4)


def test_cal_needs_enough_records():
  with pytest.raises(ValueError, match='neighbors=10: wanted fewer than the 2'):
    js.data.cal(np.full((2, 2), 0.5), np.ones((2, 1)))
  # Probabilities of exactly 0 are no infinite divergence.
  probs, x = np.array([[1.0, 0.0], [0.0, 1.0]]), np.ones((2, 1))
  assert np.isfinite(js.data.cal(probs, x, neighbors=1)).all()


def test_forgetting_counts_what_is_unlearned():
  history = _rng.random((9, N)) < 0.6
  history[:, 3] = False
  state = js.data.forgetting_init(N)
  update = jax.jit(js.data.forgetting_update)
  for correct in history:
    order = _rng.permutation(N)
    # An epoch in two batches.
    for batch in (order[:11], order[11:]):
      state = update(state, batch, correct[batch])
  # Not yet seen counts as wrong, which is never a transition from correct.
  events = (history[:-1] & ~history[1:]).sum(0).astype(float)
  wanted = np.where(history.any(0), events, np.inf)
  scores = js.data.forgetting_scores(state)
  assert scores.tolist() == wanted.tolist() and scores[3] == np.inf
  assert js.data.forgetting_scores(state, never_learned=0)[3] == 0
  assert isinstance(state, js.data.ForgettingState)
  assert sum(x.nbytes for x in state) == 6 * N


def test_aum_is_the_mean_margin_of_the_own_class():
  history = _rng.normal(size=(5, N, C))
  others = np.where(np.eye(C, dtype=bool)[LABELS], -np.inf, history).max(2)
  margins = np.take_along_axis(history, LABELS[None, :, None], 2)[:, :, 0] - others
  state, everyone = js.data.aum_init(N), np.arange(N)
  for logits in history:
    state = js.data.aum_update(state, everyone[::-1], logits[::-1], LABELS[::-1])
  assert isinstance(state, js.data.AumState) and state.seen.tolist() == [5] * N
  _close(js.data.aum_scores(state), -margins.mean(0))
  with pytest.raises(ValueError, match='indices: a record twice'):
    js.data.aum_update(state, np.zeros(N, int), history[0], LABELS)
  with pytest.raises(ValueError, match='logits: shape .2, 1.; wanted at least two'):
    js.data.aum_update(state, everyone[:2], np.ones((2, 1)), LABELS[:2])


def test_forgetting_refuses_what_it_cannot_count():
  state = js.data.forgetting_init(3)
  with pytest.raises(ValueError, match='a record twice'):
    js.data.forgetting_update(state, np.array([1, 1]), np.array([True, False]))
  with pytest.raises(ValueError, match=r'indices: from 0 to 3; wanted \[0, 3\)'):
    js.data.forgetting_update(state, np.array([0, 3]), np.array([True, False]))
  with pytest.raises(ValueError, match='correct: .*float32; wanted .B,. bool'):
    js.data.forgetting_update(state, np.array([1]), np.array([1.0]))
  with pytest.raises(ValueError, match='num_examples=0'):
    js.data.forgetting_init(0)

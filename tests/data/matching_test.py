"""GradMatch and Glister against their definitions, written out in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

import jaxsparse as js
from jaxsparse.data import _matching

N, C, H, K = 31, 3, 4, 8
_rng = np.random.default_rng(3)
ERRORS = _rng.normal(size=(N, C)) * 0.5
FEATURES = _rng.normal(size=(N, H))
ROWS = js.data.LastLayerGradients(ERRORS, FEATURES)


def _written_out(errors, features):
  outer = errors[:, :, None] * features[:, None, :]
  return np.concatenate([errors, outer.reshape(len(errors), -1)], 1)


DENSE = _written_out(ERRORS, FEATURES)


def _nonnegative_ridge(a, b, ridge):
  """`min |a.T w - b|^2 + ridge |w|^2` over w >= 0, as one least-squares problem."""
  stacked = np.concatenate([a.T, np.sqrt(ridge) * np.eye(len(a))])
  return optimize.nnls(stacked, np.concatenate([b, np.zeros(len(a))]))[0]


def _omp(gradients, target, size, ridge):
  chosen, residual = [], target
  for _ in range(size):
    fit = gradients @ residual
    fit[chosen] = -np.inf
    chosen.append(int(np.argmax(fit)))
    a = gradients[chosen]
    w = np.linalg.solve(a @ a.T + ridge * np.eye(len(a)), a @ target)
    residual = target - a.T @ w
  return chosen, _nonnegative_ridge(gradients[chosen], target, ridge)


@pytest.mark.parametrize('ridge', [1.0, 0.01])
def test_gradmatch(ridge):
  indices, weights = js.data.gradmatch(ROWS, K, ridge=ridge)
  chosen, wanted = _omp(DENSE, DENSE.mean(0), K, ridge)
  assert indices.tolist() == chosen
  np.testing.assert_allclose(weights, N * wanted, rtol=2e-3, atol=2e-3)
  assert (np.asarray(weights) >= 0).all()


def test_gradmatch_of_a_validation_target_and_of_copies():
  target = _rng.normal(size=(5, DENSE.shape[1]))
  indices, weights = js.data.gradmatch(DENSE, K, target=target)
  chosen, wanted = _omp(DENSE, target.mean(0), K, 1.0)
  assert indices.tolist() == chosen
  np.testing.assert_allclose(weights, N * wanted, rtol=2e-3, atol=2e-3)
  # A copy shares the weight; what points away is chosen last and weighs nothing.
  x = np.array([[-1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
  indices, weights = js.data.gradmatch(x, 3, ridge=1e-3, target=x[1:2])
  assert indices.tolist() == [1, 2, 0]
  np.testing.assert_allclose(weights, [1.5, 1.5, 0.0], rtol=1e-2)
  with pytest.raises(ValueError, match='target: rows of .*wanted .*as gradients'):
    js.data.gradmatch(ROWS, K, target=DENSE)
  with pytest.raises(ValueError, match='ridge=0'):
    js.data.gradmatch(ROWS, K, ridge=0)


def test_nonnegative_solutions_are_those_of_scipy():
  solve = jax.jit(jax.vmap(_matching.solve_nonnegative))
  a = _rng.normal(size=(40, 7, 5))
  b = _rng.normal(size=(40, 5))
  gram = a @ a.transpose(0, 2, 1) + 0.1 * np.eye(7)
  right = np.einsum('nkd,nd->nk', a, b)
  found = solve(jnp.asarray(gram, jnp.float32), jnp.asarray(right, jnp.float32))
  wanted = [_nonnegative_ridge(x, y, 0.1) for x, y in zip(a, b)]
  np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=2e-3)
  assert (np.asarray(found) == 0).mean() > 0.2


V = 9
LOGITS = _rng.normal(size=(V, C))
LABELS = _rng.integers(0, C, V)
VALIDATION = _rng.normal(size=(V, H))


def _softmax(z):
  e = np.exp(z - z.max(1, keepdims=True))
  return e / e.sum(1, keepdims=True)


def _glister(size, rate):
  """A last layer that really takes the steps; its validation gradient each time."""
  weights, bias = np.zeros((C, H)), np.zeros(C)
  chosen = []
  for _ in range(size):
    logits = LOGITS + VALIDATION @ weights.T + bias
    errors = _softmax(logits) - np.eye(C)[LABELS]
    gains = DENSE @ _written_out(errors, VALIDATION).mean(0)
    gains[chosen] = -np.inf
    x = int(np.argmax(gains))
    chosen.append(x)
    weights -= rate * np.outer(ERRORS[x], FEATURES[x])
    bias -= rate * ERRORS[x]
  return chosen


@pytest.mark.parametrize('rate', [0.05, 0.5])
def test_glister(rate):
  found = js.data.glister(ROWS, K, LOGITS, LABELS, VALIDATION, learning_rate=rate)
  assert found.indices.tolist() == _glister(K, rate)


def test_glister_refuses_what_does_not_fit():
  with pytest.raises(ValueError, match='gradients: ndarray; wanted LastLayer'):
    js.data.glister(DENSE, K, LOGITS, LABELS, VALIDATION, learning_rate=0.1)
  with pytest.raises(ValueError, match='3 classes and 3 features; wanted 3 and 4'):
    js.data.glister(ROWS, K, LOGITS, LABELS, VALIDATION[:, 1:], learning_rate=0.1)
  with pytest.raises(ValueError, match='learning_rate=0'):
    js.data.glister(ROWS, K, LOGITS, LABELS, VALIDATION, learning_rate=0)

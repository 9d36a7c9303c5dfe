"""MIG, DPS and the GAIS-style scores."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse as js
from jaxsparse.data import _gais_style

_rng = np.random.default_rng(0)


def test_label_propagation():
  labels = np.array([[1.0, 0.0], [1.0, 0.3], [0.0, 2.0]])
  unit = labels / np.linalg.norm(labels, axis=1, keepdims=True)
  adjacency = unit @ unit.T
  adjacency = np.where(adjacency >= 0.9, adjacency, 0)
  adjacency = np.where(np.eye(3), 1.0, 0.5 * adjacency)
  found = js.data.label_propagation(labels, weight=0.5)
  np.testing.assert_allclose(found, adjacency / adjacency.sum(0), rtol=1e-5)
  with pytest.raises(ValueError, match='embeddings: row 1 is all zeros'):
    js.data.label_propagation(np.array([[1.0], [0.0]]))
  with pytest.raises(ValueError, match='weight=-1'):
    js.data.label_propagation(labels, weight=-1)


@pytest.mark.parametrize('options', [{}, {'rate': 0.7}, {'power': 0.3, 'offset': 0.1}])
def test_mig(options):
  count, num_labels, size = 25, 6, 9
  values = _rng.random((count, num_labels)) * (_rng.random((count, num_labels)) < 0.5)
  passed = np.asarray(js.data.label_propagation(_rng.normal(size=(num_labels, 2))))
  seen, held, wanted = values @ passed, np.zeros(num_labels), []
  for _ in range(size):
    b, a = options.get('power', 0.8), options.get('offset', 1e-6)
    slope = b * (held + a) ** (b - 1)
    if 'rate' in options:
      slope = 0.7 * np.exp(-0.7 * held)
    gains = seen @ slope
    gains[wanted] = -np.inf
    wanted.append(int(np.argmax(gains)))
    held += seen[wanted[-1]]
  found = js.data.mig(values, size, propagation=passed, **options)
  assert found.indices.tolist() == wanted and found.weights is None


def test_mig_covers_the_labels_before_it_repeats_one():
  values = np.eye(3).repeat(4, 0) * np.arange(12, 0, -1.0)[:, None]
  found = js.data.mig(values, 3).indices
  assert sorted(int(i) // 4 for i in found) == [0, 1, 2]
  with pytest.raises(ValueError, match='values: smallest -1'):
    js.data.mig(-values[:1, :1] / 12, 1)
  with pytest.raises(ValueError, match='propagation: 2 rows; wanted 3'):
    js.data.mig(values, 1, propagation=np.eye(2))
  with pytest.raises(ValueError, match=r'propagation: shape \(3, 2\)'):
    js.data.mig(values, 1, propagation=np.ones((3, 2)))
  with pytest.raises(ValueError, match='power=1.0'):
    js.data.mig(values, 1, power=1.0)
  with pytest.raises(ValueError, match='rate=0'):
    js.data.mig(values, 1, rate=0)


DPS = pytest.mark.parametrize('shared', [False, True], ids=['rows', 'shared'])


@DPS
def test_dps_keeps_exactly_m_in_training_and_test(shared):
  model = js.data.DPS(num_kept=3, shared=shared)
  x = jnp.asarray(_rng.normal(size=(5, 7, 2)), jnp.float32)
  keys = {'params': jax.random.key(0), 'gumbel': jax.random.key(1)}
  run = jax.jit(lambda keys: model.init_with_output(keys, x, deterministic=False))
  (y, mask), params = run(keys)
  logits = np.asarray(params['params']['logits'])
  assert logits.shape == ((1, 7) if shared else (3, 7))
  assert set(np.unique(mask)) == {0.0, 1.0}
  assert mask.sum(1).tolist() == [3.0] * 5
  np.testing.assert_array_equal(y, np.asarray(x) * np.asarray(mask)[:, :, None])
  # Each record of a batch has its own noise.
  assert len({tuple(row) for row in np.asarray(mask).tolist()}) > 1
  _, mask = jax.jit(lambda p: model.apply(p, x, deterministic=True))(params)
  wanted = []
  for row in logits if not shared else logits.repeat(3, 0):
    wanted.append(next(i for i in np.argsort(-row) if i not in wanted))
  assert [np.flatnonzero(row).tolist() for row in mask] == [sorted(wanted)] * 5


@DPS
def test_dps_draws_in_proportion_without_replacement(shared):
  logits = np.log([[0.5, 0.3, 0.2]] * (1 if shared else 2))
  params = {'params': {'logits': jnp.asarray(logits, jnp.float32)}}
  model = js.data.DPS(num_kept=2, shared=shared)
  count = 4000
  _, mask = jax.jit(lambda key: model.apply(
    params, np.ones((count, 3)), deterministic=False, rngs={'gumbel': key}
  ))(jax.random.key(0))  # fmt: skip
  p = np.array([0.5, 0.3, 0.2])
  wanted = np.zeros(3)
  for i, j in itertools.permutations(range(3), 2):
    wanted[[i, j]] += p[i] * p[j] / (1 - p[i])
  np.testing.assert_allclose(mask.mean(0), wanted, atol=4.5 * 0.5 / np.sqrt(count))


class _Noise(nn.Module):
  """Draws what `DPS` draws: a module of no name has the same stream."""

  shape: tuple[int, ...]

  @nn.compact
  def __call__(self):
    return jax.random.gumbel(self.make_rng('gumbel'), self.shape)


@DPS
def test_dps_gradient_is_that_of_the_relaxation(shared):
  rows, tau = (1 if shared else 2), 1.5
  model = js.data.DPS(num_kept=2, temperature=tau, shared=shared)
  logits = _rng.normal(size=(rows, 4)).astype(np.float32)
  x, key = _rng.normal(size=(3, 4)).astype(np.float32), jax.random.key(2)

  @jax.jit
  @jax.value_and_grad
  def loss(logits):
    variables, rngs = {'params': {'logits': logits}}, {'gumbel': key}
    return model.apply(variables, x, deterministic=False, rngs=rngs)[0].sum()

  noise = np.asarray(_Noise((rows, 3, 4)).apply({}, rngs={'gumbel': key}))
  value, grad = 0.0, np.zeros((rows, 4))
  for b in range(3):
    taken = []
    for row in (0, 0) if shared else (0, 1):
      scores = logits[row] + noise[row, b]
      scores[taken] = -np.inf
      taken.append(np.argmax(scores))
      value += x[b, taken[-1]]
      soft = np.exp(scores / tau) / np.exp(scores / tau).sum()
      grad[row] += soft * (x[b] - soft @ x[b]) / tau
  found = loss(jnp.asarray(logits))
  np.testing.assert_allclose(found[0], value, rtol=1e-5)
  np.testing.assert_allclose(found[1], grad, rtol=1e-4, atol=1e-5)


def test_dps_learns_which_measurements_matter():
  model = js.data.DPS(num_kept=2, shared=True)
  start = {'params': {'logits': np.zeros((1, 10))}}

  def step(params, key):
    noise, draw = jax.random.split(key)
    x = jax.random.normal(noise, (32, 10))

    def loss(params):
      y, _ = model.apply(params, x, deterministic=False, rngs={'gumbel': draw})
      return jnp.mean((y[:, 3] + y[:, 8] - x[:, 3] - x[:, 8]) ** 2)

    grads = jax.grad(loss)(params)
    return jax.tree.map(lambda p, g: p - g, params, grads), None

  keys = jax.random.split(jax.random.key(1), 150)
  params, _ = jax.jit(lambda s: jax.lax.scan(step, s, keys))(start)
  logits = np.asarray(params['params']['logits'][0])
  assert set(np.argsort(logits)[-2:].tolist()) == {3, 8}


def test_dps_entropy_and_errors():
  logits = _rng.normal(size=(3, 5))
  probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  wanted = -(probs * np.log(probs)).sum()
  np.testing.assert_allclose(js.data.dps_entropy(logits), wanted, rtol=1e-5)
  with pytest.raises(ValueError, match=r'logits: shape \(3,\)'):
    js.data.dps_entropy(np.ones(3))
  for model, x in (
    (js.data.DPS(num_kept=5), np.ones((1, 4))),
    (js.data.DPS(num_kept=0), np.ones((1, 4))),
    (js.data.DPS(num_kept=1), np.ones(4)),
  ):
    with pytest.raises(ValueError, match='num_kept='):
      model.init(jax.random.key(0), x, deterministic=True)
  with pytest.raises(ValueError, match='temperature=0'):
    cold = js.data.DPS(num_kept=1, temperature=0)
    cold.init(jax.random.key(0), np.ones((1, 4)), deterministic=True)


def test_graph_attention_is_that_of_the_paper():
  layer = _gais_style.GraphAttention(features=3, heads=2)
  nodes = _rng.normal(size=(5, 4)).astype(np.float32)
  graph = (_rng.random((5, 5)) < 0.4) | np.eye(5, dtype=bool)
  (out, attention), variables = jax.jit(layer.init_with_output)(
    jax.random.key(0), jnp.asarray(nodes), jnp.asarray(graph)
  )
  params = jax.tree.map(np.asarray, variables['params'])
  for head in range(2):
    sent = nodes @ params['project']['kernel'][:, head]
    score = np.array(
      [
        [
          sent[i] @ params['receive'][head] + sent[j] @ params['send'][head]
          for j in range(5)
        ]
        for i in range(5)
      ]
    )
    score = np.where(graph, np.where(score > 0, score, 0.2 * score), -np.inf)
    alpha = np.exp(score) / np.exp(score).sum(1, keepdims=True)
    np.testing.assert_allclose(attention[head], alpha, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
      out[:, 3 * head : 3 * head + 3], alpha @ sent, rtol=1e-4, atol=1e-5
    )


def test_gais_style_scores_each_record_once():
  centers = 3 * np.eye(3)
  labels = np.arange(50) % 3
  features = centers[labels] + _rng.normal(size=(50, 3))
  labels[0] = 1  # A wrong label.
  options = dict(seed=0, batch_size=20, neighbors=4, hidden=4, heads=2, epochs=40)
  scores = js.data.gais_style(features, labels, learning_rate=0.02, **options)
  assert isinstance(scores, js.data.GaisScores)
  assert scores.confidence.shape == scores.attention.shape == (50,)
  confidence = np.asarray(scores.confidence)
  assert (confidence > 0).all() and np.median(confidence) > 0.7
  assert confidence[0] < np.quantile(confidence, 0.1)
  assert (np.asarray(scores.attention) >= 0).all() and scores.attention.mean() < 1
  again = js.data.gais_style(features, labels, learning_rate=0.02, **options)
  np.testing.assert_array_equal(confidence, again.confidence)


def test_gais_style_deals_stratified_batches():
  how = _gais_style._How(2, 5, 2, 1, 1, 1)
  labels = np.array([0] * 9 + [1] * 5)
  batches = np.asarray(_gais_style._deal(how, labels, jax.random.key(0)))
  assert batches.shape == (3, 5)
  assert set(batches.ravel().tolist()) == set(range(14))
  assert all(3 <= (b < 9).sum() <= 4 for b in batches)
  assert all(len(set(b.tolist())) == 5 for b in batches)
  with pytest.raises(ValueError, match='neighbors=7: wanted fewer than the 7'):
    js.data.gais_style(np.ones((14, 1)), labels, seed=0, batch_size=7, neighbors=7)

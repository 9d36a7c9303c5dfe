"""GAIS-style: scores of records from a graph attention network over mini-batches."""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp
import optax

from jaxsparse import core
from jaxsparse.data import _record_inputs


class GraphAttention(nn.Module):
  r"""One layer of graph attention with several heads.

  .. math:: h'_i = \sum_{j \in N(i)} \alpha_{ij} W h_j, \quad
     \alpha_{ij} = \text{softmax}_{j \in N(i)}
     \text{LeakyReLU}_{0.2}\big(a^\top [W h_i, W h_j]\big)

  Costs O(n^2 heads (1 + features)) for n nodes.

  Attributes:
    features: outputs of a head.
    heads: whose outputs are concatenated.

  Velickovic et al., Graph Attention Networks, ICLR 2018, section 2.1.
  """

  features: int
  heads: int = 4

  @nn.compact
  def __call__(self, nodes: jax.Array, adjacency: jax.Array):
    """Nodes (n, D) and adjacency (n, n) bool with a True in each row.

    Returns:
      `((n, heads * features), attention (heads, n, n))`.
    """
    shape = (self.heads, self.features)
    sent = nn.DenseGeneral(shape, use_bias=False, name='project')(nodes)
    start = nn.initializers.glorot_uniform()
    to, by = (self.param(name, start, shape)[None] for name in ('receive', 'send'))
    # The product with a concatenation is a sum of two: no (n, n, 2 features) array.
    # scores: (heads, node i, its neighbour j).
    scores = jnp.sum(sent * to, 2).T[:, :, None] + jnp.sum(sent * by, 2).T[:, None, :]
    scores = jnp.where(adjacency[None], nn.leaky_relu(scores, 0.2), -jnp.inf)
    attention = jax.nn.softmax(scores, axis=2)
    out = jnp.einsum('hij,jhf->ihf', attention, sent)
    return out.reshape(nodes.shape[0], -1), attention


class _Network(nn.Module):
  """Two layers: classes for each node."""

  num_classes: int
  hidden: int
  heads: int

  @nn.compact
  def __call__(self, nodes, adjacency):
    hidden, _ = GraphAttention(self.hidden, self.heads)(nodes, adjacency)
    return GraphAttention(self.num_classes, 1)(nn.elu(hidden), adjacency)


class GaisScores(NamedTuple):
  """What the trained network says of each record.

  Attributes:
    confidence: (N,) float32, the probability that it gives to the record's label.
    attention: (N,) float32, the attention that the record's neighbours pay to it, with
      the mean 1 less what records pay to themselves.
  """

  confidence: jax.Array
  attention: jax.Array


class _How(NamedTuple):
  """What is static: a program for each."""

  num_classes: int
  batch_size: int
  neighbors: int
  hidden: int
  heads: int
  epochs: int


def gais_style(
  features,
  labels,
  *,
  seed,
  num_classes: int | None = None,
  batch_size: int = 128,
  neighbors: int = 10,
  hidden: int = 16,
  heads: int = 4,
  epochs: int = 30,
  learning_rate: float = 5e-3,
) -> GaisScores:
  """GAIS-style: a graph attention network classifies, and its scores pick records.

      graph of a batch: i -> its k nearest in the batch, and itself
      logits, alpha = GAT(features, graph);  loss = cross-entropy of the labels

  In the style of the published method and no reproduction of it: its layer sizes,
  thresholds and score are not public. Here, as in its mini-batch form, records are
  dealt into stratified batches, anew in each epoch; a batch is a graph by itself, and
  the last deal scores every record once. Use `top_scores` or `per_class` on
  `confidence` or `attention`. Costs O(epochs N b (D + heads hidden)) time for batches
  of b; memory is b^2 (heads + 1) beside the features.

  Args:
    features: (N, D), standardised here.
    labels: (N,) integers in [0, C).
    seed: int, integer tracer or typed key.
    num_classes: C; by default one more than the largest label.
    batch_size: nodes of a graph at most; the batches are of equal size.
    neighbors: k, below the batch size.
    hidden: features of a head of the first layer.
    heads: of the first layer.
    epochs: passes of training.
    learning_rate: of Adam.

  Returns:
    GaisScores.

  Raises:
    ValueError: other shapes, labels out of range, a number outside its range.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> features, labels = jnp.eye(4).repeat(2, 0), jnp.array([0, 0, 0, 0, 1, 1, 1, 1])
    >>> scores = js.data.gais_style(
    ...     features, labels, seed=0, neighbors=1, hidden=2, heads=1, epochs=1)
    >>> scores.confidence.shape, scores.attention.shape
    ((8,), (8,))

  Rustamov et al., GAIS: graph attention-based instance selection, AI Open 6, 2025.
  """
  features = _record_inputs.as_matrix('features', features)
  total = features.shape[0]
  labels, num_classes = _record_inputs.as_labels(labels, total, num_classes)
  count = _record_inputs.as_count
  num_batches = -(-total // count('batch_size', batch_size, 2))
  how = _How(
    num_classes,
    -(-total // num_batches),  # So that fewer records than batches fill up the last.
    count('neighbors', neighbors),
    count('hidden', hidden),
    count('heads', heads),
    count('epochs', epochs),
  )
  if how.neighbors >= how.batch_size:
    raise ValueError(
      f'neighbors={neighbors}: wanted fewer than the {how.batch_size} of a batch.'
    )
  rate = jnp.float32(_record_inputs.as_positive('learning_rate', learning_rate))
  return _gais_style(how, features, labels, rate, core.as_key(seed))


@functools.partial(jax.jit, static_argnums=0)
def _gais_style(how, features, labels, rate, key):
  spread = jnp.std(features, axis=0, keepdims=True)
  features = features - jnp.mean(features, axis=0, keepdims=True)
  features = features / jnp.where(spread > 0, spread, 1.0)
  model = _Network(how.num_classes, how.hidden, how.heads)
  key, init_key = jax.random.split(key)
  # Any graph will do: `init` depends on shapes and its key.
  nodes = jnp.zeros((how.batch_size, features.shape[1]))
  params = model.init(init_key, nodes, jnp.eye(how.batch_size, dtype=bool))
  optimizer = optax.adam(rate)

  def loss(params, batch):
    logits, _ = model.apply(params, features[batch], _graph(how, features[batch]))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels[batch])
    return jnp.mean(losses)

  def step(state, batch):
    params, opt_state = state
    updates, opt_state = optimizer.update(jax.grad(loss)(params, batch), opt_state)
    return (optax.apply_updates(params, updates), opt_state), None

  def epoch(state, number):
    batches = _deal(how, labels, jax.random.fold_in(key, number))
    return lax.scan(step, state, batches)[0], None

  start = params, optimizer.init(params)
  (params, _), _ = lax.scan(epoch, start, jnp.arange(how.epochs))

  def score(batch):
    graph = _graph(how, features[batch])
    logits, attention = model.apply(params, features[batch], graph)
    probs = jax.nn.softmax(logits)
    confidence = jnp.take_along_axis(probs, labels[batch][:, None], axis=1)[:, 0]
    # The last layer has one head: rows pay attention, columns receive it.
    received = jnp.sum(attention[0], axis=0) - jnp.diagonal(attention[0])
    return confidence, received

  # A deal that no epoch has trained on.
  batches = _deal(how, labels, jax.random.fold_in(key, how.epochs))
  found = lax.map(score, batches)
  # In the order of dealing, without those that filled up the last batches.
  dealt = lambda x: x.T.ravel()[: labels.shape[0]]
  put = lambda x: jnp.zeros(labels.shape[0]).at[dealt(batches)].set(dealt(x))
  return GaisScores(*map(put, found))


def _deal(how, labels, key):
  """Batches (M, b) of records in which each class has its share."""
  total = labels.shape[0]
  num_batches = -(-total // how.batch_size)
  # By class, in random order within one: neighbours in it go to different batches.
  order = jnp.lexsort((jax.random.bits(key, (total,)), labels))
  # Dealt round by round; the first records fill up what the last round lacks.
  padded = jnp.resize(order, (how.batch_size, num_batches))
  return padded.T


def _graph(how, nodes):
  distances = jnp.sum((nodes[:, None] - nodes[None]) ** 2, axis=2)
  own = jnp.eye(nodes.shape[0], dtype=bool)
  _, near = lax.top_k(-jnp.where(own, jnp.inf, distances), how.neighbors)
  return own.at[jnp.arange(nodes.shape[0])[:, None], near].set(True)

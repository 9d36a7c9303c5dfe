"""CAL: records whose predictions differ from those of their neighbours."""

import functools

import jax
from jax import lax
import jax.numpy as jnp

from jaxsparse.data import _gradient_rows, _record_chunks, _record_inputs


def cal(
  probs,
  features,
  *,
  neighbors: int = 10,
  symmetric: bool = True,
  chunk: int = _record_inputs.CHUNK,
) -> jax.Array:
  r"""CAL: the divergence of the predictions from those of the nearest neighbours.

  .. math:: s_i = \frac1K \sum_{j \in \text{kNN}(i)} \tfrac12
     \big(\text{KL}(p_i \| p_j) + \text{KL}(p_j \| p_i)\big)

  Neighbours are the K other records with the smallest L2 distance of features; of
  equal distances the lower index. Costs O(N^2 H) time; memory is `chunk * N` numbers.

  Args:
    probs: (N, C) probabilities; those below 1e-12 count as 1e-12.
    features: (N, H), for example of a pretrained network.
    neighbors: K, below N.
    symmetric: the divergence above; False is the paper's `KL(p_j | p_i)` alone.
    chunk: records whose distances to all others are held at a time.

  Returns:
    (N,) float32, larger for records near the boundary of what the model predicts.

  Raises:
    ValueError: other shapes; K of N or more; outside `jit` also rows of `probs` that
      are no probabilities.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> probs = jnp.array([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.1, 0.9]])
    >>> features = jnp.array([[0.0], [1.0], [1.5], [4.0]])
    >>> scores = js.data.cal(probs, features, neighbors=1)
    >>> [f'{s:.2f}' for s in scores]
    ['0.00', '1.76', '1.76', '0.00']

  Margatina et al., Active Learning by Acquiring Contrastive Examples, EMNLP 2021,
  algorithm 1.
  """
  probs = _record_inputs.as_probs(probs)
  total = probs.shape[0]
  features = _record_inputs.as_matrix('features', features, total)
  neighbors = _record_inputs.as_count('neighbors', neighbors)
  chunk = _record_inputs.as_count('chunk', chunk)
  if neighbors >= total:
    raise ValueError(f'neighbors={neighbors}: wanted fewer than the {total} records.')
  return _cal(neighbors, bool(symmetric), chunk, probs, features)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _cal(neighbors, symmetric, chunk, probs, features):
  logs = jnp.log(jnp.maximum(probs, 1e-12))
  features = _gradient_rows.center(features)
  squares = _gradient_rows.squares(features)

  def divergences(index):
    dots = _gradient_rows.products(features[index], features)
    # The record's own square is the same for all its neighbours.
    distances = squares[None, :] - 2 * dots
    own = index[:, None] == jnp.arange(squares.shape[0])[None, :]
    # Of equal numbers `top_k` takes the lower index first.
    _, near = lax.top_k(-jnp.where(own, jnp.inf, distances), neighbors)
    p, log_p = probs[index][:, None, :], logs[index][:, None, :]
    difference = log_p - logs[near]
    if symmetric:
      # KL(p | q) + KL(q | p) is the sum of (p - q) (log p - log q).
      terms = 0.5 * (p - probs[near]) * difference
    else:
      terms = -probs[near] * difference
    return jnp.mean(jnp.sum(terms, axis=2), axis=1)

  return _record_chunks.map_chunks(divergences, jnp.arange(squares.shape[0]), chunk)

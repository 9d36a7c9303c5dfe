"""Distances to prototypes: class means, or the centroids of k-means (SSP)."""

import functools
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from jaxsparse import core
from jaxsparse.data import _record_inputs


class Prototypes(NamedTuple):
  """Clusters of embeddings.

  Attributes:
    scores: (N,) float32, L2 distance to the centroid of the own cluster.
    clusters: (N,) int32 in [0, K).
    centroids: (K, H) float32.
  """

  scores: jax.Array
  clusters: jax.Array
  centroids: jax.Array


def prototype_distances(
  features, labels, *, num_classes: int | None = None
) -> jax.Array:
  r"""The distance of each record to the mean of its class: supervised prototypes.

  .. math:: s_i = \lVert h_i - \mu_{y_i} \rVert_2, \quad
     \mu_c = \frac1{n_c} \sum_{y_j = c} h_j

  Costs O(N H) time and O(C H) memory beside the features.

  Args:
    features: (N, H).
    labels: (N,) integers in [0, C).
    num_classes: C; by default one more than the largest label.

  Returns:
    (N,) float32, larger for less typical records. `top_scores` of it keeps hard
    records, of its negative easy ones.

  Raises:
    ValueError: other shapes, labels out of range, or traced without `num_classes`.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> features = jnp.array([[0.0], [2.0], [9.0]])
    >>> js.data.prototype_distances(features, jnp.array([0, 0, 1])).tolist()
    [1.0, 1.0, 0.0]

  Sorscher et al., Beyond Neural Scaling Laws, NeurIPS 2022, section 5.
  """
  features = _record_inputs.as_matrix('features', features)
  labels, num_classes = _record_inputs.as_labels(labels, features.shape[0], num_classes)
  return _distances_to_own(num_classes, features, labels)


@functools.partial(jax.jit, static_argnums=0)
def _distances_to_own(num_groups, features, groups):
  means, _ = _means(features, groups, num_groups)
  return jnp.linalg.norm(features - means[groups], axis=1)


def _means(features, groups, num_groups):
  counts = jnp.zeros(num_groups).at[groups].add(1.0)
  sums = jnp.zeros((num_groups, features.shape[1])).at[groups].add(features)
  return sums / jnp.maximum(counts, 1.0)[:, None], counts


def ssp_prototypes(
  embeddings, num_clusters: int, *, seed, max_steps: int = 100
) -> Prototypes:
  r"""SSP: distances to the centroids of k-means, a score without labels.

  .. math:: s_i = \min_k \lVert h_i - \mu_k \rVert_2

  k-means++ starts, Lloyd's steps follow until no record moves. The paper keeps the
  same share of each cluster, the farthest where data is plenty and the nearest where
  it is scarce: `per_class(top_scores, scores, clusters, size)`, or `-scores`. A cluster
  that loses all its records keeps its centroid: `per_class` then names it. Costs
  O(N K H) a step; memory is N K.

  Args:
    embeddings: (N, H), in the paper self-supervised.
    num_clusters: K, in the paper the number of classes; from 1 to N.
    seed: int, integer tracer or typed key.
    max_steps: at most so many steps of Lloyd.

  Returns:
    Prototypes: scores, clusters and centroids.

  Raises:
    ValueError: another shape, NaN, a K outside its range, a step number below 1.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> embeddings = jnp.array([[0.0], [1.0], [10.0], [14.0]])
    >>> js.data.ssp_prototypes(embeddings, 2, seed=0).scores.tolist()
    [0.5, 0.5, 2.0, 2.0]

  Sorscher et al., Beyond Neural Scaling Laws, NeurIPS 2022, section 5 and appendix.
  """
  embeddings = _record_inputs.as_matrix('embeddings', embeddings)
  total = embeddings.shape[0]
  num_clusters = _record_inputs.as_count('num_clusters', num_clusters)
  if num_clusters > total:
    raise ValueError(
      f'num_clusters={num_clusters}: wanted at most {total}, the records.'
    )
  max_steps = _record_inputs.as_count('max_steps', max_steps)
  return _k_means(num_clusters, max_steps, embeddings, core.as_key(seed))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _k_means(num_clusters, max_steps, x, key):
  def assign(centroids):
    return jnp.argmin(_square_distances(x, centroids), axis=1)

  def move(state):
    step, centroids, clusters, _ = state
    means, counts = _means(x, clusters, num_clusters)
    centroids = jnp.where((counts > 0)[:, None], means, centroids)
    # Assigned last, so that the clusters are those of the centroids at any end.
    moved = assign(centroids)
    return step + 1, centroids, moved, jnp.any(moved != clusters)

  def goes_on(state):
    step, _, _, changed = state
    return changed & (step < max_steps)

  centroids = _plus_plus(num_clusters, x, key)
  start = (jnp.int32(0), centroids, assign(centroids), jnp.bool_(True))
  _, centroids, clusters, _ = lax.while_loop(goes_on, move, start)
  scores = jnp.linalg.norm(x - centroids[clusters], axis=1)
  return Prototypes(scores, clusters.astype(jnp.int32), centroids)


def _square_distances(x, centroids):
  # One centroid at a time: differences are exact and need N H memory, not N K H.
  one = lambda c: jnp.sum((x - c[None]) ** 2, axis=1)
  return lax.map(one, centroids).T


def _plus_plus(num_clusters, x, key):
  """The start of Arthur and Vassilvitskii: far records are likelier centroids."""
  first, *_ = keys = jax.random.split(key, num_clusters)
  start = x[jax.random.randint(first, (), 0, x.shape[0])]

  def add(nearest, key):
    # If all distances are 0 any record will do.
    logits = jnp.log(jnp.where(jnp.any(nearest > 0), nearest, 1.0))
    # By squared distance; log 0 keeps copies of the centroids from being drawn.
    centroid = x[jax.random.categorical(key, logits)]
    distance = jnp.sum((x - centroid[None]) ** 2, axis=1)
    return jnp.minimum(nearest, distance), centroid

  nearest = jnp.sum((x - start[None]) ** 2, axis=1)
  _, others = lax.scan(add, nearest, keys[1:])
  return jnp.concatenate([start[None], others])

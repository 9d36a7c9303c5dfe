"""What a selection is; the simplest ones; the same budget in every class."""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsparse import core, masks
from jaxsparse.data import _record_inputs


class Selection(NamedTuple):
  """The records that a method chose: `indices, weights = select(...)`.

  Attributes:
    indices: (size,) int32, no record twice, in the order of choice unless said
      otherwise.
    weights: None from methods that only choose: such a subset stands for itself. From
      CRAIG and GradMatch (size,) float32 with which `sum_i w_i g_i` estimates the sum
      over all records.
  """

  indices: jax.Array
  weights: jax.Array | None


def unweighted(indices) -> Selection:
  """A selection of these records, without weights."""
  return Selection(indices.astype(jnp.int32), None)


def random_subset(num_examples: int, size, *, seed) -> Selection:
  r"""A uniform subset, without replacement.

  .. math:: P(S) = 1 / \binom{N}{k}

  Costs O(N log N) time and O(N) memory.

  Args:
    num_examples: N.
    size: records to keep, an int; or a float in (0, 1], a share of N.
    seed: int, integer tracer or typed key.

  Returns:
    The indices in random order; no weights.

  Raises:
    ValueError: a size outside its range, a seed of another kind.

  Example:
    >>> import jaxsparse as js
    >>> indices, weights = js.data.random_subset(10, 0.3, seed=0)
    >>> len(set(indices.tolist())), weights
    (3, None)
  """
  num_examples = _record_inputs.as_count('num_examples', num_examples)
  size = _record_inputs.as_size(size, num_examples)
  return _random_subset(core.as_key(seed), num_examples, size)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _random_subset(key, num_examples, size):
  return unweighted(jax.random.permutation(key, num_examples)[:size])


def top_scores(scores, size) -> Selection:
  r"""The records with the largest scores.

  .. math:: S = \arg\max_{|S| = k} \sum_{i \in S} s_i

  Every score of this room is larger for a record that its method keeps first. Equal
  scores go by the larger `js.masks.hash_flat` of the index and not by the index:
  data is often stored class by class, and counts of forgetting tie all the time.
  Costs O(N log N) time and O(N) memory.

  Args:
    scores: (N,) numbers; infinite is allowed.
    size: records to keep, an int; or a float in (0, 1], a share of N.

  Returns:
    The indices by falling score; no weights.

  Raises:
    ValueError: a size outside its range, another shape, NaN.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> js.data.top_scores(jnp.array([0.1, 0.9, 0.5]), 2).indices.tolist()
    [1, 2]
  """
  scores = _record_inputs.as_scores(scores)
  return _top_scores(scores, _record_inputs.as_size(size, scores.shape[0]))


@functools.partial(jax.jit, static_argnums=1)
def _top_scores(scores, size):
  hashes = masks.hash_index(scores.shape)
  # The last key comes first in a lexsort; `~` makes rising order falling.
  order = jnp.lexsort((~hashes, ~masks.ordered_keys(scores)))
  return unweighted(order[:size])


def class_budgets(labels, size, *, num_classes: int | None = None) -> np.ndarray:
  r"""How many records of each class make up `size`: in proportion, to the record.

  .. math:: k_c = \lfloor k n_c / N \rfloor + [c \text{ is among the largest
     remainders}], \qquad \sum_c k_c = k

  In whole numbers; equal remainders go to the lower class. A class with fewer than
  `N / k` records may get none.

  Args:
    labels: (N,) integers.
    size: records to keep of all classes, an int; or a float in (0, 1], a share of N.
    num_classes: C; by default one more than the largest label.

  Returns:
    (C,) int64, on the host.

  Raises:
    ValueError: a class without a record, by number; traced labels; a size outside its
      range.

  Example:
    >>> import jaxsparse as js
    >>> js.data.class_budgets([0, 0, 0, 0, 1, 1, 2], 4).tolist()
    [2, 1, 1]
  """
  labels = jnp.asarray(labels)
  if not _record_inputs.known(labels):
    raise ValueError('labels: traced; how many a class has must be known. Not in jit.')
  if labels.ndim != 1 or not labels.size:
    raise ValueError(f'labels: shape {labels.shape}; wanted (records,), not empty.')
  total = labels.shape[0]
  labels, num_classes = _record_inputs.as_labels(labels, total, num_classes)
  size = _record_inputs.as_size(size, total)
  counts = np.bincount(np.asarray(labels), minlength=num_classes)
  if not counts.all():
    raise ValueError(
      f'labels: no record of class {int(np.argmin(counts))} among {num_classes}'
      ' classes; wanted at least one of each.'
    )
  # In 64 bits: a product of two counts may exceed 32.
  budgets, rest = np.divmod(size * counts.astype(np.int64), total)
  first = np.argsort(-rest, kind='stable')[: size - budgets.sum()]
  budgets[first] += 1
  return budgets


def per_class(
  select: Callable[..., Selection],
  data: Any,
  labels,
  size,
  *,
  num_classes: int | None = None,
  seed=None,
) -> Selection:
  """Selects in each class by itself, with an exact total.

      S = union over c of select(data of class c, k_c),  k = class_budgets(labels, k)

  Runs on the host, class after class: what selects is compiled once for every pair of
  class size and budget, thus once for balanced data. A greedy method that costs
  O(N^2) costs O(N^2 / C) here.

  Args:
    select: `(data, size) -> Selection`, such as `js.data.herding`; options go in by
      `functools.partial`. Where `seed` is given: `(data, size, seed=key)`.
    data: a tree of arrays with a leading axis of N: features, scores,
      `js.data.LastLayerGradients`; each class gets its own rows.
    labels: (N,) integers: classes, or clusters.
    size: records to keep of all classes, an int; or a float in (0, 1], a share of N.
    num_classes: C; by default one more than the largest label.
    seed: int or typed key; each class gets a key of its own.

  Returns:
    The selections one after another, with indices into all N records and the weights
    as they come.

  Raises:
    ValueError: as `class_budgets`; data of another length; a `select` that does not
      give as many records as it was asked for.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> scores, labels = jnp.arange(6.0), jnp.array([0, 0, 0, 0, 1, 1])
    >>> js.data.per_class(js.data.top_scores, scores, labels, 3).indices.tolist()
    [3, 2, 5]
  """
  budgets = class_budgets(labels, size, num_classes=num_classes)
  labels = np.asarray(labels)
  for name, x in zip(*core.named_leaves(data)[:2]):
    if not np.ndim(x) or len(x) != len(labels):
      raise ValueError(
        f'data: {name} has shape {np.shape(x)}; wanted {len(labels)} rows, one a label.'
      )
  found = []
  for c, budget in enumerate(budgets):
    if budget:
      records = np.flatnonzero(labels == c)
      part = jax.tree.map(lambda x, r=records: x[r], data)
      options = {} if seed is None else {'seed': _class_key(seed, c)}
      indices, weights = select(part, int(budget), **options)
      if indices.shape != (budget,):
        raise ValueError(
          f'select: indices of shape {indices.shape} for class {c}; wanted ({budget},).'
        )
      found.append((records[np.asarray(indices)], weights))
  parts, part_weights = zip(*found)
  indices = jnp.asarray(np.concatenate(parts), jnp.int32)
  if part_weights[0] is None:
    return Selection(indices, None)
  return Selection(indices, jnp.concatenate(part_weights))


def _class_key(seed, number):
  return jax.random.fold_in(core.as_key(seed), number)

"""Checks of what scores and selections are given: values only where they are known."""

import numbers

import jax
import jax.numpy as jnp
import numpy as np

# Enough work for one product, and little memory beside the records themselves.
CHUNK = 128


def known(*arrays) -> bool:
  """Whether no array is traced, so that its values may be looked at."""
  return not any(isinstance(x, jax.core.Tracer) for x in arrays)


def as_size(size, num_examples: int) -> int:
  """How many records to keep, from a count or a share.

  Raises:
    ValueError: no int or float, a share outside (0, 1], a share that keeps no record,
      a count below 1 or above `num_examples`.
  """
  if isinstance(size, bool) or not isinstance(size, numbers.Real):
    raise ValueError(f'size={size!r}: wanted an int, or a float in (0, 1].')
  if isinstance(size, numbers.Integral):
    found = int(size)
    if not 1 <= found <= num_examples:
      raise ValueError(
        f'size={size}: wanted from 1 to {num_examples}, the number of records.'
      )
    return found
  if not 0 < float(size) <= 1:
    raise ValueError(
      f'size={size!r}: as a float it is a share of the records, wanted in (0, 1].'
    )
  found = round(float(size) * num_examples)
  if not found:
    raise ValueError(f'size={size!r} of {num_examples} records keeps none of them.')
  return found


def as_count(name: str, value, lowest: int = 1) -> int:
  """A whole number of at least `lowest`."""
  if isinstance(value, bool) or not isinstance(value, numbers.Integral):
    raise ValueError(f'{name}={value!r}: wanted an int of at least {lowest}.')
  if value < lowest:
    raise ValueError(f'{name}={value}: wanted at least {lowest}.')
  return int(value)


def as_positive(name: str, value) -> float:
  """A finite number above 0."""
  is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
  if not is_number or not 0 < float(value) < float('inf'):
    raise ValueError(f'{name}={value!r}: wanted a finite number above 0.')
  return float(value)


def as_matrix(name: str, values, num_rows: int | None = None) -> jax.Array:
  """`(records, numbers)` as float32.

  Raises:
    ValueError: another shape, nothing in it, or, outside `jit`, NaN or inf.
  """
  values = jnp.asarray(values)
  if values.ndim != 2 or not values.size:
    raise ValueError(f'{name}: shape {values.shape}; wanted (records, numbers).')
  if num_rows is not None and values.shape[0] != num_rows:
    raise ValueError(f'{name}: {values.shape[0]} rows; wanted {num_rows}.')
  values = values.astype(jnp.float32)
  if known(values):
    finite = np.isfinite(np.asarray(values)).all(axis=1)
    if not finite.all():
      raise ValueError(f'{name}: NaN or inf in row {int(np.argmin(finite))}.')
  return values


def as_probs(probs, name: str = 'probs') -> jax.Array:
  """`(records, classes)` float32 whose rows sum to 1 within 0.001.

  Raises:
    ValueError: another shape, or, outside `jit`, rows that are no probabilities.
  """
  probs = as_matrix(name, probs)
  if known(probs):
    found = np.asarray(probs)
    worst = int(np.abs(found.sum(1) - 1).argmax())
    if found.min() < 0 or abs(found[worst].sum() - 1) > 1e-3:
      raise ValueError(
        f'{name}: smallest {found.min():g}, row {worst} sums to {found[worst].sum():g};'
        ' wanted probabilities. Logits go through jax.nn.softmax first, once.'
      )
  return probs


def as_integers(labels, num_records: int, name: str = 'labels') -> jax.Array:
  """`(records,)` int32.

  Raises:
    ValueError: another shape or dtype.
  """
  labels = jnp.asarray(labels)
  if labels.shape != (num_records,):
    raise ValueError(f'{name}: shape {labels.shape}; wanted ({num_records},).')
  if not jnp.issubdtype(labels.dtype, jnp.integer):
    raise ValueError(f'{name}: dtype {labels.dtype}; wanted integers.')
  return labels.astype(jnp.int32)


def as_distinct(indices, num_seen: int, total: int) -> jax.Array:
  """`(num_seen,)` int32 indices of records, none twice.

  Raises:
    ValueError: another shape or dtype; outside `jit` also one outside [0, total), or
      twice.
  """
  indices = as_integers(indices, num_seen, 'indices')
  if known(indices) and indices.size:
    found = np.asarray(indices)
    if found.min() < 0 or found.max() >= total:
      raise ValueError(
        f'indices: from {found.min()} to {found.max()}; wanted [0, {total}).'
      )
    if np.unique(found).size < found.size:
      raise ValueError('indices: a record twice in a call; wanted each at most once.')
  return indices


def as_labels(labels, num_records: int, num_classes: int | None, name: str = 'labels'):
  """`(records,)` int32 labels, and the number of classes.

  Raises:
    ValueError: another shape or dtype, labels outside [0, num_classes), or labels that
      are traced while `num_classes` is not given.
  """
  labels = as_integers(labels, num_records, name)
  if num_classes is not None:
    num_classes = as_count('num_classes', num_classes)
  if not known(labels):
    if num_classes is None:
      raise ValueError(f'num_classes=None: wanted a number where {name} are traced.')
    return labels, num_classes
  low, high = int(np.asarray(labels).min()), int(np.asarray(labels).max())
  num_classes = high + 1 if num_classes is None else num_classes
  if low < 0 or high >= num_classes:
    raise ValueError(f'{name}: from {low} to {high}; wanted [0, {num_classes}).')
  return labels, num_classes


def num_records(inputs, name: str = 'inputs') -> int:
  """The leading length that all arrays of a tree share."""
  lengths = {jnp.shape(x)[:1] for x in jax.tree.leaves(inputs)}
  if len(lengths) != 1 or lengths in ({()}, {(0,)}):
    raise ValueError(
      f'{name}: leading axes {sorted(lengths)}; wanted one length, above 0.'
    )
  return lengths.pop()[0]


def as_scores(scores, name: str = 'scores') -> jax.Array:
  """`(records,)` float32; infinite is allowed.

  Raises:
    ValueError: another shape, nothing in it, or, outside `jit`, a NaN.
  """
  scores = jnp.asarray(scores)
  if scores.ndim != 1 or not scores.size:
    raise ValueError(f'{name}: shape {scores.shape}; wanted (records,), not empty.')
  scores = scores.astype(jnp.float32)
  if known(scores) and np.isnan(np.asarray(scores)).any():
    raise ValueError(f'{name}: NaN at {int(np.isnan(np.asarray(scores)).argmax())}.')
  return scores

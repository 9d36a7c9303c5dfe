"""Checks of what the metrics are given: values only where they are known."""

import jax
import jax.numpy as jnp
import numpy as np


def _known(*arrays) -> bool:
  return not any(isinstance(x, jax.core.Tracer) for x in arrays)


def as_rows(name: str, values, labels):
  """`(N, C)` float32 values and `(N,)` int32 labels.

  Raises:
    ValueError: other shapes, no example, labels that are no integers or not in
      [0, C), or, outside `jit`, a value that is NaN.
  """
  values, labels = jnp.asarray(values), jnp.asarray(labels)
  if values.ndim != 2 or not values.size:
    raise ValueError(f'{name}: shape {values.shape}; wanted (examples, classes).')
  if labels.shape != values.shape[:1]:
    raise ValueError(
      f'labels: shape {labels.shape}; wanted one per row of {name}, {values.shape}.'
    )
  if not jnp.issubdtype(labels.dtype, jnp.integer):
    raise ValueError(f'labels: dtype {labels.dtype}; wanted integers.')
  if _known(values, labels):
    found = np.asarray(labels)
    if found.min() < 0 or found.max() >= values.shape[1]:
      raise ValueError(
        f'labels: from {found.min()} to {found.max()}; wanted [0, {values.shape[1]}).'
      )
    if np.isnan(np.asarray(values, np.float32)).any():
      raise ValueError(f'{name}: NaN in some row.')
  return values.astype(jnp.float32), labels.astype(jnp.int32)


def as_probs(probs, labels):
  """`as_rows` for probabilities: each row sums to 1 within 0.001."""
  probs, labels = as_rows('probs', probs, labels)
  if _known(probs):
    found = np.asarray(probs)
    if found.min() < 0 or not np.allclose(found.sum(1), 1, rtol=0, atol=1e-3):
      worst = np.abs(found.sum(1) - 1).argmax()
      raise ValueError(
        f'probs: smallest {found.min():g}, row {worst} sums to {found[worst].sum():g};'
        ' wanted probabilities. Logits go through jax.nn.softmax first.'
      )
  return probs, labels


def of_label(values, labels):
  """The value of each row's label; under `jit` NaN for a label out of range."""
  # A negative index would count from the last class.
  labels = jnp.where(labels < 0, values.shape[1], labels)
  found = jnp.take_along_axis(values, labels[:, None], axis=1, mode='fill')
  return found[:, 0]


def as_bins(bins: int) -> int:
  """A number of bins, at least 1."""
  if isinstance(bins, bool) or not isinstance(bins, int) or bins < 1:
    raise ValueError(f'bins={bins!r}: wanted an int of at least 1.')
  return bins


def as_scores(**arrays):
  """One-dimensional float32 arrays of scores, as many as were given.

  Raises:
    ValueError: another shape, nothing in it, or, outside `jit`, a NaN.
  """
  found = []
  for name, values in arrays.items():
    values = jnp.asarray(values)
    if values.ndim != 1 or not values.size:
      raise ValueError(f'{name}: shape {values.shape}; wanted (examples,), not empty.')
    values = values.astype(jnp.float32)
    if _known(values) and np.isnan(np.asarray(values)).any():
      raise ValueError(f'{name}: NaN among the scores.')
    found.append(values)
  return found

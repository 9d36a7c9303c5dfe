"""Glister: the subset whose gradient step lowers the validation loss most."""

import functools

import jax
from jax import lax
import jax.numpy as jnp

from jaxsparse.data import _gradient_rows, _record_inputs, _selection


def glister(
  gradients: _gradient_rows.LastLayerGradients,
  size,
  logits,
  labels,
  features,
  *,
  learning_rate: float,
) -> _selection.Selection:
  r"""Glister: greedy on the validation loss, with its gradient taken anew each time.

  .. math:: x_{t+1} = \arg\max_{x \notin S_t} \Big\langle g_x,\,
     \nabla L_V\big(\theta - \eta \sum_{j \in S_t} g_j\big) \Big\rangle

  for the last dense layer. After each choice the validation logits move by
  `-eta e_x (1 + <h_x, h_v>)` (exactly what the step does to a last layer), their softmax
  is taken again, and with it the gradient. Of equal products the lower index. The
  paper runs it class by class. Costs O(k (N + V) C H) time; memory is V C beside the
  inputs.

  Args:
    gradients: LastLayerGradients of the N training records.
    size: records to keep, an int; or a float in (0, 1], a share of N.
    logits: (V, C) of the validation records, before the softmax.
    labels: (V,) integers in [0, C).
    features: (V, H) inputs of the last layer of the validation records.
    learning_rate: eta above 0. Towards 0 all choices go by the first gradient.

  Returns:
    The indices in the order of choice; no weights.

  Raises:
    ValueError: gradients of another kind, other shapes, a size or a rate outside its
      range.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> rows = js.data.LastLayerGradients(
    ...     jnp.array([[-0.5, 0.5], [-0.4, 0.4], [0.5, -0.5]]), jnp.zeros((3, 1)))
    >>> js.data.glister(
    ...     rows, 2, jnp.zeros((1, 2)), jnp.array([0]), jnp.zeros((1, 1)),
    ...     learning_rate=0.1).indices.tolist()
    [0, 1]

  Killamsetty et al., GLISTER, AAAI 2021, algorithm 2 and section 3.2.
  """
  if not isinstance(gradients, _gradient_rows.LastLayerGradients):
    raise ValueError(
      f'gradients: {type(gradients).__name__}; wanted LastLayerGradients, as from'
      ' last_layer_gradients.'
    )
  rows = _gradient_rows.as_rows('gradients', gradients)
  assert isinstance(rows, _gradient_rows.LastLayerGradients)
  size = _record_inputs.as_size(size, _gradient_rows.num_rows(rows))
  logits = _record_inputs.as_matrix('logits', logits)
  labels, _ = _record_inputs.as_labels(labels, *logits.shape)
  features = _record_inputs.as_matrix('features', features, logits.shape[0])
  got = (logits.shape[1], features.shape[1])
  wanted = (rows.errors.shape[1], rows.features.shape[1])
  if got != wanted:
    raise ValueError(
      f'logits, features: {got[0]} classes and {got[1]} features; wanted {wanted[0]} and'
      f' {wanted[1]}, as gradients have.'
    )
  rate = _record_inputs.as_positive('learning_rate', learning_rate)
  return _glister(size, rows, logits, labels, features, jnp.float32(rate))


@functools.partial(jax.jit, static_argnums=0)
def _glister(size, rows, logits, labels, features, rate):
  one_hot = jax.nn.one_hot(labels, logits.shape[1])

  def choose(state, _):
    logits, taken = state
    errors = jax.nn.softmax(logits) - one_hot
    of_validation = _gradient_rows.LastLayerGradients(errors, features)
    gradient = _gradient_rows.total(of_validation) / logits.shape[0]
    gains = _gradient_rows.along(rows, gradient)
    best = jnp.argmax(jnp.where(taken, -jnp.inf, gains))
    # near: (V,). The 1 is the share of the bias.
    near = 1.0 + jnp.matmul(
      features, rows.features[best], precision=lax.Precision.HIGHEST
    )
    logits = logits - rate * near[:, None] * rows.errors[best][None, :]
    return (logits, taken.at[best].set(True)), best

  start = logits, jnp.zeros(_gradient_rows.num_rows(rows), bool)
  return _selection.unweighted(lax.scan(choose, start, None, length=size)[1])

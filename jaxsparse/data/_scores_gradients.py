"""Scores that run the model: GraNd, and the distance to the boundary by DeepFool."""

from collections.abc import Callable
import functools

import jax
from jax import lax
import jax.numpy as jnp
import optax

from jaxsparse.data import _gradient_rows, _record_chunks, _record_inputs


def grand(
  apply_fn: Callable,
  params,
  inputs,
  labels,
  *,
  loss: Callable = optax.softmax_cross_entropy_with_integer_labels,
  chunk: int = 32,
) -> jax.Array:
  r"""GraNd: the norm of each record's gradient by all parameters.

  .. math:: s_i = \lVert \nabla_\theta\, \ell(f_\theta(x_i), y_i) \rVert_2

  The paper's score is the expectation over initialisations, there ten: average one
  call each. One backward pass a record, by `vmap`; memory is `chunk` times that of
  the parameters and of one record's activations. `grand_last_layer` runs no pass.

  Args:
    apply_fn: `(params, inputs (B, ...)) -> (B, C) logits`, in inference mode. It is
      compiled once for each function: give the same one again.
    params: a tree.
    inputs: (N, ...) records without augmentation, or a tree of such arrays.
    labels: (N,) integers.
    loss: `(logits (1, C), labels (1,)) -> (1,)`.
    chunk: records whose gradients are held at a time.

  Returns:
    (N,) float32, larger for harder records.

  Raises:
    ValueError: labels of another length, or that are no integers; a chunk below 1.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> apply_fn = lambda w, x: x @ w
    >>> x, y = jnp.array([[3.0, 4.0], [0.0, 0.0]]), jnp.array([0, 1])
    >>> [f'{s:.3f}' for s in js.data.grand(apply_fn, jnp.zeros((2, 2)), x, y)]
    ['3.536', '0.000']

  Paul et al., Deep Learning on a Data Diet, NeurIPS 2021, definition 2.1.
  """
  chunk = _record_inputs.as_count('chunk', chunk)
  labels = _record_inputs.as_integers(labels, _record_inputs.num_records(inputs))
  return _grand(apply_fn, loss, chunk, params, inputs, labels)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _grand(apply_fn, loss, chunk, params, inputs, labels):
  def loss_of_one(params, x, label):
    one = jax.tree.map(lambda a: a[None], x)
    return loss(apply_fn(params, one), label[None])[0]

  def norms(index):
    x = jax.tree.map(lambda a: a[index], inputs)
    gradient = jax.vmap(jax.grad(loss_of_one), (None, 0, 0))
    return jax.vmap(optax.tree.norm)(gradient(params, x, labels[index]))

  index = jnp.arange(labels.shape[0])
  return _record_chunks.map_chunks(norms, index, chunk).astype(jnp.float32)


def grand_last_layer(probs, labels, features) -> jax.Array:
  r"""The norm of each record's gradient by the last dense layer alone.

  .. math:: s_i = \lVert p_i - y_i \rVert_2 \sqrt{1 + \lVert h_i \rVert_2^2}

  What stands for GraNd where all parameters cost too much; the exact one is `grand`.
  Costs O(N (C + H)).

  Args:
    probs: (N, C) probabilities: the softmax of the logits, taken once.
    labels: (N,) integers in [0, C).
    features: (N, H) inputs of the last layer.

  Returns:
    (N,) float32, larger for harder records.

  Raises:
    ValueError: as `last_layer_gradients`.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> scores = js.data.grand_last_layer(
    ...     jnp.array([[0.0, 1.0]]), jnp.array([0]), jnp.array([[2.0, 2.0]]))
    >>> print(f'{scores[0]:.3f}')
    4.243

  Paul et al., Deep Learning on a Data Diet, NeurIPS 2021, section 2.
  """
  rows = _gradient_rows.last_layer_gradients(probs, labels, features)
  return _lengths(rows)


@jax.jit
def _lengths(rows):
  return jnp.sqrt(_gradient_rows.squares(rows))


def deepfool_margin(
  apply_fn: Callable,
  params,
  inputs,
  *,
  max_steps: int = 50,
  chunk: int = 32,
) -> jax.Array:
  r"""Minus the length of the smallest perturbation that DeepFool finds.

  .. math:: x \leftarrow x + \frac{|f_l|}{\lVert w_l \rVert^2} w_l, \quad
     l = \arg\min_{c \ne \hat y} \frac{|f_c|}{\lVert w_c \rVert}, \quad
     f_c = z_c - z_{\hat y},\; w_c = \nabla_x f_c

  until the prediction is no longer `y`, or `max_steps` times. C backward passes a
  record and step; a chunk ends with its slowest record. Memory is `chunk * C` inputs.

  Args:
    apply_fn: `(params, inputs (B, ...)) -> (B, C) logits`, in inference mode. It is
      compiled once for each function: give the same one again.
    params: a tree.
    inputs: (N, ...) floats.
    max_steps: at most so many steps; a record still uncrossed has the length so far.
    chunk: records at a time.

  Returns:
    (N,) float32, at most 0, larger for records closer to the decision boundary.

  Raises:
    ValueError: inputs that are no floats; a chunk or a number of steps below 1; a model
      with a single output.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> apply_fn = lambda w, x: x @ w
    >>> w = jnp.array([[1.0, -1.0], [0.0, 0.0]])
    >>> x = jnp.array([[3.0, 9.0], [-0.5, 0.0]])
    >>> [f'{s:.2f}' for s in js.data.deepfool_margin(apply_fn, w, x)]
    ['-3.00', '-0.50']

  Ducoffe and Precioso, Adversarial Active Learning for Deep Networks: a Margin Based
  Approach, 2018, section 3; Moosavi-Dezfooli et al., DeepFool, CVPR 2016, algorithm 2.
  """
  chunk = _record_inputs.as_count('chunk', chunk)
  max_steps = _record_inputs.as_count('max_steps', max_steps)
  inputs = jnp.asarray(inputs)
  if not inputs.size or not jnp.issubdtype(inputs.dtype, jnp.floating):
    raise ValueError(
      f'inputs: shape {inputs.shape}, dtype {inputs.dtype}; wanted records of floats.'
    )
  shape = jax.eval_shape(apply_fn, params, inputs[:1]).shape
  if len(shape) != 2 or shape[1] < 2:
    raise ValueError(
      f'apply_fn: logits of shape {shape}; wanted (1, C), two classes or more.'
    )
  return _deepfool(apply_fn, max_steps, chunk, params, inputs)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _deepfool(apply_fn, max_steps, chunk, params, inputs):
  def logits_of(x):
    return apply_fn(params, x[None])[0]

  def length(x):
    first = jnp.argmax(logits_of(x))

    def goes_on(state):
      step, _, crossed = state
      return (step < max_steps) & ~crossed

    def move(state):
      step, moved, _ = state
      moved = moved + _to_nearest_boundary(logits_of, x + moved, first)
      return step + 1, moved, jnp.argmax(logits_of(x + moved)) != first

    # Under `vmap` the loop goes on until all are done; who is done stays as it is.
    start = (jnp.int32(0), jnp.zeros_like(x), jnp.bool_(False))
    return jnp.linalg.norm(lax.while_loop(goes_on, move, start)[1].ravel())

  lengths = lambda index: jax.vmap(length)(inputs[index])
  index = jnp.arange(inputs.shape[0])
  return -_record_chunks.map_chunks(lengths, index, chunk).astype(jnp.float32)


def _to_nearest_boundary(logits_of, x, first):
  """The step to the nearest boundary of the classes' linear models at `x`."""
  logits, jacobian = logits_of(x), jax.jacrev(logits_of)(x)
  gaps = jnp.abs(logits - logits[first])
  normals = jacobian - jacobian[first][None]
  norms = jnp.linalg.norm(normals.reshape(gaps.shape[0], -1), axis=1)
  # A class whose gradient does not differ is infinitely far; so is the record's own.
  reachable = (norms > 0) & (jnp.arange(gaps.shape[0]) != first)
  distances = jnp.where(reachable, gaps / jnp.where(norms > 0, norms, 1.0), jnp.inf)
  nearest = jnp.argmin(distances)
  length = jnp.where(reachable[nearest], distances[nearest], 0.0)
  # A hair beyond: on the boundary itself the first of the tied classes is predicted.
  length = length * (1 + 1e-4) + 1e-6
  direction = normals[nearest] / jnp.where(norms[nearest] > 0, norms[nearest], 1.0)
  return jnp.where(reachable[nearest], length, 0.0) * direction

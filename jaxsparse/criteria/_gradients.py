"""Criteria that look at gradients: saliency, SNIP, GraSP, SynFlow."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxsparse import core, masks

Loss = Callable[..., jax.Array]


def _masked(evidence):
  """The parameters that the model sees: earlier rounds of pruning are in the masks."""
  params = evidence.params[0]
  return params if evidence.masks is None else masks.apply(evidence.masks, params)


def _abs_product(a, b):
  return jax.tree.map(lambda x, y: jnp.abs(x * y), a, b)


def saliency(evidence: core.Evidence) -> core.Params:
  """|w g|: the first-order change of the loss when a weight is removed.

  Source: Mozer & Smolensky 1988, Skeletonization; Molchanov et al. 2017, eq. 7.

  Args:
    evidence: with gradients; they are unmasked.

  Returns:
    A tree like one field.

  Raises:
    ValueError: there are no gradients, as at init: use `snip(loss, batch)` there.
  """
  if evidence.grads is None:
    raise ValueError(
      'criteria.saliency: there are no gradients at init; use'
      ' criteria.snip(loss, batch) for pruning at initialisation.'
    )
  seen = evidence.updated_params or evidence.params
  return _abs_product(seen[0], evidence.grads[0])


def snip(loss: Loss, *batch) -> core.Criterion:
  """SNIP: |w dL/dw| on one batch, the sensitivity of each connection at init.

  With the loss L(m * w) and m = 1, |dL/dm| = |w dL/dw|. The paper's division by the
  sum over all weights does not change the order and is left out.

  Source: Lee et al. 2019, SNIP: Single-shot Network Pruning, eq. 3 and 4.

  Args:
    loss: `(params, *batch) -> scalar`.
    *batch: arrays that the loss gets.

  Returns:
    A criterion for `js.transforms.static(criterion=..., distribution=
    js.distributions.global_pool)`.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> criterion = js.criteria.snip(lambda w, x: (w @ x) ** 2, jnp.array([1., 3.]))
    >>> e = js.core.Evidence((jnp.array([1., 1.]),), None, None, None, 0, None)
    >>> criterion(e).tolist()
    [8.0, 24.0]
  """

  def score(evidence):
    params = _masked(evidence)
    return _abs_product(params, jax.grad(loss)(params, *batch))

  return score


def grasp(loss: Loss, *batch) -> core.Criterion:
  """GraSP: w * (H g), kept where removal would lower the gradient's norm most.

  The paper removes the weights with the largest S = -w * (H g); as scores here rank
  what to keep, this is -S. The Hessian-vector product is exact
  (forward over reverse) and nothing is divided by a temperature: the paper's T
  belongs inside the given loss.

  Source: Wang et al. 2020, Picking Winning Tickets Before Training by Preserving
  Gradient Flow, eq. 8 and algorithm 1.

  Args:
    loss: `(params, *batch) -> scalar`.
    *batch: arrays that the loss gets.

  Returns:
    A criterion; use it with `global_pool`, as the paper does.
  """

  def score(evidence):
    params = _masked(evidence)
    gradient = lambda p: jax.grad(loss)(p, *batch)
    grads = gradient(params)
    _, curvature = jax.jvp(gradient, (params,), (grads,))
    return jax.tree.map(lambda w, h: w * h, params, curvature)

  return score


def synflow(apply_fn: Callable, *inputs) -> core.Criterion:
  """SynFlow: w dR/dw with R the sum of outputs of the network of |w| at ones.

  Needs no data. One evaluation prunes badly; the paper uses 100 with an exponential
  schedule: `js.transforms.static(criterion=..., iterations=100)`.

  Source: Tanaka et al. 2020, Pruning neural networks without any data by iteratively
  conserving synaptic flow, algorithm 1.

  Args:
    apply_fn: `(params, *inputs) -> outputs`; batch statistics must be at inference.
    *inputs: only their shapes and dtypes matter: they are replaced by ones.

  Returns:
    A criterion; use it with `global_pool`, as the paper does.
  """

  def score(evidence):
    ones = jax.tree.map(jnp.ones_like, inputs)
    # Without signs nothing cancels, so a path's worth is the product of its weights.
    positive = jax.tree.map(jnp.abs, _masked(evidence))
    flow = jax.grad(lambda p: jnp.sum(apply_fn(p, *ones)))(positive)
    return _abs_product(positive, flow)

  return score

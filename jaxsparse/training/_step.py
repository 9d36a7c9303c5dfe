"""One training step: a pure function with an optional device axis."""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxsparse import compact, core, rules

LossFn = Callable[..., tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]]


class TrainState(NamedTuple):
  """All that the next step needs, and all that a checkpoint holds.

  Attributes:
    step: int32 scalar, the number of steps taken.
    params: the parameters.
    opt_state: the optimizer's state, masks included.
    model_state: what the model carries besides parameters (BatchNorm statistics).
    key: the typed key that the keys of all steps are folded from.
  """

  step: jax.Array
  params: Any
  opt_state: Any
  model_state: Any
  key: jax.Array


def init_state(
  tx, params, model_state=(), *, seed, rescale: bool = False
) -> TrainState:
  """Starts training: the masks are applied to the parameters.

  Args:
    tx: an optax transformation, sparse or not.
    params: the dense initial parameters.
    model_state: pytree that `loss_fn` receives and returns; may be empty.
    seed: int, integer tracer or typed key for what training draws (dropout,
      augmentation).
    rescale: as in `js.init`: kept weights are scaled to the fan-in that they have.

  Returns:
    A `TrainState` at step 0. It may be traced: `jax.jit(lambda seed: ...)` builds
    one state per seed with one compilation.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js, optax
    >>> params = {'dense': {'kernel': jnp.ones((8, 4))}}
    >>> tx = js.transforms.static(optax.sgd(0.1), sparsity=0.75, seed=0)
    >>> state = js.training.init_state(tx, params, seed=0)
    >>> int((state.params['dense']['kernel'] != 0).sum())
    8
  """
  # Shapes show whether there are masks; nothing is computed.
  if core.sparse_states(jax.eval_shape(tx.init, params)):
    params, opt_state = rules.init(tx, params, rescale=rescale)
  else:
    opt_state = tx.init(params)
  key = core.as_key(seed)
  return TrainState(jnp.zeros((), jnp.int32), params, opt_state, model_state, key)


def make_step(
  loss_fn: LossFn, tx, *, prepare=None, accumulate: int = 1, sees_state: bool = False
):
  """Builds the pure step of data-parallel training.

  On every device, with the local batch B_d of D devices:

    g = 1/D sum_d grad_p loss(view(p), B_d);   p <- p + tx.update(g, p)

  The gradient is taken first and averaged after: this one spelling is right under
  `jit`, `pmap` and `shard_map(check_vma=False)`. Masks are decided after the mean
  and are therefore the same on every device.

  Args:
    loss_fn: `(params, model_state, batch, key) -> (loss, (model_state, metrics))`;
      the loss and every metric are means over the batch.
    tx: an optax transformation, sparse or not.
    prepare: `(batch, data, key) -> batch`, run inside the step: it gathers examples
      from data that stays on the device, augments, normalises. None: the batch
      is used as it comes.
    accumulate: the local batch is cut into this many micro-batches, whose gradients
      are averaged before the one update.
    sees_state: whether `loss_fn` also takes `state=`, the `TrainState` before the step:
      a posterior's loss needs its masks and the step, one on nonzeros its patterns. A
      `tx` of `js.compact.convert` gets what it grows by gradient from that loss too.

  Returns:
    `step(state, batch, data=None, *, axis=None) -> (state, metrics)`. `batch` is the
    local batch, without a device axis; `data` is the same on every device; `axis`
    names the device axis. `metrics` holds `loss`, `finite` (whether the loss is) and
    what `loss_fn` returns, averaged over the devices.

  Raises:
    ValueError: `accumulate` below 1, or (at the first call) not a divisor of the
      batch; a compact `tx` whose loss does not see the state.
  """
  if not isinstance(accumulate, int) or accumulate < 1:
    raise ValueError(f'accumulate: got {accumulate!r}, wanted an int of at least 1.')

  # `compact.convert` leaves the masked transform on its update.
  is_compact = hasattr(getattr(tx, 'update', None), 'dense')
  if is_compact and not sees_state:
    raise ValueError(
      'sees_state=False: on nonzeros the loss needs js.compact.get_patterns('
      'state.opt_state); wanted sees_state=True.'
    )

  def step(state: TrainState, batch, data=None, *, axis=None):
    key = jax.random.fold_in(state.key, state.step)
    if axis is not None:
      # Dropout differs by device. Masks do not: the optimizer has a key of its own.
      key = jax.random.fold_in(key, jax.lax.axis_index(axis))
    data_key, loss_key = jax.random.split(key)
    if prepare is not None:
      batch = prepare(batch, data, data_key)

    viewed = rules.view(state.params, state.opt_state)
    loss = functools.partial(loss_fn, state=state) if sees_state else loss_fn
    grad_fn = _averaged_grad(loss, accumulate)
    grads, loss, model_state, metrics = grad_fn(
      viewed, state.model_state, batch, loss_key
    )
    grads, loss, model_state, metrics = _mean_over(
      (grads, loss, model_state, metrics), axis
    )

    extra = {}
    if is_compact:

      def compact_loss(params, patterns):
        opt_state = state.opt_state._replace(patterns=patterns)
        seen = state._replace(opt_state=opt_state)
        return loss_fn(params, state.model_state, batch, loss_key, state=seen)[0]

      extra['growth'] = compact.growth_when_due(
        tx, compact_loss, state.params, state.opt_state, axis=axis
      )
    updates, opt_state = tx.update(grads, state.opt_state, state.params, **extra)
    params = optax.apply_updates(state.params, updates)
    metrics = {**metrics, 'loss': loss, 'finite': jnp.isfinite(loss)}
    return TrainState(
      state.step + 1, params, opt_state, model_state, state.key
    ), metrics

  return step


def _mean_over(tree, axis):
  """The mean over devices of every float leaf; counters are equal already."""
  if axis is None:
    return tree
  return jax.tree.map(
    lambda x: (
      jax.lax.pmean(x, axis) if jnp.issubdtype(jnp.asarray(x).dtype, jnp.inexact) else x
    ),
    tree,
  )


def _averaged_grad(loss_fn, accumulate):
  """`(params, model_state, batch, key) -> (grads, loss, model_state, metrics)`."""
  value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)

  def once(params, model_state, batch, key):
    (loss, (model_state, metrics)), grads = value_and_grad(
      params, model_state, batch, key
    )
    return (grads, loss, metrics), model_state

  def averaged(params, model_state, batch, key):
    if accumulate == 1:
      (grads, loss, metrics), model_state = once(params, model_state, batch, key)
      return grads, loss, model_state, metrics
    micro = jax.tree.map(lambda x: _cut(x, accumulate), batch)
    first = jax.tree.map(lambda x: x[0], micro)
    # The carry of a scan is there before the first result: only its shapes are known.
    shapes = jax.eval_shape(once, params, model_state, first, key)[0]

    def body(carry, inputs):
      total, model_state = carry
      index, part = inputs
      out, model_state = once(params, model_state, part, jax.random.fold_in(key, index))
      return (jax.tree.map(jnp.add, total, out), model_state), None

    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    # Statistics of BatchNorm go on from one micro-batch to the next.
    (total, model_state), _ = jax.lax.scan(
      body, (zeros, model_state), (jnp.arange(accumulate), micro)
    )
    # Parts are of equal size, so that the mean of their means is that of the batch.
    grads, loss, metrics = jax.tree.map(lambda x: x / accumulate, total)
    return grads, loss, model_state, metrics

  return averaged


def _cut(x, parts):
  if x.shape[0] % parts:
    raise ValueError(
      f'accumulate: {parts} micro-batches do not divide a local batch of {x.shape[0]}.'
    )
  return x.reshape(parts, x.shape[0] // parts, *x.shape[1:])

"""One pair of pure functions for any Linen or NNX model, unmodified."""

from collections.abc import Callable
import functools
import inspect
from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp

import jaxsparse as js

Params = Any
ModelState = Any


class Model(NamedTuple):
  """What a training step needs to know of a model.

  Attributes:
    init: `(key, images) -> (params, model_state)`; the state holds what training
      changes without gradients (BatchNorm's statistics), often nothing.
    apply: `(params, model_state, images, *, train, key=None) -> (logits,
      new_model_state)`; logits are float32; `key` is for dropout.
  """

  init: Callable[..., tuple[Params, ModelState]]
  apply: Callable[..., tuple[jax.Array, ModelState]]


def from_linen(module, handler: js.layers.Handler | None = None) -> Model:
  """Adapts a Linen module.

  Args:
    module: called as `module(images)`; if its `__call__` takes `train`,
      `deterministic` or `use_running_average`, it gets that too.
    handler: runs kernels that are no arrays, see `js.layers.bind`; None for a model
      that has none.

  Returns:
    A `Model`; params is the collection `params`, model_state all other collections.
    Every random stream is fed from `key`, and a missing key is Flax's error.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from experiments import models
    >>> model = models.from_linen(models.MLP(num_classes=10))
    >>> images = jnp.ones((2, 8, 8, 1))
    >>> params, model_state = model.init(jax.random.key(0), images)
    >>> logits, _ = model.apply(params, model_state, images, train=False)
    >>> logits.shape
    (2, 10)
  """
  accepted = inspect.signature(type(module).__call__).parameters
  run = module.apply if handler is None else js.layers.bind(module, handler)

  def flags(train: bool) -> dict[str, bool]:
    values = {
      'train': train,
      'deterministic': not train,
      'use_running_average': not train,
    }
    return {name: value for name, value in values.items() if name in accepted}

  def init(key, images):
    variables = dict(module.init({'params': key}, images[:1], **flags(False)))
    params = variables.pop('params', {})
    return params, variables

  def apply(params, model_state, images, *, train: bool, key=None):
    variables = {'params': params, **model_state}
    # Linen falls back on the stream `params` for names that are not given.
    names = ('dropout', 'params')
    rngs = {} if key is None else dict(zip(names, jax.random.split(key)))
    if not train or not model_state:
      logits = run(variables, images, rngs=rngs, **flags(train))
      return logits.astype(jnp.float32), model_state
    logits, new_state = run(
      variables, images, rngs=rngs, mutable=list(model_state), **flags(True)
    )
    return logits.astype(jnp.float32), dict(new_state)

  return Model(init, apply)


def from_nnx(
  make_module: Callable[[nnx.Rngs], nnx.Module],
  handler: js.layers.Handler | None = None,
) -> Model:
  """Adapts an NNX module.

  Args:
    make_module: `rngs -> module`, called as `module(images)` after `module.train()` or
      `module.eval()`.
    handler: as in `from_linen`.

  Returns:
    A `Model`; params is the `nnx.State` of `nnx.Param`, model_state that of all other
    variables but random streams, which start from `key` in every call.

  Raises:
    ValueError: in `apply`, a model with random streams that trains without a key.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from experiments import models
    >>> model = models.from_nnx(lambda rngs: models.NnxMLP((8, 8, 1), 10, rngs=rngs))
    >>> images = jnp.ones((2, 8, 8, 1))
    >>> params, model_state = model.init(jax.random.key(0), images)
    >>> logits, _ = model.apply(params, model_state, images, train=False)
    >>> logits.shape
    (2, 10)
  """

  def split(module):
    return nnx.split(module, nnx.Param, nnx.RngState, ...)

  # The graph is static: it is found once, without computing an initial value.
  @functools.cache
  def graph():
    return split(nnx.eval_shape(lambda: make_module(nnx.Rngs(0))))

  @functools.cache
  def bound():
    return js.layers.bind(nnx.eval_shape(lambda: make_module(nnx.Rngs(0))), handler)

  def init(key, images):
    del images
    _, params, _, model_state = split(make_module(nnx.Rngs(key)))
    return params, model_state

  def apply(params, model_state, images, *, train: bool, key=None):
    graphdef, _, streams, _ = graph()
    has_streams = bool(jax.tree.leaves(streams))
    if train and has_streams and key is None:
      raise ValueError('key: this NNX model has random streams; training needs a key.')
    streams = _fresh_streams(streams, jax.random.key(0) if key is None else key)
    if handler is not None:
      variables = nnx.merge_state(params, streams, model_state)
      logits, new_state = bound()(
        variables, images, mutable=_STATE, method=_in_training if train else _tested
      )
      return logits.astype(jnp.float32), new_state if train else model_state
    # copy=True: under grad and pmap the variables must belong to this trace.
    module = nnx.merge(graphdef, params, streams, model_state, copy=True)
    module.train() if train else module.eval()
    logits = module(images).astype(jnp.float32)
    return logits, split(module)[3] if train else model_state

  return Model(init, apply)


# What `split` leaves to the last: neither params nor random streams.
_STATE = nnx.Not(nnx.Any(nnx.Param, nnx.RngState))


def _in_training(module, images):
  module.train()
  return module(images)


def _tested(module, images):
  module.eval()
  return module(images)


def _fresh_streams(streams, key):
  """Streams with counts of 0, each with its own key from `key`."""
  flat, treedef = jax.tree.flatten(streams)
  fresh = [
    _like_key(jax.random.fold_in(key, index), leaf)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    else jnp.zeros(leaf.shape, leaf.dtype)
    for index, leaf in enumerate(flat)
  ]
  return jax.tree.unflatten(treedef, fresh)


def _like_key(key, leaf):
  return jax.random.split(key, leaf.shape) if leaf.shape else key

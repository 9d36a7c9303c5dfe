"""`bind`: one function for Linen and NNX."""

from collections.abc import Callable
from typing import Any

from flax import nnx
import flax.linen as nn

from jaxsparse.layers import _linen, _nnx, _product


def bind(model, handler: _product.Handler) -> Callable[..., Any]:
  r"""Makes a function that runs an unmodified model on kernels that are no arrays.

  .. math:: y = h(p, w, x) + b \quad\text{instead of}\quad y = p(x, w) + b

  Wherever the params hold a pytree node instead of a kernel (of Dense, DenseGeneral,
  Conv, Embed and what is made of them: attention, cells, nested, shared, scanned,
  rematerialised modules), the layer calls the handler `h` in place of its product
  `p`. Flax keeps its own axes, padding, bias and promotion of dtypes. Where the params
  hold arrays, the model runs as always.

  Args:
    model: a Linen module, or an NNX module. An NNX module is copied: a call changes
      neither its variables nor its attributes; `train()` and `eval()` are as they were
      at `bind`.
    handler: `(product, weight, x) -> y`. `x` and the bias have the promoted dtype of
      the layer, for which the weight counts with its attribute `dtype`, else with the
      dtype of its first floating leaf. It may have two more functions as attributes:
      `array(product, kernel, x) -> y` for each Dense (NNX: Linear) whose kernel is an
      array, and, for Linen's Dense, `add_bias(y, bias) -> y + bias` for what it
      returned itself.

  Returns:
    For Linen `apply_fn(variables, *args, **kwargs)`, called as `model.apply`, with
    `rngs`, `mutable` and `method`. The node is any registered pytree but a dict; under
    `nn.scan` and `nn.vmap` each of its arrays has the stacked axis.

    For NNX `apply_fn(variables, *args, rngs=None, mutable=False, method=None,
    **kwargs)`. `variables` is an `nnx.State` (as from `nnx.state(model, nnx.Param)`)
    or a nested dict of arrays; a node stands in the `nnx.Param` (as after
    `jax.tree.map`) or in its place; variables that are not given are the model's.
    `rngs` is `{stream: key}`, as in `nnx.reseed`. `method` is a name or a function
    `(module, *args, **kwargs)`. The result is the output, or, for `mutable` an NNX
    filter such as `nnx.BatchStat`, `(output, nnx.State)` with those variables after
    the call.

  Raises:
    ValueError: a model of another kind. From `apply_fn`: a node where no such layer
      reads it (a raw `self.param`, ConvTranspose, Einsum, a masked Conv), by path; for
      NNX also variables that the model does not have.

  Example:
    >>> from typing import NamedTuple
    >>> import flax.linen as nn, jax, jax.numpy as jnp, jaxsparse as js
    >>> class Scaled(NamedTuple):
    ...   kernel: jax.Array
    ...   scale: jax.Array
    >>> def handler(product, weight, x):
    ...   return product.apply(x, weight.kernel) * weight.scale
    >>> apply_fn = js.layers.bind(nn.Dense(2), handler)
    >>> weight = Scaled(jnp.ones((3, 2)), jnp.float32(0.5))
    >>> params = {'kernel': weight, 'bias': jnp.zeros(2)}
    >>> apply_fn({'params': params}, jnp.ones((1, 3)))
    Array([[1.5, 1.5]], dtype=float32)
  """
  if not callable(handler):
    raise ValueError(f'handler={handler!r}: wanted a function (product, weight, x).')
  if isinstance(model, nn.Module):
    return _linen.bind(model, handler)
  if isinstance(model, nnx.Module):
    return _nnx.bind(model, handler)
  raise ValueError(f'model={model!r}: wanted a Linen module or an NNX module.')

"""Running an unmodified model on values and patterns."""

from collections.abc import Mapping
import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxsparse import layers, sparse
from jaxsparse.compact import _between, _capture


def bind(model, backend: str | None = None):
  r"""Makes a function that runs an unmodified model on its nonzeros.

  .. math:: y = x W + b, \quad W_{i,o} = 0 \text{ off the pattern}

  Every Dense, DenseGeneral, Conv and Embed whose kernel has a pattern is computed by
  `js.sparse.matmul`, `conv` or `take`: nothing of the size of the dense kernel is
  made. Other leaves are used as they are; where the C++ kernels are at hand, they also
  multiply by narrow dense heads and sum up the gradients of biases, since activations
  have their layout.

  Args:
    model: a Linen or an NNX module, see `js.layers.bind`.
    backend: of the products, see `js.sparse.matmul`; None for what
      `js.sparse.choose_backend` says.

  Returns:
    `apply_fn(variables, patterns, *args, **kwargs)`. `variables` is what the model is
    given (for Linen `{'params': ..., ...}`), with values where kernels were; `patterns`
    is from `get_patterns`, like `variables` or like `variables['params']`.

  Raises:
    ValueError: a model of another kind. From `apply_fn`: patterns that do not fit, a
      product that has no sparse form (a convolution that is grouped, dilated or not
      over images), by leaf: keep that one out of `prunable`.

  Example:
    >>> import flax.linen as nn, jax, jax.numpy as jnp, jaxsparse as js, optax
    >>> model, x = nn.Dense(4), jnp.ones((2, 8))
    >>> params = model.init(jax.random.key(0), x)
    >>> tx = js.transforms.static(optax.adam(1e-3), 0.75, seed=0)
    >>> tx, params, opt_state = js.compact.convert(tx, *js.init(tx, params))
    >>> apply_fn = js.compact.bind(model)
    >>> apply_fn(params, js.compact.get_patterns(opt_state), x).shape
    (2, 4)
  """
  run = layers.bind(model, handler(backend))

  def apply_fn(variables, patterns, *args, **kwargs):
    if isinstance(variables, Mapping) and 'params' in variables:
      of_params = patterns['params'] if 'params' in patterns else patterns
      joined = {**variables, 'params': join(variables['params'], of_params)}
    else:
      joined = join(variables, patterns)
    return run(joined, *args, **kwargs)

  return apply_fn


def handler(backend: str | None = None) -> layers.Handler:
  """The handler of `bind`, for code that calls `js.layers.bind` itself.

  Args:
    backend: as for `bind`.

  Returns:
    `(product, weight, x) -> y` for weights that `join` made, with `array` and `add_bias`
    as `js.layers.bind` knows them.

  Example:
    >>> import flax.linen as nn, jax.numpy as jnp, jaxsparse as js
    >>> apply_fn = js.layers.bind(nn.Dense(2, use_bias=False), js.compact.handler())
    >>> weight = js.sparse.from_mask(jnp.ones((2, 2)), jnp.eye(2, dtype=bool))
    >>> apply_fn({'params': {'kernel': weight}}, jnp.array([[1., 3.]])).tolist()
    [[1.0, 3.0]]
  """
  run: Any = _capture.with_taps(functools.partial(_product, backend))
  run.array = functools.partial(_between.multiply, backend)
  run.add_bias = functools.partial(_between.add_bias, backend)
  return run


def join(params, patterns):
  """The params with a `js.sparse.SparseArray` wherever there is a pattern.

  Args:
    params: values, and dense arrays.
    patterns: from `get_patterns`, of the same tree.

  Returns:
    A tree like `params`.

  Raises:
    ValueError: patterns of another tree.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> weight = js.sparse.from_mask(jnp.ones((2, 2)), jnp.eye(2, dtype=bool))
    >>> joined = js.compact.join({'w': weight.values}, {'w': weight.pattern})
    >>> joined['w'].shape
    (2, 2)
  """

  def one(pattern, leaf):
    is_pattern = _capture.is_pattern(pattern)
    return sparse.SparseArray(leaf, pattern) if is_pattern else leaf

  try:
    return jax.tree.map(one, patterns, params, is_leaf=_capture.is_pattern)
  except (ValueError, TypeError) as error:
    raise ValueError(
      f'patterns: another tree than the params; wanted what js.compact.get_patterns'
      f' says of them. {error}'
    ) from error


def _product(backend, product, weight, x):
  """The product of a layer, on nonzeros."""
  kinds = {'dot': _dot, 'conv': _conv, 'embed': _embed}
  return kinds[product.kind](backend, product, weight, x)


def _dot(backend, product, weight, x):
  fmt = weight.pattern.format
  (x_axes, weight_axes), batch_axes = product.options['dimension_numbers']
  pairs = sorted(zip(weight_axes, x_axes))
  contracted = tuple(w for w, _ in pairs)
  axes = tuple(range(len(fmt.shape)))
  sides = axes[: fmt.in_axes], axes[fmt.in_axes :]
  if any(map(len, batch_axes)) or contracted not in sides:
    raise ValueError(
      f'{product.name}: a product over the axes {contracted}; wanted the inputs'
      f' {sides[0]}, or the outputs, of a weight of shape {fmt.shape}.'
    )
  # The contracted axes come last, in the order in which the weight has them.
  x = jnp.moveaxis(x, [a for _, a in pairs], range(x.ndim - len(pairs), x.ndim))
  transpose = contracted == sides[1]
  y = sparse.matmul(x, weight, transpose=transpose, backend=backend)
  # x has the layer's dtype by now; values may be wider, the output must not be.
  return y.astype(x.dtype)


def _conv(backend, product, weight, x):
  options, fmt = product.options, weight.pattern.format
  numbers = jax.lax.conv_dimension_numbers(
    x.shape, fmt.shape, options.get('dimension_numbers')
  )
  images = jax.lax.conv_dimension_numbers(
    x.shape, fmt.shape, ('NHWC', 'HWIO', 'NHWC') if x.ndim == 4 else None
  )
  dilated = [options.get(k) or () for k in ('lhs_dilation', 'rhs_dilation')]
  plain = options.get('feature_group_count', 1) == 1 and all(
    d == 1 for axes in dilated for d in axes
  )
  if x.ndim != 4 or numbers != images or not plain:
    raise ValueError(
      f'{product.name}: only convolutions of images (NHWC, HWIO) without groups and'
      ' dilation have a sparse form; keep this kernel dense, out of prunable=.'
    )
  y = sparse.conv(
    weight,
    x,
    strides=options['window_strides'],
    padding=options['padding'],
    backend=backend,
  )
  return y.astype(x.dtype)


def _embed(backend, product, weight, ids):
  table = jax.ShapeDtypeStruct(weight.pattern.format.shape, weight.dtype)
  # For its dtype alone: computing it would want the dense table.
  wanted = jax.eval_shape(product.apply, ids, table)
  return sparse.take(weight, ids, backend=backend).astype(wanted.dtype)

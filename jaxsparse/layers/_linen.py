"""Linen: an interceptor runs each layer once more, detached, around the handler."""

import dataclasses
import functools
import inspect
from typing import Any

from flax import errors
import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from jaxsparse.layers import _product


def bind(model: nn.Module, handler: _product.Handler):
  """See `jaxsparse.layers.bind`."""
  interceptor, token = functools.partial(_intercept, handler), object()

  def apply_fn(variables, *args, **kwargs):
    variables = dict(variables)
    if 'params' in variables:
      variables['params'] = _product.wrap(variables['params'], token)
    with nn.intercept_methods(interceptor):
      out = model.apply(variables, *args, **kwargs)
    # With `mutable` the variables come back too, and in them what was wrapped.
    return _product.unwrap(out)

  return apply_fn


def _intercept(handler, next_fun, args, kwargs, context):
  module = context.module
  # A module that is not bound yet has no variables to look at.
  params = {} if module.scope is None else module.variables.get('params', {})
  found = {n: x for n, x in params.items() if isinstance(x, _product.Bound)}
  if not found and _is_array_for(handler, context, params):
    name = '/'.join((*module.path, 'kernel'))
    bound = _product.Bound(params['kernel'], name, None)
    return _dense(handler.array, nn.Dense, module, bound, *args, **kwargs)
  if not found:
    return next_fun(*args, **kwargs)
  layer = next((t for t in _NAMES if isinstance(module, t)), None)
  for name, bound in found.items():
    if layer is None or name != _NAMES[layer]:
      raise bound.refusal()
  bound = found[_NAMES[layer]]
  # The method itself, not its name: a subclass may wrap what it calls by `super()`.
  run = _METHODS.get(getattr(context.orig_method, 'func', None))
  if run is not None:
    return run(handler, layer, module, bound, *args, **kwargs)
  try:
    return next_fun(*args, **kwargs)
  except errors.ScopeParamShapeError as error:
    # A method of a subclass that declares the kernel itself finds another shape.
    raise bound.refusal() from error


def _is_array_for(handler, context, params) -> bool:
  """Whether a handler takes the array that is the kernel of this Dense."""
  return (
    hasattr(handler, 'array')
    and type(context.module) is nn.Dense
    and getattr(context.orig_method, 'func', None) is _DENSE_CALL
    and isinstance(params.get('kernel'), jax.Array)
  )


def _run_detached(layer, module, bound, options, inputs):
  """Runs the layer's own method on a stub, with `options` as attributes."""
  fields = {
    f.name: getattr(module, f.name)
    for f in dataclasses.fields(layer)
    if f.init and f.name not in ('parent', 'name')
  }

  def promote_dtype(x, kernel, bias, **kwargs):
    # A scalar array promotes as the kernel does, and costs nothing to cast.
    like = _product.as_kernel(kernel.dtype)
    x, _, bias = module.promote_dtype(x, like, bias, **kwargs)
    return x, kernel, bias

  fields |= {'promote_dtype': promote_dtype, **options}
  # Flax compares the leaves of a param with its initialiser's: a stub has none.
  params: dict[str, Any] = {_NAMES[layer]: _product.Stub(jnp.dtype(bound.dtype))}
  if module.has_variable('params', 'bias') and fields.get('use_bias', True):
    params['bias'] = module.get_variable('params', 'bias')
  return layer(**fields, parent=None).apply({'params': params}, inputs)


def _dense(handler, layer, module, bound, inputs):
  own = module.dot_general_cls() if module.dot_general_cls else module.dot_general

  def dot_general(x, stub, dimension_numbers, **options):
    apply = _product.cast_first(own or lax.dot_general, dimension_numbers, **options)
    options = {'dimension_numbers': dimension_numbers, **options}
    product = _product.Product('dot', bound.name, apply, options)
    return handler(product, bound.weight, x)

  # Flax asks for `dot_general_cls` first, so that this one serves all layers.
  options = {'dot_general': None, 'dot_general_cls': lambda: dot_general}
  bias = None
  if layer is nn.Dense and module.has_variable('params', 'bias'):
    bias = module.get_variable('params', 'bias')
  if not hasattr(handler, 'add_bias') or not isinstance(bias, jax.Array):
    return _run_detached(layer, module, bound, options, inputs)
  y = _run_detached(layer, module, bound, {**options, 'use_bias': False}, inputs)
  if y.dtype != bias.dtype:
    # The bias may have a part in the promotion of dtypes.
    return _run_detached(layer, module, bound, options, inputs)
  return handler.add_bias(y, bias)


def _conv(handler, layer, module, bound, inputs):
  if module.mask is not None:
    raise bound.refusal()
  own = module.conv_general_dilated
  if module.conv_general_dilated_cls:
    own = module.conv_general_dilated_cls()

  def conv_general_dilated(x, stub, window_strides, padding, **options):
    apply = _product.cast_first(
      own or lax.conv_general_dilated, window_strides, padding, **options
    )
    options = {'window_strides': window_strides, 'padding': padding, **options}
    product = _product.Product('conv', bound.name, apply, options)
    return handler(product, bound.weight, x)

  options = {
    'conv_general_dilated': None,
    'conv_general_dilated_cls': lambda: conv_general_dilated,
  }
  return _run_detached(layer, module, bound, options, inputs)


def _embed_setup(handler, layer, module, bound):
  # Instead of declaring the table, which would compare its shape.
  module.embedding = bound


def _embed(handler, layer, module, bound, inputs):
  like = _product.as_kernel(bound.dtype)
  (like,) = module.promote_dtype(like, dtype=module.dtype, inexact=False)
  shape = (module.num_embeddings, module.features)
  product = _product.lookup(bound.name, shape, like.dtype, inputs)
  return handler(product, bound.weight, inputs)


def _attend(handler, layer, module, bound, query):
  like = _product.as_kernel(bound.dtype)
  query, like = module.promote_dtype(query, like, dtype=module.dtype)
  return handler(_product.attend(bound.name, query), bound.weight, query)


_DENSE_CALL = inspect.unwrap(nn.Dense.__call__)
_NAMES = {
  nn.Dense: 'kernel',
  nn.DenseGeneral: 'kernel',
  nn.Conv: 'kernel',
  nn.Embed: 'embedding',
}
_METHODS = {
  _DENSE_CALL: _dense,
  inspect.unwrap(nn.DenseGeneral.__call__): _dense,
  inspect.unwrap(nn.Conv.__call__): _conv,
  inspect.unwrap(nn.Embed.setup): _embed_setup,
  inspect.unwrap(nn.Embed.__call__): _embed,
  inspect.unwrap(nn.Embed.attend): _attend,
}

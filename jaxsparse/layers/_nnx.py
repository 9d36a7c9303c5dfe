"""NNX: a functional copy whose layers call the handler."""

from collections.abc import Callable
import dataclasses
from typing import Any

from flax import nnx
from jax import lax

from jaxsparse import core
from jaxsparse.layers import _product


def bind(model: nnx.Module, handler: _product.Handler):
  """See `jaxsparse.layers.bind`."""
  graphdef, own = nnx.split(model)
  paths = {'/'.join(map(str, path)): path for path, _ in nnx.to_flat_state(own)}
  token = object()

  def apply_fn(
    variables, *args, rngs=None, mutable: Any = False, method=None, **kwargs
  ):
    state = _merged(dict(nnx.to_flat_state(own)), paths, variables, token)
    # copy=True: under grad and pmap the variables must belong to this trace.
    module = nnx.merge(graphdef, nnx.from_flat_state(state), copy=True)
    _replace_products(module, handler)
    if rngs:
      nnx.reseed(module, **rngs)
    if isinstance(method, str):
      method = getattr(type(module), method)
    out = (method or type(module).__call__)(module, *args, **kwargs)
    if mutable is False:
      return out
    return out, _product.unwrap(nnx.state(module, mutable))

  return apply_fn


def _merged(flat, paths, variables, token):
  """The model's variables with the given values in the place of its own."""
  wrapped = _product.wrap(variables, token)
  is_bound = lambda x: isinstance(x, _product.Bound)
  names, values, _ = core.named_leaves(wrapped, is_leaf=is_bound)
  for name, value in zip(names, values):
    if name not in paths:
      raise ValueError(
        f'variables: the model has no {name}; it has {", ".join(sorted(paths))}.'
      )
    # A copy, so that the variable of the model keeps its own value.
    flat[paths[name]] = flat[paths[name]].copy(value)
  return flat


def _replace_products(module: nnx.Module, handler) -> None:
  """Makes every layer of a module that holds a weight call the handler."""
  bound, read = {}, set()
  for path, node in nnx.iter_graph(module):
    if isinstance(node, nnx.Variable):
      if isinstance(value := node.get_value(), _product.Bound):
        bound[value.name] = value
    elif isinstance(node, nnx.Module):
      layer = next((t for t in _REPLACE if isinstance(node, t)), None)
      if layer is None:
        continue
      value = getattr(node, _NAMES[layer]).get_value()
      if isinstance(value, _product.Bound):
        _REPLACE[layer](node, value, handler)
        read.add(value.name)
      elif hasattr(handler, 'array') and type(node) is nnx.Linear:
        name = '/'.join(map(str, (*path, 'kernel')))
        node.dot_general = _ArrayDot(node.dot_general, handler.array, name)
  for name in bound:
    if name not in read:
      raise bound[name].refusal()


# Frozen dataclasses rather than closures: what a module holds must be hashable and
# equal from call to call, or `nnx.jit` and `nnx.scan` would trace anew each time.
@dataclasses.dataclass(frozen=True)
class _Promote:
  """The layer's promotion of dtypes, in which the weight counts by its dtype."""

  own: Callable

  def __call__(self, values, **kwargs):
    place = next(i for i, x in enumerate(values) if isinstance(x, _product.Bound))
    values, bound = list(values), values[place]
    values[place] = _product.as_kernel(bound.dtype)
    values = list(self.own(tuple(values), **kwargs))
    values[place] = bound
    return tuple(values)


@dataclasses.dataclass(frozen=True)
class _Dot:
  """Stands for `lax.dot_general`."""

  own: Callable
  handler: _product.Handler

  def __call__(self, x, bound, dimension_numbers, **options):
    options = {n: v for n, v in options.items() if n != 'out_sharding' or v is not None}
    apply = _product.cast_first(self.own, dimension_numbers, **options)
    options = {'dimension_numbers': dimension_numbers, **options}
    product = _product.Product('dot', bound.name, apply, options)
    return self.handler(product, bound.weight, x)


@dataclasses.dataclass(frozen=True)
class _ArrayDot:
  """Stands for `lax.dot_general` where the kernel is an array."""

  own: Callable
  handler: _product.Handler
  name: str

  def __call__(self, x, kernel, dimension_numbers, **options):
    options = {n: v for n, v in options.items() if n != 'out_sharding' or v is not None}
    apply = _product.cast_first(self.own, dimension_numbers, **options)
    options = {'dimension_numbers': dimension_numbers, **options}
    return self.handler(_product.Product('dot', self.name, apply, options), kernel, x)


@dataclasses.dataclass(frozen=True)
class _Conv:
  """Stands for `lax.conv_general_dilated`."""

  own: Callable
  handler: _product.Handler

  def __call__(self, x, bound, window_strides, padding, **options):
    options = {n: v for n, v in options.items() if n != 'out_sharding' or v is not None}
    apply = _product.cast_first(self.own, window_strides, padding, **options)
    options = {'window_strides': window_strides, 'padding': padding, **options}
    product = _product.Product('conv', bound.name, apply, options)
    return self.handler(product, bound.weight, x)


class _Embed(nnx.Embed):
  """What an `nnx.Embed` becomes in the copy: its methods have no seam of their own."""

  def __call__(self, inputs):
    bound = self.embedding[...]
    like = _product.as_kernel(bound.dtype)
    (like,) = self.promote_dtype((like,), dtype=self.dtype, inexact=False)
    shape = (self.num_embeddings, self.features)
    product = _product.lookup(bound.name, shape, like.dtype, inputs)
    return self.handler(product, bound.weight, inputs)

  def attend(self, query, out_sharding=None):
    bound = self.embedding[...]
    like = _product.as_kernel(bound.dtype)
    query, like = self.promote_dtype((query, like), dtype=self.dtype)
    options = {} if out_sharding is None else {'out_sharding': out_sharding}
    product = _product.attend(bound.name, query, **options)
    return self.handler(product, bound.weight, query)


def _replace_dot(module, bound, handler):
  own = module.dot_general
  if getattr(module, 'dot_general_cls', None) is not None:
    # NNX would ask for it before it looks at the `dot_general` that is set below.
    own, module.dot_general_cls = module.dot_general_cls(), None
  module.dot_general = _Dot(own or lax.dot_general, handler)
  module.promote_dtype = _Promote(module.promote_dtype)


def _replace_conv(module, bound, handler):
  if module.mask is not None:
    raise bound.refusal()
  module.conv_general_dilated = _Conv(module.conv_general_dilated, handler)
  module.promote_dtype = _Promote(module.promote_dtype)


def _replace_embed(module, bound, handler):
  # A subclass with methods of its own would lose them.
  if type(module) is not nnx.Embed:
    raise bound.refusal()
  object.__setattr__(module, '__class__', _Embed)
  module.handler = handler


_NAMES: dict[type, str] = {
  nnx.Linear: 'kernel',
  nnx.LinearGeneral: 'kernel',
  nnx.Conv: 'kernel',
  nnx.Embed: 'embedding',
}
_REPLACE: dict[type, Callable] = {
  nnx.Linear: _replace_dot,
  nnx.LinearGeneral: _replace_dot,
  nnx.Conv: _replace_conv,
  nnx.Embed: _replace_embed,
}

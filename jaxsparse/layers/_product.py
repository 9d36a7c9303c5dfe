"""What a handler is given, and how a weight that is no array travels through Flax."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any, NamedTuple

from flax import nnx
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxsparse import core


class Product(NamedTuple):
  """One product of a layer with its kernel: what a handler has to compute.

  Attributes:
    kind: `'dot'` (Dense, DenseGeneral, attention, `Embed.attend`), `'conv'` or
      `'embed'` (rows of a table, `x` is an integer array).
    name: the slash path of the kernel, as `core.named_leaves` spells it.
    apply: `(x, kernel) -> y` with a kernel that is an array: the layer's own product,
      with its axes, strides, padding and precision. The kernel is cast to the dtype of
      `x` (a table: to that of the layer). It is linear in the kernel, and for `'dot'`
      and `'conv'` in `x`; the layer adds its bias afterwards.
    options: what an implementation of its own needs: `dimension_numbers` and
      `precision`; for a convolution also `window_strides`, `padding`,
      `lhs_dilation`, `rhs_dilation` and `feature_group_count`, as
      `jax.lax.conv_general_dilated` calls them; for a table `shape`.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> product = js.layers.Product('dot', 'dense1/kernel', jnp.dot, {})
    >>> product.apply(jnp.ones(3), 2 * jnp.ones(3))
    Array(6., dtype=float32)
  """

  kind: str
  name: str
  apply: Callable[[jax.Array, jax.Array], jax.Array]
  options: Mapping[str, Any]


Handler = Callable[[Product, Any, jax.Array], jax.Array]


class Bound:
  """A weight on its way through Flax: it knows its name and refuses to be an array.

  A pytree, so that `nn.scan`, `nn.vmap` and `nn.remat` slice the weight. The token of
  one `bind` is part of its treedef: `nn.jit` caches by treedef, and must not run the
  handler of another `bind`.
  """

  def __init__(self, weight, name: str, token: object):
    self.weight, self.name, self.token = weight, name, token

  @property
  def dtype(self):
    """The dtype that the weight has for the layer's promotion."""
    if hasattr(self.weight, 'dtype'):
      return self.weight.dtype
    dtypes = (getattr(x, 'dtype', None) for x in jax.tree.leaves(self.weight))
    floats = (d for d in dtypes if d is not None and jnp.issubdtype(d, jnp.inexact))
    return next(floats, jnp.float32)

  def refusal(self) -> ValueError:
    """The error for a place where no layer hands the weight to the handler."""
    return ValueError(
      f'{self.name}: a {type(self.weight).__name__} stands where an array was, and only'
      ' the kernels of Dense, DenseGeneral, Conv and Embed (NNX: Linear, LinearGeneral,'
      ' Conv, Embed) without a mask can be that; keep this parameter an array.'
    )

  def __jax_array__(self):
    raise self.refusal()

  def __getitem__(self, index):
    # NNX reads a variable as `kernel[...]`.
    if index is not Ellipsis:
      raise self.refusal()
    return self


jax.tree_util.register_pytree_node(
  Bound,
  lambda bound: ((bound.weight,), (bound.name, bound.token)),
  lambda aux, children: Bound(children[0], *aux),
)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Stub:
  """Stands for a kernel inside a layer: nothing is allocated, no shape is compared."""

  dtype: Any


def as_kernel(dtype) -> jax.Array:
  """A scalar that promotes as a kernel of this dtype does."""
  return jnp.zeros((), dtype)


def cast_first(own: Callable, *args, **options) -> Callable:
  """The layer's own product, with a kernel cast as the layer would."""
  return lambda x, kernel: own(x, kernel.astype(x.dtype), *args, **options)


def lookup(name: str, shape, dtype, ids) -> Product:
  """Rows of a table of this shape, as `Embed` looks them up."""

  def apply(ids, table):
    table = table.astype(dtype)
    # As Flax does: in a table of one row every id has that row.
    if shape[0] == 1:
      return jnp.broadcast_to(table, (*ids.shape, shape[1]))
    return jnp.take(table, ids, axis=0)

  if not jnp.issubdtype(ids.dtype, jnp.integer):
    raise ValueError(f'{name}: looked up with {ids.dtype}; wanted integers.')
  return Product('embed', name, apply, {'shape': tuple(shape)})


def attend(name: str, query, **options) -> Product:
  """The product of a query with every row of a table."""
  apply = lambda query, table: jnp.dot(query, table.astype(query.dtype).T, **options)
  contracted = (((query.ndim - 1,), (1,)), ((), ()))
  return Product('dot', name, apply, {'dimension_numbers': contracted, **options})


# Nodes that are no weights themselves, but may hold some.
_CONTAINERS = (Mapping, nnx.State, nnx.Variable, nn.meta.AxisMetadata, type(None))


def is_weight(x) -> bool:
  """Whether a node of a params tree is a weight that is no array."""
  return not isinstance(x, _CONTAINERS) and not jax.tree_util.all_leaves([x])


def wrap(params, token):
  """Puts every weight that is no array into a `Bound`."""
  names, values, treedef = core.named_leaves(params, is_leaf=is_weight)
  wrapped = [
    Bound(x, name, token) if is_weight(x) else x for name, x in zip(names, values)
  ]
  return jax.tree.unflatten(treedef, wrapped)


def unwrap(tree):
  """The inverse of `wrap`."""
  is_bound = lambda x: isinstance(x, Bound)
  return jax.tree.map(lambda x: x.weight if is_bound(x) else x, tree, is_leaf=is_bound)

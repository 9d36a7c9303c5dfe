"""FLOPs of matrix products and convolutions, read off the traced computation."""

import collections
import dataclasses
import math
from typing import Any, NamedTuple

import jax
from jax.extend import core as jax_core
import numpy as np

from jaxsparse import core
from jaxsparse.summary import _counts

# Kernels that a trace shows as one opaque call.
_OPAQUE = ('pallas_call', 'ffi_call', 'ragged_dot_general', 'custom_linear_solve')


@dataclasses.dataclass(frozen=True)
class Flops:
  """FLOPs of one call, for the inputs as given: divide by the batch yourself.

  Attributes:
    dense: FLOPs of all matrix products and convolutions.
    sparse: the same with each leaf's share multiplied by its density.
    leaves: `{leaf name: (dense, sparse)}` for every parameter.
    unattributed: FLOPs that read no parameter (attention scores), or several.
    notes: what could not be counted exactly, in words.
  """

  dense: int
  sparse: int
  leaves: dict[str, tuple[int, int]]
  unattributed: int
  notes: tuple[str, ...] = ()

  @property
  def ratio(self) -> float:
    """sparse / dense; 1 for a computation without products."""
    return self.sparse / self.dense if self.dense else 1.0


class _Origin(NamedTuple):
  """Where a value comes from: parameters, and whether activations are in it.

  A value without activations still is a weight: reshaped, cast, masked, scaled.
  """

  names: frozenset[str] = frozenset()
  activation: bool = False


_NOTHING = _Origin()


class _Context(NamedTuple):
  kernels: frozenset[str]
  notes: dict[str, None]  # An ordered set.


def flops(apply_fn, params, *inputs, masks=None) -> Flops:
  r"""Counts the FLOPs of a function, dense and at the masks' densities.

  .. math:: F_\text{sparse} = F_\text{rest} + \sum_l F_l \, k_l / n_l

  The function is traced, not run. Every `dot_general` and `conv_general_dilated`
  counts two FLOPs per multiply-add (padding included, the zeros that a transposed
  convolution inserts not), and belongs to the parameter that reaches it through
  reshapes, casts, slices and elementwise operations. Loops count times their
  length, a `cond` as its dearest branch, a `while` once. Elementwise operations and
  embedding lookups count 0. What the compiler would remove is counted.

  Args:
    apply_fn: `apply_fn(params, *inputs)`; bind what is not an array beforehand.
    params: any pytree of arrays, or of `jax.ShapeDtypeStruct`.
    *inputs: arrays or shapes; FLOPs are those of this whole batch.
    masks: a tree of masks, or an optimizer state that holds them; None for dense.

  Returns:
    `Flops`.

  Raises:
    ValueError: masks that are not of these parameters.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> params, x = {'kernel': jnp.ones((4, 2))}, jnp.ones((8, 4))
    >>> masks = {'kernel': jnp.eye(4, 2, dtype=bool)}
    >>> found = js.summary.flops(lambda p, x: x @ p['kernel'], params, x, masks=masks)
    >>> found.dense, found.sparse
    (128, 32)
  """
  closed = jax.make_jaxpr(apply_fn)(params, *inputs)
  leaves = core.leaves_of(params)
  context = _Context(frozenset(n for n, x in leaves.items() if core.kernels(x)), {})
  # A jaxpr has flat inputs: first the leaves of the params, in the tree's order.
  origins = [_Origin(frozenset([name])) for name in leaves]
  origins += [_Origin(activation=True) for _ in closed.jaxpr.invars[len(origins) :]]
  _, counts = _walk(closed, origins, context)
  found = {}
  for name, mask in _counts.named_masks(params, masks).items():
    dense, size = counts[name], leaves[name].size
    kept = _counts.count_kept(mask, size)
    found[name] = (dense, dense * kept // size if size else 0)
  return Flops(
    dense=counts.total(),
    sparse=counts[None] + sum(sparse for _, sparse in found.values()),
    leaves=found,
    unattributed=counts[None],
    notes=tuple(context.notes),
  )


def _is_data(aval) -> bool:
  # Masks and random keys do not make a weight an activation.
  dtype = getattr(aval, 'dtype', _counts.BOOL)
  return dtype != _counts.BOOL and not jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key)


def _join(origins) -> _Origin:
  origins = list(origins)
  names = frozenset().union(*(o.names for o in origins))
  return _Origin(names, any(o.activation for o in origins))


def _walk(closed, args, context):
  """Follows origins through a jaxpr; returns `(origins of outputs, counts)`."""
  jaxpr = getattr(closed, 'jaxpr', closed)
  origins = dict(zip(jaxpr.invars, args))
  counts = collections.Counter()

  def read(v):
    # A literal is a number in the program: neither a weight nor an activation.
    if isinstance(v, jax_core.Literal) or not _is_data(v.aval):
      return _NOTHING
    return origins.get(v, _NOTHING)

  for eqn in jaxpr.eqns:
    handler = _HANDLERS.get(eqn.primitive.name, _call)
    outs, added = handler(eqn, [read(v) for v in eqn.invars], context)
    counts.update(added)
    origins.update(zip(eqn.outvars, outs))
  return [read(v) for v in jaxpr.outvars], counts


def _times(counts, factor: int):
  return collections.Counter({name: n * factor for name, n in counts.items()})


def _inner_jaxpr(eqn):
  """The body of a call-like equation: jit, remat, custom_jvp, shard_map ..."""
  for value in eqn.params.values():
    if isinstance(value, jax_core.Jaxpr | jax_core.ClosedJaxpr):
      jaxpr = getattr(value, 'jaxpr', value)
      if len(jaxpr.invars) == len(eqn.invars):
        return value
  return None


def _call(eqn, args, context):
  if eqn.primitive.name in _OPAQUE:
    context.notes[f'the FLOPs of {eqn.primitive.name} are not counted'] = None
  elif (body := _inner_jaxpr(eqn)) is not None:
    outs, counts = _walk(body, args, context)
    if len(outs) == len(eqn.outvars):
      return outs, _times(counts, _num_shards(eqn))
  # A scalar beside an array scales or indexes it: it does not change what it is.
  sizes = [math.prod(getattr(v.aval, 'shape', ())) for v in eqn.invars]
  big = [a for a, size in zip(args, sizes) if size > 1]
  return [_join(big or args)] * len(eqn.outvars), {}


def _num_shards(eqn) -> int:
  """How many devices split the work of a `shard_map`: its body is one share."""
  if eqn.primitive.name != 'shard_map':
    return 1
  axes: set[str] = set()
  for spec in eqn.params['in_specs']:
    for part in spec:
      axes.update((part,) if isinstance(part, str) else part or ())
  return math.prod(eqn.params['mesh'].shape[axis] for axis in axes)


def _product(eqn, args, context, num_flops: int):
  names = frozenset().union(*(a.names for a in args if not a.activation))
  # Beside a kernel, any other parameter (a learned query, a norm's scale) plays the
  # part of an activation or of a factor.
  chosen = names & context.kernels if len(names) > 1 else names
  if len(chosen) > 1:
    listed = ', '.join(sorted(chosen))
    note = f'products of several parameters ({listed}) are counted as dense'
    context.notes[note] = None
  leaf = next(iter(chosen)) if len(chosen) == 1 else None
  # No product keeps the zeros of its operands in place: no weight comes out of it.
  return [_Origin(activation=True)] * len(eqn.outvars), {leaf: num_flops}


def _dot(eqn, args, context):
  (contracted, _), _ = eqn.params['dimension_numbers']
  shape = eqn.invars[0].aval.shape
  depth = math.prod(shape[axis] for axis in contracted)
  # Batch axes are among those of the output: they need no factor of their own.
  out_size = math.prod(eqn.outvars[0].aval.shape)
  return _product(eqn, args, context, 2 * out_size * depth)


def _conv(eqn, args, context):
  p: dict[str, Any] = eqn.params
  numbers = p['dimension_numbers']
  kernel, out = eqn.invars[1].aval.shape, eqn.outvars[0].aval.shape
  batch, features, *out_window = (out[axis] for axis in numbers.out_spec)
  # The kernel's input axis is already one feature group long.
  _, depth, *window = (kernel[axis] for axis in numbers.rhs_spec)
  taps = 1
  for i, (n, k) in enumerate(zip(out_window, window)):
    position = np.arange(n)[:, None] * p['window_strides'][i] - p['padding'][i][0]
    position = position + np.arange(k)[None, :] * p['rhs_dilation'][i]
    # Between the multiples of `lhs_dilation` lie zeros that were inserted.
    taps *= int(np.count_nonzero(position % p['lhs_dilation'][i] == 0))
  return _product(eqn, args, context, 2 * batch * features * depth * taps)


def _fixed_carry(body, consts, carry, xs, context):
  """Walks a loop's body until the origins of its carry no longer change."""
  while True:
    outs, counts = _walk(body, [*consts, *carry, *xs], context)
    # Origins only grow, and there are finitely many: the loop ends.
    joined = [_join(pair) for pair in zip(carry, outs)]
    if joined == carry:
      return outs, counts
    carry = joined


def _scan(eqn, args, context):
  body = eqn.params['jaxpr']
  # Told apart by rank, because jax keeps the counts under other names in each release:
  # inputs are constants, carry, slices; outputs are carry, slices.
  same_rank = lambda outer, inner: len(outer.aval.shape) == len(inner.shape)
  num_carry = sum(map(same_rank, eqn.outvars, body.out_avals))
  stop = sum(map(same_rank, eqn.invars, body.in_avals))
  start = stop - num_carry
  outs, counts = _fixed_carry(
    body, args[:start], args[start:stop], args[stop:], context
  )
  return outs, _times(counts, eqn.params['length'])


def _while(eqn, args, context):
  p = eqn.params
  start, stop = p['cond_nconsts'], p['cond_nconsts'] + p['body_nconsts']
  outs, counts = _fixed_carry(
    p['body_jaxpr'], args[start:stop], args[stop:], [], context
  )
  carry = [_join(pair) for pair in zip(args[stop:], outs)]
  _, tested = _walk(p['cond_jaxpr'], [*args[:start], *carry], context)
  counts.update(tested)
  if counts.total():
    context.notes['a while loop of unknown length is counted once'] = None
  return carry, counts


def _cond(eqn, args, context):
  # The first operand chooses the branch.
  results = [_walk(body, args[1:], context) for body in eqn.params['branches']]
  outs = [_join(origins) for origins in zip(*(outs for outs, _ in results))]
  counts = max((counts for _, counts in results), key=lambda c: c.total())
  if len({c.total() for _, c in results}) > 1:
    context.notes['a cond is counted as its dearest branch'] = None
  return outs, counts


_HANDLERS = {
  'dot_general': _dot,
  'conv_general_dilated': _conv,
  'scan': _scan,
  'while': _while,
  'cond': _cond,
}

"""Growth mode: what a product with a sparse weight saw, carried out by cotangents.

A pattern may be wrapped into a `Tapped` one, which holds zero arrays for the inputs and
the outputs of its products. Their cotangents are the inputs, and the gradients of the
outputs: so they pass through `nn.scan`, `nn.vmap` and `nn.remat` as any weight does.
"""

import collections
from collections.abc import Callable, Mapping
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxsparse import core, sparse


class Call(NamedTuple):
  """One product of a leaf.

  Attributes:
    kind: as in `layers.Product`.
    options: as there.
    x: the shape and dtype of its input.
    y: those of its output.
  """

  kind: str
  options: Mapping[str, Any]
  x: jax.ShapeDtypeStruct
  y: jax.ShapeDtypeStruct


class Log:
  """The products of a leaf, in the order in which they were traced."""

  def __init__(self, name: str):
    self.name = name
    self.calls: list[Call] = []


# Not frozen by fields: the log is static, and equal to nothing but itself, so that no
# cache hands out what was traced for another one.
@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass(eq=False)
class Tapped:
  """A pattern whose products are captured.

  Attributes:
    pattern: the `sparse.Pattern`.
    probes: pairs of zero arrays, one pair a call; None while calls are only counted.
    log: what is called.
  """

  pattern: sparse.Pattern
  probes: tuple[tuple[jax.Array, jax.Array], ...] | None
  log: Log

  def tree_flatten(self):
    return (self.pattern, self.probes), self.log

  @classmethod
  def tree_unflatten(cls, log, children):
    return cls(*children, log)


def is_pattern(x) -> bool:
  """Whether a node of a tree of patterns is that of one leaf."""
  return sparse.is_pattern(x) or isinstance(x, Tapped)


def with_taps(handler: Callable) -> Callable:
  """A handler of `layers.bind` that also serves tapped patterns."""

  def tapped_handler(product, weight, x):
    tapped = weight.pattern
    if not isinstance(tapped, Tapped):
      return handler(product, weight, x)
    plain = dataclasses.replace(weight, pattern=tapped.pattern)
    y = handler(product, plain, x)
    calls = tapped.log.calls
    calls.append(Call(product.kind, product.options, _struct(x), _struct(y)))
    if tapped.probes is None:
      return y
    if len(calls) > len(tapped.probes):
      raise ValueError(
        f'{tapped.log.name}: the loss calls it more often each time it is traced.'
      )
    return _tap(y, x, tapped.probes[len(calls) - 1])

  return tapped_handler


@jax.custom_vjp
def _tap(y, x, probes):
  del x, probes
  return y


def _tap_forward(y, x, probes):
  del probes
  return y, x


def _tap_backward(x, dy):
  if not jnp.issubdtype(x.dtype, jnp.inexact):
    # A cotangent is a float. Two digits, for float32 cannot count above 2**24.
    x = jnp.stack([x >> 16, x & 0xFFFF]).astype(jnp.float32)
  # x has its gradient from the product itself; its probe gets x instead of one.
  return dy, None, (x, dy)


_tap.defvjp(_tap_forward, _tap_backward)


def captured(
  loss_fn: Callable, patterns: Mapping[str, sparse.Pattern]
) -> dict[str, list[tuple[Call, jax.Array, jax.Array]]]:
  """The inputs of all products, and the gradients of their outputs.

  Args:
    loss_fn: `{name: Tapped} -> scalar`.
    patterns: `{name: pattern}`; stacked ones have one leading axis more.

  Returns:
    `{name: [(call, x, dy), ...]}`, with the leading axis of stacked leaves.

  Raises:
    ValueError: calls of one leaf that cannot be told apart.
  """
  logs = {name: Log(name) for name in patterns}
  bare = {n: Tapped(p, None, logs[n]) for n, p in patterns.items()}
  # A first trace counts the calls and notes their shapes; nothing is computed.
  jax.eval_shape(lambda: loss_fn(bare))
  calls = {name: tuple(log.calls) for name, log in logs.items()}
  probes = {
    name: tuple(_probes(call, patterns[name].stack) for call in calls[name])
    for name in patterns
  }

  def loss(probes):
    # A log of its own for each trace.
    tapped = {n: Tapped(patterns[n], p, Log(n)) for n, p in probes.items()}
    return loss_fn(tapped)

  _check_uses(loss, probes)
  value, pull = jax.vjp(loss, probes)
  (found,) = pull(jnp.ones_like(value))
  return {
    name: [(call, _integers(call, x), dy) for call, (x, dy) in zip(calls[name], pairs)]
    for name, pairs in found.items()
  }


def _struct(x):
  return jax.ShapeDtypeStruct(x.shape, x.dtype)


def _probes(call, stack):
  x, y = call.x, call.y
  if jnp.issubdtype(x.dtype, jnp.inexact):
    probe = jnp.zeros((*stack, *x.shape), x.dtype)
  else:
    # Two digits, as `_tap_backward` makes them of integers.
    probe = jnp.zeros((*stack, 2, *x.shape), jnp.float32)
  return probe, jnp.zeros((*stack, *y.shape), y.dtype)


def _integers(call, x):
  if jnp.issubdtype(call.x.dtype, jnp.inexact):
    return x
  high, low = jnp.moveaxis(x.astype(jnp.int32), -1 - len(call.x.shape), 0)
  return (high << 16) | low


def _check_uses(loss, probes) -> None:
  """Refuses a probe that several products would add their cotangents up in."""
  jaxpr = jax.make_jaxpr(loss)(probes).jaxpr
  names, _, _ = core.named_leaves(probes)
  for index, uses in _uses(jaxpr, dict(zip(jaxpr.invars, range(len(names))))).items():
    if uses > 1:
      # Behind the leaf's name stand the number of the call and that of the probe.
      name = names[index].rsplit('/', 2)[0]
      raise ValueError(
        f'{name}: one call of it in the program runs several times, as in a scan over'
        ' time or a vmap with shared weights; wanted a layer whose calls are written'
        ' out, or stacked by nn.scan, for growth by gradient.'
      )


def _uses(jaxpr, marks) -> collections.Counter:
  """How often each marked variable of a jaxpr enters a tap when it runs."""
  found: collections.Counter = collections.Counter()
  marks = dict(marks)
  for eqn in jaxpr.eqns:
    given = [None if hasattr(v, 'val') else marks.get(v) for v in eqn.invars]
    if all(mark is None for mark in given):
      continue
    inner = [x for x in jax.tree.leaves(list(eqn.params.values())) if _is_jaxpr(x)]
    if eqn.primitive.name.startswith('custom_vjp_call'):
      found.update(mark for mark in given if mark is not None)
      # The operands of a tap end with y, x and the two probes.
      # A vmap that shares the weight: the cotangents of its probes would be sums.
      y, probe = eqn.invars[-4:][0].aval, eqn.invars[-1].aval
      found.update(m for m in given if m is not None and y.ndim != probe.ndim)
    elif not inner:
      # What moves or cuts a stacked axis.
      marks.update(dict.fromkeys(eqn.outvars, next(m for m in given if m is not None)))
    for each in inner if not eqn.primitive.name.startswith('custom_vjp') else ():
      each = getattr(each, 'jaxpr', each)
      # A cond has an index in front.
      pairs = list(zip(each.invars[::-1], given[::-1]))
      counts = _uses(each, {v: m for v, m in pairs if m is not None})
      # Nobody knows how often a while loop turns; twice is once too often already.
      loops = eqn.params.get('length', 2 if eqn.primitive.name == 'while' else 1)
      sliced = given[eqn.params.get('num_consts', 0) + eqn.params.get('num_carry', 0) :]
      for mark, uses in counts.items():
        # The scan of a stacked leaf takes one slice a turn.
        shared = eqn.primitive.name in ('scan', 'while') and mark not in sliced
        found[mark] += uses * (loops if shared else 1)
  return found


def _is_jaxpr(x) -> bool:
  return hasattr(getattr(x, 'jaxpr', x), 'eqns')

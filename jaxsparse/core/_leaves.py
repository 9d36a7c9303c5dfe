"""What a parameter is: its name, its axes, and whether it may be pruned."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import fnmatch
import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxsparse.core import _axes, _trees


@dataclasses.dataclass(frozen=True)
class Leaf:
  """The static description of one parameter.

  Distributions and structures receive leaves rather than shapes, because a
  shape alone is ambiguous: `(4, 64, 64)` may be four scanned Dense layers or one
  attention kernel.

  Attributes:
    name: slash path, the same in Linen, NNX and a bare dict (`dense1/kernel`).
    shape: the shape of the parameter.
    dtype: its dtype.
    stack_axes: axes that enumerate independent layers (`nn.scan`, `vmap`).
    in_axes: axes that the layer contracts with its input.
    out_axes: axes of the layer's output features.

  Axes in none of the three are spatial (the window of a convolution).

  Raises:
    ValueError: an axis out of range, or an axis with two roles.

  Example:
    >>> import jaxsparse as js
    >>> js.Leaf('conv/kernel', (3, 3, 16, 32), in_axes=(2,), out_axes=(3,)).fan_in
    144
  """

  name: str
  shape: tuple[int, ...]
  dtype: Any = np.dtype('float32')
  stack_axes: tuple[int, ...] = ()
  in_axes: tuple[int, ...] = ()
  out_axes: tuple[int, ...] = ()

  def __post_init__(self):
    used = [*self.stack_axes, *self.in_axes, *self.out_axes]
    ndim = len(self.shape)
    if len(set(used)) != len(used) or any(not 0 <= a < ndim for a in used):
      raise ValueError(
        f'{self.name}: stack_axes={self.stack_axes}, in_axes={self.in_axes}, '
        f'out_axes={self.out_axes} must be distinct axes of shape {self.shape}.'
      )

  @property
  def size(self) -> int:
    """The number of weights."""
    return math.prod(self.shape)

  @property
  def unit_axes(self) -> tuple[int, ...]:
    """All axes of one layer: those that are not stacked."""
    return tuple(a for a in range(len(self.shape)) if a not in self.stack_axes)

  @property
  def spatial_axes(self) -> tuple[int, ...]:
    """The axes that are neither stacked, nor contracted, nor output features."""
    roles = {*self.in_axes, *self.out_axes}
    return tuple(a for a in self.unit_axes if a not in roles)

  @property
  def num_slices(self) -> int:
    """The number of stacked layers (1 when nothing is stacked)."""
    return math.prod(self.shape[a] for a in self.stack_axes)

  @property
  def fan_in(self) -> int:
    """The number of inputs that one output feature sums over."""
    axes = (a for a in self.unit_axes if a not in self.out_axes)
    return math.prod(self.shape[a] for a in axes)

  @property
  def fan_out(self) -> int:
    """The number of outputs that one input feature reaches."""
    axes = (a for a in self.unit_axes if a not in self.in_axes)
    return math.prod(self.shape[a] for a in axes)


Prunable = Callable[[Leaf], bool] | str | Sequence[str]
LeafOverrides = Mapping[str, Leaf | Callable[[Leaf], Leaf]]

# Flax's names of parameters with two or more axes that are no weight matrix.
_NOT_KERNELS = ('embedding', 'pos_embedding', 'bias', 'scale', 'cls')


@dataclasses.dataclass(frozen=True)
class _Stacked:
  """What `stacked` returns; `leaves_of` also tells it the shapes of all leaves."""

  num_axes: int

  def __call__(self, leaf: Leaf, shapes: _axes.Shapes | None = None) -> Leaf:
    n = self.num_axes
    in_axes, out_axes = _axes.conventional(leaf.name, leaf.shape, n, shapes)
    return dataclasses.replace(
      leaf, stack_axes=tuple(range(n)), in_axes=in_axes, out_axes=out_axes
    )


def stacked(num_axes: int = 1) -> Callable[[Leaf], Leaf]:
  """Says that the first `num_axes` axes of a leaf enumerate scanned layers.

  Args:
    num_axes: how many leading axes are stacked.

  Returns:
    A function `Leaf -> Leaf` for the `leaves=` argument of a transform.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> params = {'blocks': {'kernel': jnp.ones((4, 8, 8))}}
    >>> leaves = js.leaves_of(params, {'blocks/*': js.stacked()})
    >>> leaves['blocks/kernel'].num_slices, leaves['blocks/kernel'].fan_in
    (4, 8)
  """
  return _Stacked(num_axes)


def match(patterns: Mapping[str, Any], names: Sequence[str], what: str):
  """Resolves a mapping of path patterns to `{name: value}`, first match wins.

  Args:
    patterns: glob pattern (`*`, `?`, `[..]`), or a leaf's whole name, to value, in
      order of precedence.
    names: the leaf names.
    what: the name of the argument, for the error.

  Returns:
    The value of each name that some pattern matches.

  Raises:
    ValueError: a pattern matches no leaf (most often a typing error).
  """

  def matches(name, pattern):
    # A leaf's name is no pattern, brackets and all: so that `{name: value}` of a
    # distribution passes back as it is.
    return name == pattern if pattern in names else fnmatch.fnmatchcase(name, pattern)

  for pattern in patterns:
    if not any(matches(name, pattern) for name in names):
      raise ValueError(
        f'{what}: the pattern {pattern!r} matches no leaf; the leaves are'
        f' {", ".join(names) or "(none)"}.'
      )
  return {
    name: next(v for p, v in patterns.items() if matches(name, p))
    for name in names
    if any(matches(name, p) for p in patterns)
  }


def leaves_of(params, overrides: LeafOverrides | None = None) -> dict[str, Leaf]:
  """Describes every parameter of a tree, by Flax's conventions.

  A kernel's last axis is its output and the axis before it is its input; what
  comes before is the window of a convolution. The kernels of attention
  (`query`, `key`, `value`: (features, heads, head_dim); `out`: (heads, head_dim,
  features)) are recognised by name, where a bias or a sibling of fitting shape shows
  that they are no 1-D convolutions. Stacked axes cannot be seen from a shape, so they
  must be given.

  Args:
    params: any pytree of arrays: a Linen dict, an `nnx.State`, a bare array.
    overrides: path pattern to `Leaf`, or to a function `Leaf -> Leaf` such as
      `js.stacked()`.

  Returns:
    `{name: Leaf}` in the order of the tree.

  Raises:
    ValueError: a pattern that matches no leaf, a Leaf of another shape, an override
      that is no Leaf, or two leaves of one name.
  """
  names, values, _ = _trees.named_leaves(params)
  if len(set(names)) < len(names):
    twice = sorted({n for n in names if names.count(n) > 1})
    raise ValueError(
      f'params: several leaves are called {", ".join(twice)}; wanted distinct paths.'
    )
  shapes = {name: tuple(value.shape) for name, value in zip(names, values)}
  leaves = {}
  for name, value in zip(names, values):
    in_axes, out_axes = _axes.conventional(name, shapes[name], 0, shapes)
    leaves[name] = Leaf(name, shapes[name], value.dtype, (), in_axes, out_axes)
  for name, given in match(overrides or {}, names, 'leaves').items():
    if isinstance(given, _Stacked):
      leaf = given(leaves[name], shapes)
    else:
      leaf = given(leaves[name]) if callable(given) else given
    if not isinstance(leaf, Leaf):
      raise ValueError(
        f'leaves: {name} got {given!r}; wanted a Leaf, or a function Leaf -> Leaf such'
        ' as js.stacked().'
      )
    if leaf.shape != leaves[name].shape:
      raise ValueError(
        f'leaves: {name} has shape {leaves[name].shape}, but the given Leaf says'
        f' {leaf.shape}.'
      )
    # An override is about axes: one Leaf may serve several names and dtypes.
    leaves[name] = dataclasses.replace(leaf, name=name, dtype=leaves[name].dtype)
  return leaves


def kernels(leaf: Leaf) -> bool:
  """Whether a leaf is a weight matrix or a convolution: the default `prunable`.

  True for float leaves with an input and an output axis that are not named as
  an embedding, a bias or a norm's scale. First and last layers are included: keep
  them dense with `js.kernels_except`.
  """
  is_float = jnp.issubdtype(leaf.dtype, jnp.inexact)
  named_otherwise = leaf.name.split('/')[-1] in _NOT_KERNELS
  return bool(leaf.out_axes) and is_float and not named_otherwise


@dataclasses.dataclass(frozen=True)
class _KernelsExcept:
  """What `kernels_except` returns: a predicate whose patterns can be looked up."""

  patterns: tuple[str, ...]

  def __call__(self, leaf: Leaf) -> bool:
    named = leaf.name in self.patterns
    excepted = named or any(fnmatch.fnmatchcase(leaf.name, p) for p in self.patterns)
    return kernels(leaf) and not excepted


def kernels_except(*patterns: str) -> Callable[[Leaf], bool]:
  """All `kernels` but those whose path matches one of the glob patterns.

  Args:
    *patterns: for example `'stem/*'`, `'*/head/kernel'`.

  Returns:
    A predicate for `prunable=`. A transform that gets it raises ValueError at init for
    a pattern that matches no leaf.

  Example:
    >>> import jaxsparse as js
    >>> keep = js.kernels_except('head/*')
    >>> leaf = js.Leaf('head/kernel', (8, 2), in_axes=(0,), out_axes=(1,))
    >>> js.kernels(leaf), keep(leaf)
    (True, False)
  """
  return _KernelsExcept(patterns)


def prunable_leaves(
  params, prunable: Prunable, overrides: LeafOverrides | None = None
) -> dict[str, Leaf]:
  """The leaves that a rule prunes.

  Args:
    params: any pytree of arrays.
    prunable: a predicate `Leaf -> bool`, a glob pattern or a sequence of them.
    overrides: see `leaves_of`.

  Returns:
    `{name: Leaf}` in the order of the tree, without zero-size leaves.

  Raises:
    ValueError: `prunable` of another type; a pattern that matches no leaf; a leaf of
      2**31 weights or more.
  """
  if not callable(prunable) and not isinstance(prunable, Sequence):
    raise ValueError(
      f'prunable={prunable!r}: wanted a predicate such as js.kernels, a glob pattern, or'
      ' a sequence of patterns.'
    )
  leaves = leaves_of(params, overrides)
  if isinstance(prunable, _KernelsExcept):
    # A predicate sees one leaf: that a pattern matches none shows only here.
    match(dict.fromkeys(prunable.patterns), tuple(leaves), 'kernels_except')
  if not callable(prunable):
    patterns = (prunable,) if isinstance(prunable, str) else tuple(prunable)
    chosen = match(dict.fromkeys(patterns, True), tuple(leaves), 'prunable')
  else:
    chosen = {name: True for name, leaf in leaves.items() if prunable(leaf)}
  for name in chosen:
    # Counts of weights are int32 everywhere.
    if leaves[name].size >= 2**31:
      raise ValueError(
        f'{name}: {leaves[name].size} weights; a leaf may have at most 2**31 - 1.'
      )
  return {name: leaves[name] for name in leaves if name in chosen and leaves[name].size}

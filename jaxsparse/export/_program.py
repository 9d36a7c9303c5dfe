"""The forward pass of a sparse model as a program of XLA."""

from collections.abc import Callable, Sequence
import contextlib
import dataclasses
import json
import re
from typing import Any, NamedTuple

import jax
from jax import export as jax_export

from jaxsparse import native, sparse

_LIBRARY = 'jaxsparse.native'


class Program(NamedTuple):
  """A compiled-anywhere function of params and inputs.

  Attributes:
    data: what `jax.export` serialized.
    library: what has to be there to run it: `'jaxsparse.native'`, the compiled
      kernels; None for plain XLA.
    calls: the calls of that library, by the name that they have in XLA.
    platforms: where it runs, such as `('cpu',)`.
  """

  data: bytes
  library: str | None
  calls: tuple[str, ...]
  platforms: tuple[str, ...]


def serialize(
  apply_fn: Callable[..., Any],
  params: Any,
  *args,
  kernels: bool = False,
  platforms: Sequence[str] | None = None,
) -> Program:
  """Turns the forward pass into a program that needs no model and no Python of it.

  By default it is plain XLA, in which the nonzeros are gathered. With `kernels` it has
  calls of the compiled kernels where those pay, runs on a CPU only, and only where
  `Program.library` is.

  Args:
    apply_fn: `(params, *args) -> outputs`, such as `js.layers.bind(model,
      js.compact.handler())` of a Linen model's variables.
    params: a tree with `js.sparse.SparseArray` leaves, as `load` and `js.compact.join`
      give it; only shapes and dtypes count, the program takes params as an argument.
    *args: examples of the inputs: arrays, or `jax.ShapeDtypeStruct` whose shapes may be
      symbolic (`jax.export.symbolic_shape('n, 784')`).
    kernels: whether to call the compiled kernels.
    platforms: where it shall run, as in `jax.export.export`; None for where jax runs.

  Returns:
    A `Program`.

  Raises:
    ImportError: flatbuffers is not installed, which `jax.export` needs.
    ValueError: an `apply_fn` that forces kernels which are not asked for; kernels on
      other platforms than a CPU.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> weight = js.sparse.from_mask(jnp.ones((4, 2)), jnp.eye(4, 2, dtype=bool))
    >>> apply_fn = lambda params, x: js.sparse.matmul(x, params['kernel'])
    >>> program = js.export.serialize(  # doctest: +SKIP
    ...   apply_fn, {'kernel': weight}, jnp.ones((1, 4)))
    >>> js.export.deserialize(program)(  # doctest: +SKIP
    ...   {'kernel': weight}, jnp.ones((1, 4))).tolist()
    [[1.0, 1.0]]
  """
  # jax.export refuses custom calls that it does not know to stay compatible.
  checks = [jax_export.DisabledSafetyCheck.custom_call(call) for call in native.CALLS]
  # A function of its own, so that what is jitted has not been traced with kernels.
  whole = jax.jit(lambda params, *args: apply_fn(params, *args))
  with contextlib.nullcontext() if kernels else native.without():
    export = jax_export.export(whole, platforms=platforms, disabled_checks=checks)
    exported = export(params, *args)
  # In the text of the program a call of the library is `@name`.
  calls = set(re.findall(r'@(\w+)', exported.mlir_module())) & set(native.CALLS)
  if calls and not kernels:
    raise ValueError(
      f'apply_fn: it calls the kernels {", ".join(sorted(calls))}; bind the model with'
      " js.compact.handler('reference'), or say kernels=True."
    )
  if calls and set(exported.platforms) != {'cpu'}:
    raise ValueError(
      f'platforms: {exported.platforms} with kernels=True; the kernels are for a CPU.'
    )
  return Program(
    bytes(exported.serialize()),
    _LIBRARY if calls else None,
    tuple(sorted(calls)),
    tuple(exported.platforms),
  )


def deserialize(program: Program) -> Callable[..., Any]:
  """The function of a program.

  Args:
    program: from `serialize` or `load`.

  Returns:
    `(params, *args) -> outputs`, for trees and shapes as they were in `serialize`.

  Raises:
    ImportError: flatbuffers is not installed, which `jax.export` needs.
    ValueError: kernels that are not there, by name.
  """
  unknown = sorted(set(program.calls) - set(native.CALLS))
  reason = native.why_not() if program.calls else None
  if program.library not in (None, _LIBRARY) or unknown or reason:
    what = reason or f'here {_LIBRARY} has no {", ".join(unknown) or "such calls"}'
    raise ValueError(
      f'program: it calls {", ".join(program.calls)} of {program.library}; {what}.'
    )
  return jax_export.deserialize(bytearray(program.data)).call


def _register() -> None:
  """Lets `jax.export` write down trees with sparse arrays."""
  jax_export.register_pytree_node_serialization(
    sparse.SparseArray,
    serialized_name='jaxsparse.sparse.SparseArray',
    serialize_auxdata=lambda aux: b'',
    deserialize_auxdata=lambda data: (),
    from_children=lambda aux, children: sparse.SparseArray(*children),
  )
  jax_export.register_pytree_node_serialization(
    sparse.Pattern,
    serialized_name='jaxsparse.sparse.Pattern',
    serialize_auxdata=lambda aux: json.dumps(dataclasses.astuple(aux[0])).encode(),
    deserialize_auxdata=_format_of,
    from_children=_pattern_of,
  )

  jax_export.register_pytree_node_serialization(
    sparse.NMPattern,
    serialized_name='jaxsparse.sparse.NMPattern',
    serialize_auxdata=lambda aux: json.dumps(dataclasses.astuple(aux[0])).encode(),
    deserialize_auxdata=_format_of,
    from_children=lambda fmt, children: sparse.NMPattern(children[0], fmt),
  )


def _format_of(data) -> sparse.Format:
  shape, *others = json.loads(data)
  # Written before there were blocks of several inputs, it may be shorter.
  # JSON has made a list of `nm`; a static format has to be hashable.
  if len(others) > 5 and others[5] is not None:
    others[5] = tuple(others[5])
  return sparse.Format(tuple(shape), *others)


def _pattern_of(fmt, children):
  return sparse.Pattern(*children, format=fmt)


_register()

"""What a wrapped optimizer was made of, for who runs the same rule in another way."""

from typing import Any, NamedTuple

import optax

from jaxsparse import core


class Parts(NamedTuple):
  """The arguments of `keep_sparse`.

  Attributes:
    inner: the wrapped optimizer; its `update` takes extra arguments.
    rule: the method.
    when: `step -> bool`, or None.
    seed: int, key or None.
    skip_step: whether an update of the masks replaces the optimizer's step.
  """

  inner: optax.GradientTransformationExtraArgs
  rule: core.MaskRule
  when: core.When | None
  seed: Any
  skip_step: bool


def attach(update, parts: Parts):
  """The function, from which `parts_of` can now read the parts.

  Args:
    update: the `update` of an optax transformation.
    parts: what it was made of.

  Returns:
    `update` itself.

  Example:
    >>> import jaxsparse as js, optax
    >>> tx = js.transforms.static(optax.adam(1e-3), 0.5, seed=0)
    >>> own = lambda grads, state, params: tx.update(grads, state, params)
    >>> own = js.rules.attach_parts(own, js.rules.parts_of(tx))
    >>> js.rules.parts_of(optax.GradientTransformation(tx.init, own)).seed
    0
  """
  # On the function: an optax transformation is a tuple of two functions and no more.
  update.parts = parts
  return update


def parts_of(tx) -> Parts:
  """What a transform of this library was made of.

  Args:
    tx: what `keep_sparse`, or a transform, returned.

  Returns:
    Its `Parts`.

  Raises:
    ValueError: it is something else, or something around such a transform.

  Example:
    >>> import jaxsparse as js, optax
    >>> tx = js.transforms.static(optax.adam(1e-3), 0.5, seed=0)
    >>> js.rules.parts_of(tx).seed
    0
  """
  parts = getattr(getattr(tx, 'update', None), 'parts', None)
  if not isinstance(parts, Parts):
    raise ValueError(
      f'tx={tx!r}: wanted what a transform of jaxsparse returned, not something around'
      ' it such as optax.chain or MultiSteps; those may be what it wraps.'
    )
  return parts

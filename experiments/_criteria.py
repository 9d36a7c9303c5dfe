"""Criteria by name, those that look at gradients bound to a model and a batch."""

from collections.abc import Callable
import inspect
from typing import Any, NamedTuple

import jax

from experiments import _names
import jaxsparse as js


class Probe(NamedTuple):
  """What a criterion that looks at gradients looks at.

  Attributes:
    loss: `(params, batch) -> scalar`.
    apply_fn: `(params, images) -> logits`.
    batch: normalised `images` (N, H, W, C) and their `labels` (N,).
  """

  loss: Callable[..., jax.Array]
  apply_fn: Callable[..., jax.Array]
  batch: dict[str, Any]


def takes_probe(spec) -> bool:
  """Whether a method of the config prunes by a criterion that needs a `Probe`.

  Raises:
    ValueError: an unknown criterion, or one that this transform cannot have.
  """
  name = spec.get('kwargs', {}).get('criterion')
  if name is None or _first_argument(name) == 'evidence':
    return False
  if spec['transform'] != 'static':
    raise ValueError(
      f'criterion of method {spec["name"]}: {name} looks at one batch at the start;'
      f' of the transforms only static does, not {spec["transform"]}.'
    )
  return True


def bound(name: str, probe: Probe | None) -> js.core.Criterion:
  """The criterion of a name; without a probe, only for what is never scored."""
  criterion = _names.attribute(js.criteria, name, 'criterion')
  first = _first_argument(name)
  if first == 'evidence':
    return criterion
  if first == 'apply_fn':
    return criterion(probe and probe.apply_fn, probe and probe.batch['images'])
  return criterion(probe and probe.loss, probe and probe.batch)


def _first_argument(name: str) -> str:
  # Of a criterion it is `evidence`; of a factory, what the factory binds.
  criterion = _names.attribute(js.criteria, name, 'criterion')
  return next(iter(inspect.signature(criterion).parameters))

"""From the names in a config to a model."""

from collections.abc import Mapping, Sequence
import difflib
import inspect
from typing import Any

import jax.numpy as jnp

from experiments import models
from experiments.models import _adapters
import jaxsparse as js


def build(
  name: str,
  num_classes: int,
  image_shape: Sequence[int],
  *,
  api: str = 'linen',
  options: Mapping[str, Any] | None = None,
  handler: js.layers.Handler | None = None,
) -> _adapters.Model:
  """Builds the model that a config names.

  Args:
    name: a class of this package: `MLP`, `LeNet5`, `ResNet`, `WideResNet`, `ViT`.
    num_classes: number of logits.
    image_shape: (H, W, C).
    api: `'linen'` or `'nnx'` (the class `Nnx<name>`).
    options: further arguments of that class; `dtype` may be a name (`'bfloat16'`),
      and a list becomes a tuple.
    handler: see `from_linen`.

  Returns:
    A `Model`.

  Raises:
    ValueError: an unknown name, api, option or dtype, with the right ones.

  Example:
    >>> from experiments import models
    >>> model = models.build('ResNet', 10, (32, 32, 3), options={'depth': 8})
    >>> sorted(model._fields)
    ['apply', 'init']
  """
  if api not in ('linen', 'nnx'):
    raise ValueError(f"api: got {api!r}, want 'linen' or 'nnx'.")
  prefix = 'Nnx' if api == 'nnx' else ''
  make = _model_class(name, prefix)
  options = {k: _value(k, v) for k, v in dict(options or {}).items()}
  _check_options(make, options)
  if api == 'nnx':
    return _adapters.from_nnx(
      lambda rngs: make(tuple(image_shape), num_classes, rngs=rngs, **options),
      handler,
    )
  return _adapters.from_linen(make(num_classes=num_classes, **options), handler)


def _model_class(name: str, prefix: str):
  # Our model classes are those that take the number of classes.
  found = {}
  for public in models.__all__:
    value = getattr(models, public)
    is_nnx = public.startswith('Nnx')
    if inspect.isclass(value) and 'num_classes' in _arguments(value):
      if is_nnx == bool(prefix):
        found[public.removeprefix('Nnx')] = value
  if name not in found:
    near = difflib.get_close_matches(name, found, n=1, cutoff=0.4)
    hint = f' Did you mean {near[0]}?' if near else ''
    api = 'nnx' if prefix else 'linen'
    raise ValueError(
      f'model: unknown name {name!r}; for api={api!r} want one of'
      f' {", ".join(sorted(found))}.{hint}'
    )
  return found[name]


def _value(key: str, value):
  if key == 'dtype' and isinstance(value, str):
    if value not in ('float32', 'bfloat16', 'float16'):
      raise ValueError(f'dtype: got {value!r}, want float32, bfloat16 or float16.')
    return jnp.dtype(value)
  # Linen hashes its attributes.
  return tuple(value) if isinstance(value, list) else value


def _arguments(make) -> Mapping[str, inspect.Parameter]:
  # Of `__init__`: NNX's metaclass hides the signature of the class.
  return inspect.signature(make.__init__).parameters


def _check_options(make, options: Mapping[str, Any]):
  hidden = ('num_classes', 'image_shape', 'rngs', 'parent', 'name', 'self')
  known = [p for p in _arguments(make) if p not in hidden]
  unknown = sorted(set(options) - set(known))
  if unknown:
    raise ValueError(
      f'{make.__name__}: unknown option {", ".join(unknown)}; want one of'
      f' {", ".join(known)}.'
    )

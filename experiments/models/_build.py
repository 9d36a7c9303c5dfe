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


def build_upscaler(
  name: str,
  scale: int,
  channels: int,
  *,
  options: Mapping[str, Any] | None = None,
  handler: js.layers.Handler | None = None,
) -> _adapters.Model:
  """Builds the network of super-resolution that a config names.

  Args:
    name: a class of this package: `EDSR`, `ESPCN`, `FSRCNN`, `SwinIR`.
    scale: how much larger the image becomes.
    channels: of the images.
    options: as in `build`.
    handler: see `from_linen`.

  Returns:
    A `Model` from images in [0, 1] to images.

  Raises:
    ValueError: an unknown name, option or dtype, with the right ones.

  Example:
    >>> from experiments import models
    >>> model = models.build_upscaler('EDSR', 2, 3, options={'blocks': 2})
    >>> sorted(model._fields)
    ['apply', 'init']
  """
  make = _model_class(name, '', 'scale')
  options = {k: _value(k, v) for k, v in dict(options or {}).items()}
  _check_options(make, options)
  module = make(scale=scale, channels=channels, **options)
  return _adapters.from_linen(module, handler)


def _model_class(name: str, prefix: str, argument: str = 'num_classes'):
  # Classifiers are the classes that take the number of classes, upscalers a scale.
  found = {}
  for public in models.__all__:
    value = getattr(models, public)
    is_nnx = public.startswith('Nnx')
    if inspect.isclass(value) and argument in _arguments(value):
      if is_nnx == bool(prefix):
        found[public.removeprefix('Nnx')] = value
  if name not in found:
    near = difflib.get_close_matches(name, found, n=1, cutoff=0.4)
    hint = f' Did you mean {near[0]}?' if near else ''
    api = '' if argument == 'scale' else f'for api={"nnx" if prefix else "linen"!r} '
    raise ValueError(
      f'model: unknown name {name!r}; {api}want one of'
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
  hidden += ('scale', 'channels')
  known = [p for p in _arguments(make) if p not in hidden]
  unknown = sorted(set(options) - set(known))
  if unknown:
    raise ValueError(
      f'{make.__name__}: unknown option {", ".join(unknown)}; want one of'
      f' {", ".join(known)}.'
    )

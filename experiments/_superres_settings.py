"""From a config of super-resolution to checked values, schedules and networks."""

import types

import jax.numpy as jnp
import numpy as np

from experiments import (
  _criteria,
  _image_metrics,
  _names,
  _schedules,
  _settings,
  datasets,
  models,
)
from experiments.configs import _superres_defaults
import jaxsparse as js

_METHOD_KEYS = ('name', 'transform', 'sparsity', 'kwargs')


def check(config) -> types.SimpleNamespace:
  """Refuses what no default knows, before anything is loaded.

  Args:
    config: a ConfigDict.

  Returns:
    The config with dicts for ConfigDicts.

  Raises:
    ValueError: an unknown or missing key, a value or a method that cannot be.
  """
  known = _superres_defaults.get_config().to_dict()
  config = _settings.check_common(config, known, _METHOD_KEYS)
  for spec in config.methods:
    _settings.transform_of(spec)
    if _criteria.takes_probe(spec):
      raise ValueError(
        f'config.methods: {spec["name"]} has a criterion that looks at labels; wanted'
        ' magnitude or random.'
      )
  _names.choose(config.color, ('rgb', 'y'), 'config.color')
  _names.choose(config.loss, ('l1', 'l2'), 'config.loss')
  for key in ('num_steps', 'patch', 'crop', 'scale', 'steps_per_call'):
    if getattr(config, key) < 1:
      raise ValueError(f'config.{key}: got {getattr(config, key)}, wanted at least 1.')
  if not config.tests or not config.train:
    raise ValueError('config: train and tests each need at least one folder.')
  for key in ('num_steps', 'eval_every', 'checkpoint_every'):
    if getattr(config, key) % config.steps_per_call:
      raise ValueError(
        f'config.{key}: got {getattr(config, key)}, wanted a multiple of'
        f' config.steps_per_call={config.steps_per_call}.'
      )
  hold = held_steps(config)
  if not 0 <= hold < config.num_steps:
    raise ValueError(
      f'config.learning_rate.hold: got {hold} steps of {config.num_steps}; wanted less.'
    )
  return config


def held_steps(config) -> int:
  """The steps for which the learning rate has its first value."""
  return _schedules.in_steps(config.learning_rate['hold'], config.num_steps)


def learning_rate(config):
  """The schedule of the learning rate, `step -> number`."""
  value, hold = dict(config.learning_rate), held_steps(config)
  del value['hold']
  rate = _schedules.learning_rate(value, config.num_steps - hold)
  return js.schedules.hold(rate, hold)


def make_tx(config, spec, seed):
  """The optimizer of a method."""
  rate = learning_rate(config)
  inner = _settings.optimizer(config, config.num_steps, rate)
  return _settings.transform(spec, inner, seed, config.num_steps, rate=rate)


def num_channels(config) -> int:
  """Of the images that the network sees."""
  return 3 if config.color == 'rgb' else 1


def model(config, spec, handler=None) -> models.Model:
  """The network of a method; `small_dense` has as many weights as a sparse one keeps."""
  options, channels = config.model['options'], num_channels(config)

  def make(width: float):
    given = options if width == 1 else {**options, 'width': width}
    return models.build_upscaler(
      config.model['name'], config.scale, channels, options=given, handler=handler
    )

  sample = jnp.zeros((1, config.patch, config.patch, channels))
  return _settings.fitted(make, spec, sample)


def load(config, data_dir) -> tuple[datasets.Photographs, datasets.Photographs, dict]:
  """The images for training, for validation, and of each test set."""
  side = config.patch * config.scale
  sets = [
    datasets.photographs(source, config.scale, data_dir, smallest=side)
    for source in config.train
  ]
  names, high, low = (
    sum((getattr(s, f) for s in sets), ()) for f in sets[0]._fields[:3]
  )
  if not 0 <= config.validation < len(names):
    raise ValueError(
      f'config.validation: got {config.validation} of {len(names)} training images.'
    )
  # Evenly over all of them, so that every folder is among them.
  held = np.linspace(0, len(names) - 1, config.validation + 2).astype(int)[1:-1]
  pick = lambda chosen: datasets.Photographs(
    *(tuple(x[i] for i in chosen) for x in (names, high, low)), config.scale
  )
  rest = [i for i in range(len(names)) if i not in held]
  # SSIM wants a window inside the border.
  least = 11 + 3 * config.scale
  tests = {
    name: datasets.photographs(source, config.scale, data_dir, smallest=least)
    for name, source in config.tests.items()
  }
  return pick(rest), pick(held), tests


def seen(config, images):
  """What the network sees of uint8 images: floats in [0, 1], of luma or of colours."""
  if config.color == 'rgb':
    return images.astype(jnp.float32) / 255
  luma = images.astype(jnp.float32) @ jnp.asarray(_image_metrics.LUMA, jnp.float32)
  return (luma[..., None] + _image_metrics.OFFSET) / 255

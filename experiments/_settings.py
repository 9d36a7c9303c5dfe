"""From what a config says to schedules, optimizers and transforms."""

from collections.abc import Mapping
import difflib
import inspect
import json
import types

import jax
import ml_collections
import optax

from experiments import _criteria, _names, models
from experiments.configs import _defaults
import jaxsparse as js

# Arguments that count steps: a float there is a fraction of the run.
_STEPS = (
  'at',
  'decay_steps',
  'n',
  'start',
  'step',
  'stop',
  'transition_begin',
  'transition_steps',
  'warmup_steps',
)
_METHOD_KEYS = ('name', 'transform', 'sparsity', 'kwargs')
_COUNTS = (
  'accumulate',
  'batch_size',
  'checkpoint_every',
  'eval_every',
  'keep',
  'steps_per_call',
  'timing_rounds',
)
BASELINES = ('dense', 'small_dense')
# What may differ when a run directory is used again.
FREE_KEYS = ('methods', 'seeds', 'only', 'name', 'keep', 'timing_rounds')


def check(config) -> types.SimpleNamespace:
  """Refuses what no default knows, before anything is loaded.

  Args:
    config: a ConfigDict.

  Returns:
    The config with dicts for ConfigDicts.

  Raises:
    ValueError: an unknown or missing key, a method that cannot be.
  """
  known = _defaults.get_config().to_dict()
  _check_keys(config, known, 'config')
  config = types.SimpleNamespace(**_dicts(config))
  for key in ('model', 'optimizer', 'learning_rate', 'augment'):
    if isinstance(getattr(config, key), dict):
      _check_keys(getattr(config, key), known[key], f'config.{key}')
  wrong = [spec for spec in config.methods if not isinstance(spec, Mapping)]
  if wrong:
    raise ValueError(f'config.methods: got {wrong[0]!r}, wanted dicts.')
  names = [spec.get('name') for spec in config.methods]
  if len(set(names)) != len(names) or None in names:
    raise ValueError(f'config.methods: every method needs its own name; got {names}.')
  for spec in config.methods:
    unknown = sorted(set(spec) - set(_METHOD_KEYS))
    if unknown:
      raise ValueError(
        f'config.methods: {spec["name"]} has unknown keys {unknown}; a method has'
        f' {list(_METHOD_KEYS)}.'
      )
    transform_of(spec)
    _criteria.takes_probe(spec)
  for name in filter(None, config.only.split(',')):
    _names.choose(name, names, 'config.only')
  if config.select not in ('final', 'best'):
    raise ValueError(f"config.select: got {config.select!r}, wanted 'final' or 'best'.")
  for key in _COUNTS:
    if getattr(config, key) < 1:
      raise ValueError(f'config.{key}: got {getattr(config, key)}, wanted at least 1.')
  if not config.seeds:
    raise ValueError('config.seeds: got none, wanted at least one.')
  return config


def _dicts(value):
  if isinstance(value, (Mapping, ml_collections.ConfigDict)):
    return {k: _dicts(v) for k, v in value.items()}
  return tuple(map(_dicts, value)) if isinstance(value, (list, tuple)) else value


def _check_keys(got, known, where):
  for key in got:
    if key not in known:
      near = difflib.get_close_matches(key, list(known), n=1, cutoff=0.4)
      hint = f' Did you mean {near[0]}?' if near else ''
      raise ValueError(
        f'{where}: unknown key {key!r}; the keys are {", ".join(sorted(known))}.{hint}'
      )
  missing = sorted(set(known) - set(got))
  if missing:
    raise ValueError(f'{where}: the keys {", ".join(missing)} are missing.')


def transform_of(spec):
  """The transform that a method names; None for the dense baselines."""
  if spec.get('transform') in BASELINES:
    return None
  public = [n for n in js.transforms.__all__ if not n.endswith('_rule')]
  where = f'transform of method {spec["name"]}'
  return getattr(
    js.transforms, _names.choose(spec.get('transform'), [*public, *BASELINES], where)
  )


def final_sparsity(spec) -> float:
  """The sparsity that a method ends with; 0 for a dense network."""
  sparsity = spec.get('sparsity', 0.0)
  if not isinstance(sparsity, Mapping):
    return float(sparsity)
  return float(sparsity.get('final', sparsity.get('sparsity', 0.0)))


def in_steps(value, num_steps: int):
  """A float is a fraction of the run, an int a number of steps."""
  return round(value * num_steps) if isinstance(value, float) else value


def _resolved(kwargs: Mapping, num_steps: int) -> dict:
  return {k: in_steps(v, num_steps) if k in _STEPS else v for k, v in kwargs.items()}


def _schedule(value, num_steps: int, what: str):
  """A number as it is, 'always', or `{'schedule': name, ...}` of `js.schedules`."""
  if isinstance(value, str):
    return _names.attribute(js.schedules, value, what)
  if not isinstance(value, Mapping):
    return value
  kwargs = dict(value)
  make = _names.attribute(js.schedules, kwargs.pop('schedule', None), what)
  steps = [in_steps(step, num_steps) for step in kwargs.pop('steps', ())]
  return make(*steps, **_resolved(kwargs, num_steps))


def _bound(key: str, value, num_steps: int, probe: _criteria.Probe | None):
  """One argument of a transform, from its plain form in a config."""
  if key in ('when', 'drop_fraction', 'sparsity'):
    return _schedule(value, num_steps, key)
  if key == 'distribution':
    return _names.attribute(js.distributions, value, key)
  if key == 'criterion':
    return _criteria.bound(value, probe)
  if key == 'structure' and isinstance(value, Mapping):
    kwargs = dict(value)
    return _names.attribute(js.masks, kwargs.pop('name', None), key)(**kwargs)
  if key == 'prunable' and isinstance(value, Mapping):
    return js.kernels_except(*value['except'])
  return in_steps(value, num_steps) if key in _STEPS else value


def transform(spec, inner, seed, num_steps: int, probe: _criteria.Probe | None = None):
  """Wraps an optimizer as a method of the config says.

  Args:
    spec: a method of the config.
    inner: the optimizer.
    seed: int, tracer or typed key for the transforms that draw.
    num_steps: of the run, for schedules in fractions.
    probe: for a start by a criterion that looks at gradients.

  Returns:
    An optax transformation.

  Raises:
    ValueError: unknown names or arguments, listing the right ones.
  """
  make = transform_of(spec)
  if make is None:
    return inner
  given = dict(spec.get('kwargs', {}))
  if 'sparsity' in spec:
    given['sparsity'] = spec['sparsity']
  accepted = list(inspect.signature(make).parameters)[1:]
  for key in given:
    _names.choose(key, accepted, f'argument of method {spec["name"]}')
  try:
    kwargs = {key: _bound(key, value, num_steps, probe) for key, value in given.items()}
    if 'seed' in accepted:
      kwargs['seed'] = seed
    return make(inner, **kwargs)
  except (TypeError, ValueError) as error:
    sentence = str(error).rstrip('.')
    raise ValueError(f'method {spec["name"]}: {sentence}.') from error


def learning_rate(config, num_steps: int):
  """A number, or a schedule of optax."""
  value = config.learning_rate
  if not isinstance(value, Mapping):
    return value
  names = [n for n in dir(optax) if n.endswith(('_schedule', 'constant'))]
  make = getattr(optax, _names.choose(value['name'], names, 'learning_rate'))
  return _made(make, 'learning_rate', _resolved(value['kwargs'], num_steps))


def _made(make, key, kwargs, *args):
  try:
    return make(*args, **kwargs)
  except TypeError as error:
    raise ValueError(
      f'config.{key}.kwargs: {error}; {make.__name__} takes'
      f' {", ".join(inspect.signature(make).parameters)}.'
    ) from error


def optimizer(config, num_steps: int):
  """The optimizer of a config, with L2 decay of matrices where it asks for it."""
  public = [n for n in dir(optax) if n.islower() and callable(getattr(optax, n))]
  takes_rate = lambda n: (
    'learning_rate' in inspect.signature(getattr(optax, n)).parameters
  )
  names = [n for n in public if takes_rate(n) and not n.startswith(('_', 'scale_by'))]
  make = getattr(optax, _names.choose(config.optimizer['name'], names, 'optimizer'))
  rate = learning_rate(config, num_steps)
  inner = _made(make, 'optimizer', config.optimizer['kwargs'], rate)
  if not config.weight_decay:
    return inner
  # Biases and the scales of norms are not decayed.
  matrices = lambda params: jax.tree.map(lambda p: p.ndim > 1, params)
  return optax.chain(optax.add_decayed_weights(config.weight_decay, matrices), inner)


def model(config, spec, num_classes: int, sample) -> models.Model:
  """The model of a method; `small_dense` has as many weights as a sparse one keeps.

  Args:
    config: of the run.
    spec: a method of the config.
    num_classes: number of logits.
    sample: images (1, H, W, C).

  Returns:
    A `Model`.
  """
  options = config.model['options']

  def make(width: float):
    # Not every model has a width; only the small dense one needs it.
    given = options if width == 1 else {**options, 'width': width}
    name, api = config.model['name'], config.model['api']
    return models.build(name, num_classes, sample.shape[1:], api=api, options=given)

  whole = make(1)
  if spec['transform'] != 'small_dense':
    return whole
  params, _ = jax.jit(whole.init)(jax.random.key(0), sample)
  tx = js.transforms.static(optax.identity(), final_sparsity(spec), seed=0)
  kept = js.summary.stats(*js.init(tx, params)).num_kept
  return make(models.matched_width(make, kept, sample))


def num_steps(config, num_examples: int) -> int:
  """The length of the run, a multiple of `steps_per_call`."""
  epoch = num_examples // config.batch_size
  if not epoch:
    raise ValueError(
      f'config.batch_size: got {config.batch_size} for {num_examples} examples.'
    )
  wanted = config.num_steps or config.epochs * epoch
  if wanted < 1:
    raise ValueError('config: one of num_steps and epochs must be positive.')
  return rounded(wanted, config.steps_per_call)


def rounded(steps: int, per_call: int) -> int:
  """The nearest positive multiple of `per_call`."""
  return max(1, round(steps / per_call)) * per_call


def plain(config) -> dict:
  """A config as JSON would give it back."""
  return json.loads(json.dumps(vars(config)))

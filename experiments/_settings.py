"""From what a config says to schedules, optimizers and transforms."""

from collections.abc import Mapping
import difflib
import inspect
import json
import types

import jax
import ml_collections
import optax

from experiments import _criteria, _names, _schedules, models
from experiments.configs import _defaults
import jaxsparse as js

_EXECUTIONS = ('compact', 'jit', 'pmap', 'shard_map')
_METHOD_KEYS = ('name', 'transform', 'sparsity', 'kwargs')
_COUNTS = (
  'accumulate', 'batch_size', 'checkpoint_every', 'eval_every', 'keep', 'steps_per_call',
  'timing_rounds',
)  # fmt: skip
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
  config = check_common(config, _defaults.get_config().to_dict(), _METHOD_KEYS)
  for spec in config.methods:
    transform_of(spec)
    _criteria.takes_probe(spec)
  if config.select not in ('final', 'best'):
    raise ValueError(f"config.select: got {config.select!r}, wanted 'final' or 'best'.")
  return config


def check_common(config, known: dict, method_keys) -> types.SimpleNamespace:
  """The checks of every experiment: keys, counts, seeds, names of methods.

  Args:
    config: a ConfigDict.
    known: all keys, with their defaults.
    method_keys: what a method may have.

  Returns:
    The config with dicts for ConfigDicts.

  Raises:
    ValueError: what no default knows.
  """
  _check_keys(config, known, 'config')
  config = types.SimpleNamespace(**_dicts(config))
  for key in ('model', 'optimizer', 'learning_rate', 'augment'):
    if isinstance(getattr(config, key, None), dict):
      _check_keys(getattr(config, key), known[key], f'config.{key}')
  wrong = [spec for spec in config.methods if not isinstance(spec, Mapping)]
  if wrong:
    raise ValueError(f'config.methods: got {wrong[0]!r}, wanted dicts.')
  names = [spec.get('name') for spec in config.methods]
  if len(set(names)) != len(names) or None in names:
    raise ValueError(f'config.methods: every method needs its own name; got {names}.')
  for spec in config.methods:
    unknown = sorted(set(spec) - set(method_keys))
    if unknown:
      raise ValueError(
        f'config.methods: {spec["name"]} has unknown keys {unknown}; a method has'
        f' {list(method_keys)}.'
      )
  for name in filter(None, config.only.split(',')):
    _names.choose(name, names, 'config.only')
  _names.choose(getattr(config, 'execution', 'jit'), _EXECUTIONS, 'config.execution')
  for key in _COUNTS:
    if getattr(config, key, 1) < 1:
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
  """The transform that a method names; None for the dense baselines.

  A name with a dot is one of your own, `module.factory`, called as those of
  `js.transforms` are: `factory(optimizer, sparsity, *, seed, **kwargs)`. Its module is
  imported, from where Python finds it (`PYTHONPATH`, the repository).
  """
  name = spec.get('transform')
  if name in BASELINES:
    return None
  where = f'transform of method {spec["name"]}'
  if '.' in str(name):
    return _names.imported(name, where)
  public = [n for n in js.transforms.__all__ if not n.endswith('_rule')]
  return getattr(js.transforms, _names.choose(name, [*public, *BASELINES], where))


def final_sparsity(spec) -> float:
  """The sparsity that a method ends with; 0 for a dense network."""
  sparsity = spec.get('sparsity', 0.0)
  if not isinstance(sparsity, Mapping):
    return float(sparsity)
  return float(sparsity.get('final', sparsity.get('sparsity', 0.0)))


def _bound(key: str, value, num_steps, probe: _criteria.Probe | None):
  """One argument of a transform, from its plain form in a config."""
  if key in ('when', 'drop_fraction', 'sparsity'):
    return _schedules.schedule(value, num_steps, key)
  if key == 'distribution':
    return _names.attribute(js.distributions, value, key)
  if key == 'criterion' and not callable(value):
    return _criteria.bound(value, probe)
  if key == 'structure' and isinstance(value, Mapping):
    kwargs = dict(value)
    return _names.attribute(js.masks, kwargs.pop('name', None), key)(**kwargs)
  if key == 'prunable' and isinstance(value, Mapping):
    return js.kernels_except(*value['except'])
  return _schedules.in_steps(value, num_steps) if key in _schedules.STEPS else value


def transform(
  spec, inner, seed, num_steps: int, probe: _criteria.Probe | None = None, rate=None
):
  """Wraps an optimizer as a method of the config says.

  Args:
    spec: a method of the config.
    inner: the optimizer.
    seed: int, tracer or typed key for the transforms that draw.
    num_steps: of the run, for schedules in fractions.
    probe: for a start by a criterion that looks at gradients.
    rate: the learning rate of `inner`, for a transform that wants to know it.

  Returns:
    An optax transformation.

  Raises:
    ValueError: unknown names or arguments, listing the right ones.
  """
  make = transform_of(spec)
  if make is None:
    return inner
  if 'learning_rate' in inspect.signature(make).parameters:
    spec = {**spec, 'kwargs': {'learning_rate': rate, **spec.get('kwargs', {})}}
  return built(make, spec, seed, num_steps, probe, before=(inner,))


def built(make, spec, seed, num_steps, probe=None, before=()):
  """Calls a factory with the arguments that a method of the config gives it.

  Args:
    make: the factory, called as `make(*before, **kwargs)`.
    spec: a method of the config, with `sparsity` and `kwargs`.
    seed: for factories that take one.
    num_steps: of the run, or of each of its cycles, for schedules in fractions.
    probe: for a criterion that looks at gradients.
    before: arguments that no config gives.

  Returns:
    What the factory returns.

  Raises:
    ValueError: unknown names or arguments, listing the right ones.
  """
  given = dict(spec.get('kwargs', {}))
  if 'sparsity' in spec:
    given['sparsity'] = spec['sparsity']
  accepted = list(inspect.signature(make).parameters)[len(before) :]
  for key in given:
    _names.choose(key, accepted, f'argument of method {spec["name"]}')
  try:
    kwargs = {key: _bound(key, value, num_steps, probe) for key, value in given.items()}
    if 'seed' in accepted:
      kwargs['seed'] = seed
    return make(*before, **kwargs)
  except (TypeError, ValueError) as error:
    sentence = str(error).rstrip('.')
    raise ValueError(f'method {spec["name"]}: {sentence}.') from error


def optimizer(config, num_steps, rate=None):
  """The optimizer of a config, with L2 decay of matrices where it asks for it."""
  public = [n for n in dir(optax) if n.islower() and callable(getattr(optax, n))]
  takes_rate = lambda n: (
    'learning_rate' in inspect.signature(getattr(optax, n)).parameters
  )
  names = [n for n in public if takes_rate(n) and not n.startswith(('_', 'scale_by'))]
  make = getattr(optax, _names.choose(config.optimizer['name'], names, 'optimizer'))
  if rate is None:
    rate = _schedules.learning_rate(config.learning_rate, num_steps)
  inner = _schedules.called(make, 'optimizer', config.optimizer['kwargs'], rate)
  if not config.weight_decay:
    return inner
  # Biases and the scales of norms are not decayed.
  matrices = lambda params: jax.tree.map(lambda p: p.ndim > 1, params)
  return optax.chain(optax.add_decayed_weights(config.weight_decay, matrices), inner)


def model(config, spec, num_classes: int, sample) -> models.Model:
  """The model of a method; `small_dense` has as many weights as a sparse one keeps.

  Args:
    config: of the run; an attribute `handler` is that of `models.from_linen`.
    spec: a method of the config.
    num_classes: number of logits.
    sample: images (1, H, W, C).

  Returns:
    A `Model`.
  """
  options, handler = config.model['options'], getattr(config, 'handler', None)

  def make(width: float):
    # Not every model has a width; only the small dense one needs it.
    given = options if width == 1 else {**options, 'width': width}
    name, api = config.model['name'], config.model['api']
    return models.build(
      name, num_classes, sample.shape[1:], api=api, options=given, handler=handler
    )

  return fitted(make, spec, sample)


def fitted(make, spec, sample) -> models.Model:
  """The model of a method, of width 1 or as narrow as a sparse network is small.

  Args:
    make: `width -> Model`.
    spec: a method of the config.
    sample: images (1, H, W, C).

  Returns:
    A `Model`.
  """
  whole = make(1)
  if spec.get('transform') != 'small_dense':
    return whole
  # Pruned once, only to count what a sparse network of this sparsity keeps.
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

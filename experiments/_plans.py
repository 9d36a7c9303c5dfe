"""From what a config says to a plan, and to the two ways in which its batches come."""

from collections.abc import Callable
import types
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _coresets, _names, _posteriors, _settings
from experiments.configs import _data_subset_defaults
import jaxsparse as js

# Functions of `js.data`, and a subset that a method of `_coresets` chooses; those that
# ask a proxy network, for a subset or for a score of all records.
BY_PROXY = ('coreset', 'curriculum', 'importance')
_PLANS = (*BY_PROXY, 'full', 'iid', 'rs2', 'short_full', 'static_subset')
_METHOD_KEYS = (
  'kwargs',
  'name',
  'plan',
  'plan_kwargs',
  'posterior',
  'ratio',
  'rounds',
  'score',
  'select',
  'select_kwargs',
  'settings',
  'sparsity',
  'transform',
)
_BACKENDS = ('device', 'grain')


def check(config) -> types.SimpleNamespace:
  """As `_settings.check`, for the keys and methods of `experiments/data_subset.py`."""
  known = _data_subset_defaults.get_config().to_dict()
  config = _settings.check_common(config, known, _METHOD_KEYS)
  _names.choose(config.backend, _BACKENDS, 'config.backend')
  _posteriors.check_estimator(config)
  for key in ('evaluations', 'proxy_epochs', 'rounds', 'samples'):
    if getattr(config, key) < 1:
      raise ValueError(f'config.{key}: got {getattr(config, key)}, wanted at least 1.')
  if config.workers < 0:
    raise ValueError(f'config.workers: got {config.workers}, wanted at least 0.')
  for threshold in config.thresholds:
    if not 0 < threshold <= 1:
      raise ValueError(f'config.thresholds: got {threshold}, wanted shares in (0, 1].')
  for spec in config.methods:
    _names.choose(spec.get('plan'), _PLANS, f'plan of method {spec["name"]}')
    _posteriors.check_kind(spec, ('transform', 'posterior'))
    if spec['plan'] in BY_PROXY:
      _coresets.check(spec)
  return config


def ratio_of(config, spec) -> float:
  """The share of the data that a round of a method sees; 1 for all of them."""
  return 1.0 if spec['plan'] == 'full' else spec.get('ratio', config.ratio)


def size_of(config, spec, num_examples: int) -> int:
  """How many records a round of a method sees."""
  return max(1, round(ratio_of(config, spec) * num_examples))


def make(config, spec, labels, seed, chosen=None) -> js.data.Plan:
  """The plan of a method.

  Args:
    config: of the run.
    spec: of the method.
    labels: int (N,), of the training data.
    seed: of the run.
    chosen: `(indices, weights)` of a coreset, or the scores of all records; None for a
      plan that only has its shape.

  Returns:
    A plan. Its batches are those of the config, or a whole round where that is less.

  Raises:
    ValueError: what `js.data` refuses, naming the method.
  """
  num_examples, ratio = len(labels), ratio_of(config, spec)
  rounds = spec.get('rounds', config.rounds)
  kwargs = dict(spec.get('plan_kwargs', {}))
  try:
    size = size_of(config, spec, num_examples)
    batch_size = min(config.batch_size, size)
    if spec['plan'] == 'coreset':
      weights = np.ones(size) if spec['select'] in _coresets.WEIGHTED else None
      return js.data.subset(
        *(chosen or (np.arange(size), weights)), num_examples=num_examples,
        batch_size=batch_size, rounds=rounds, seed=seed,
      )  # fmt: skip
    # What is drawn by a score takes the scores where others take their number.
    records = num_examples
    if spec['plan'] in BY_PROXY:
      records = np.ones(num_examples) if chosen is None else chosen
    if kwargs.pop('stratified', False):
      kwargs['labels'] = labels
    if spec['plan'] == 'full':
      kwargs['epochs'] = rounds
    elif spec['plan'] in ('iid', 'importance'):
      kwargs['num_steps'] = rounds * (size // batch_size)
    else:
      kwargs.update(ratio=ratio, rounds=rounds)
    return getattr(js.data, spec['plan'])(records, batch_size, seed=seed, **kwargs)
  except (TypeError, ValueError) as error:
    raise ValueError(f'method {spec["name"]}: {str(error).rstrip(".")}.') from error


class Cadence(NamedTuple):
  """How a run of some number of steps is cut.

  Attributes:
    per_call: steps of one call, a divisor of the run.
    eval_every: steps from one evaluation to the next, whole calls.
  """

  per_call: int
  eval_every: int


def cadence(total_steps: int, steps_per_call: int, evaluations: int) -> Cadence:
  """Calls that are as long as they may be and still end at every evaluation."""
  every = max(1, total_steps // evaluations)
  longest = min(every, steps_per_call)
  per_call = next(n for n in range(longest, 0, -1) if total_steps % n == 0)
  return Cadence(per_call, per_call * max(1, round(every / per_call)))


class Feed(NamedTuple):
  """Where the batches of one run come from.

  Attributes:
    data: pytree on the devices, given to every step.
    batches: `step -> batch`, on the host.
  """

  data: Any
  batches: Callable[[int], Any]


class _Arrays:
  """Images and labels in memory as a source of records."""

  def __init__(self, images, labels):
    self.images, self.labels = images, labels

  def __len__(self):
    return len(self.labels)

  def __getitem__(self, index):
    return {'images': self.images[index], 'labels': self.labels[index]}


def feed(config, plan: js.data.Plan, arrays, on_devices) -> Feed:
  """The batches of a plan, from the back end of the config.

  Args:
    config: of the run.
    plan: of the method and the seed.
    arrays: `(images, labels)` on the host.
    on_devices: the same as a dict on the devices.

  Returns:
    A `Feed`. On the device a batch is slots only, from which `take` gathers; from
    Grain it is whole records.
  """
  if config.backend == 'device':
    slots = np.arange(plan.batch_size, dtype=np.uint32)
    # The plan is an argument of the step, so that its seed is no part of the program.
    data = {**on_devices, 'plan': jax.tree.map(jnp.asarray, plan)}
    return Feed(data, lambda step: {'slots': slots + np.uint32(step * plan.batch_size)})
  return Feed(None, _read(config, plan, _Arrays(*arrays)))


def _read(config, plan, source):
  iterator = None

  def batches(step):
    nonlocal iterator
    if iterator is None:
      # Only now is it known at which step the run goes on.
      iterator = iter(_grain_batches(config, plan, source, step))
    example = next(iterator)
    return {**example.record, 'weights': example.weight}

  return batches


def _grain_batches(config, plan, source, start):
  import grain

  records = js.data.grain_dataset(plan, source, start=start)
  batches = records.batch(plan.batch_size).to_iter_dataset()
  if config.workers:
    options = grain.MultiprocessingOptions(num_workers=config.workers)
    batches = batches.mp_prefetch(options)
  return batches


def take(batch, data, shares: bool = False) -> dict[str, jax.Array]:
  """Images, labels and weights of a batch, inside a step, from either back end.

  Args:
    batch: of `Feed.batches`.
    data: of `Feed.data`.
    shares: whether the weights are divided by their mean over the batch.

  Returns:
    The batch, as `_posteriors.loss` wants it.
  """
  if 'slots' in batch:
    indices, weights = data['plan'].at(batch['slots'])
    images, labels = data['images'][indices], data['labels'][indices]
    batch = {'images': images, 'labels': labels, 'weights': weights}
  if not shares:
    return batch
  # GradMatch gives some records no weight at all, perhaps those of a whole batch.
  mean = jnp.maximum(jnp.mean(batch['weights']), 1e-9)
  return {**batch, 'weights': batch['weights'] / mean}

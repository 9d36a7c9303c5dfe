"""One way to a recommender: its model, its transform, its compiled functions."""

from collections.abc import Callable
import types
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import (
  _packed,
  _ranking,
  _recommend_sparsity,
  _row_sparse,
  _schedules,
  _settings,
  datasets,
  models,
)
from experiments.configs import _recommend_defaults
import jaxsparse as js


class Source(NamedTuple):
  """The data of one seed.

  Attributes:
    split: what is learned from, what is to be found.
    train: on the devices, what the loss looks at.
    validation, test: the targets.
    taken: codes of the pairs that are never drawn as negatives in training.
    num_steps: of the run.
  """

  split: datasets.RatingSplit
  train: Any
  validation: _ranking.Target
  test: _ranking.Target
  taken: np.ndarray
  num_steps: int


class Method(NamedTuple):
  """One method of the config, compiled once for all seeds that share a transform.

  Attributes:
    name, spec: of the config.
    model: the recommender.
    init: `(seed, data) -> TrainState`, masked.
    step_fn: the compiled step.
    evaluate: `(params, data, Target) -> {metric: value}`.
    sparse: whether there are masks.
  """

  name: str
  spec: dict
  model: models.Recommender
  init: Callable
  step_fn: Callable
  evaluate: Callable
  sparse: bool


def check(config):
  """Refuses what no default knows, before anything is loaded."""
  known = _recommend_defaults.get_config().to_dict()
  config = _settings.check_common(config, known, _recommend_sparsity.METHOD_KEYS)
  if config.select_by not in _ranking.metric_names(config.ks):
    raise ValueError(
      f'config.select_by: got {config.select_by!r}, wanted one of'
      f' {", ".join(_ranking.metric_names(config.ks))}.'
    )
  if config.row_sparse and config.model['name'] != 'MF':
    raise ValueError(
      f'config.row_sparse: got model {config.model["name"]}, wanted MF: others look at'
      ' more than the rows of a batch, or have more than tables.'
    )
  for spec in config.methods:
    _recommend_sparsity.check(spec)
  return config


def load(config, ratings, seed: int) -> Source:
  """Splits the ratings for one seed."""
  own = seed if config.split_by_seed else config.split_seed
  split = datasets.split_ratings(ratings, config.split, own)
  num_users, num_items = split.num_users, split.num_items
  frequencies = [
    np.bincount(split.train[:, c], minlength=n)
    for c, n in enumerate((num_users, num_items))
  ]
  weights = [(np.maximum(f, 1) / f.mean()) ** config.decay_power for f in frequencies]
  data = {
    'user_weight': weights[0].astype(np.float32),
    'item_weight': weights[1].astype(np.float32),
  }
  if config.model['name'] == 'LightGCN':
    data['graph'] = models.normalized_edges(split.train, num_users, num_items)
  if config.model['name'] == 'MultVAE':
    data['history'] = datasets.padded_lists(split.train, num_users, num_items)
  others, taken = None, [split.train]
  if config.eval_negatives:
    others = datasets.evaluation_negatives(split, config.eval_negatives, own)
    taken.append(others)
  goals = {
    part: _ranking.target(
      getattr(split, part),
      split.known[part],
      num_users,
      num_items,
      config.chunk,
      others,
    )
    for part in ('validation', 'test')
  }
  return Source(
    split, js.training.replicate(data), goals['validation'], goals['test'],
    datasets.pair_codes(np.concatenate(taken), num_items),
    _settings.num_steps(config, num_examples(config, split)),
  )  # fmt: skip


def num_examples(config, split) -> int:
  """What an epoch goes through: pairs, or the users of the training pairs."""
  if config.model['name'] != 'MultVAE':
    return len(split.train)
  return len(np.unique(split.train[:, 0]))


def batches(config, source: Source, seed: int):
  """`step -> batch`: pairs with a negative item each, or users."""
  split, size = source.split, config.batch_size
  count = num_examples(config, split)
  learned = np.unique(split.train[:, 0])

  def batch(step):
    index = datasets.batch_indices(count, size, step, seed)
    if config.model['name'] == 'MultVAE':
      return {'users': learned[index].astype(np.int32)}
    users, items = split.train[index].T
    return {
      'users': users,
      'positives': items,
      'negatives': datasets.sample_negatives(
        users, split.num_items, source.taken, step, seed
      ),
    }

  return batch


def build(config, spec, source: Source) -> Method:
  """The model, the initial state and the compiled step of a method."""
  own = types.SimpleNamespace(**{**vars(config), **spec.get('settings', {})})
  split = source.split
  model = models.recommender(
    config.model['name'], split.num_users, split.num_items,
    _recommend_sparsity.options(config, spec, split),
    decay=own.decay, beta=config.beta,
    anneal_steps=_schedules.in_steps(config.anneal_steps, source.num_steps),
  )  # fmt: skip

  def make_tx(seed):
    inner = _settings.optimizer(own, source.num_steps)
    return _recommend_sparsity.transform(
      own, spec, inner, seed, split, source.num_steps
    )

  def prepare(batch, data, key):
    del key
    # What all examples look at goes with the batch.
    return {'batch': batch, 'data': data}

  def loss_fn(params, model_state, batch, key, state):
    loss = model.loss(params, batch['batch'], batch['data'], key, state.step)
    return loss, (model_state, {})

  # The seed is data, so one compilation serves all seeds.
  @jax.jit
  def init(seed, data):
    model_key, mask_key, train_key = jax.random.split(jax.random.key(seed), 3)
    params = model.init(model_key, data)
    return js.training.init_state(make_tx(mask_key), params, (), seed=train_key)

  if config.row_sparse:
    step = _row_step(config, own, spec, split, make_tx(0))
  else:
    step = js.training.make_step(loss_fn, make_tx(0), prepare=prepare, sees_state=True)
  step_fn = js.training.shard_step(
    step, execution=config.execution, scan=config.steps_per_call > 1
  )
  evaluate = _ranking.evaluator(model.score, split.num_items, config.ks)
  return Method(
    spec['name'],
    spec,
    model,
    init,
    step_fn,
    evaluate,
    spec['transform'] not in _recommend_sparsity.BASELINES,
  )


def _row_step(config, own, spec, split, tx):
  """The step of MF on the rows of a batch."""
  options = _recommend_sparsity.options(config, spec, split)
  if options.get('table', 'dense') != 'dense':
    raise ValueError(
      f'row_sparse: method {spec["name"]} has a {options["table"]} table, wanted dense.'
    )
  size = config.batch_size
  local = models.recommender('MF', size, 2 * size, options, decay=own.decay)
  user, item = 'user/embedding', 'item/embedding'

  def localize(batch, data):
    items = jnp.concatenate([batch['positives'], batch['negatives']])

    def finish(place):
      positives, negatives = jnp.split(place[item], 2)
      slots = {'users': place[user], 'positives': positives, 'negatives': negatives}
      return slots, {
        'user_weight': data['user_weight'][batch['users']],
        'item_weight': data['item_weight'][items],
      }

    return {user: batch['users'], item: items}, finish

  loss = lambda params, batch, data: local.loss(params, batch, data, None, 0)
  return _row_sparse.make_step(
    loss, tx, localize, {user: split.num_users, item: split.num_items}
  )


def stored(method: Method, params, opt_state) -> dict:
  """`{leaf: what is shipped of it}`: packed rows, halves, or the array itself."""
  names, leaves, _ = js.core.named_leaves(params)
  masks = [None] * len(names)
  if method.sparse:
    masks = jax.tree.leaves(js.get_masks(opt_state))
  half = method.spec['transform'].endswith('fp16')
  arrays, found = dict(zip(names, map(np.asarray, leaves))), {}
  for name, mask in zip(names, masks):
    if name.endswith('threshold'):
      continue  # What is shipped of a soft table is what they leave of it.
    x = arrays[name]
    threshold = arrays.get(f'{name.removesuffix("embedding")}threshold')
    if threshold is not None:
      x = np.sign(x) * np.maximum(np.abs(x) - 1 / (1 + np.exp(-threshold)), 0)
    if mask is not None and mask.ndim == 2 and name.endswith('embedding'):
      found[name] = _packed.pack(x, mask)
    else:
      found[name] = x.astype(np.float16) if half else x
  return found


def sizes(shipped: dict) -> dict[str, int]:
  """How many values are shipped, and in how many bytes."""
  packed = [x for x in shipped.values() if isinstance(x, _packed.PackedRows)]
  arrays = [x for x in shipped.values() if not isinstance(x, _packed.PackedRows)]
  return {
    'kept': sum(x.size for x in arrays) + sum(len(x.values) for x in packed),
    'shipped_bytes': sum(x.nbytes for x in arrays)
    + sum(map(_packed.num_bytes, packed)),
  }


def evaluate_shipped(config, method: Method, params, shipped, source: Source) -> dict:
  """The metrics of the test items, of what somebody has who loads what is shipped.

  Two packed tables that are multiplied are ranked as they are, without being unpacked.
  """
  tables = [shipped.get(f'{name}/embedding') for name in ('user', 'item')]
  packed = all(isinstance(x, _packed.PackedRows) for x in tables)
  if packed and method.model.vectors is not None and 'graph' not in source.train:
    score = lambda tables, data, users, known: _packed.scores(*tables, users)
    evaluate = _ranking.evaluator(score, source.split.num_items, config.ks)
    return evaluate(tables, {}, source.test)
  if method.spec['transform'].endswith('fp16'):
    params = jax.tree.map(lambda x: x.astype(jnp.float16).astype(x.dtype), params)
  return method.evaluate(params, source.train, source.test)


def density_of(method, state) -> float:
  """The kept share of the weights that are masked; 1 of a dense model."""
  if not method.sparse:
    return 1.0
  return float(js.masks.density(js.get_masks(state.opt_state), state.params))


def propagated_density(method, params, source) -> float:
  """The share of nonzeros in what is multiplied; NaN where nothing is propagated."""
  if 'graph' not in source.train:
    return float('nan')
  vectors = method.model.vectors(params, source.train)
  return float(np.mean([np.mean(np.asarray(x) != 0) for x in vectors]))

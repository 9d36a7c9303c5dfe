"""What a proxy network, trained once per seed, knows of the records: subsets, scores."""

import functools
import time
import types
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import _names, _settings, datasets
import jaxsparse as js

_CHUNK = 1000
# Of these `js.data.subset` takes the weights too.
WEIGHTED = ('craig', 'gradmatch')


class Evidence(NamedTuple):
  """What selections look at; arrays over the N training records.

  Attributes:
    logits, probs: (N, C) of the trained proxy, in inference mode, not augmented.
    features: (N, H), what its last layer multiplies.
    labels: int (N,).
    forgetting, aum: `js.data.ForgettingState` and `AumState`, of all records after each
      epoch.
    held: `(logits, labels, features)` of the validation records; of the training
      records where there are none.
  """

  logits: Any
  probs: Any
  features: Any
  labels: Any
  forgetting: Any
  aum: Any
  held: tuple[Any, Any, Any]

  @property
  def gradients(self):
    """By the last layer, one a record."""
    return js.data.last_layer_gradients(self.probs, self.labels, self.features)


def _top(score):
  return lambda e, size, seed: js.data.per_class(
    js.data.top_scores, score(e), e.labels, size
  )


def _by_class(name, data):
  return lambda e, size, seed: js.data.per_class(
    getattr(js.data, name), data(e), e.labels, size
  )


def _glister(e: Evidence, size, seed, learning_rate=0.1):
  return js.data.glister(e.gradients, size, *e.held, learning_rate=learning_rate)


def _ccs(e: Evidence, size, seed, hard_cutoff=0.3):
  return js.data.ccs(_SCORES['aum'](e), size, hard_cutoff=hard_cutoff, seed=seed)


def _ssp(e: Evidence, size, seed):
  # One cluster per class, and of each its most typical records: data is scarce here.
  found = js.data.ssp_prototypes(e.features, e.probs.shape[1], seed=seed)
  return js.data.per_class(js.data.top_scores, -found.scores, found.clusters, size)


_features = lambda e: e.features
_gradients = lambda e: e.gradients
# A number for each record, larger for harder ones.
_SCORES = {
  'aum': lambda e: js.data.aum_scores(e.aum),
  'cal': lambda e: js.data.cal(e.probs, e.features),
  'el2n': lambda e: js.data.el2n(e.probs, e.labels),
  'entropy': lambda e: js.data.entropy(e.probs),
  'forgetting': lambda e: js.data.forgetting_scores(e.forgetting),
  'grand_last_layer': lambda e: js.data.grand_last_layer(e.probs, e.labels, e.features),
  'least_confidence': lambda e: js.data.least_confidence(e.probs),
  'margin': lambda e: js.data.margin(e.probs),
}
_SELECTIONS = {
  **{name: _top(score) for name, score in _SCORES.items()},
  'ccs': _ccs,
  'craig': _by_class('craig', _gradients),
  'facility_location': _by_class('facility_location', _gradients),
  'glister': _glister,
  'gradmatch': _by_class('gradmatch', _gradients),
  'graph_cut': _by_class('graph_cut', _gradients),
  'herding': _by_class('herding', _features),
  'k_center_greedy': _by_class('k_center_greedy', _features),
  'moderate': lambda e, size, seed: js.data.moderate(e.features, e.labels, size),
  'ssp_prototypes': _ssp,
}


def check(spec) -> None:
  """Refuses a selection, or a score, that there is none of."""
  key = key_of(spec)
  where = f'{key} of method {spec["name"]}'
  _names.choose(spec.get(key), _SELECTIONS if key == 'select' else _SCORES, where)


def key_of(spec) -> str:
  """What a method names for the proxy: records to keep, or a score of all of them."""
  return 'select' if spec['plan'] == 'coreset' else 'score'


class Coresets:
  """Selections and scores of a run, with the seconds that each would take alone.

  Args:
    config: of the run; its model is that of the proxy, `proxy_epochs` and
      `proxy_learning_rate` (constant) say how it is trained.
    data: `datasets.Data`.
    train: its training images and labels on the devices.
  """

  def __init__(self, config, data, train):
    self._config, self._data, self._train = config, data, train
    self._seed, self._evidence, self._seconds = None, None, 0.0
    self._compiled = set()

  def select(self, spec, size: int, seed: int):
    """What a method keeps, or the score by which it draws from all records.

    Args:
      spec: of the method.
      size: how many records are kept.
      seed: of the run: there is one proxy for all methods of a seed.

    Returns:
      `(chosen, seconds, compiling)`: `(indices, weights or None)`, or float (N,) scores;
      the seconds of the proxy and of the selection, and those of compiling them apart:
      what was not run before is run twice.
    """
    compiled = 0.0
    if self._seed != seed:
      train = lambda: self._train_proxy(seed)
      self._evidence, self._seconds, compiled = self._timed('proxy', train)
      self._seed = seed
    if key_of(spec) == 'score':
      work = lambda: _SCORES[spec['score']](self._evidence)
      chosen, seconds, more = self._timed(spec['score'], work)
      chosen = np.asarray(chosen)
    else:
      kwargs = spec.get('select_kwargs', {})
      select = functools.partial(_SELECTIONS[spec['select']], **kwargs)
      work = lambda: select(self._evidence, size, seed)
      (indices, weights), seconds, more = self._timed((spec['name'], size), work)
      chosen = np.asarray(indices), None if weights is None else np.asarray(weights)
    return chosen, self._seconds + seconds, compiled + more

  def _timed(self, name, work):
    """`(result, seconds, seconds more that it took when it was new)`."""
    before = 0.0
    if name not in self._compiled:
      _, before = _run(work)
      self._compiled.add(name)
    result, seconds = _run(work)
    return result, seconds, max(0.0, before - seconds)

  @functools.cached_property
  def _programs(self):
    return _programs(self._config, self._data)

  def _train_proxy(self, seed) -> Evidence:
    config, labels = self._config, self._data.train[1]
    plan = js.data.full(
      len(labels), config.batch_size, epochs=config.proxy_epochs, seed=seed
    )
    init, epoch, outputs = self._programs
    state, placed = init(seed), jax.tree.map(jnp.asarray, plan)
    forgetting = js.data.forgetting_init(len(labels))
    aum, everyone = js.data.aum_init(len(labels)), jnp.arange(len(labels))
    labels = self._train['labels']
    for number in range(config.proxy_epochs):
      state = epoch(state, placed, self._train, number * plan.steps_per_round)
      logits, features = _whole(outputs, state, self._train['images'])
      correct = jnp.argmax(logits, -1) == labels
      forgetting = js.data.forgetting_update(forgetting, everyone, correct)
      aum = js.data.aum_update(aum, everyone, logits, labels)
    held = logits, labels, features
    if len(self._data.validation[1]):
      images, held_labels = self._data.validation
      held_logits, held_features = _whole(outputs, state, jnp.asarray(images))
      held = held_logits, jnp.asarray(held_labels), held_features
    probs = jax.nn.softmax(logits)
    return Evidence(logits, probs, features, labels, forgetting, aum, held)


def _run(work):
  start = time.perf_counter()
  result = jax.block_until_ready(work())
  return result, time.perf_counter() - start


def _programs(config, data: datasets.Data):
  """`(init, epoch, outputs)` of the proxy, compiled."""
  settings = types.SimpleNamespace(**vars(config))
  settings.learning_rate = config.proxy_learning_rate
  sample = jnp.zeros((1, *data.image_shape))
  model = _settings.model(settings, {'transform': 'dense'}, data.num_classes, sample)
  tx = _settings.optimizer(settings, 1)
  prepare = lambda images: datasets.normalize(images, data.mean, data.std)

  @jax.jit
  def init(seed):
    params, model_state = model.init(jax.random.key(seed), sample)
    if 'kernel' not in params.get('head', {}):
      raise ValueError(
        f'config.model: {config.model["name"]} has no last layer `head`, whose inputs'
        ' coresets look at.'
      )
    return js.training.init_state(tx, params, model_state, seed=seed)

  def loss_fn(params, model_state, batch, key):
    logits, model_state = model.apply(
      params, model_state, batch['images'], train=True, key=key
    )
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch['labels'])
    return jnp.mean(loss), (model_state, {})

  def gathered(step, given, key):
    plan, train = given
    batch, _ = js.data.gather(plan, train, step)
    images = datasets.augment(key, batch['images'], **config.augment)
    return {**batch, 'images': prepare(images)}

  step = js.training.make_step(loss_fn, tx, prepare=gathered)

  one = jax.jit(lambda state, number, given: step(state, number, given)[0])

  @jax.jit
  def scanned(state, plan, train, start):
    body = lambda state, i: (one(state, start + i, (plan, train)), None)
    return jax.lax.scan(body, state, jnp.arange(plan.steps_per_round))[0]

  def epoch(state, plan, train, start):
    # In a loop XLA compiles convolutions to slow code for a CPU.
    if config.steps_per_call > 1:
      return scanned(state, plan, train, start)
    for i in range(plan.steps_per_round):
      state = one(state, start + i, (plan, train))
    return state

  @jax.jit
  def outputs(state, images):
    return _outputs(model, state, prepare(images))

  return init, epoch, outputs


def _outputs(model, state, images):
  """Logits, and what the last layer multiplies: a gradient by a column of its kernel."""
  params = state.params

  def first_logit(kernel, image):
    changed = {**params, 'head': {**params['head'], 'kernel': kernel}}
    logits, _ = model.apply(changed, state.model_state, image[None], train=False)
    return logits[0, 0]

  by_kernel = jax.vmap(jax.grad(first_logit), (None, 0))(
    params['head']['kernel'], images
  )
  logits, _ = model.apply(params, state.model_state, images, train=False)
  return logits, by_kernel[:, :, 0]


def _whole(outputs, state, images):
  """`outputs` of all images; the last chunk is filled up, to be the same program."""
  count, parts = len(images), []
  chunk = min(_CHUNK, count)
  for start in range(0, count, chunk):
    index = jnp.arange(start, start + chunk) % count
    parts.append(outputs(state, images[index]))
  return jax.tree.map(lambda *xs: jnp.concatenate(xs)[:count], *parts)

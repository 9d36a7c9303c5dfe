"""From what a config says to posteriors, their losses and their optimizers."""

import copy
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import _execution, _names, _settings, _traces
from experiments.configs import _bayesian_defaults
import jaxsparse as js

_FAMILIES = ('mean_field', 'ssvi', 'ssvi_released')
_ESTIMATORS = ('flipout', 'local_reparametrization', 'mean_weights', 'weight_sampling')
_DRAWS = ('', 'dropout')
_METHOD_KEYS = (
  'cycles',
  'draws',
  'ensemble',
  'kwargs',
  'members',
  'name',
  'posterior',
  'settings',
  'sparsity',
  'transform',
)
# Arguments of a posterior that are attributes of `js.bayes`.
_NAMED = ('criterion', 'growth', 'link')
# Keys of the config that a method may change for itself.
_SETTINGS = ('dropout', 'learning_rate', 'temperature', 'warm_up', 'weight_decay')


def check(config) -> types.SimpleNamespace:
  """As `_settings.check`, for the keys and methods of `experiments/bayesian.py`."""
  known = _bayesian_defaults.get_config().to_dict()
  config = _settings.check_common(config, known, _METHOD_KEYS)
  for spec in config.methods:
    _check_method(spec, config.methods)
  for spec in (s for s in chosen(config) if 'ensemble' in s):
    groups(config.seeds, spec['members'])  # Refused now, not after the training.
  check_estimator(config)
  for key in ('samples', 'corrupted_images'):
    if getattr(config, key) < 1:
      raise ValueError(f'config.{key}: got {getattr(config, key)}, wanted at least 1.')
  if not set(config.severities) <= set(range(1, 6)):
    raise ValueError(f'config.severities: got {config.severities}, wanted 1 to 5.')
  return config


def check_estimator(config):
  """Refuses an estimator that `js.bayes` does not have."""
  _names.choose(config.estimator, _ESTIMATORS, 'config.estimator')


def check_kind(spec, kinds) -> None:
  """Refuses a method that is none of these kinds, or two, or one of no such name."""
  where = f'method {spec["name"]}'
  found = [k for k in kinds if k in spec]
  if len(found) != 1:
    wanted = ' and '.join([', '.join(kinds[:-1]), kinds[-1]])
    raise ValueError(f'{where}: got {found}, wanted one of {wanted}.')
  if 'posterior' in spec:
    _names.choose(spec['posterior'], _FAMILIES, f'posterior of {where}')
  elif 'transform' in spec:
    _settings.transform_of(spec)


def _check_method(spec, specs):
  where = f'method {spec["name"]}'
  for key in spec.get('settings', {}):
    _names.choose(key, _SETTINGS, f'settings of {where}')
  _names.choose(spec.get('draws', ''), _DRAWS, f'draws of {where}')
  check_kind(spec, ('transform', 'posterior', 'ensemble'))
  if 'ensemble' in spec:
    trained = [s['name'] for s in specs if 'ensemble' not in s]
    _names.choose(spec['ensemble'], trained, f'ensemble of {where}')
    if spec.get('members', 0) < 2:
      raise ValueError(f'{where}: members={spec.get("members")}, wanted 2 or more.')


def chosen(config) -> list[dict]:
  """The methods of `config.only`, with those that its ensembles are made of."""
  names = list(filter(None, config.only.split(',')))
  specs = [s for s in config.methods if not names or s['name'] in names]
  needed = {s['ensemble'] for s in specs if 'ensemble' in s}
  return [s for s in config.methods if s in specs or s['name'] in needed]


def settings(config, spec) -> types.SimpleNamespace:
  """The config with what a method changes for itself, and a handler for its model."""
  changed = copy.deepcopy(config)
  changed.handler = handler(config)
  if _execution.may_be_compact(config, spec):
    held = js.compact.handler()
    changed.handler = js.bayes.noisy_handler(held) if changed.handler else held
  for key, value in spec.get('settings', {}).items():
    if key == 'dropout':
      changed.model['options'] = {**changed.model['options'], 'dropout': value}
    else:
      setattr(changed, key, value)
  return changed


def cycles(spec, num_steps: int, per_call: int):
  """`(lengths, harvest)`: the steps of each cycle, and the last step of each."""
  shares = spec.get('cycles', (1.0,))
  if abs(sum(shares) - 1) > 1e-6 or min(shares) <= 0:
    raise ValueError(
      f'method {spec["name"]}: cycles={shares}, wanted positive shares that add to 1.'
    )
  ends = [_settings.rounded(s * num_steps, per_call) for s in np.cumsum(shares)]
  ends[-1] = num_steps
  lengths = tuple(int(n) for n in np.diff([0, *ends]))
  if min(lengths) < 1:
    raise ValueError(
      f'method {spec["name"]}: cycles={shares} are too short for {num_steps} steps.'
    )
  return lengths, tuple(ends)


def num_products(config, posterior) -> int:
  """The products of a layer in training: two where its noise is computed apart."""
  return 2 if posterior is not None and handler(config) is not None else 1


def handler(config):
  """The handler that an estimator needs in the model's layers; None for most."""
  by_layer = config.estimator in ('flipout', 'local_reparametrization')
  return js.bayes.noisy_product if by_layer else None


def optimizer(config, spec, seed, lengths: tuple[int, ...]):
  """`(posterior, tx)` of a method; the posterior of deterministic weights is None."""
  inner = _settings.optimizer(config, lengths)
  if 'posterior' not in spec:
    return None, _settings.transform(spec, inner, seed, lengths)
  make = getattr(js.bayes, spec['posterior'])
  where = f'argument of method {spec["name"]}'
  kwargs = {
    k: _names.attribute(js.bayes, v, where) if k in _NAMED else v
    for k, v in spec.get('kwargs', {}).items()
  }
  posterior = _settings.built(make, {**spec, 'kwargs': kwargs}, seed, lengths)
  rho = types.SimpleNamespace(
    optimizer=config.rho_optimizer,
    learning_rate=config.rho_learning_rate,
    weight_decay=0.0,
  )
  return posterior, js.bayes.optimizer(
    posterior, inner, rho=_settings.optimizer(rho, lengths)
  )


def loss(config, model, posterior, num_examples: int, num_steps: int):
  """The loss of a step that sees the state; of a posterior, its negative ELBO.

  Batches have `images`, `labels` and, where their examples count differently, `weights`.
  """

  def log_likelihood(logits, targets):
    labels, weights = targets
    return -weights * optax.softmax_cross_entropy_with_integer_labels(logits, labels)

  def forward(theta, inputs):
    images, model_state, key = inputs
    logits, model_state = model.apply(theta, model_state, images, train=True, key=key)
    return logits, (logits, model_state)

  def deterministic(params, model_state, batch, key, state):
    params = _execution.joined(params, state.opt_state)
    inputs = batch['images'], model_state, key
    logits, (_, model_state) = forward(params, inputs)
    nll = -jnp.mean(log_likelihood(logits, _targets(batch)))
    metrics = {'accuracy': _accuracy(logits, batch), 'nll': nll, 'kl': jnp.zeros(())}
    return nll, (model_state, metrics)

  if posterior is None:
    return deterministic
  warm_up = optax.linear_schedule(0.0, 1.0, max(1, round(config.warm_up * num_steps)))
  elbo = js.bayes.negative_elbo(
    posterior,
    forward,
    log_likelihood,
    num_examples=num_examples,
    temperature=config.temperature,
    warm_up=warm_up,
    estimator=getattr(js.bayes, config.estimator),
    has_aux=True,
  )

  def variational(params, model_state, batch, key, state):
    model_key, noise_key = jax.random.split(key)
    inputs = batch['images'], model_state, model_key
    masks = _execution.masks_of(state.opt_state)
    value, info = elbo(params, masks, (inputs, _targets(batch)), noise_key, state.step)
    logits, model_state = info.aux
    metrics = {'accuracy': _accuracy(logits, batch), 'nll': info.nll, 'kl': info.kl}
    return value, (model_state, metrics)

  return variational


def _targets(batch):
  """The labels, and the weights of their losses where a batch has any."""
  labels = batch['labels']
  return labels, batch.get('weights', jnp.ones(labels.shape))


def _accuracy(logits, batch):
  return jnp.mean(jnp.argmax(logits, -1) == batch['labels'])


def density_columns(method) -> list[str]:
  """The columns of the densities of all leaves that methods with its model may prune."""
  init = functools.partial(method.init, 0)
  return _traces.density_columns(init, field=_traces.field_of(method.posterior))


def trace(config, method, seed, last, held, data) -> _traces.Trace:
  """What the masks of a trained network did, and the FLOPs of its mean weights.

  Args:
    config: of the run.
    method: with name, spec, model, posterior and init.
    seed: of the run.
    last, held: see `_traces.of_states`.
    data: the data set.

  Its steps and seconds are the caller's to say.
  """
  posterior, field = method.posterior, _traces.field_of(method.posterior)
  params = getattr(last.params, field) if field else last.params
  apply_fn = lambda p, x: method.model.apply(p, last.model_state, x, train=False)[0]
  found = js.summary.flops(apply_fn, params, jnp.zeros((1, *data.image_shape)))
  averages = posterior is not None or method.spec.get('draws')
  return _traces.of_states(
    method.name, seed, method.init(seed), last, held, field
  )._replace(
    examples=config.batch_size, flops=_traces.flops_of(found),
    draws=config.samples if averages else len(getattr(method, 'harvest', (0,))),
    products=num_products(config, posterior),
  )  # fmt: skip


def groups(seeds, members: int) -> list[tuple[int, ...]]:
  """Sets of so many neighbouring seeds, in a circle; each set once.

  Raises:
    ValueError: fewer seeds than members.
  """
  if members > len(seeds):
    raise ValueError(
      f'config.seeds: an ensemble of {members} members wants as many seeds, got'
      f' {len(seeds)}.'
    )
  around = [
    tuple(sorted(seeds[(i + j) % len(seeds)] for j in range(members)))
    for i in range(len(seeds))
  ]
  return list(dict.fromkeys(around))


def sigma_row(posterior, state) -> dict[str, float]:
  """The median of |mu| / sigma and of sigma over active Bayesian weights."""
  if posterior is None:
    return {}
  masks = js.get_masks(state.opt_state)
  sigmas = jax.tree.leaves(posterior.sigma(state.params, masks))
  pairs = zip(jax.tree.leaves(state.params.mu), sigmas)
  active = [(np.asarray(m)[np.asarray(s) > 0], np.asarray(s)) for m, s in pairs]
  means = np.concatenate([m.ravel() for m, _ in active])
  deviations = np.concatenate([s[s > 0].ravel() for _, s in active])
  return {
    'sigma_median': float(np.median(deviations)),
    'snr_median': float(np.median(np.abs(means) / deviations)),
  }


def size_row(method, members) -> dict:
  """Active weights of one member, and the floats that all members store for them."""
  kept = [_kept(method, state) for state in members]
  # A posterior has two floats per active Bayesian weight.
  floats = 1 if method.posterior is None else 2
  return {
    'target_sparsity': _settings.final_sparsity(method.spec),
    'active_weights': int(np.mean(kept)),
    'stored_floats': floats * sum(kept),
  }


def _kept(method, state) -> int:
  params = state.params if method.posterior is None else state.params.mu
  sparse = bool(js.core.sparse_states(state.opt_state))
  return js.summary.stats(params, state.opt_state if sparse else None).num_kept

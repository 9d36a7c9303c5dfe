"""Regression: all splits of a set at once, a row of results for each.

What `experiments/bayesian.py` runs for a config whose `task` is 'regression'. Where a
method chooses a setting, every split chooses its own, on a part of its training rows.
"""

import functools
import time
import types

import jax
import jax.numpy as jnp
import numpy as np

from experiments import (
  _names,
  _posteriors,
  _records,
  _regression_method,
  _regression_report,
  _settings,
  _traces,
  datasets,
  models,
)
from experiments.configs import _regression_defaults
import jaxsparse as js

_HYPER = ('dropout', 'temperature', 'weight_decay')
_OF_SET = ('batch_size', 'model', 'num_steps')
_NOISE_SCALES = tuple(2 ** (k / 2) for k in range(-2, 15))
_VALIDATION_SAMPLES = 25
_METHOD_KEYS = (
  'choose', 'draws', 'kwargs', 'members', 'name', 'posterior', 'sets', 'settings',
  'sparsity', 'transform',
)  # fmt: skip


def run(config, workdir, data_dir) -> None:
  """Trains and tests what the config lists; goes on where results.csv ends.

  Args:
    config: a ConfigDict, see `configs/_regression_defaults.py`.
    workdir: run directory, or None for a new one.
    data_dir: see `datasets.load_regression`.
  """
  config = check(config)
  if jax.process_count() > 1:
    raise ValueError('regression trains all splits at once, in one process only.')
  workdir = _records.run_directory(workdir, config.name)
  lock = _records.claim(workdir, config)
  results = _records.Table(workdir / 'results.csv', _regression_report.COLUMNS)
  only = list(filter(None, config.only.split(',')))
  for name in config.datasets:
    data = datasets.load_regression(name, data_dir)
    wanted = tuple(s for s in config.seeds if s < len(data.train))
    own = for_set(config, name)
    for spec in (s for s in own.methods if not only or s['name'] in only):
      done = {
        int(r['split']) for r in results.rows
        if (r['dataset'], r['method']) == (name, spec['name'])
      }  # fmt: skip
      if splits := tuple(s for s in wanted if s not in done):
        start = time.monotonic()
        found, traces = rows(own, spec, data, splits)
        seconds = time.monotonic() - start
        for trace in traces:
          # All splits were trained at once: each has its share.
          _traces.write(workdir, trace._replace(seconds=seconds / len(splits)))
        for row in found:
          results.append(row)
        added = results.rows[-len(splits) :]
        print(_regression_report.progress(added, seconds), flush=True)
  print(_regression_report.write(workdir, _settings.plain(config)))
  lock.close()


def check(config) -> types.SimpleNamespace:
  """Refuses what no default knows, before anything is loaded."""
  known = _regression_defaults.get_config().to_dict()
  config = _settings.check_common(config, known, _METHOD_KEYS)
  for name in config.datasets:
    _names.choose(name, datasets.REGRESSION_SETS, 'config.datasets')
  if not 0 < config.validation < 1:
    raise ValueError(f'config.validation: got {config.validation}, wanted (0, 1).')
  for name, changes in config.sets.items():
    _names.choose(name, datasets.REGRESSION_SETS, 'config.sets')
    for key in changes:
      _names.choose(key, _OF_SET, f'config.sets: {name}')
  if config.num_steps < 1 or config.samples < 1:
    raise ValueError('config: num_steps and samples must be at least 1.')
  if min(config.seeds) < 0:
    raise ValueError(f'config.seeds: got {config.seeds}, wanted numbers of splits.')
  _posteriors.check_estimator(config)
  for spec in config.methods:
    _posteriors.check_kind(spec, ('transform', 'posterior'))
    where = f'of method {spec["name"]}'
    for key in (*spec.get('settings', {}), *spec.get('choose', {})):
      _names.choose(key, _HYPER, f'settings {where}')
    if len(spec.get('choose', {})) > 1:
      raise ValueError(f'choose {where}: got {spec["choose"]}, wanted one setting.')
    if spec.get('members', 1) < 1:
      raise ValueError(f'members {where}: got {spec["members"]}, wanted at least 1.')
  return config


def for_set(config, name: str) -> types.SimpleNamespace:
  """The config with what `config.sets` changes for one set, and its methods."""
  methods = tuple(s for s in config.methods if name in s.get('sets', (name,)))
  changes = {**config.sets.get(name, {}), 'methods': methods}
  return types.SimpleNamespace(**{**vars(config), **changes})


def rows(config, spec, data, splits: tuple[int, ...]):
  """Trains one method on the given splits; a row of results and a trace for each."""
  whole = datasets.standardize(data)
  own = functools.partial(jax.tree.map, lambda x: x[np.array(splits)])
  train, test, mean, std = map(own, whole)
  seeds, num_train = np.array(splits), train[0].shape[1]
  method = _regression_method.build(config, spec, train)
  chosen = choose(config, method, seeds, train)
  hyper = _full(_hyper(config, spec), len(seeds))
  hyper.update({k: jnp.asarray(v) for k, v in chosen.items() if k in _HYPER})
  fitted = {**hyper, 'noise_scale': jnp.asarray(chosen['noise_scale'])}
  learned, final, states, first = [], [], None, None
  for member in range(spec.get('members', 1)):
    # Other starts and other batches than those of any split.
    states, first = method.train(
      seeds + 1000 * member, hyper, train, _indices(config, num_train, member)
    )
    learned.append(_predict(method, states, seeds, test, hyper, config.samples))
    final.append(_predict(method, states, seeds, test, fitted, config.samples))
  predicted = np.mean([p.mean for p in final], axis=0)
  errors = std[:, None] * (predicted - test[1])
  # A density in units of the set: standardised targets are `std` times smaller.
  nll, nll_learned = (np.log(std) - _mixed(p).mean(axis=1) for p in (final, learned))
  last = jax.tree.map(lambda x: x[0] if np.ndim(x) else x, states)
  size = _posteriors.size_row(method, [last] * spec.get('members', 1))
  label = lambda i: ' '.join(f'{k}={v[i]:.3g}' for k, v in chosen.items())
  traces = traces_of(config, data.name, method, seeds, first, states)
  return [
    dict(
      size, dataset=data.name, method=spec['name'], split=split, chosen=label(i),
      rmse=float(np.sqrt(np.mean(errors[i] ** 2))), nll=float(nll[i]),
      nll_learned_noise=float(nll_learned[i]),
    )
    for i, split in enumerate(splits)
  ], traces  # fmt: skip


def traces_of(config, name: str, method, seeds, first, states) -> list[_traces.Trace]:
  """What the masks of the last member of each split did."""
  spec, field = method.spec, _traces.field_of(method.posterior)
  members = spec.get('members', 1)
  of_split = lambda tree, i: jax.tree.map(lambda x: x[i] if np.ndim(x) else x, tree)
  start, model = of_split(first, 0), models.Regressor(**config.model)
  params = getattr(start.params, field) if field else start.params
  row = jnp.zeros((1, params['dense1']['kernel'].shape[0]))
  found = js.summary.flops(lambda p, x: model.apply({'params': p}, x), params, row)
  draws = config.samples if _regression_method.averages(spec) else 1
  traces = []
  for i, split in enumerate(seeds):
    last = of_split(states, i)
    trace = _traces.of_states(
      f'{name} {spec["name"]}', split, of_split(first, i), last, last, field
    )
    traces.append(
      trace._replace(
        steps=config.num_steps * members,
        examples=config.batch_size,
        flops=_traces.flops_of(found),
        draws=draws * members,
        products=_posteriors.num_products(config, method.posterior),
      )  # fmt: skip
    )
  return traces


def _hyper(config, spec) -> dict[str, float]:
  """What a network is trained and predicts with; nothing is chosen yet."""
  given = {k: spec.get('settings', {}).get(k, getattr(config, k)) for k in _HYPER}
  return {**given, 'noise_scale': 1.0}


def choose(
  config, method: _regression_method.Method, seeds, train
) -> dict[str, np.ndarray]:
  """`{setting: (S,)}`: what suits the validation rows of each split best.

  Deterministic weights also get a factor for the variance of the noise, which they
  learn from rows that they fit too well: what temperature scaling is to a classifier.
  """
  grid = method.spec.get('choose', {})
  if not grid:
    return {'noise_scale': np.ones(len(seeds), np.float32)}
  ((name, values),) = grid.items()
  num_train = train[0].shape[1]
  num_held = max(1, round(config.validation * num_train))
  # The rows of a split lie in random order: the last ones are as good as any.
  held = jax.tree.map(lambda x: x[:, -num_held:], train)
  indices = _indices(config, num_train - num_held, 0)
  scales = (1.0,) if _regression_method.averages(method.spec) else _NOISE_SCALES
  scores = []
  for value in values:
    hyper = {**_hyper(config, method.spec), name: value}
    # The same weight of the KL against each row as with all of the rows.
    share = num_train / (num_train - num_held)
    states, _ = method.train(
      seeds, _full({**hyper, 'temperature': share * hyper['temperature']}, len(seeds)),
      train, indices,
    )  # fmt: skip
    for scale in scales:
      fitted = _full({**hyper, 'noise_scale': scale}, len(seeds))
      found = _predict(method, states, seeds, held, fitted, _VALIDATION_SAMPLES)
      scores.append(found.log_prob.mean(axis=1))
  best = np.nanargmax(scores, axis=0)
  pairs = [(v, s) for v in values for s in scales]
  picked = np.array(pairs, np.float32)[best].T
  return {name: picked[0], 'noise_scale': picked[1]}


def _full(hyper, count):
  return {k: jnp.full(count, v, jnp.float32) for k, v in hyper.items()}


def _indices(config, num_rows: int, seed: int) -> np.ndarray:
  """The rows of every step, (T, B): one order for all splits, whose rows differ."""
  size = min(config.batch_size, num_rows)
  steps = range(config.num_steps)
  return np.stack([datasets.batch_indices(num_rows, size, t, seed) for t in steps])


def _predict(method, states, seeds, rows, hyper, samples):
  # By its number, so that a split has the same key whichever others are trained.
  keys = jax.random.split(jax.random.key(0), max(seeds) + 1)[seeds]
  found = method.predict(states, *rows, hyper, keys, samples)
  return jax.tree.map(np.asarray, found)


def _mixed(predictions) -> np.ndarray:
  """Log density of the mixture of all members, equal in weight."""
  log_probs = np.stack([p.log_prob for p in predictions])
  return np.logaddexp.reduce(log_probs) - np.log(len(predictions))

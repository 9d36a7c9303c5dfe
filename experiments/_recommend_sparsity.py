"""What makes a recommender small: transforms, narrow tables, hashes."""

import copy

import jax
import numpy as np
import scipy.sparse

from experiments import _names, _schedules, _settings, models
import jaxsparse as js

# Smaller tables, as many values or bytes as the sparse ones; they are no transforms.
_NARROW = ('narrow_bytes', 'narrow_bytes_fp16', 'narrow_parameters')
BASELINES = ('dense', 'hashed', *_NARROW)
METHOD_KEYS = (
  'features', 'kwargs', 'name', 'options', 'settings', 'sparsity', 'table', 'transform',
)  # fmt: skip
_SETTINGS = ('decay', 'learning_rate')
_STARTS = ('factorization', 'popularity', 'random')


def check(spec) -> None:
  """Refuses a method that cannot be, before anything is loaded."""
  where = f'of method {spec["name"]}'
  _names.choose(
    spec.get('transform'), [*_transforms(), *BASELINES], f'transform {where}'
  )
  _names.choose(spec.get('table', 'dense'), models.TABLES, f'table {where}')
  for key in spec.get('settings', {}):
    _names.choose(key, _SETTINGS, f'settings {where}')
  sparsity = _settings.final_sparsity(spec)
  if not 0 <= sparsity < 1 or (spec['transform'] != 'dense' and not sparsity):
    raise ValueError(f'sparsity {where}: got {sparsity}, wanted a number in (0, 1).')


def _transforms() -> list[str]:
  return [n for n in js.transforms.__all__ if not n.endswith(('_rule', 'is_table'))]


def looks_at_data(spec) -> bool:
  """Whether the transform itself depends on the split, and so on the seed."""
  given = spec.get('kwargs', {})
  return given.get('frequencies') == 'train' or given.get('start', 'random') != 'random'


def options(config, spec, split) -> dict:
  """The options of the model of a method."""
  given = {**config.model['options'], **spec.get('options', {})}
  if 'features' in spec:
    given['features'] = spec['features']
  density = 1 - _settings.final_sparsity(spec)
  if spec['transform'] in _NARROW:
    if 'features' not in given:
      raise ValueError(
        'config.model.options: narrow methods need features to be given.'
      )
    given['features'] = width(spec['transform'], density, given['features'])
  if spec['transform'] == 'hashed':
    sizes = split.num_users, split.num_items
    given['remainders'] = tuple(remainders(n, density) for n in sizes)
  if spec.get('table', 'dense') != 'dense' or spec['transform'] == 'hashed':
    given['table'] = spec.get('table', 'hashed')
  return given


def width(transform_name: str, density: float, features: int) -> int:
  """The width of a dense table as large as a sparse one of `features` columns.

  A packed row has 4 bytes a value, 1 or 2 for its column, and 1 or 2 for its count.
  """
  kept, index = density * features, 1 if features <= 256 else 2
  if transform_name == 'narrow_parameters':
    return max(1, round(kept))
  wide = kept * (4 + index) + (1 if features <= 255 else 2)
  return max(1, int(wide / (2 if transform_name.endswith('fp16') else 4)))


def remainders(num: int, density: float) -> int:
  """m with `m + ceil(num / m)` rows as near to `density num` as that goes from below."""
  wanted = density * num
  sizes = np.arange(1, num + 1)
  rows = sizes + -(-num // sizes)
  fitting = sizes[rows <= wanted]
  # More remainders: fewer rows share one.
  return int(fitting.max()) if fitting.size else int(sizes[np.argmin(rows)])


def transform(config, spec, inner, seed, split, num_steps: int):
  """The optimizer of a method, wrapped as it says.

  Args:
    config: of the run, with the settings of the method.
    spec: the method.
    inner: the optimizer.
    seed: int, tracer or typed key.
    split: of the ratings: `frequencies='train'` and `start` look at its training pairs.
    num_steps: of the run.

  Returns:
    An optax transformation.
  """
  pairs, sizes = split.train, (split.num_users, split.num_items)
  if spec['transform'] in BASELINES:
    return inner
  make = getattr(js.transforms, spec['transform'])
  spec, given = copy.copy(spec), dict(spec.get('kwargs', {}))
  has_tables = config.model['name'] != 'MultVAE'
  given.setdefault('prunable', js.transforms.is_table if has_tables else js.kernels)
  if 'rotate' in given:
    given['rotate'] = _schedules.schedule(given['rotate'], num_steps, 'rotate')
  seen = {
    f'{name}/embedding': np.bincount(pairs[:, c], minlength=sizes[c])
    for c, name in enumerate(('user', 'item'))
  }
  if given.get('frequencies') == 'train':
    given['frequencies'] = seen
  if 'start' in given:
    given['start'] = _start(given['start'], seen, pairs, sizes)
  for key in ('num_pruning_steps', 'interval', 'total_steps'):
    if key in given:
      given[key] = _schedules.in_steps(given[key], num_steps)
  if spec['transform'] == 'iss_p':
    # Its ceiling is relative to the rate of the optimizer.
    given.setdefault('learning_rate', config.learning_rate)
  if spec.get('table') == 'soft':
    given.setdefault('criterion', above_threshold)
  spec['kwargs'] = given
  return _settings.built(make, spec, seed, num_steps, before=(inner,))


def above_threshold(evidence):
  """|v| - sigmoid(s) of soft tables: what is left of a weight."""
  names, leaves, treedef = js.core.named_leaves(js.criteria.magnitude(evidence))
  seen = evidence.updated_params or evidence.params
  found = dict(zip(*js.core.named_leaves(seen[0])[:2]))
  own = lambda n: n.removesuffix('embedding') + 'threshold'
  return treedef.unflatten(
    [
      x - jax.nn.sigmoid(found[own(n)]) if own(n) in found else x
      for n, x in zip(names, leaves)
    ]
  )


def _start(name, seen, pairs, sizes):
  _names.choose(name, _STARTS, 'start')
  if name == 'popularity':
    return js.criteria.popularity(seen)
  if name == 'factorization':
    ones = np.ones(len(pairs))
    matrix = scipy.sparse.coo_matrix((ones, (pairs[:, 0], pairs[:, 1])), sizes)
    return js.criteria.factorization(matrix.tocsr(), 'user/embedding', 'item/embedding')
  return js.criteria.random

"""The methods that configs of `experiments/recommend.py` share."""


def methods(sparsities, *, interval: int, features: int, tuned=None):
  """Dense, and for each sparsity what a sparse table is held against, and DSL.

  Args:
    sparsities: of the sparse tables.
    interval: steps between two updates of the masks.
    features: columns of the tables.
    tuned: `{way: keys}`, what methods of a way get in place of their first settings.

  Returns:
    Methods of a config.
  """
  found = [dict(name='dense', transform='dense')]
  for sparsity in sparsities:
    found += _of(sparsity, interval, features, tuned or {})
  return tuple(found)


def _of(sparsity: float, interval: int, features: int, tuned: dict):
  uniform = dict(distribution='uniform')
  dsl = dict(
    when=dict(schedule='every', n=interval, stop=0.6),
    drop_fraction=dict(schedule='cosine', initial=0.3, stop=0.6, final=0.01),
    scope='joint',
    frequencies='train',
  )
  rotated = dict(dsl, rotate=dict(schedule='at', steps=(0.15,)))
  released = dict(interval=interval, total_steps=1.0)
  for name, transform, kwargs, more in (
    ('narrow_parameters', 'narrow_parameters', {}, {}),
    ('narrow_bytes', 'narrow_bytes', {}, {}),
    ('narrow_bytes_fp16', 'narrow_bytes_fp16', {}, {}),
    ('hashed', 'hashed', {}, {}),
    ('static', 'static', uniform, {}),
    ('magnitude', 'one_shot', dict(uniform, step=0.5), {}),
    ('pep', 'one_shot', dict(uniform, step=0.5), dict(table='soft')),
    ('iss_p', 'iss_p', dict(uniform, num_pruning_steps=0.5), {}),
    ('dsl_released', 'dsl_released', released, {}),
    ('dsl', 'dsl', dsl, {}),
    ('dsl_rotated', 'dsl', rotated, _fewer_columns(sparsity, features)),
  ):
    spec = dict(sparsity=sparsity, kwargs=kwargs, transform=transform)
    named = dict(spec, name=f'{name}_{100 * (1 - sparsity):g}', **more)
    yield {**named, **tuned.get(name, {})}


def _fewer_columns(sparsity: float, features: int):
  """As many weights as the narrow table, in 2.5 times its columns: supports overlap."""
  narrow = round((1 - sparsity) * features)
  columns = min(features, round(2.5 * narrow))
  return dict(features=columns, sparsity=1 - narrow / columns)

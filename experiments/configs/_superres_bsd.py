"""What the x2 runs on BSD500 share: images, length, schedule, methods."""

from experiments.configs import _superres_defaults


def get_config(argument: str):
  """The config for sparsities such as '0.95' or '0.9,0.99'."""
  config = _superres_defaults.get_config()
  # Trained on 300 images; `val` is the test set that the literature calls BSD100.
  config.train = ('bsds500/train', 'bsds500/test')
  config.tests = dict(set5='set5/HR', bsd100='bsds500/val')
  config.validation = 4
  config.num_steps = 20_000
  sparsities = tuple(map(_sparsity, argument.split(',')))
  config.methods = (
    dict(name='dense', transform='dense'),
    *sum(map(_superres_defaults.methods, sparsities), ()),
    *map(_slow, sparsities),
  )
  config.eval_every = 1000
  config.checkpoint_every = 2000
  config.seeds = (0, 1)
  return config


def _slow(sparsity: float) -> dict:
  """ISS-P that lets go slowly: with alpha 0.99 the ceiling is 5 times that of 0.95.

  Where the threshold of a layer is above the ceiling, no weight comes back to it.
  """
  found = _superres_defaults.methods(sparsity)
  plain = next(spec for spec in found if spec['transform'] == 'iss_p')
  name = plain['name'].replace('iss_p', 'iss_p_slow')
  return {**plain, 'name': name, 'kwargs': {**plain['kwargs'], 'alpha': 0.99}}


def _sparsity(text: str) -> float:
  try:
    value = float(text)
  except ValueError:
    value = -1.0
  if not 0 < value < 1:
    raise ValueError(f'config argument: got {text!r}, wanted sparsities such as 0.95.')
  return value

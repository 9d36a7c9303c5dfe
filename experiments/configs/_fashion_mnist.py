"""What the two Fashion-MNIST campaigns share: methods, sparsities, schedule."""

from experiments.configs import _defaults

_SPARSITIES = (0.9, 0.95, 0.98)
_WHEN = dict(schedule='every', n=100, stop=0.75)
_DROP = dict(schedule='cosine', initial=0.3, stop=0.75)


def methods(sparsity: float) -> tuple[dict, ...]:
  """The six ways to a network of one sparsity, named `<way>_<percent>`.

  All sparse ones have the ERK densities, so that they differ in nothing but how they
  find their weights.
  """
  percent = f'{100 * sparsity:g}'
  named = lambda way, transform, sparsity=sparsity, **kwargs: dict(
    name=f'{way}_{percent}', transform=transform, sparsity=sparsity, kwargs=kwargs
  )
  rising = dict(schedule='cubic', final=sparsity, start=0.1, stop=0.6)
  return (
    named('small_dense', 'small_dense'),
    named('static_erk', 'static'),
    named('set', 'set', when=_WHEN, drop_fraction=_DROP),
    named('rigl', 'rigl', when=_WHEN, drop_fraction=_DROP),
    named('gmp', 'gmp', rising, when=dict(schedule='every', n=100), distribution='erk'),
    named('one_shot', 'one_shot', step=0.5, distribution='erk'),
  )


def get_config(argument: str):
  """The config for `'all'` sparsities or one of them, such as `'0.9'`."""
  sparsities = _SPARSITIES if argument == 'all' else (_sparsity(argument),)
  config = _defaults.get_config()
  config.dataset = 'fashion_mnist'
  config.epochs, config.num_steps = 20, 0
  config.batch_size = 128
  config.weight_decay = 1e-4
  config.learning_rate = dict(
    name='cosine_decay_schedule', kwargs=dict(init_value=0.1, decay_steps=1.0)
  )
  config.seeds = (0, 1, 2)
  config.methods = (dict(name='dense', transform='dense'),) + sum(
    map(methods, sparsities), ()
  )
  config.eval_every = 400
  config.checkpoint_every = 2000
  config.keep = 1
  return config


def _sparsity(argument: str) -> float:
  try:
    value = float(argument)
  except ValueError:
    value = -1.0
  if not 0 < value < 1:
    raise ValueError(f"config argument: got {argument!r}, wanted 'all' or a sparsity.")
  return value

"""The keys of a regression config for `experiments/bayesian.py`."""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """The defaults. Of arguments that are steps, a float is a fraction of the run."""
  config = ml_collections.ConfigDict()
  config.task = 'regression'
  config.name = 'regression'
  config.datasets = ('diabetes',)
  # What differs for a set: its `num_steps`, `batch_size` or `model`.
  config.sets = {}
  config.model = dict(features=(50,), heteroscedastic=False)

  # The splits that are trained, all of them at once; a set may have fewer.
  config.seeds = tuple(range(20))
  config.batch_size = 128
  config.num_steps = 4000
  config.optimizer = dict(name='adam', kwargs={})
  config.learning_rate = dict(
    name='cosine_decay_schedule', kwargs=dict(init_value=5e-3, decay_steps=1.0)
  )
  # Every method may change these three, or choose one of them on `validation`, a share
  # of each split's training rows; then it is trained anew on all of these.
  config.validation = 0.2
  config.weight_decay = 1e-4
  config.dropout = 0.0
  config.temperature = 1.0

  # As in `_bayesian_defaults`.
  config.warm_up = 0.5
  config.estimator = 'weight_sampling'
  config.rho_optimizer = dict(name='adam', kwargs={})
  config.rho_learning_rate = 1e-2
  config.samples = 100
  config.methods = ()
  config.only = ''
  return config

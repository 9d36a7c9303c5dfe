"""The keys of `experiments/data_subset.py`: those of classification, and its own."""

import ml_collections

from experiments.configs import _bayesian_defaults


def get_config() -> ml_collections.ConfigDict:
  """The defaults. Of arguments that are steps, a float is a fraction of the run."""
  config = _bayesian_defaults.get_config()
  # The plan of a method says how long it runs.
  for key in ('epochs', 'num_steps', 'corrupted_images', 'severities'):
    del config[key]
  del config['out_of_distribution']
  config.name = 'data_subset'

  # A round sees `ratio` of the data; there are as many rounds as training on all data
  # would have epochs. A method may have its own.
  config.ratio = 0.1
  config.rounds = 200

  # The network that coresets ask, one per seed: the same model, dense, on all data.
  config.proxy_epochs = 10
  config.proxy_learning_rate = 0.05

  # How batches come: 'device' gathers them from data in device memory, 'grain' reads
  # records with so many worker processes (0: threads of this one).
  config.backend = 'device'
  config.workers = 0

  # The curve: test accuracy so many times in a run, and what it is watched for.
  config.evaluations = 40
  config.thresholds = (0.8, 0.9, 0.95)
  for key in ('eval_every', 'checkpoint_every'):
    del config[key]
  return config

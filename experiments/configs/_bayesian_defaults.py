"""The keys of `experiments/bayesian.py`: those of classification, and its own."""

import ml_collections

from experiments.configs import _defaults


def get_config() -> ml_collections.ConfigDict:
  """The defaults. Of arguments that are steps, a float is a fraction of the run."""
  config = _defaults.get_config()
  # Final weights are tested: a posterior is not chosen by its best epoch.
  for key in ('select', 'timing_rounds', 'label_smoothing'):
    del config[key]
  config.name = 'bayesian'

  # A posterior's loss: `temperature` scales the KL, which grows from 0 to that over
  # the share `warm_up` of the run; rho has its own optimizer.
  config.temperature = 0.3
  config.warm_up = 0.5
  config.estimator = 'weight_sampling'
  config.rho_optimizer = dict(name='adam', kwargs={})
  config.rho_learning_rate = 1e-2

  # Prediction: so many draws, shared out among the members of an ensemble.
  config.samples = 32

  # What no class of ours is in: data sets, or our test images made into something else
  # (`datasets.outside`).
  config.out_of_distribution = ('blended', 'quadrants', 'pixels_shuffled')
  config.severities = (1, 2, 3, 4, 5)
  config.corrupted_images = 1000
  return config

r"""RS2, coresets and the short full schedule on Fashion-MNIST: LeNet-300-100, 100 rounds.

    launch/local.sh experiments/data_subset.py --data_dir=DIR \
        --config=experiments/configs/data_subset_fashion_mnist.py

DIR holds the prepared data set. Ratios 5, 10 and 30 %; `:0.1` instead of `:all`, the
default, runs one.
"""

from experiments.configs import _data_subset, _data_subset_defaults

_RATIOS = (0.05, 0.1, 0.3)


def get_config(argument='all'):
  config = _data_subset_defaults.get_config()
  config.name = 'data_subset_fashion_mnist'
  config.dataset = 'fashion_mnist'
  config.validation = 0.1
  config.model = dict(name='MLP', api='linen', options=dict(features=(300, 100)))
  config.batch_size = 128
  config.rounds = 100
  config.optimizer = dict(name='sgd', kwargs=dict(momentum=0.9, nesterov=True))
  config.learning_rate = dict(
    name='cosine_decay_schedule',
    kwargs=dict(init_value=0.1, decay_steps=1.0, alpha=1e-3),
  )
  config.proxy_learning_rate = 0.1
  config.weight_decay = 1e-4
  ratios = _data_subset.ratios_of(argument, _RATIOS)
  config.methods = (
    *sum(map(_data_subset.methods, ratios), ()),
    *sum(map(_data_subset.by_score, ratios), ()),
    *sum(map(_data_subset.coresets, ratios), ()),
    *(_data_subset.sparse_methods(0.1, every=100) if 0.1 in ratios else ()),
    _data_subset.all_data(),
  )
  config.seeds = (0, 1, 2, 3, 4)
  config.thresholds = (0.8, 0.85, 0.88)
  config.steps_per_call = 100
  return config

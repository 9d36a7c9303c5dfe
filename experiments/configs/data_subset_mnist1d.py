r"""RS2 on MNIST-1D: 1, 5, 10 and 30 % of 4,000 signals in a round, 200 rounds.

    launch/local.sh experiments/data_subset.py \
        --config=experiments/configs/data_subset_mnist1d.py

`:0.1` instead of `:all`, the default, runs one ratio. The signals are computed by the
package `mnist1d`; nothing is downloaded.

Time: 5 minutes of a core of an AMD EPYC (Zen 4). Test accuracy over 6 seeds at 1, 5, 10 and
30 %: RS2, which is the short full schedule, 46.27, 61.23, 65.75 and 67.90 %; a fixed random
subset 20.22, 26.40, 32.55 and 49.90 %; all data 68.82 %. The best coreset at 10 % is
facility location, 36.33 ± 2.16 %.
"""

from experiments.configs import _data_subset, _data_subset_defaults


def get_config(argument='all'):
  config = _data_subset_defaults.get_config()
  config.name = 'data_subset_mnist1d'
  config.dataset = 'mnist1d'
  config.validation = 0.0
  config.model = dict(name='MLP', api='linen', options=dict(features=(128, 128)))
  config.batch_size = 64
  config.rounds = 200
  config.optimizer = dict(name='sgd', kwargs=dict(momentum=0.9, nesterov=True))
  config.learning_rate = dict(
    name='cosine_decay_schedule',
    kwargs=dict(init_value=0.05, decay_steps=1.0, alpha=2e-3),
  )
  config.weight_decay = 5e-4
  config.temperature = 0.03
  ratios = _data_subset.ratios_of(argument)
  config.methods = (
    *sum(map(_data_subset.methods, ratios), ()),
    *sum(map(_data_subset.by_score, ratios), ()),
    *(_data_subset.coresets(0.1) if 0.1 in ratios else ()),
    *(_data_subset.sparse_methods(0.1, every=40) if 0.1 in ratios else ()),
    _data_subset.all_data(),
  )
  config.seeds = (0, 1, 2, 3, 4, 5)
  config.thresholds = (0.4, 0.5, 0.6)
  config.steps_per_call = 100
  return config

r"""RS2 and coresets on CIFAR-10 at 10 %, with a narrow ResNet-8 for two CPU cores.

    launch/local.sh experiments/data_subset.py \
        --config=experiments/configs/data_subset_cifar10.py \
        --config.dataset=folder:/path/to/cifar10_jpg.tar.gz

The data set is a TFDS name by default (`cifar10`), or a folder of images per class. 20
rounds of 10 % are two epochs: this compares methods at equal, small cost. One proxy
network a seed, of four epochs, scores and chooses for all methods that ask one.
"""

from experiments.configs import _data_subset, _data_subset_defaults


def get_config():
  config = _data_subset_defaults.get_config()
  config.name = 'data_subset_cifar10'
  config.dataset = 'cifar10'
  config.validation = 0.1
  config.model = dict(name='ResNet', api='linen', options=dict(depth=8, width=0.5))
  config.augment = dict(kind='crop_flip', pad=4, padding='reflect', cutout=0)
  config.batch_size = 128
  config.rounds = 20
  config.optimizer = dict(name='sgd', kwargs=dict(momentum=0.9, nesterov=True))
  config.learning_rate = dict(
    name='warmup_cosine_decay_schedule',
    kwargs=dict(init_value=0.0, peak_value=0.2, warmup_steps=0.1, decay_steps=1.0),
  )
  config.proxy_epochs = 4
  config.proxy_learning_rate = 0.1
  config.weight_decay = 5e-4
  config.methods = (
    *_data_subset.methods(0.1),
    *_data_subset.by_score(0.1),
    *_data_subset.coresets(0.1),
  )
  config.seeds = (0, 1, 2)
  config.thresholds = (0.3, 0.4, 0.5)
  config.evaluations = 10
  # One step a call: in a loop XLA compiles convolutions to slow code for a CPU.
  config.steps_per_call = 1
  return config

"""A Bayesian ResNet-20 on CIFAR-10 at 95 % for 200 epochs: for those who have a GPU.

    python -m experiments.bayesian \
        --config=experiments/configs/cifar10_bayesian_resnet.py --data_dir=DIR

It was run for a few steps only (400 of SSVI, on 1,980 images and one NVIDIA H200): no
figure is claimed.
"""

from experiments.configs import _bayesian, _bayesian_defaults


def get_config():
  config = _bayesian_defaults.get_config()
  config.name = 'cifar10_bayesian_resnet20'
  config.dataset = 'cifar10'
  config.model = dict(name='ResNet', api='linen', options=dict(depth=20))
  config.augment = dict(kind='crop_flip', pad=4, padding='reflect', cutout=0)
  config.epochs, config.num_steps = 200, 0
  config.optimizer = dict(name='adam', kwargs={})
  config.learning_rate = dict(
    name='warmup_cosine_decay_schedule',
    kwargs=dict(init_value=0.0, peak_value=5e-3, warmup_steps=0.02, decay_steps=1.0),
  )
  config.weight_decay = 5e-4
  # Dropout has no place in this network.
  config.methods = tuple(
    spec for spec in _bayesian.methods(0.95) if spec.get('draws') != 'dropout'
  )
  config.seeds = (0, 1, 2)
  config.eval_every = 1000
  config.checkpoint_every = 1000
  config.keep = 1
  return config

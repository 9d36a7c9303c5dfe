"""A narrow ResNet-8 on CIFAR-10 for few epochs: what two CPU cores can train.

    python -m experiments.classify --config=experiments/configs/cifar10_resnet.py \
        --config.dataset=folder:/path/to/cifar10_jpg.tar.gz

The data set is a TFDS name by default (`cifar10`), or a folder of images per class.
This is no attempt at the state of the art: it compares methods at equal, small cost.

Time: 6 minutes a run on one core of an AMD EPYC (Zen 4). Test accuracy over 3 seeds, on a
JPEG-compressed copy: dense 69.23 ± 0.53 %; at 80 % small dense 60.96 ± 0.45 %, static ERK
62.82 ± 1.20 %, RigL 63.64 ± 0.41 %. SET, GMP and one-shot were not run.
"""

from experiments.configs import _defaults, _fashion_mnist


def get_config():
  config = _defaults.get_config()
  config.name = 'cifar10_resnet8'
  config.dataset = 'cifar10'
  config.model = dict(name='ResNet', api='linen', options=dict(depth=8, width=0.5))
  config.augment = dict(kind='crop_flip', pad=4, padding='reflect', cutout=0)
  config.batch_size = 128
  config.epochs, config.num_steps = 6, 0
  config.weight_decay = 5e-4
  config.learning_rate = dict(
    name='warmup_cosine_decay_schedule',
    kwargs=dict(init_value=0.0, peak_value=0.2, warmup_steps=0.1, decay_steps=1.0),
  )
  config.seeds = (0, 1, 2)
  config.methods = (
    dict(name='dense', transform='dense'),
    *_fashion_mnist.methods(0.8),
  )
  config.eval_every = 350
  config.checkpoint_every = 350
  config.keep = 1
  return config

r"""A ResNet-8 on CIFAR-10 on nonzeros: static masks and RigL at 90 and 95 %.

    launch/local.sh experiments/classify.py \
        --config=experiments/configs/cifar10_resnet_compact.py \
        --config.dataset=folder:/path/to/cifar10_jpg.tar.gz --workdir=runs/cifar10_compact

`--config.execution=pmap` trains the same networks with masks; give it a workdir of its own.
Both write results.csv, and go on where they were when they are killed; their step times are
in it, and are measured side by side at the start of the clock. The data set is a TFDS name by
default (`cifar10`), or a folder of images per class.
"""

from experiments.configs import _fashion_mnist, cifar10_resnet


def get_config():
  config = cifar10_resnet.get_config()
  config.name = 'cifar10_resnet8_compact'
  config.methods = (dict(name='dense', transform='dense'),) + tuple(
    spec
    for sparsity in (0.9, 0.95)
    for spec in _fashion_mnist.methods(sparsity)
    if spec['transform'] in ('static', 'rigl')
  )
  config.execution = 'compact'
  return config

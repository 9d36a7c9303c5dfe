r"""Fashion-MNIST on nonzeros: LeNet-300-100 (20 epochs) or a 3x1024 MLP (5 epochs).

    launch/local.sh experiments/classify.py --data_dir=DIR \
        --config=experiments/configs/fashion_mnist_compact.py:lenet300

The argument is lenet300 or mlp1024. `--config.execution=pmap` trains the same networks
with masks; the first steps of both are timed side by side at its end. DIR holds the
prepared data set.
"""

from experiments.configs import _fashion_mnist

_NETWORKS = {'lenet300': ((300, 100), 20), 'mlp1024': ((1024, 1024, 1024), 5)}


def get_config(argument='lenet300'):
  features, epochs = _NETWORKS[argument]
  config = _fashion_mnist.get_config('0.95')
  config.name = f'fashion_mnist_compact_{argument}'
  config.model = dict(name='MLP', api='linen', options=dict(features=features))
  config.epochs = epochs
  config.methods = (dict(name='dense', transform='dense'),) + tuple(
    spec
    for sparsity in (0.9, 0.95, 0.98)
    for spec in _fashion_mnist.methods(sparsity)
    if spec['transform'] in ('static', 'rigl')
  )
  config.execution = 'compact'
  config.steps_per_call = 100
  return config

r"""LeNet-300-100 on Fashion-MNIST at 90, 95 and 98 %: 3 seeds, 20 epochs.

    launch/local.sh experiments/classify.py \
        --config=experiments/configs/fashion_mnist_lenet300.py:all --data_dir=DIR

DIR holds the prepared data set; `:0.9` instead of `:all` runs one sparsity.
"""

from experiments.configs import _fashion_mnist


def get_config(argument='all'):
  config = _fashion_mnist.get_config(argument)
  config.name = 'fashion_mnist_lenet300'
  config.model = dict(name='MLP', api='linen', options=dict(features=(300, 100)))
  config.steps_per_call = 100
  return config

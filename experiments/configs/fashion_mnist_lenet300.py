r"""LeNet-300-100 on Fashion-MNIST at 90, 95 and 98 %: 3 seeds, 20 epochs.

    launch/local.sh experiments/classify.py \
        --config=experiments/configs/fashion_mnist_lenet300.py:all --data_dir=DIR

DIR holds the prepared data set; `:0.9` instead of `:all` runs one sparsity.
Time: about 40 minutes on 2 busy Zen 4 cores. Test accuracy: dense 89.72 ± 0.20 %; at 90 %
sparsity small dense 87.56, static 88.99, SET 89.25, RigL 89.19, GMP 89.43, one-shot 89.42;
the rest is in `docs/results.md`, and every run in experiments/results/.
"""

from experiments.configs import _fashion_mnist


def get_config(argument='all'):
  config = _fashion_mnist.get_config(argument)
  config.name = 'fashion_mnist_lenet300'
  config.model = dict(name='MLP', api='linen', options=dict(features=(300, 100)))
  config.steps_per_call = 100
  return config

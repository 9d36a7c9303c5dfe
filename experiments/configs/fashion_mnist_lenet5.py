r"""LeNet-5 (6-16-120-84) on Fashion-MNIST at 90, 95 and 98 %: 3 seeds, 20 epochs.

    launch/local.sh experiments/classify.py \
        --config=experiments/configs/fashion_mnist_lenet5.py:all --data_dir=DIR

DIR holds the prepared data set; `:0.9` instead of `:all` runs one sparsity.
Time: about two minutes a run on one core of an AMD EPYC (Zen 4), 57 runs. Test accuracy:
dense 90.26 ± 0.06 %; at 90 % small dense 87.21, static 88.74, SET 88.94, RigL 88.59, GMP
89.72, one-shot 89.00; the rest is in `docs/results.md`.

The sizes are those of LeCun et al. (1998): Caffe's 20-50-500 costs several times as much.
"""

from experiments.configs import _fashion_mnist


def get_config(argument='all'):
  config = _fashion_mnist.get_config(argument)
  config.name = 'fashion_mnist_lenet5'
  config.model = dict(
    name='LeNet5', api='linen', options=dict(features=(6, 16, 120, 84))
  )
  config.learning_rate = dict(
    name='cosine_decay_schedule', kwargs=dict(init_value=0.05, decay_steps=1.0)
  )
  config.steps_per_call = 100
  return config

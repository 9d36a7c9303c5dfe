r"""Bayesian LeNet-300-100 on Fashion-MNIST at 90, 95 and 98 %, with MNIST as outside.

    launch/local.sh experiments/bayesian.py \
        --config=experiments/configs/fashion_mnist_bayesian.py:0.95 --data_dir=DIR

DIR holds the two prepared data sets. 30 epochs; `--config.seeds='(0,)'` and
`--config.only=rigl_95,ssvi_95` shorten it.
"""

from experiments.configs import _bayesian, _bayesian_defaults


def get_config(argument='0.95'):
  config = _bayesian_defaults.get_config()
  config.name = 'fashion_mnist_bayesian'
  config.dataset = 'fashion_mnist'
  config.model = dict(name='MLP', api='linen', options=dict(features=(300, 100)))
  config.epochs, config.num_steps = 30, 0
  config.optimizer = dict(name='adam', kwargs={})
  config.learning_rate = dict(
    name='cosine_decay_schedule', kwargs=dict(init_value=5e-3, decay_steps=1.0)
  )
  config.weight_decay = 5e-4
  config.methods = _bayesian.methods(float(argument))
  config.seeds = (0, 1, 2)
  config.out_of_distribution = ('mnist', 'pixels_shuffled')
  config.eval_every = 2000
  config.checkpoint_every = 2000
  config.keep = 1
  config.steps_per_call = 100
  return config

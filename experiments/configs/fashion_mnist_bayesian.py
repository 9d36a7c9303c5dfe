r"""Bayesian LeNets on Fashion-MNIST, with images of no class beside.

    launch/local.sh experiments/bayesian.py --data_dir=DIR \
        --config=experiments/configs/fashion_mnist_bayesian.py:lenet300,0.95

DIR holds Fashion-MNIST and MNIST, prepared by TFDS. The argument is the network,
lenet300 (30 epochs) or lenet5 (8), and the sparsity; what does not depend on the
sparsity need not be trained again: `--config.only=rigl_98,ssvi_98,...`.
"""

from experiments.configs import _bayesian, _bayesian_defaults

_MODELS = {
  'lenet300': dict(name='MLP', api='linen', options=dict(features=(300, 100))),
  'lenet5': dict(name='LeNet5', api='linen', options=dict(features=(6, 16, 120, 84))),
}


def get_config(argument='lenet300,0.95'):
  network, sparsity = argument.split(',')
  config = _bayesian_defaults.get_config()
  config.name = f'fashion_mnist_bayesian_{network}'
  config.dataset = 'fashion_mnist'
  config.model = _MODELS[network]
  config.epochs, config.num_steps = {'lenet300': 30, 'lenet5': 8}[network], 0
  config.optimizer = dict(name='adam', kwargs={})
  # So few weights do not carry a signal that shrinks by sqrt(density) at each layer: of
  # RigL's networks some stayed at chance.
  config.rescale = network == 'lenet5' and float(sparsity) > 0.95
  config.learning_rate = dict(
    name='cosine_decay_schedule', kwargs=dict(init_value=5e-3, decay_steps=1.0)
  )
  config.weight_decay = 5e-4
  config.methods = _bayesian.methods(float(sparsity))
  config.seeds = (0, 1, 2)
  config.out_of_distribution = ('mnist', 'blended', 'quadrants', 'upside_down')
  config.eval_every = 2000
  config.checkpoint_every = 2000
  config.keep = 1
  config.steps_per_call = 100
  return config

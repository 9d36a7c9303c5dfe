"""LeNet-300-100 on the 1,797 digits of scikit-learn at 90 %: the default job.

    launch/local.sh

Time: 32 seconds on 2 cores of an AMD EPYC (Zen 4), the install not counted.
Test accuracy over 3 seeds: dense 97.56 ± 0.33 %, small dense 96.90 ± 0.49 %, static ERK
95.68 ± 0.86 %, RigL 95.40 ± 1.14 %, GMP 97.09 ± 0.43 %; with 355 test images, one image
is 0.28 %, so that static and RigL do not differ beyond the noise.
"""

from experiments.configs import _defaults


def get_config():
  config = _defaults.get_config()
  config.name = 'digits'
  config.dataset = 'digits'
  config.validation = 0.15
  config.model = dict(name='MLP', api='linen', options=dict(features=(300, 100)))
  config.batch_size = 64
  config.num_steps = 2000
  config.optimizer = dict(name='sgd', kwargs=dict(momentum=0.9, nesterov=True))
  config.learning_rate = dict(
    name='cosine_decay_schedule', kwargs=dict(init_value=0.05, decay_steps=1.0)
  )
  config.weight_decay = 1e-4
  config.seeds = (0, 1, 2)
  config.methods = (
    dict(name='dense', transform='dense'),
    dict(name='small_dense', transform='small_dense', sparsity=0.9),
    dict(name='static_erk', transform='static', sparsity=0.9),
    dict(
      name='rigl',
      transform='rigl',
      sparsity=0.9,
      kwargs=dict(
        when=dict(schedule='every', n=50, stop=0.75),
        drop_fraction=dict(schedule='cosine', initial=0.3, stop=0.75),
      ),
    ),
    dict(
      name='gmp',
      transform='gmp',
      sparsity=dict(schedule='cubic', final=0.9, start=0.1, stop=0.6),
      kwargs=dict(when=dict(schedule='every', n=50), distribution='erk'),
    ),
  )
  config.eval_every = 200
  config.checkpoint_every = 1000
  config.steps_per_call = 100
  return config

r"""SwinIR-light x2 as the ISS-P paper trains it: for people with GPUs.

    JAXSPARSE_EXTRAS=cuda12 launch/local.sh experiments/superres.py --data_dir=DIR \
        --config=experiments/configs/superres_swinir_light.py:0.9

DIR holds DIV2K_train_HR, Flickr2K_HR, set5/HR, set14 and bsds500/val; further test sets
by `--config.tests.urban100=FOLDER`. 861,300 weights that are pruned, 48,852 parameters
that are not; 100,000 steps with a soft mask at a constant rate, then 500,000 with a hard
one; batches of 32 patches of 64x64 pixels.
"""

from experiments.configs import _superres_defaults

_SOFT = 1 / 6


def get_config(argument='0.9'):
  config = _superres_defaults.get_config()
  config.name = 'superres_swinir_light'
  config.train = ('DIV2K_train_HR', 'Flickr2K_HR')
  config.tests = dict(set5='set5/HR', set14='set14', bsd100='bsds500/val')
  config.validation = 4
  config.model = dict(name='SwinIR', options={})
  config.patch, config.batch_size = 64, 32
  config.num_steps = 600_000
  halvings = ((0.5, 0.5), (0.8, 0.5), (0.9, 0.5), (0.95, 0.5))
  config.learning_rate = dict(
    name='piecewise_constant_schedule',
    kwargs=dict(init_value=2e-4, boundaries_and_scales=halvings),
    hold=_SOFT,
  )
  config.methods = (dict(name='dense', transform='dense'),)
  config.methods += _superres_defaults.methods(float(argument), _SOFT)
  config.eval_every, config.checkpoint_every = 5_000, 5_000
  return config

r"""EDSR with 16 features and 4 blocks (31,043 parameters), x2, on photographs of BSD500.

    launch/local.sh experiments/superres.py --data_dir=DIR \
        --config=experiments/configs/superres_bsd_edsr.py:0.95

DIR holds `bsds500/{train,val,test}` and `set5/HR`.
"""

from experiments.configs import _superres_bsd


def get_config(argument='0.95'):
  config = _superres_bsd.get_config(argument)
  config.name = 'superres_bsd_edsr'
  config.model = dict(name='EDSR', options=dict(features=16, blocks=4))
  return config

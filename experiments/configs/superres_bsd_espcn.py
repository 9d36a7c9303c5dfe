r"""ESPCN on luma (21,284 parameters), x2, on photographs of BSD500.

    launch/local.sh experiments/superres.py --data_dir=DIR \
        --config=experiments/configs/superres_bsd_espcn.py:0.9,0.95,0.99

DIR holds `bsds500/{train,val,test}` and `set5/HR`.
"""

from experiments.configs import _superres_bsd


def get_config(argument='0.95'):
  config = _superres_bsd.get_config(argument)
  config.name = 'superres_bsd_espcn'
  config.color = 'y'
  config.model = dict(name='ESPCN', options={})
  return config

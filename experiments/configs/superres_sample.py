"""A tiny EDSR x2 on one photograph, tested on another: needs no data of yours.

    launch/local.sh experiments/superres.py

Both photographs ship with scikit-learn, so this shows that everything runs, and little
about methods.
"""

from experiments.configs import _superres_defaults


def get_config():
  config = _superres_defaults.get_config()
  config.name = 'superres_sample'
  config.methods = (dict(name='dense', transform='dense'),) + tuple(
    m for m in _superres_defaults.methods(0.9) if m['name'] in _SHOWN
  )
  return config


_SHOWN = ('one_shot_90', 'iss_p_90')

"""Synthetic low-rank ratings, 300 users and 200 items: the default, which needs no data.

    launch/local.sh experiments/recommend.py

Time: about 100 seconds of one core. The set is made to be learned: a dense table finds most
of what was left out, and a quarter of its weights is too few to say much about methods.
"""

from experiments.configs import _recommend, _recommend_defaults


def get_config():
  config = _recommend_defaults.get_config()
  config.name = 'synthetic_low_rank'
  config.model = dict(name='MF', options=dict(features=16))
  config.batch_size = 512
  config.num_steps = 400
  config.eval_every = 100
  config.methods = _recommend.methods((0.75,), interval=20, features=16)
  config.seeds = (0, 1)
  return config

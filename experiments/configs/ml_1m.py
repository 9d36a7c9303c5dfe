r"""MovieLens-1M: matrix factorization, or LightGCN after a colon.

    launch/local.sh experiments/recommend.py --data_dir=DIR \
        --config=experiments/configs/ml_1m.py:MF

DIR has `ml-1m/ratings.dat` (GroupLens') or `ml-1m/ml-1m.inter` (RecBole's). As
`ml_100k.py`, with larger batches; not run here.
"""

from experiments.configs import ml_100k


def get_config(argument='MF'):
  config = ml_100k.get_config(argument)
  config.name = config.name.replace('ml_100k', 'ml_1m')
  config.dataset = 'ml-1m'
  config.batch_size = 8192
  config.epochs = 200
  config.eval_every = 980
  config.steps_per_call = 98
  return config

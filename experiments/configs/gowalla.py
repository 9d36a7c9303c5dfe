r"""Gowalla with the test part that LightGCN's authors gave it.

    launch/local.sh experiments/recommend.py --data_dir=DIR \
        --config=experiments/configs/gowalla.py:LightGCN

DIR has `gowalla/train.txt` and `gowalla/test.txt`, a line `user item item ...` per user. The
weights are chosen on a tenth of the training pairs, which the published figures (recall@20
.1830, ndcg@20 .1554 after 1000 epochs) train on; not run here.
"""

from experiments.configs import ml_100k


def get_config(argument='LightGCN'):
  config = ml_100k.get_config(argument)
  config.name = config.name.replace('ml_100k', 'gowalla')
  config.dataset = 'gowalla'
  config.split = 'given'
  config.split_by_seed = False
  config.batch_size = 8192
  config.learning_rate = 1e-2
  config.decay = 1e-4
  config.decay_power = 0.0
  config.epochs = 200
  config.eval_every = 1000
  config.steps_per_call = 10
  return config

"""Every key of `experiments/recommend.py`, with its default; configs change some."""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """The defaults. Of arguments that are steps, a float is a fraction of the run."""
  config = ml_collections.ConfigDict()
  config.name = 'recommend'

  # Data: a name of `datasets.RATING_SETS`, or `file:PATH`. The kinds of split are those
  # of `datasets.split_ratings`; each seed has a split of its own, or all have that of
  # `split_seed`.
  config.dataset = 'synthetic_low_rank'
  config.split = 'random'
  config.split_seed = 0
  config.split_by_seed = True

  # A name of `models.RECOMMENDERS`; `options` are its attributes.
  config.model = dict(name='MF', options={})
  config.beta = 0.2
  config.anneal_steps = 0

  # L2 decay of the rows in a batch, times (times seen / mean of it) ** decay_power.
  config.decay = 2e-2
  config.decay_power = -0.5

  # Attributes of optax. `epochs` counts when `num_steps` is 0.
  config.batch_size = 2048
  config.epochs = 100
  config.num_steps = 0
  config.optimizer = dict(name='adam', kwargs={})
  config.learning_rate = 3e-3
  config.weight_decay = 0.0

  # Whether a step of MF touches only the rows in its batch, for methods whose masks do
  # not change. With SGD it is the same step; Adam becomes lazy: a row's moments decay,
  # and move it, only when it is seen. It pays for tables much larger than a batch.
  config.row_sparse = False

  # Each method is trained once per seed; `only` names some of them: 'dense,dsl_20'.
  config.methods = (dict(name='dense', transform='dense'),)
  config.seeds = (0,)
  config.only = ''

  # Rankings: lengths of the lists; the metric by which the weights are chosen, on
  # validation; users whose scores are held at a time; 0 ranks among all items, another
  # number among so many that a user never took.
  config.ks = (10, 20)
  config.select_by = 'ndcg@20'
  config.chunk = 256
  config.eval_negatives = 0

  config.eval_every = 200
  config.keep = 2
  # 'pmap', 'shard_map' or 'jit'; `steps_per_call` steps are one call.
  config.execution = 'pmap'
  config.steps_per_call = 20
  config.timing_rounds = 5
  return config

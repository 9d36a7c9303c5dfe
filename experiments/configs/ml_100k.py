r"""MovieLens-100K: matrix factorization, or LightGCN after a colon.

    launch/local.sh experiments/recommend.py --data_dir=DIR \
        --config=experiments/configs/ml_100k.py:MF

DIR has `ml-100k/ml-100k.inter` (RecBole's form) or `ml-100k/u.data` (GroupLens'); with
`--config.dataset=tfds:movielens/100k-ratings` it is TFDS's folder. `:MF,0.2` trains at one
density only. All ratings are positive; of each user's, tenths are for validation and test.

Time: a step of MF takes 0.25 ms (13 columns) to 1.0 ms (DSL) of one core of an AMD EPYC
(Zen 4), one of LightGCN 6 ms; so a run of 300 epochs takes 5 to 15 s, of LightGCN's 200
epochs 15 s, beside what is compiled. Dense: recall@20 .380 and ndcg@20 .323 (MF), .385 and
.324 (LightGCN). `ml_100k_tuning.py` is where hashing and PEP got their settings.
"""

from experiments.configs import _recommend, _recommend_defaults

# What won in `ml_100k_tuning.py`, for matrix factorization.
_TUNED = dict(
  hashed=dict(settings=dict(decay=5e-3)),
  pep=dict(
    settings=dict(decay=5e-2),
    options=dict(threshold=-8.0),
    kwargs=dict(distribution='uniform', step=0.3),
  ),
)


def get_config(argument='MF'):
  model, *densities = argument.split(',')
  densities = tuple(map(float, densities)) or (0.5, 0.2, 0.1)
  config = _recommend_defaults.get_config()
  config.name = f'ml_100k_{model.lower()}'
  config.dataset = 'ml-100k'
  config.model = dict(name=model, options=dict(features=64))
  config.epochs = 300
  config.eval_every = 390
  config.steps_per_call = 39
  interval = 100
  if model == 'LightGCN':
    config.batch_size = 8192
    config.learning_rate = 1e-2
    config.decay = 1e-4
    config.decay_power = 0.0
    config.epochs = 200
    config.eval_every = 45
    config.steps_per_call = 9
    interval = 30
  config.methods = _recommend.methods(
    tuple(1 - d for d in densities),
    interval=interval,
    features=64,
    tuned=_TUNED if model == 'MF' else None,
  )
  config.seeds = (0, 1, 2)
  return config

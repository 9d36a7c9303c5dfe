r"""The grid by which hashing and soft thresholds get their settings on MovieLens-100K.

    launch/local.sh experiments/recommend.py --data_dir=DIR \
        --config=experiments/configs/ml_100k_tuning.py

At density 0.2, on the splits of two seeds; the mean of `chosen_by` of the results, ndcg@20
on validation, decides. `configs/_recommend.py` has what won.
"""

import itertools

from experiments.configs import ml_100k

# Rate and decay of hashed tables; initial threshold, pruning step and decay of soft ones.
_HASHED = (*itertools.product((3e-3, 1e-2), (1e-3, 5e-3, 2e-2)),)
_SOFT = (
  *itertools.product((-15.0,), (0.3, 0.5), (5e-3, 2e-2)),
  *itertools.product((-8.0,), (0.3,), (5e-3, 2e-2, 5e-2, 1e-1)),
  *itertools.product((-5.0,), (0.3,), (2e-2, 5e-2)),
  *itertools.product((-15.0,), (0.3,), (5e-2, 1e-1)),
)


def get_config():
  config = ml_100k.get_config('MF,0.2')
  config.name = 'ml_100k_tuning'
  config.methods = (
    *(
      dict(
        name=f'{table}_{rate:g}_{decay:g}', transform='hashed', table=table,
        sparsity=0.8, settings=dict(learning_rate=rate, decay=decay),
      )
      for table in ('hashed', 'hashed_sum')
      for rate, decay in _HASHED
      if table == 'hashed' or decay > 1e-3
    ),
    *(
      dict(
        name=f'pep{threshold:g}_{step:g}_{decay:g}', transform='one_shot', table='soft',
        sparsity=0.8, settings=dict(decay=decay), options=dict(threshold=threshold),
        kwargs=dict(distribution='uniform', step=step),
      )
      for threshold, step, decay in _SOFT
    ),
  )  # fmt: skip
  config.seeds = (0, 1)
  return config

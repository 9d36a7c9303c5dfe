"""A training step of matrix factorization on whole tables, and on the rows of its batch.

  launch/local.sh benchmarks/row_sparse.py [--threads=2] [--batch=2048] [--features=64]

`experiments/recommend.py` with and without `--config.row_sparse=True`: BPR, Adam, float32,
tables of as many rows as MovieLens-100K has users and items, then larger ones, with pairs
that are uniform, so that few rows come twice. Ratios are to the whole tables, first by the
10th percentile of the times, then by the median. Both are interleaved in one process.
"""

import sys
import types

import _interleaved
import jax.numpy as jnp
import numpy as np

from experiments import _recommend_method
from experiments.configs import ml_100k
import jaxsparse as js

# Users and items: MovieLens-100K, Gowalla, and ten Gowallas.
SIZES = ((943, 1_682), (29_858, 40_981), (298_580, 409_810))


def step_of(args, users, items, row_sparse):
  """A function without arguments that takes one step after the other, in place."""
  config = ml_100k.get_config()
  config.model['options']['features'] = args.features
  config.batch_size, config.row_sparse = args.batch, row_sparse
  config.execution, config.steps_per_call, config.eval_every = 'jit', 1, 1
  config = _recommend_method.check(config)
  dense = next(spec for spec in config.methods if spec['name'] == 'dense')
  split = types.SimpleNamespace(
    train=np.zeros((1, 2), int), num_users=users, num_items=items
  )
  data = {'user_weight': jnp.ones(users), 'item_weight': jnp.ones(items)}
  source = types.SimpleNamespace(split=split, num_steps=10_000, train=data)
  method = _recommend_method.build(config, dense, source)
  draw = np.random.default_rng(0).integers
  batch = {
    name: jnp.asarray(draw(limit, size=args.batch), jnp.int32)
    for name, limit in (('users', users), ('positives', items), ('negatives', items))
  }
  held = [js.training.replicate(method.init(0, data))]

  def call():
    held[0], values = method.step_fn(held[0], batch, data)
    return values

  return call


def main():
  args = _interleaved.parse(
    __doc__, 10, sparse=False, check=False, batch=2048, features=64
  )
  for users, items in SIZES:
    rows = {
      name: step_of(args, users, items, row_sparse)
      for name, row_sparse in (('whole tables', False), ('rows of the batch', True))
    }
    print(f'{users + items:,} rows of {args.features}, batch {args.batch}')
    times = _interleaved.measure(rows, args)
    _interleaved.report(times, lambda name: 'whole tables')


if __name__ == '__main__':
  sys.exit(main())

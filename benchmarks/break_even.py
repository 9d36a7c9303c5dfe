"""Where products of nonzeros win: by batch and width, and from which sparsity on.

  python benchmarks/break_even.py [--seconds=0.5]

One square float32 layer of single weights, the forward product and both gradients, on one
thread unless `--threads` says more. Figures are medians of the dense product of XLA over
those of the kernels, interleaved in one process; below 1 the nonzeros lose. "Even at" is
the sparsity at which the ratio crosses 1, interpolated between those measured, and
"chosen from" the first of these at which `js.sparse.choose_backend` takes the kernels.
"""

import functools
import statistics
import sys

import _interleaved
import jax
import jax.numpy as jnp
import numpy as np
import sparse_matmul

import jaxsparse as js

# Each batch at one width, and each width at one batch.
SHAPES = (
  *((batch, 1024) for batch in (1, 16, 128, 512)),
  *((128, width) for width in (256, 512, 2048, 4096)),
)
PERCENT = (10, 20, 30, 50, 70, 80, 90, 95, 99)
SHOWN = (80, 90, 95, 99)


def ratios(batch, width, percent, args):
  """`{product: how many times faster}` of one shape at one sparsity."""
  x = jax.random.normal(jax.random.key(3), (batch, width))
  dy = jax.random.normal(jax.random.key(4), (batch, width))
  dense = sparse_matmul.dense_product(width)
  sparse = sparse_matmul.sparse_product(width, percent / 100, 1, 'cpu')
  rows = {}
  for i, name in enumerate(('forward', 'with gradients')):
    rows['dense', name] = functools.partial(dense[i], x, dy)
    rows['sparse', name] = functools.partial(sparse[i], jnp.array(x.T), jnp.array(dy.T))
  times = {k: statistics.median(v) for k, v in _interleaved.measure(rows, args).items()}
  return {n: times['dense', n] / times['sparse', n] for _, n in rows}


def even_at(found):
  """Where the ratio of `{percent: ratio}` crosses 1, in words."""
  lost = [p for p in PERCENT if found[p] < 1]
  if not lost:
    return f'below {PERCENT[0]} %'
  if lost[-1] == PERCENT[-1]:
    return f'above {PERCENT[-1]} %'
  low = lost[-1]
  high = PERCENT[PERCENT.index(low) + 1]
  # Ratios grow like 1 / density: in their logarithms over that of the density.
  at = np.interp(
    0, np.log([found[low], found[high]]), np.log([1 - low / 100, 1 - high / 100])
  )
  return f'{100 * (1 - np.exp(at)):.0f} %'


def chosen_from(batch, width):
  """The first sparsity at which the kernels are chosen, in words."""
  for percent in PERCENT:
    mask = sparse_matmul.make_mask(width, percent / 100, 1)
    weight = js.sparse.from_mask(np.ones((width, width), np.float32), mask)
    if js.sparse.choose_backend(weight.pattern, batch) == 'cpu':
      return f'{percent} %'
  return 'never'


def main():
  args = _interleaved.parse(__doc__, 0.5, sparse=False, check=False)
  if not js.native.available():
    return 'there is nothing to compare without the kernels'
  head = ['batch', 'width', 'product', *(f'{p} %' for p in SHOWN), 'even at']
  print('| ' + ' | '.join([*head, 'chosen from']) + ' |')
  print('| ---: | ---: | --- |' + ' ---: |' * (len(SHOWN) + 2))
  for batch, width in SHAPES:
    found = {percent: ratios(batch, width, percent, args) for percent in PERCENT}
    chosen = chosen_from(batch, width)
    for name in ('forward', 'with gradients'):
      own = {percent: row[name] for percent, row in found.items()}
      cells = [str(batch), str(width), name, *(f'{own[p]:.2g}' for p in SHOWN)]
      print('| ' + ' | '.join([*cells, even_at(own), chosen]) + ' |', flush=True)


if __name__ == '__main__':
  sys.exit(main())

"""Products with a sparse weight, against dense XLA and other sparse formats.

  python benchmarks/sparse_matmul.py [--sparsities=80,90,95,99] [--batch=128] [--check]

A square float32 layer; the forward product, and with it both gradients. Figures are
ratios to the dense product of the same run: how many times faster, first by the 10th
percentile of the times, then by the median. All variants are interleaved in one process,
a few calls each, on one thread unless `--threads` says more. Peers are a dense product in
bfloat16, jax's own BCSR, and the CSR of SciPy and of PyTorch where they are installed.
Activations are feature-major for the kernels, as between the layers of a sparse network.
`--check` exits with 1 where a ratio is below half of what it should be on a quiet machine
(batch 128, width 1024); `--clock=cpu` leaves out the time that other jobs take.
"""

import functools
import sys

import _interleaved
import jax
from jax.experimental import sparse as jax_sparse
import jax.numpy as jnp
import numpy as np

try:
  import scipy.sparse as scipy_sparse
except ImportError:
  scipy_sparse = None
try:
  import torch
except ImportError:
  torch = None

import jaxsparse as js

# What should be reached, by percent of sparsity.
AIMS = {
  'forward': {80: 3.5, 90: 6, 95: 11, 99: 35},
  'forward, 4x1': {80: 5, 90: 11, 95: 20, 99: 70},
  'forward, 16x1': {80: 5, 90: 11, 95: 20, 99: 70},
  'with gradients': {80: 3.5, 90: 6.5, 95: 12, 99: 40},
}


def make_mask(width, sparsity, block):
  rng = np.random.default_rng(0)
  scores = rng.random((width, width // block))
  kept = scores >= np.quantile(scores, sparsity)
  return np.repeat(kept, block, axis=1)


def sparse_product(width, sparsity, block, backend):
  """`(forward, with_gradients)`; for the kernels of feature-major x and dy."""
  weight = js.sparse.from_mask(
    np.random.default_rng(1).normal(size=(width, width)).astype(np.float32),
    make_mask(width, sparsity, block),
    block=block,
  )
  turn = jnp.transpose if backend == 'cpu' else lambda a: a

  def product(values, pattern, x):
    given = js.sparse.SparseArray(values, pattern)
    return turn(js.sparse.matmul(turn(x), given, backend=backend))

  # The pattern is an argument: XLA would fold a constant for seconds.
  forward = jax.jit(lambda w, x: product(w.values, w.pattern, x))

  @jax.jit
  def both(w, x, dy):
    y, pull = jax.vjp(lambda values, x: product(values, w.pattern, x), w.values, x)
    return y, pull(dy)

  return lambda x, dy: forward(weight, x), lambda x, dy: both(weight, x, dy)


def dense_product(width, dtype=jnp.float32):
  weight = jax.random.normal(jax.random.key(2), (width, width), dtype)
  forward = jax.jit(lambda w, x: x @ w)
  both = jax.jit(lambda w, x, dy: (x @ w, dy @ w.T, x.T @ dy))
  return lambda x, dy: forward(weight, x), lambda x, dy: both(weight, x, dy)


def bcsr_product(width, sparsity):
  mask = make_mask(width, sparsity, 1)
  weight = jax_sparse.BCSR.fromdense(jnp.asarray(mask.T.astype(np.float32)))
  forward = jax.jit(lambda w, x: w @ x)
  return lambda x, dy: forward(weight, x)


def scipy_product(width, sparsity):
  weight = scipy_sparse.csr_array(make_mask(width, sparsity, 1).T.astype(np.float32))
  # A NumPy view of the same memory.
  return lambda x, dy: weight @ np.asarray(x)


def torch_product(width, sparsity, threads):
  torch.set_num_threads(threads)
  mask = make_mask(width, sparsity, 1).T.astype(np.float32)
  weight = torch.from_numpy(mask).to_sparse_csr()
  # A view of the same memory, too.
  return lambda x, dy: weight @ torch.from_dlpack(x)


def variants(width, percent, threads):
  """`{name: (function, the arrays that it takes)}`; `major` is feature-major."""
  sparsity = percent / 100
  dense, dense_both = dense_product(width)
  rows = {
    'dense forward': (dense, 'plain'),
    'dense with gradients': (dense_both, 'plain'),
  }
  half, half_both = dense_product(width, jnp.bfloat16)
  rows['dense forward, bfloat16'] = half, 'half'
  rows['dense with gradients, bfloat16'] = half_both, 'half'
  rows['BCSR forward'] = bcsr_product(width, sparsity), 'major'
  if scipy_sparse is not None:
    rows['SciPy CSR forward'] = scipy_product(width, sparsity), 'major'
  if torch is not None:
    rows['PyTorch CSR forward'] = torch_product(width, sparsity, threads), 'major'
  for backend in ('cpu', 'reference'):
    if backend == 'cpu' and not js.native.available():
      continue
    mark = '' if backend == 'cpu' else 'jnp '
    one, both = sparse_product(width, sparsity, 1, backend)
    arrays = 'major' if backend == 'cpu' else 'plain'
    rows[f'{mark}forward'] = one, arrays
    rows[f'{mark}with gradients'] = both, arrays
  if js.native.available():
    for block in (4, 16):
      one, both = sparse_product(width, sparsity, block, 'cpu')
      rows[f'forward, {block}x1'] = one, 'major'
      rows[f'with gradients, {block}x1'] = both, 'major'
  return rows


def main():
  args = _interleaved.parse(__doc__, 5, width=1024, batch=128)
  x = jax.random.normal(jax.random.key(3), (args.batch, args.width))
  dy = jax.random.normal(jax.random.key(4), (args.batch, args.width))
  given = {
    'plain': (x, dy),
    'half': (x.astype(jnp.bfloat16), dy.astype(jnp.bfloat16)),
    'major': (jnp.array(x.T), jnp.array(dy.T)),
  }
  failures = []
  for percent in args.sparsities:
    rows = {
      name: functools.partial(function, *given[arrays])
      for name, (function, arrays) in variants(
        args.width, percent, args.threads
      ).items()
    }
    times = _interleaved.measure(rows, args)
    print(f'{percent} %, {args.width} wide, batch {args.batch}:')
    ratios = _interleaved.report(times, peer_of)
    failures += _interleaved.missed(ratios, AIMS, percent)
  return _interleaved.exit_code(args, failures)


def peer_of(name):
  return 'dense with gradients' if 'gradients' in name else 'dense forward'


if __name__ == '__main__':
  sys.exit(main())

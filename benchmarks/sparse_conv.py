"""Convolutions with a sparse 3x3 kernel, against dense XLA, at four shapes of a ResNet.

  python benchmarks/sparse_conv.py [--sparsities=80,90,95,99] [--batch=64] [--check]

Images are NHWC on both sides. Figures are ratios to the dense convolution of the same
run: how many times faster, first by the 10th percentile of the times, then by the
median. All variants are interleaved in one process, on one thread unless `--threads`
says more; "training" is the forward product and both gradients. `--check` exits with 1
where the geometric mean of the four shapes is below half of what it should be on a
quiet machine (batch 64); `--clock=cpu` leaves out the time that other jobs take.
"""

import functools
import statistics
import sys

import _interleaved
import jax
import jax.numpy as jnp
import numpy as np

import jaxsparse as js

# Features in and out, rows and columns of the image.
SHAPES = ((64, 32), (128, 16), (256, 8), (512, 4))
AIMS = {'training': {80: 2.5, 90: 4.5, 95: 7.5, 99: 17}}


def make_kernel(features, sparsity):
  """`(kernel, mask)` in NumPy."""
  rng = np.random.default_rng(0)
  shape = (3, 3, features, features)
  scores = rng.random(shape)
  return rng.normal(size=shape).astype(np.float32), scores >= np.quantile(
    scores, sparsity
  )


@jax.jit
def dense_forward(kernel, x):
  return jax.lax.conv_general_dilated(
    x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


@jax.jit
def dense_training(kernel, x, dy):
  y, pull = jax.vjp(dense_forward, kernel, x)
  return y, pull(dy)


def product(values, x, pattern):
  weight = js.sparse.SparseArray(values, pattern)
  return js.sparse.conv(weight, x, backend='cpu')


@jax.jit
def sparse_forward(weight, x):
  return product(weight.values, x, weight.pattern)


@jax.jit
def sparse_training(weight, x, dy):
  y, pull = jax.vjp(
    functools.partial(product, pattern=weight.pattern), weight.values, x
  )
  return y, pull(dy)


def variants(features, size, batch, percent):
  """`{name: function without arguments}`."""
  kernel, mask = make_kernel(features, percent / 100)
  weight = js.sparse.from_mask(kernel, mask)
  kernel = jnp.asarray(kernel)
  x = jax.random.normal(jax.random.key(1), (batch, size, size, features))
  dy = jax.random.normal(jax.random.key(2), x.shape)
  return {
    'dense forward': functools.partial(dense_forward, kernel, x),
    'forward': functools.partial(sparse_forward, weight, x),
    'dense training': functools.partial(dense_training, kernel, x, dy),
    'training': functools.partial(sparse_training, weight, x, dy),
  }


def peer_of(name):
  return 'dense training' if 'training' in name else 'dense forward'


def main():
  args = _interleaved.parse(__doc__, 4, batch=64)
  if not js.native.available():
    return 'there is nothing to compare without the kernels'
  failures = []
  for percent in args.sparsities:
    shapes = []
    for features, size in SHAPES:
      rows = variants(features, size, args.batch, percent)
      print(f'{percent} %, {features} features, {size} x {size}, batch {args.batch}:')
      times = _interleaved.measure(rows, args, calls=1)
      shapes.append(_interleaved.report(times, peer_of))
    means = {
      name: statistics.geometric_mean(ratios[name] for ratios in shapes)
      for name in ('forward', 'training')
    }
    print(
      f'{percent} %, geometric mean:',
      ', '.join(f'{n} {m:.1f}' for n, m in means.items()),
    )
    failures += _interleaved.missed(means, AIMS, percent)
  return _interleaved.exit_code(args, failures)


if __name__ == '__main__':
  sys.exit(main())

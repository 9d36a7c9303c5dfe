"""Selecting the largest scores, against a sort, top_k and one pass over the array.

  python benchmarks/selection.py [--sizes=1,10] [--repeats=7]

One pass is the sum of the array: what any method must at least read. All variants
keep the same tenth; they are interleaved in one process, the figures are medians of
wall time as multiples of one pass. `--check` exits with 1 when the selection of float32
scores needs more than twice what it should: 8 passes with the compiled kernels, 220
without (JAXSPARSE_NATIVE=off).
"""

import argparse
import statistics
import sys
import time

import jax
import jax.numpy as jnp

import jaxsparse as js

DENSITY = 0.1


def variants(size):
  """`{name: function of the scores}`."""
  kept = int(DENSITY * size)

  def by_sort(scores):
    return scores >= jnp.sort(scores)[size - kept]

  def by_top_k(scores):
    return scores >= jax.lax.top_k(scores, kept)[0][-1]

  def by_selection(scores):
    return js.masks.top_k_mask(scores, kept, (0,))

  rows = {
    'one pass': jnp.sum,
    'js.masks': by_selection,
    'lax.top_k': by_top_k,
    'jnp.sort': by_sort,
  }
  return {name: jax.jit(function) for name, function in rows.items()}


def measure(size, repeats, scores):
  """Median seconds of each variant."""
  functions = variants(size)
  for function in functions.values():
    function(scores).block_until_ready()
  times = {name: [] for name in functions}
  for _ in range(repeats):
    for name, function in functions.items():
      start = time.perf_counter()
      function(scores).block_until_ready()
      times[name].append(time.perf_counter() - start)
  return {name: statistics.median(values) for name, values in times.items()}


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--sizes', default='1,10', help='millions of scores')
  parser.add_argument('--repeats', type=int, default=7)
  parser.add_argument('--check', action='store_true')
  args = parser.parse_args()
  over, most = False, 8 if js.native.available() else 220
  print(f'kernels: {js.native.instruction_set()}')
  for millions in args.sizes.split(','):
    size = int(float(millions) * 1e6)
    normal = jnp.abs(jax.random.normal(jax.random.key(0), (size,)))
    kinds = {
      'float32': normal,
      'bfloat16': normal.astype(jnp.bfloat16),
      'a few values': jnp.round(normal),
    }
    for kind, scores in kinds.items():
      times = measure(size, args.repeats, scores)
      passes = {name: t / times['one pass'] for name, t in times.items()}
      print(
        f'{millions:>4} million, {kind:12s}: '
        + ', '.join(f'{n} {passes[n]:.0f} ({1e3 * times[n]:.1f} ms)' for n in times)
      )
      over |= kind == 'float32' and passes['js.masks'] > most
  return int(args.check and over)


if __name__ == '__main__':
  sys.exit(main())

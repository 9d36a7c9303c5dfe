"""Are the Pallas kernels right on this GPU, and what are they worth there?

  python benchmarks/sparse_gpu.py [--budget=140] [--out=sparse_gpu.csv] [--interpret]
      [--no-check] [--batches=512,4096,128]

First every kernel is compared with NumPy in float64; a failure stops no other one. Then
blocks of 32x32 and N:M weights are timed against dense XLA products of the same dtype
(float32 with and without TF32, bfloat16) and against jax's BCSR, forward and with both
gradients: medians of interleaved runs, each a loop of products in one program, so that
the time of a call is not in them. What the budget of seconds does not reach is left
out; the most telling cells come first. A machine without a GPU is told so;
`--interpret` runs a few of the comparisons there. Exits with 1 where a kernel is wrong.
"""

import argparse
import concurrent.futures
import csv
import dataclasses
import functools
import itertools
import statistics
import sys
import time

import jax
from jax.experimental import sparse as jax_sparse
import jax.numpy as jnp
import numpy as np

import jaxsparse as js

FLOAT32, TF32, BFLOAT16 = 'float32', 'tensorfloat32', 'bfloat16'
# Norm of the error over the norm of the result: float32, TF32 and bfloat16 products.
TOLERANCES = {FLOAT32: 2e-5, TF32: 2e-3, BFLOAT16: 1e-2}
# (inputs, outputs, depth, block), or (inputs, outputs, 'n:m').
CHECKS = (
  (512, 512, 32, 32),
  (512, 512, '2:4'),
  (512, 768, 16, 16),
  (512, 512, 64, 64),
  (512, 512, 128, 128),
  (512, 512, 1, 32),
  (300, 512, 1, 4),
  (300, 201, 1, 1),
  (300, 200, 5, 20),
  (512, 512, '1:4'),
  (512, 200, '2:8'),
  (300, 7, '3:5'),
)
SPARSITIES = (80, 90, 95, 99)
THREADS = 8  # Compilation is most of it.
UNROLLED = 4


@functools.cache
def make(case, sparsity):
  """`(SparseArray, mask)` of a case of CHECKS, in float32."""
  inputs, outputs, *kind = case
  rng = np.random.default_rng(0)
  if isinstance(kind[0], str):
    n, m = map(int, kind[0].split(':'))
    fmt = js.sparse.Format((inputs, outputs), nm=(n, m))
    kept = rng.random((inputs // m, m, outputs), np.float32).argsort(1) < n
    mask, density = kept.reshape(inputs, outputs), n / m
  else:
    depth, block = kind
    fmt = js.sparse.Format((inputs, outputs), block=block, depth=depth)
    density = 1 - sparsity / 100
    kept = rng.random((inputs // depth, outputs // block), np.float32) < density
    mask = np.repeat(np.repeat(kept, depth, 0), block, 1)
  # Products keep their size when they are fed back.
  scale = np.float32(1 / max(density * inputs, 1) ** 0.5)
  param = scale * rng.standard_normal((inputs, outputs), np.float32)
  return js.sparse.from_mask(jnp.asarray(param), mask, format=fmt), mask


def as_dtype(weight, dtype):
  return dataclasses.replace(weight, values=weight.values.astype(dtype))


@functools.cache
def make_peer(case, sparsity):
  """jax's BCSR of the transposed weight."""
  dense = np.asarray(js.sparse.to_dense(make(case, sparsity)[0]))
  return jax_sparse.BCSR.fromdense(dense.T)


def both(weight, x, dy, backend='pallas'):
  """`(y, gradient of the values, gradient of x)`."""

  def product(values, x):
    given = dataclasses.replace(weight, values=values)
    return js.sparse.matmul(x, given, backend=backend)

  y, pull = jax.vjp(product, weight.values, x)
  return y, *pull(dy)


def check_one(case, sparsity, batch, precision):
  """The worst relative error of y and of both gradients."""
  dtype = jnp.bfloat16 if precision == BFLOAT16 else jnp.float32
  weight, mask = make(case, sparsity)
  weight = as_dtype(weight, dtype)
  rng = np.random.default_rng(1)
  x, dy = (
    jnp.asarray(rng.standard_normal((batch, n), np.float32), dtype) for n in mask.shape
  )
  with jax.default_matmul_precision(precision):
    y, dvalues, dx = map(np.asarray, jax.jit(both)(weight, x, dy))
  dense = np.asarray(js.sparse.to_dense(weight), np.float64)
  x, dy = np.asarray(x, np.float64), np.asarray(dy, np.float64)
  dw = np.asarray(js.sparse.gather(jnp.float32(x.T @ dy), weight.pattern))
  pairs = (y, x @ dense), (dx, dy @ dense.T), (dvalues, dw)
  return [
    float(np.linalg.norm(np.float64(a) - b) / max(np.linalg.norm(b), 1e-30))
    for a, b in pairs
  ]


def check_all(is_small, deadline):
  """How many comparisons failed; prints each."""
  batches, precisions = (129, 7, 1, 512), (TF32, BFLOAT16, FLOAT32)
  cases = list(itertools.product(CHECKS, precisions[:1]))
  cases += itertools.product(CHECKS, precisions[1:])
  if is_small:
    cases = [
      (CHECKS[6], FLOAT32),
      ((64, 96, 16, 16), BFLOAT16),
      ((64, 48, '2:4'), TF32),
    ]

  def one(numbered):
    i, (case, precision) = numbered
    # Every case with one batch; densities of 0 and 1 have their turn too.
    batch, sparsity = batches[i % len(batches)], (90, 60, 100, 0, 95)[i % 5]
    name = f'{case} {sparsity} % batch {batch} {precision}'
    if time.monotonic() > deadline:
      return False, f'left out, the budget is used up: {name}'
    try:
      errors = check_one(case, sparsity, batch, precision)
      passed = max(errors) <= TOLERANCES[precision]
      found = ' '.join(f'{e:.1e}' for e in errors)
    except Exception as error:
      passed, found = False, f'{type(error).__name__}: {str(error)[:400]}'
    return not passed, f'{"pass" if passed else "FAIL"}  {name}: {found}'

  failed = 0
  with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
    for is_failure, text in pool.map(one, enumerate(cases)):
      failed += is_failure
      print(text, flush=True)
  print(f'{failed} of {len(cases)} comparisons failed')
  return failed


def repeated(step, count, *state):
  """A program that feeds the results of a step back `count` times."""

  def turn(_, state):
    # A turn of the loop itself takes some 20 us.
    for _ in range(UNROLLED):
      state = step(*state)
    return state

  return jax.lax.fori_loop(0, count // UNROLLED, turn, state)


def variants(width, batch, dtype):
  """`{(name, sparsity, what): (step, state, arguments)}` of one cell of the table."""
  shape = (batch, width)
  x, dy = (jax.random.normal(jax.random.key(i), shape, dtype) for i in (3, 4))
  x_t, dy_t = jnp.array(x.T), jnp.array(dy.T)
  w = jax.random.normal(jax.random.key(2), (width, width), dtype) * width**-0.5

  def dense_both(w, x, dy, _):
    return x @ w, dy @ w.T, x.T @ dy

  rows = {
    ('dense', 0, 'forward'): (lambda w, x: (x @ w,), (x,), w),
    ('dense', 0, 'both'): (dense_both, (x, dy, w), w),
  }

  # Feature-major, as between two sparse layers.
  def forward(weight, x):
    return (js.sparse.matmul(x.T, weight, backend='pallas').T,)

  def with_gradients(weight, x, dy, _):
    y, dvalues, dx = both(weight, x.T, dy.T)
    return y.T, dx.T, dvalues

  cases = [((width, width, 32, 32), s) for s in SPARSITIES]
  cases += [((width, width, '2:4'), 50), ((width, width, '1:4'), 75)]
  cases += [((width, width, 1, 32), 95), ((width, width, 1, 1), 99)]
  with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
    list(pool.map(lambda case: make(*case), cases))
  for case, sparsity in cases:
    weight = as_dtype(make(case, sparsity)[0], dtype)
    name = case[2] if isinstance(case[2], str) else f'{case[2]}x{case[3]}'
    rows[name, sparsity, 'forward'] = forward, (x_t,), weight
    rows[name, sparsity, 'both'] = with_gradients, (x_t, dy_t, weight.values), weight
    if case[2] == 1 and dtype == jnp.float32:
      peer = make_peer(case, sparsity)
      rows['BCSR', sparsity, 'forward'] = lambda w, x: (w @ x,), (x_t,), peer
  return rows


def compiled(row, count, precision):
  step, state, weight = row

  def run(weight, *state):
    return repeated(functools.partial(step, weight), count, *state)

  with jax.default_matmul_precision(precision):
    program = jax.jit(run).lower(weight, *state).compile()
  return functools.partial(program, weight, *state)


def time_cell(width, batch, precision, seconds, writer):
  """Times the variants of one cell, interleaved, and writes a row for each."""
  dtype = jnp.bfloat16 if precision == BFLOAT16 else jnp.float32
  count = UNROLLED * max(1, min(8, int(5e10 / (2 * batch * width * width))))
  rows, programs = variants(width, batch, dtype), {}
  with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
    jobs = {k: pool.submit(compiled, row, count, precision) for k, row in rows.items()}
    for key, job in jobs.items():
      try:
        programs[key] = job.result()
        jax.block_until_ready(programs[key]())
      except Exception as error:
        programs.pop(key, None)
        print(f'FAIL  {key} {width} {batch} {precision}: {str(error)[:300]}')
  times, end = {key: [] for key in programs}, time.monotonic() + seconds
  while time.monotonic() < end or any(len(t) < 3 for t in times.values()):
    for key, program in programs.items():
      start = time.perf_counter()
      jax.block_until_ready(program())
      times[key].append((time.perf_counter() - start) / count)
  medians = {key: statistics.median(t) for key, t in times.items()}
  for (name, sparsity, what), found in medians.items():
    ratio = medians['dense', 0, what] / found
    products = 1 if what == 'forward' else 3
    rate = 2e-12 * products * batch * width**2 / medians['dense', 0, what]
    row = [width, batch, precision, name, sparsity, what]
    row += [f'{1e6 * found:.1f}', f'{1e6 * min(times[name, sparsity, what]):.1f}']
    row += [f'{ratio:.3f}', f'{rate:.1f}', len(times[name, sparsity, what])]
    writer.writerow(row)
    print(*row, sep=',', flush=True)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    '--budget', type=float, default=140, help='seconds for everything'
  )
  parser.add_argument('--out', default='sparse_gpu.csv')
  parser.add_argument('--interpret', action='store_true')
  parser.add_argument('--batches', default='512,4096,128')
  parser.add_argument('--no-check', action='store_true', help='times only')
  args = parser.parse_args()
  start = time.monotonic()
  platform = jax.default_backend()
  print(f'jax {jax.__version__}, {platform}, {jax.devices()[0].device_kind}')
  if platform != 'gpu':
    if not args.interpret:
      print('no GPU here; --interpret compares a few kernels, interpreted')
      return 0
    return int(check_all(True, start + args.budget) > 0)
  failed = 0 if args.no_check else check_all(False, start + 0.4 * args.budget)
  batches = [int(batch) for batch in args.batches.split(',')]
  # Both widths with their main batch come first, within any budget.
  cells = [
    (width, batch, precision)
    for batch in batches
    for width in (4096, 1024)
    for precision in (BFLOAT16, TF32, FLOAT32)
  ]
  names = 'width,batch,dtype,weight,sparsity %,what,median us,least us,times dense'
  names += ',dense TFLOP/s,runs'
  took = 0.0
  with open(args.out, 'w', newline='', encoding='utf-8') as file:
    writer = csv.writer(file)
    writer.writerow(names.split(','))
    print(names)
    for cell in cells:
      left = start + args.budget - time.monotonic()
      if left < 1.2 * took + 1:
        print(f'the budget is used up; left out: {cell}')
        continue
      before = time.monotonic()
      time_cell(*cell, seconds=1.0, writer=writer)
      file.flush()
      took = max(took, time.monotonic() - before)
  print(f'{time.monotonic() - start:.0f} s')
  return int(failed > 0)


if __name__ == '__main__':
  sys.exit(main())

"""What a sparse transform costs per training step, as ratios to plain optax.

  python benchmarks/step_overhead.py [--models=mlp,resnet] [--repeats=21]

For every transform the same jitted, donating step is timed three times: with plain
adam (= 1), in a step that leaves the masks alone, and in one that decides anew; for
the optimizer alone and for the whole training step. All variants are interleaved in
one process; the figures are medians of wall time, or with --clock=cpu of the
process's CPU time, which a busy machine disturbs less. Printed beside them are the aims:
1.05 for a whole step without, 1.15 for the optimizer alone, 3 dense steps with an
update of the masks. `--check` exits with 1 when a median is over twice the overhead
that the aim allows (machines are noisy).
"""

import argparse
import os
import statistics
import sys
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import jaxsparse as js

S = js.schedules
SPARSITY = 0.9

# The schedules never fire by themselves: `when` reads the step, and the step is set.
DUE = 1000


def transforms():
  """One row per transform: it decides at step DUE, and at no other."""
  when, t = S.at(DUE), js.transforms
  options = {'distribution': js.distributions.uniform}
  return {
    'static': lambda o: t.static(o, SPARSITY, seed=0, **options),
    'gmp': lambda o: t.gmp(o, S.cubic(SPARSITY, 0, DUE), when=when, **options),
    'set': lambda o: t.set(o, SPARSITY, seed=0, when=when, **options),
    'rigl': lambda o: t.rigl(o, SPARSITY, seed=0, when=when, **options),
    'rigl_skip': lambda o: t.rigl(
      o, SPARSITY, seed=0, when=when, skip_step=True, **options
    ),
    'ste': lambda o: t.ste(o, SPARSITY, when=when, **options),
  }


class Mlp(nn.Module):
  """784-1024-1024-1024-10, 2.9 million weights."""

  @nn.compact
  def __call__(self, x):
    x = x.reshape((x.shape[0], -1))
    for _ in range(3):
      x = nn.relu(nn.Dense(1024)(x))
    return nn.Dense(10)(x)


class ResNet(nn.Module):
  """Three stages of one residual block with group norm, 0.3 million weights."""

  @nn.compact
  def __call__(self, x):
    x = nn.Conv(32, (3, 3))(x)
    for width in (32, 64, 128):
      stride = 1 if width == 32 else 2
      y = nn.Conv(width, (3, 3), strides=stride)(nn.relu(nn.GroupNorm(8)(x)))
      y = nn.Conv(width, (3, 3))(nn.relu(nn.GroupNorm(8)(y)))
      x = nn.Conv(width, (1, 1), strides=stride)(x) + y
    return nn.Dense(10)(nn.relu(x).mean((1, 2)))


MODELS = {'mlp': (Mlp, (128, 28, 28, 1)), 'resnet': (ResNet, (32, 32, 32, 3))}


def make_runs(model, images, labels, tx, params, clock):
  """`{(part, due): function that runs one step}` for one optimizer."""

  def loss(params):
    logits = model.apply(params, images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

  def apply(grads, params, state):
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  # Donated in the order of the results: otherwise buffers are paired crosswise.
  optimizer = jax.jit(apply, donate_argnums=(1, 2))
  whole = jax.jit(
    lambda params, state: apply(jax.grad(loss)(params), params, state),
    donate_argnums=(0, 1),
  )
  grads = jax.jit(jax.grad(loss))(params)
  runs = {}
  for due in (False, True):
    # Copies: every run donates what it holds and keeps what comes back.
    fresh = jax.tree.map(lambda x: jnp.array(x, copy=True), params)
    state = jax.jit(tx.init)(fresh)
    if isinstance(state, js.core.KeepSparseState):
      fresh = js.apply_masks(fresh, state)
    runs['optimizer', due] = _runner(
      lambda held, f=optimizer: f(grads, *held), (fresh, state), due, clock
    )
    fresh = jax.tree.map(lambda x: jnp.array(x, copy=True), fresh)
    state = jax.tree.map(lambda x: jnp.array(x, copy=True), state)
    runs['whole', due] = _runner(
      lambda held, f=whole: f(*held), (fresh, state), due, clock
    )
  return runs


def _runner(step, held, due, clock):
  box = [held]

  def run():
    params, state = box[0]
    if isinstance(state, js.core.KeepSparseState):
      state = state._replace(step=jnp.int32(DUE if due else 5))
    start = clock()
    out = jax.block_until_ready(step((params, state)))
    seconds = clock() - start
    box[0] = out
    return seconds

  return run


def measure(name, repeats, chosen, clock):
  """Medians in seconds: `{(transform, part, due): seconds}`."""
  make, shape = MODELS[name]
  model = make()
  images = jax.random.normal(jax.random.key(0), shape)
  labels = jnp.arange(shape[0]) % 10
  params = jax.jit(model.init)(jax.random.key(1), images)
  rows = {'adam': optax.adam(1e-3)}
  rows |= {k: f(optax.adam(1e-3)) for k, f in transforms().items() if k in chosen}
  runs = {
    (row, *part): run
    for row, tx in rows.items()
    for part, run in make_runs(model, images, labels, tx, params, clock).items()
    if row != 'adam' or not part[1]
  }
  times = {key: [] for key in runs}
  for repeat in range(repeats + 2):
    for key, run in runs.items():
      seconds = run()
      if repeat >= 2:
        times[key].append(seconds)
  return {key: statistics.median(values) for key, values in times.items()}


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--models', default='mlp,resnet')
  parser.add_argument('--transforms', default=','.join(transforms()))
  parser.add_argument('--repeats', type=int, default=21)
  parser.add_argument('--clock', choices=('wall', 'cpu'), default='wall')
  parser.add_argument('--check', action='store_true')
  args = parser.parse_args()
  clock = time.perf_counter if args.clock == 'wall' else time.process_time
  over = False
  print(
    f'jax {jax.__version__}, {jax.devices()[0].device_kind}, {os.cpu_count()} cores'
  )
  for name in args.models.split(','):
    times = measure(name, args.repeats, args.transforms.split(','), clock)
    base = {part: times['adam', part, False] for part in ('optimizer', 'whole')}
    print(
      f'{name}: adam alone {1e3 * base["optimizer"]:.2f} ms,'
      f' whole step {1e3 * base["whole"]:.2f} ms'
    )
    print('transform   optimizer: keep  decide   whole step: keep  decide')
    for row in args.transforms.split(','):
      keep, decide, whole_keep, whole_decide = (
        times[row, part, due] / base[part]
        for part in ('optimizer', 'whole')
        for due in (False, True)
      )
      print(f'{row:12s}{keep:15.2f}{decide:8.1f}{whole_keep:18.2f}{whole_decide:8.2f}')
      over |= keep > 1.3 or whole_keep > 1.1 or whole_decide > 5
    print('aim                    1.15                      1.05    3.00')
  return int(args.check and over)


if __name__ == '__main__':
  sys.exit(main())

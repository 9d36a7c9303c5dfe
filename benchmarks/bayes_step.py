"""What a step of variational inference costs, masked, beside deterministic training.

  JAXSPARSE_CHECK=off python benchmarks/bayes_step.py [--sparsity=0.95] [--repeats=31]

LeNet-300-100 on batches of 128, Adam on everything. Every variant is one jitted,
donating step; all are interleaved in one process, and the figures are medians of wall
time in ms (the fastest in brackets, which a busy machine disturbs less), for a step
that leaves the masks alone and, where there is a rule, for one that decides anew.
Masked arrays are dense: nothing here is faster for being sparse.
"""

import argparse
import os
import statistics
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import jaxsparse as js

DUE, BATCH = 1000, 128


class LeNet(nn.Module):
  """784-300-100-10."""

  @nn.compact
  def __call__(self, x):
    for width in (300, 100):
      x = nn.relu(nn.Dense(width)(x))
    return nn.Dense(10)(x)


MODEL = LeNet()
RUN = js.layers.bind(MODEL, js.bayes.noisy_product)


def log_likelihood(logits, labels):
  return -optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def deterministic(tx, start):
  """`(loss gradient, tx, params)` of plain training."""

  def loss(params, batch, state):
    del state
    return -log_likelihood(RUN({'params': params}, batch[0]), batch[1]).mean()

  return jax.grad(loss), tx, start


def variational(posterior, estimator, start):
  """The same for a posterior."""
  tx = js.bayes.optimizer(posterior, optax.adam(5e-3), rho=optax.adam(1e-2))
  elbo = js.bayes.negative_elbo(
    posterior,
    lambda theta, x: RUN({'params': theta}, x),
    log_likelihood,
    num_examples=60_000,
    estimator=estimator,
  )

  def loss(params, batch, state):
    key = jax.random.fold_in(jax.random.key(2), state.step)
    return elbo(params, js.get_masks(state), batch, key, state.step)[0]

  return jax.grad(loss), tx, posterior.init(jax.random.key(0), start)


def variants(sparsity, start):
  """`{name: (gradient, tx, params)}`; rules decide at step DUE and at no other."""
  when, bayes = js.schedules.at(DUE), js.bayes
  dense, sparse = bayes.mean_field(), bayes.ssvi(sparsity, seed=0, when=when)
  rigl = js.transforms.rigl(optax.adam(5e-3), sparsity, seed=0, when=when)
  local = bayes.local_reparametrization
  return {
    'adam': deterministic(optax.adam(5e-3), start),
    'rigl': deterministic(rigl, start),
    'mean field, one draw': variational(dense, bayes.weight_sampling, start),
    'ssvi, one draw': variational(sparse, bayes.weight_sampling, start),
    'mean field, local': variational(dense, local, start),
    'ssvi, local': variational(sparse, local, start),
    'ssvi, flipout': variational(sparse, bayes.flipout, start),
  }


def make_run(gradient, tx, params, batch, due):
  """A function that makes one step and returns its seconds."""

  def step(params, state):
    updates, state = tx.update(gradient(params, batch, state), state, params)
    return optax.apply_updates(params, updates), state

  step = jax.jit(step, donate_argnums=(0, 1))
  params = jax.tree.map(lambda x: jnp.array(x, copy=True), params)
  state = tx.init(params)
  is_sparse = isinstance(state, js.core.KeepSparseState)
  held = [(js.apply_masks(params, state) if is_sparse else params, state)]

  def run():
    params, state = held[0]
    if is_sparse:
      state = state._replace(step=jnp.int32(DUE if due else 5))
    began = time.perf_counter()
    held[0] = jax.block_until_ready(step(params, state))
    return time.perf_counter() - began

  return run


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--sparsity', type=float, default=0.95)
  parser.add_argument('--repeats', type=int, default=31)
  args = parser.parse_args()
  x = jax.random.normal(jax.random.key(0), (BATCH, 784))
  start = MODEL.init(jax.random.key(1), x)['params']
  runs = {}
  for name, (gradient, tx, params) in variants(args.sparsity, start).items():
    for due in (False, True) if name.startswith(('rigl', 'ssvi')) else (False,):
      batch = x, jnp.arange(BATCH) % 10
      runs[name, due] = make_run(gradient, tx, params, batch, due)
  times = {key: [] for key in runs}
  for repeat in range(args.repeats + 2):
    for key, run in runs.items():
      seconds = run()
      if repeat >= 2:
        times[key].append(1e3 * seconds)
  print(
    f'jax {jax.__version__}, {jax.devices()[0].device_kind}, {os.cpu_count()} cores'
  )
  for (name, due), values in times.items():
    what = f'{name}, deciding' if due else name
    print(f'{what:32s}{statistics.median(values):8.2f} ({min(values):.2f})')


if __name__ == '__main__':
  main()

"""A whole Adam step on the nonzeros, against the same step with masks, and its memory.

  python benchmarks/compact_step.py [--sparsities=80,90,95,99] [--threads=2] [--check]

An MLP of three layers of `--width`, a dense head of 10, float32. One jitted step: loss,
gradients, Adam, masks. Ratios are to the dense step with masks (static), first by the
10th percentile of the times, then by the median; a dense network without masks and one in
bfloat16 stand beside. 'RigL' is its ordinary step; 'RigL, rewiring' the step in a hundred
that looks for the best gradients of all weights and rewires, without a dense gradient.
State: values, moments and patterns, in bytes. All variants are interleaved in one process.
"""

import sys

import _interleaved
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import jaxsparse as js

AIMS = {
  'static, compact': {80: 3.5, 90: 6, 95: 10, 99: 30},
  'state': {90: 6, 95: 12, 99: 60},
}


class MLP(nn.Module):
  """Three hidden layers and a head."""

  width: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x):
    for index in range(3):
      x = nn.relu(nn.Dense(self.width, dtype=self.dtype, name=f'dense{index + 1}')(x))
    return nn.Dense(10, dtype=self.dtype, name='head')(x).astype(jnp.float32)


def hidden(leaf):
  return js.kernels(leaf) and leaf.name.startswith('dense')


def cross_entropy(logits, labels):
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def repeated(step, params, state):
  """A function without arguments that takes one step after the other, in place."""
  held = [*jax.tree.map(jnp.copy, (params, state))]

  def call():
    held[:] = step(*held)
    return held

  return call


def dense_step(model, tx, params, state, x, labels):
  def step(params, state):
    loss = lambda p: cross_entropy(model.apply({'params': p}, x), labels)
    updates, state = tx.update(jax.grad(loss)(params), state, params)
    return optax.apply_updates(params, updates), state

  return repeated(jax.jit(step, donate_argnums=(0, 1)), params, state)


def compact_step(model, tx, params, state, x, labels):
  """The step on nonzeros, which finds what should grow where that is due."""
  apply_fn = js.compact.bind(model)

  def loss(params, patterns):
    return cross_entropy(apply_fn({'params': params}, patterns, x), labels)

  def step(params, state):
    patterns = js.compact.get_patterns(state)
    growth = js.compact.growth_when_due(tx, loss, params, state)
    grads = jax.grad(loss)(params, patterns)
    updates, state = tx.update(grads, state, params, growth=growth)
    return optax.apply_updates(params, updates), state

  return repeated(jax.jit(step, donate_argnums=(0, 1)), params, state)


def size_of(*trees):
  return sum(x.nbytes for x in jax.tree.leaves(trees) if hasattr(x, 'nbytes'))


def variants(args, percent, x, labels):
  """`({name: step}, ratio of the bytes of the states)`."""
  model = MLP(args.width)
  variables = jax.jit(model.init)(jax.random.key(0), x)['params']
  adam = optax.adam(1e-3)
  static = js.transforms.static(adam, percent / 100, seed=0, prunable=hidden)
  often, always = (
    js.transforms.rigl(adam, percent / 100, seed=0, prunable=hidden, when=when)
    for when in (js.schedules.every(100), js.schedules.always)
  )
  plain = adam, variables, adam.init(variables)
  half = MLP(args.width, jnp.bfloat16)
  masked = static, *js.init(static, variables)
  sparse = js.compact.convert(*masked)
  moving, rewiring = (
    js.compact.convert(tx, *js.init(tx, variables)) for tx in (often, always)
  )
  rows = {
    'static, masked': dense_step(model, *masked, x, labels),
    'dense': dense_step(model, *plain, x, labels),
    'dense, bfloat16': dense_step(half, *plain, x, labels),
    'static, compact': compact_step(model, *sparse, x, labels),
    'RigL, compact': compact_step(model, *moving, x, labels),
    'RigL, rewiring': compact_step(model, *rewiring, x, labels),
  }
  return rows, size_of(*masked[1:]) / size_of(*sparse[1:])


def main():
  args = _interleaved.parse(__doc__, 20, width=1024, batch=128)
  x = jax.random.normal(jax.random.key(1), (args.batch, args.width))
  labels = jax.random.randint(jax.random.key(2), (args.batch,), 0, 10)
  failures = []
  for percent in args.sparsities:
    rows, state = variants(args, percent, x, labels)
    print(
      f'{percent} %, 3 x {args.width}, batch {args.batch}: state {state:.1f} x less'
    )
    times = _interleaved.measure(rows, args, calls=2)
    ratios = _interleaved.report(times, lambda name: 'static, masked')
    failures += _interleaved.missed({**ratios, 'state': state}, AIMS, percent)
  return _interleaved.exit_code(args, failures)


if __name__ == '__main__':
  sys.exit(main())

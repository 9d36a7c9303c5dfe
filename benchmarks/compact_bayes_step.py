"""A whole SSVI step on the nonzeros, against dense mean-field VI, and its memory.

  python benchmarks/compact_bayes_step.py [--sparsities=80,90,95,99] [--clock=cpu]

The network, the batch and the harness of compact_step.py. One jitted step: a draw, the
negative ELBO, gradients, Adam on mu and on rho. Each compact row is compared with dense
mean-field VI of its own estimator: 'draw' is one draw of the weights, 'local' local
reparametrisation. Both draw by the kernel of js.native.normal, 'XLA draw' by
jax.random.normal, as dense VI in JAX does; 'ssvi, draw' is compared with both.
'rewiring' is the step in a hundred that moves the subspace, without a dense gradient.
State: values, moments and patterns, in bytes. All variants are interleaved in one
process.
"""

import functools
import sys

import _interleaved
import compact_step
import jax
import optax

import jaxsparse as js

AIM = {80: 9, 90: 14, 95: 25, 99: 60}
AIMS = {
  name: AIM for name in ('ssvi, draw', 'ssvi, local', 'ssvi, draw, against XLA draw')
}
ESTIMATORS = {
  'draw': js.bayes.weight_sampling,
  'local': js.bayes.local_reparametrization,
}


def log_likelihood(logits, labels):
  return -optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def make_step(model, posterior, estimator, batch):
  """`(tx, params, state) -> step`, dense or, where the state has patterns, compact."""
  held = posterior.rule is not None
  handler = js.bayes.noisy_product
  if held:
    handler = js.bayes.noisy_handler(js.compact.handler())
  run = js.layers.bind(model, handler)
  elbo = js.bayes.negative_elbo(
    posterior,
    lambda theta, x: run({'params': theta}, x),
    log_likelihood,
    num_examples=60_000,
    estimator=estimator,
  )

  def loss(params, masks, key, step):
    return elbo(params, masks, batch, key, step)[0]

  def made(tx, params, state):
    def step(params, state):
      args = jax.random.fold_in(jax.random.key(2), state.step), state.step
      extra = {}
      if held:
        growth = js.compact.growth_when_due(tx, loss, params, state, *args)
        extra, masks = {'growth': growth}, js.compact.get_patterns(state)
      else:
        masks = js.get_masks(state)
      grads = jax.grad(loss)(params, masks, *args)
      updates, state = tx.update(grads, state, params, **extra)
      return optax.apply_updates(params, updates), state

    step = jax.jit(step, donate_argnums=(0, 1))
    return compact_step.repeated(step, params, state)

  return made


def variants(args, percent, batch):
  """`({name: step}, ratio of the bytes of the states)`."""
  model = compact_step.MLP(args.width)
  start = jax.jit(model.init)(jax.random.key(0), batch[0])['params']
  ssvi = functools.partial(
    js.bayes.ssvi, percent / 100, seed=0, prunable=compact_step.hidden
  )
  posteriors = {
    'mean field': js.bayes.mean_field(),
    'ssvi': ssvi(when=js.schedules.every(100)),
    'ssvi, rewiring': ssvi(when=js.schedules.always),
  }
  rows, sizes = {}, {}
  for name, posterior in posteriors.items():
    tx = js.bayes.optimizer(posterior, optax.adam(5e-3), rho=optax.adam(1e-2))
    made = tx, *js.init(tx, posterior.init(jax.random.key(0), start))
    if posterior.rule is not None:
      made = js.compact.convert(*made)
    sizes[name] = compact_step.size_of(*made[1:])
    wanted = ('draw',) if 'rewiring' in name else tuple(ESTIMATORS)
    for how in wanted:
      step = make_step(model, posterior, ESTIMATORS[how], batch)
      rows[f'{name}, {how}'] = step(*made)
    if posterior.rule is None:
      step = make_step(model, posterior, ESTIMATORS['draw'], batch)(*made)
      rows['mean field, XLA draw'] = step
      with js.native.without():
        step()  # What is traced here draws without the kernel.
  return rows, sizes['mean field'] / sizes['ssvi']


def main():
  args = _interleaved.parse(__doc__, 20, width=1024, batch=128)
  x = jax.random.normal(jax.random.key(1), (args.batch, args.width))
  batch = x, jax.random.randint(jax.random.key(2), (args.batch,), 0, 10)
  failures = []
  for percent in args.sparsities:
    rows, state = variants(args, percent, batch)
    print(
      f'{percent} %, 3 x {args.width}, batch {args.batch}: state {state:.1f} x less'
    )
    times = _interleaved.measure(rows, args, calls=2)
    ratios = _interleaved.report(times, lambda name: f'mean field, {name.split()[-1]}')
    against = ratios['ssvi, draw'] / ratios['mean field, XLA draw']
    ratios['ssvi, draw, against XLA draw'] = against
    print(f'  {"ssvi, draw, against XLA draw":41s}  {against:6.2f}')
    failures += _interleaved.missed(ratios, AIMS, percent)
  return _interleaved.exit_code(args, failures)


if __name__ == '__main__':
  sys.exit(main())

"""Accuracy on a split, sparsity, bytes, and seconds per step."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import datasets
import jaxsparse as js

_EVAL_BATCH = 1000


def evaluator(model, data: datasets.Data):
  """Builds `(state, split) -> (mean loss, accuracy)`, NaN for an empty split."""

  @jax.jit
  def totals(params, model_state, images, labels):
    images = datasets.normalize(images, data.mean, data.std)
    logits, _ = model.apply(params, model_state, images, train=False)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.sum(losses), jnp.sum(jnp.argmax(logits, -1) == labels)

  def evaluate(state, split):
    count = split['labels'].shape[0]
    if not count:
      return float('nan'), float('nan')
    params = js.view(state.params, state.opt_state)
    loss = correct = 0.0
    for start in range(0, count, _EVAL_BATCH):
      part = slice(start, start + _EVAL_BATCH)
      images, labels = split['images'][part], split['labels'][part]
      sums = totals(params, state.model_state, images, labels)
      loss, correct = loss + float(sums[0]), correct + float(sums[1])
    return loss / count, correct / count

  return evaluate


def prunable_names(method) -> list[str]:
  """The leaves whose density is recorded; of a method with `init`."""
  params = jax.eval_shape(method.init, 0).params
  return [name for name, leaf in js.leaves_of(params).items() if js.kernels(leaf)]


def sparsity_row(method, state) -> dict:
  """Densities and sparsities of a state that has its masks, for metrics.csv.

  Args:
    method: with `init`, and `sparse`: whether the state has masks.
    state: a `TrainState`.
  """
  stats = js.summary.stats(state.params, state.opt_state if method.sparse else None)
  row = {f'density/{name}': 1.0 for name in prunable_names(method)}
  row.update({f'density/{name}': value for name, value in stats.density.items()})
  row.update(sparsity=stats.nominal_sparsity, whole_sparsity=stats.whole_model_sparsity)
  return row


def num_bytes(tree) -> int:
  """The bytes of the arrays of a tree."""
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def held_bytes(state) -> dict[str, int]:
  """The bytes of the parameters, of the masks or patterns, and of the rest."""
  sparse = js.core.sparse_states(state.opt_state)
  if sparse:
    places: Any = [s.masks for s in sparse]
  else:
    is_compact = hasattr(state.opt_state, 'patterns')
    places = state.opt_state.patterns if is_compact else ()
  # A scalar stands for a leaf without a mask.
  masks = num_bytes([x for x in jax.tree.leaves(places) if x.ndim])
  return {
    'param_bytes': num_bytes(state.params),
    'mask_bytes': masks,
    'state_bytes': num_bytes(state.opt_state) - masks,
  }


def step_times(config, methods, batches, data=None) -> dict[str, float]:
  """Median seconds per training step, all methods in turn, in this one process.

  Args:
    config: of the run.
    methods: with `name`, `init`, `execution` and `step_fn`.
    batches: `step -> batch`, as `js.training.run` takes it.
    data: what the steps take beside their batch.

  Returns:
    `{name: seconds}`.
  """
  scan = config.steps_per_call > 1
  calls = 1 if scan else 10
  states = {
    m.name: js.training.replicate(m.execution.to_time(m.init(0))) for m in methods
  }
  times = {m.name: [] for m in methods}
  # The first round compiles, for methods that this process has not trained.
  for repeat in range(config.timing_rounds + 1):
    for method in methods:
      state, start = states[method.name], time.perf_counter()
      for call in range(calls):
        parts = [batches(call + s) for s in range(config.steps_per_call)]
        batch = jax.tree.map(lambda *x: np.stack(x), *parts) if scan else parts[0]
        state, _ = method.step_fn(state, batch, data)
      jax.block_until_ready(state)
      states[method.name] = state
      elapsed = time.perf_counter() - start
      if repeat:
        times[method.name].append(elapsed / (calls * config.steps_per_call))
  return {name: float(np.median(values)) for name, values in times.items()}

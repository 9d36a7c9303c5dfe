"""A training run to kill: `python recovery_driver.py CHECKPOINTS NUM_STEPS`.

The last line of a finished run is a digest of all bits of the final state; a run that
SIGTERM ended prints `stopped` and exits with 0 too.
"""

import hashlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxsparse as js

SAVE_EVERY = 4


def _loss(params, model_state, batch, key):
  hidden = jax.nn.relu(batch['x'] @ params['dense1']['kernel'])
  # Dropout: a key that was not restored shows.
  hidden = hidden * jax.random.bernoulli(key, 0.8, hidden.shape)
  logits = hidden @ params['dense2']['kernel'] + params['dense2']['bias'][None]
  labels = jax.nn.one_hot(batch['y'], 10)
  loss = optax.softmax_cross_entropy(logits, labels).mean()
  seen = model_state['seen'] + len(labels)
  return loss, ({'seen': seen, 'mean': 0.9 * model_state['mean'] + loss}, {})


def batches(step: int):
  """The batch of a step: the position in the data is the step."""
  draw = np.random.default_rng(step)
  x = draw.normal(size=(32, 64)).astype(np.float32)
  return {'x': x, 'y': x[:, :10].argmax(1)}


def make_run(num_steps: int):
  """A step function and its initial state."""
  draw = np.random.default_rng(0)
  kernel = lambda *shape: draw.normal(size=shape).astype(np.float32) / shape[0] ** 0.5
  params = {
    'dense1': {'kernel': kernel(64, 128)},
    'dense2': {'kernel': kernel(128, 10), 'bias': np.zeros(10, np.float32)},
  }
  tx = js.transforms.rigl(
    optax.adam(optax.cosine_decay_schedule(1e-2, num_steps)),
    sparsity=0.8,
    seed=0,
    when=js.schedules.every(3),
    drop_fraction=0.3,
  )
  model_state = {'seen': jnp.zeros((), jnp.int32), 'mean': jnp.zeros(())}
  # Compiled as one program: these processes start often.
  init = jax.jit(lambda p, m: js.training.init_state(tx, p, m, seed=1))
  state = init(params, model_state)
  return js.training.shard_step(js.training.make_step(_loss, tx)), state


def digest(state) -> str:
  """sha256 of names, dtypes and bits of every leaf."""
  total = hashlib.sha256()
  names, values, _ = js.core.named_leaves(state)
  for name, value in zip(names, values):
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
      value = jax.random.key_data(value)
    host = np.asarray(value)
    total.update(f'{name} {host.dtype} {host.shape}'.encode() + host.tobytes())
  return total.hexdigest()


def main(directory: str, num_steps: int, seconds_per_step: float):
  step_fn, state = make_run(num_steps)
  config = {'num_steps': num_steps, 'save_every': SAVE_EVERY}
  with js.checkpoint.open_dir(directory, keep=3, config=config) as checkpoints:
    result = js.training.run(
      step_fn,
      state,
      batches,
      num_steps,
      checkpoints=checkpoints,
      save_every=SAVE_EVERY,
      on_start=lambda s: print('from', int(s.step), flush=True),
      # The step itself takes too little time for a kill to hit it.
      on_steps=lambda *_: time.sleep(seconds_per_step),
    )
  print(digest(result.state) if result.finished else 'stopped', flush=True)


if __name__ == '__main__':
  main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))

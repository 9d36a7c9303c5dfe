"""Trees for the tests of checkpoints."""

from typing import NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax

import jaxsparse as js


class Sampler(NamedTuple):
  position: int
  key: jax.Array


def rich_state(seed: int):
  """A tree of every kind of leaf that a training state may hold."""
  rng = np.random.default_rng(seed)
  normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  params = {'dense/1': {'kernel': normal(8, 4), 'bias': normal(4)}, 'scale': normal()}
  inner = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.masked(
      optax.adam(1e-3), {'dense/1': {'kernel': True, 'bias': False}, 'scale': True}
    ),
  )
  masks = jax.tree.map(lambda x: jnp.asarray(rng.random(x.shape) < 0.5), params)
  keep = js.core.KeepSparseState(
    step=jnp.asarray(rng.integers(100), jnp.int32),
    masks=masks,
    memory=None,
    inner_state=inner.init(params),
    key=jax.random.key(seed),
  )
  return {
    'params': params,
    'keep': keep,
    'nnx': nnx.state(nnx.Linear(3, 2, rngs=nnx.Rngs(seed))),
    'rngs': nnx.state(nnx.Rngs(seed)),
    'sampler': Sampler(int(rng.integers(2**62)) * 2**20, jax.random.key(seed + 1)),
    'keys': jax.random.split(jax.random.key(seed), 6).reshape(2, 3),
    'rbg': jax.random.key(seed, impl='rbg'),
    'no_keys': jax.random.split(jax.random.key(seed), 3)[:0],
    'half': {
      'bf16': normal(5, 3).astype(jnp.bfloat16),
      'f16': normal(3).astype(jnp.float16),
      'f8': normal(3).astype(jnp.float8_e4m3fn),
      'int4': jnp.asarray(rng.integers(-8, 8, 7), jnp.int4),
      'complex': normal(3) + 1j * normal(3),
    },
    'empty': {'none': jnp.zeros((0,)), 'rows': jnp.zeros((3, 0), jnp.bfloat16)},
    'numpy': {
      'f64': rng.normal(size=(2, 2)),
      'u8': rng.integers(0, 255, 9).astype(np.uint8),
      'bf16': rng.normal(size=3).astype(ml_dtypes.bfloat16),
      'scalar': np.int64(rng.integers(2**40)),
      'bool': np.bool_(seed % 2),
    },
    'python': {'int': seed, 'float': float(rng.normal()), 'bool': bool(seed % 2)},
    'weak': {'scalar': jnp.asarray(0.1 * seed), 'array': _weak(seed)},
    'odd': jnp.asarray([-0.0, 0.0, jnp.nan, jnp.inf, 1e-45, seed], jnp.float32),
    'minus_zeros': jnp.full((4,), -0.0),
    'a/b': normal(1),
    'a': {'b': normal(1)},
    'nothing': None,
    'no_leaves': {},
  }


def _weak(seed: int) -> jax.Array:
  return jnp.where(jnp.arange(3) > seed, 1.0, 0.5 * seed)


def bits(value) -> tuple:
  """What has to be equal for two leaves to be the same."""
  kind = 'jax' if isinstance(value, jax.Array) else type(value).__name__
  weak = getattr(value, 'weak_type', False)
  if jnp.issubdtype(getattr(value, 'dtype', None), jax.dtypes.prng_key):
    kind, value = str(value.dtype), jax.random.key_data(value)
  if not isinstance(value, jax.Array | np.ndarray | np.generic):
    return kind, repr(value)
  host = np.asarray(value)
  raw = host.astype(np.int8) if host.dtype.name == 'int4' else host
  return kind, weak, str(host.dtype), host.shape, raw.tobytes()


def assert_same(one, other) -> None:
  """The same treedefs, types, dtypes and bits, leaf by leaf."""
  assert jax.tree.structure(one) == jax.tree.structure(other)
  names, values, _ = js.core.named_leaves(one)
  for name, a, b in zip(names, values, jax.tree.leaves(other)):
    assert bits(a) == bits(b), name

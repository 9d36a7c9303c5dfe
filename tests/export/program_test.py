"""The forward pass as a program: plain XLA, or with kernels that it names."""

import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse as js

# jax.export writes with it, and does not bring it.
pytest.importorskip('flatbuffers')

_RUN = """
import sys
import jax, numpy as np
from jaxsparse import export

exported = export.load(sys.argv[1])
run = export.deserialize(exported.program)
for size in (1, 5):
  y = run(exported.params, np.full((size, 40), 0.5, np.float32), np.arange(size))
  np.save(f'{sys.argv[1]}.{size}.npy', y)
rooms = ('bayes', 'compact', 'layers', 'rules', 'training', 'transforms')
found = {f'jaxsparse.{r}' for r in rooms} | {'flax', 'optax', 'orbax'}
print('loaded', *found & set(sys.modules))
"""


class _Net(nn.Module):
  @nn.compact
  def __call__(self, x, ids):
    x = nn.relu(nn.Dense(32, name='dense')(x)) + nn.Embed(30, 32, name='embed')(ids)
    return nn.Dense(3, name='head')(x)


def _start():
  """`(dense params, masks, sparse params)`."""
  inputs = jnp.ones((1, 40)), jnp.array([0])
  params = jax.jit(_Net().init)(jax.random.key(0), *inputs)['params']
  # One with a product by rows, one that is dense enough for a dense one.
  drawn = {
    'dense/kernel': np.random.default_rng(0).random((40, 32)) < 0.05,
    'embed/embedding': np.random.default_rng(1).random((30, 32)) < 0.5,
  }
  masks = js.masks.from_named(params, drawn)
  params = js.masks.apply(masks, params)
  sparse = lambda m, p: js.sparse.from_mask(p, m) if m.ndim else p
  return params, masks, jax.tree.map(sparse, masks, params)


def _forward(backend=None):
  run = js.layers.bind(_Net(), js.compact.handler(backend))
  return lambda params, x, ids: run({'params': params}, x, ids)


def test_a_program_runs_without_the_code_that_made_it(tmp_path):
  params, masks, weights = _start()
  (n,) = jax.export.symbolic_shape('n')
  x = jax.ShapeDtypeStruct((n, 40), jnp.float32)
  ids = jax.ShapeDtypeStruct((n,), jnp.int32)
  program = js.export.serialize(_forward(), weights, x, ids)
  assert isinstance(program, js.export.Program)
  assert program.calls == () and program.library is None
  assert program.platforms == ('cpu',)
  path = tmp_path / 'model.safetensors'
  js.export.save(path, params, masks, program=program)
  assert js.export.load(path).program == program
  command = [sys.executable, '-c', _RUN, str(path)]
  run = subprocess.run(command, capture_output=True, text=True, check=True)
  assert run.stdout.split() == ['loaded']
  for size in (1, 5):
    x = np.full((size, 40), 0.5, np.float32)
    want = _Net().apply({'params': params}, x, np.arange(size))
    got = np.load(f'{path}.{size}.npy')
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_a_program_with_kernels_names_them():
  params, _, weights = _start()
  inputs = jnp.full((8, 40), 0.5), jnp.arange(8)
  if not js.native.available():
    pytest.skip(js.native.why_not())
  with pytest.raises(ValueError, match='apply_fn: it calls the kernels jaxsparse_forw'):
    js.export.serialize(_forward('cpu'), weights, *inputs)
  program = js.export.serialize(_forward('cpu'), weights, *inputs, kernels=True)
  assert program.library == 'jaxsparse.native'
  assert program.calls == ('jaxsparse_forward', 'jaxsparse_take')
  assert set(program.calls) < set(js.native.CALLS)
  got = js.export.deserialize(program)(weights, *inputs)
  want = _Net().apply({'params': params}, *inputs)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
  with pytest.raises(ValueError, match=r"platforms: \('cuda',\) with kernels=True"):
    js.export.serialize(
      _forward('cpu'), weights, *inputs, kernels=True, platforms=('cuda',)
    )
  strange = program._replace(calls=('jaxsparse_fft',))
  with pytest.raises(ValueError, match='jaxsparse.native has no jaxsparse_fft'):
    js.export.deserialize(strange)


def test_a_program_of_nm_weights():
  fmt = js.sparse.Format((16, 6), nm=(1, 4))
  mask = np.random.default_rng(0).random((4, 4, 6)).argsort(1).reshape(16, 6) < 1
  weight = js.sparse.from_mask(np.ones((16, 6), np.float32), mask, format=fmt)
  product = lambda weight, x: js.sparse.matmul(x, weight)
  program = js.export.serialize(product, weight, jnp.ones((2, 16)))
  got = js.export.deserialize(program)(weight, jnp.ones((2, 16)))
  np.testing.assert_array_equal(got, np.full((2, 6), 4.0))


def test_a_program_whose_kernels_are_not_there_is_refused(monkeypatch):
  program = js.export.Program(b'', 'jaxsparse.native', ('jaxsparse_take',), ('cpu',))
  monkeypatch.setattr('jaxsparse.native.why_not', lambda: 'it was not built')
  with pytest.raises(ValueError, match='calls jaxsparse_take of .*; it was not built'):
    js.export.deserialize(program)


def test_without_kernels_the_choice_is_plain_jax():
  mask = np.random.default_rng(0).random((64, 64)) < 0.05
  pattern = js.sparse.from_mask(np.ones((64, 64)), mask).pattern
  with js.native.without():
    assert js.sparse.choose_backend(pattern, 128) == 'reference'
    assert not js.native.stays_whole()

"""Loading: what is chosen, what is said when nothing can be loaded."""

import os
import subprocess
import sys

import pytest

import jaxsparse as js
from jaxsparse.native import _library


def run(code, **env):
  return subprocess.run(
    [sys.executable, '-c', code],
    env={**os.environ, 'JAXSPARSE_NATIVE': '', **env},
    capture_output=True,
    text=True,
    check=True,
  )


@pytest.fixture
def fresh(monkeypatch):
  """The library is looked for anew, and again after the test."""
  monkeypatch.delenv('JAXSPARSE_NATIVE', raising=False)
  _library._load.cache_clear()
  yield monkeypatch
  monkeypatch.undo()
  _library._load.cache_clear()


def test_off_is_silent_and_falls_back(fresh, caplog):
  fresh.setenv('JAXSPARSE_NATIVE', 'off')
  assert not js.native.available() and not js.native.can_select((80, 80), (0, 1))
  assert js.native.why_not() == 'JAXSPARSE_NATIVE=off'
  assert js.native.instruction_set() is None
  assert not caplog.records


def test_a_library_that_is_not_there_is_said_once(fresh, caplog):
  fresh.setattr(_library.sysconfig, 'get_config_var', lambda name: '.nowhere.so')
  assert not js.native.available() and not js.native.available()
  assert js.native.why_not() == 'kernels.nowhere.so was not built'
  assert [r.levelname for r in caplog.records] == ['WARNING']
  assert 'JAXSPARSE_NATIVE=off' in caplog.text


@pytest.mark.skipif(not js.native.available(), reason='no library')
def test_a_library_for_a_newer_jax_is_not_registered(fresh, caplog):
  fresh.setattr(_library, '_ffi_version', lambda: (0, 1))
  fresh.setattr(_library, '_register', lambda library: pytest.fail('registered'))
  assert 'of the FFI, jax' in js.native.why_not()


def test_the_version_of_the_interface_is_found():
  assert len(_library._ffi_version()) == 2


def test_another_choice_is_refused(fresh):
  fresh.setenv('JAXSPARSE_NATIVE', 'sse')
  with pytest.raises(ValueError, match='JAXSPARSE_NATIVE=sse: wanted off, avx512'):
    js.native.available()


_CHECK = """
import jax.numpy as jnp, numpy as np, jaxsparse as js
if js.native.instruction_set() != {name!r}:
  print('absent')
else:
  scores = np.round(np.random.default_rng(0).normal(size=100_003), 3)
  for dtype in ('float32', 'bfloat16'):
    given = jnp.asarray(scores, dtype)
    keys = np.asarray(js.masks.ordered_keys(given)).astype(np.uint64)
    order = keys << np.uint64(32) | np.asarray(js.masks.hash_index(keys.shape))
    mask = js.native.select(given, jnp.int32(5000), 1)
    np.testing.assert_array_equal(np.asarray(mask), order >= np.sort(order)[-5000])
  print('ran')
"""


@pytest.mark.skipif(not js.native.available(), reason='no library')
@pytest.mark.parametrize('name', ['avx2', 'portable'])
def test_other_instruction_sets(name):
  out = run(_CHECK.format(name=name), JAXSPARSE_NATIVE=name).stdout.split()
  # Every machine has the portable kernels; the others may not be in this one.
  assert out == ['ran'] or (out == ['absent'] and name != 'portable')


def test_stays_whole_on_one_device(monkeypatch):
  monkeypatch.setattr(js.native._library.jax, 'device_count', lambda: 1)
  assert js.native.stays_whole() == (_library.jax.default_backend() == 'cpu')

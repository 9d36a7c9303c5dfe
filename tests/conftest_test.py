"""The promises of conftest.py: without them other tests would prove less."""

import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest


def test_there_are_eight_devices():
  assert jax.device_count() == 8


def test_rank_promotion_raises():
  with pytest.raises(ValueError, match='rank_promotion'):
    jnp.ones((2, 3)) + jnp.ones(3)


def test_a_warning_is_an_error():
  with pytest.raises(UserWarning, match='an error'):
    warnings.warn('an error', UserWarning, stacklevel=1)


def test_strict_dtypes_refuses_a_promotion(strict_dtypes):
  with pytest.raises(ValueError, match='strict'):
    jnp.ones(2, jnp.bfloat16) + jnp.ones(2, jnp.float32)


def test_dtypes_promote_elsewhere():
  total = jnp.ones(2, jnp.bfloat16) + jnp.ones(2, jnp.float32)
  assert total.dtype == jnp.float32


@pytest.mark.parametrize('_', range(2))
def test_numpy_starts_from_the_same_seed(_):
  np.testing.assert_allclose(np.random.rand(), 0.5488135)


def test_the_strict_rooms_are_strict(tmp_path, pytestconfig):
  # A copy of conftest over a folder that is strict and one that is not.
  conftest = (pytestconfig.rootpath / 'tests' / 'conftest.py').read_text()
  (tmp_path / 'conftest.py').write_text(conftest)
  body = (
    'import jax.numpy as jnp\n'
    'def test_x():\n'
    '  jnp.ones(2, jnp.bfloat16) + jnp.ones(2, jnp.float32)\n'
  )
  for room in ('masks', 'rules'):
    (tmp_path / room).mkdir()
    (tmp_path / room / 'x_test.py').write_text(body)
  run = subprocess.run(
    [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '--rootdir=.']
    + ['--import-mode=importlib', 'masks/x_test.py', 'rules/x_test.py'],
    cwd=tmp_path,
    capture_output=True,
    text=True,
  )
  assert '1 failed, 1 passed' in run.stdout, run.stdout + run.stderr
  assert 'FAILED masks/x_test.py::test_x' in run.stdout

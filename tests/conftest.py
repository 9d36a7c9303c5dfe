"""What every test runs under: strict JAX, eight fake devices, fixed seeds."""

import os
import pathlib
import random
import signal

# Before jax starts: the fake devices are CPUs, also in the processes tests start.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import hypothesis
import jax
import numpy as np
import pytest

# A shell's background jobs ignore SIGINT, and so would the processes that tests start
# and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')
if os.environ['JAX_PLATFORMS'] != 'cpu':
  # A GPU would multiply float32 with the 11 bits of TF32.
  jax.config.update('jax_default_matmul_precision', 'float32')

# Compilation makes the first example slow, and a failure must repeat itself.
hypothesis.settings.register_profile(
  'jaxsparse', deadline=None, derandomize=True, database=None
)
hypothesis.settings.load_profile('jaxsparse')

_TESTS = pathlib.Path(__file__).resolve().parent

# Rooms whose own arithmetic must not promote dtypes by accident. The others run
# optax's optimizers, which fail under strict promotion.
_STRICT = ('core', 'criteria', 'masks', 'schedules_test.py', 'sparse')


def _data_dir():
  for variable in ('JAXSPARSE_TEST_DATA', 'TFDS_DATA_DIR'):
    path = os.environ.get(variable)
    if path and pathlib.Path(path).is_dir():
      return pathlib.Path(path)
  return None


def pytest_collection_modifyitems(items):
  no_data = pytest.mark.skip(
    reason='needs JAXSPARSE_TEST_DATA or TFDS_DATA_DIR to name a folder of TFDS data'
  )
  for item in items:
    parts = item.path.relative_to(_TESTS).parts
    if parts[0] in _STRICT:
      # In front, so that what other fixtures compute is strict too.
      item.fixturenames.insert(0, 'strict_dtypes')
    if item.get_closest_marker('data') and _data_dir() is None:
      item.add_marker(no_data)


@pytest.fixture
def strict_dtypes():
  """Mixing dtypes raises, as `jax.numpy_dtype_promotion('strict')` says."""
  with jax.numpy_dtype_promotion('strict'):
    yield


@pytest.fixture
def data_dir():
  """The folder of prepared TFDS data sets; the test is skipped without one."""
  path = _data_dir()
  if path is None:
    pytest.skip('neither JAXSPARSE_TEST_DATA nor TFDS_DATA_DIR names a folder')
  return path


@pytest.fixture(autouse=True)
def fixed_seeds():
  random.seed(0)
  np.random.seed(0)

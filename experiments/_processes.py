"""Several processes that train one network together, on one machine or on many.

What `launch/multiprocess.sh`, `launch/slurm.sbatch` and `launch/tpu_pod.sh` set:

  JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID
      host:port of the first process, how many there are, and which one this is.
  JAXSPARSE_CLUSTER=auto
      instead of the three: ask SLURM, Open MPI or the TPU, as jax can.

Every process runs the whole program on the same data; a step takes a share of the batch
in each. The first process writes the files and says what happens. The run directory is
one that all of them see.
"""

import contextlib
import json
import logging
import os
import sys
import traceback

import jax
from jax.experimental import multihost_utils
import numpy as np

_NAMES = ('JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID')
# A process that waits for the report of the first one must not give it up.
_PATIENCE = 24 * 3600
# How long a dead machine goes unnoticed where no launcher sees it.
_HEARTBEAT = 30


def is_first() -> bool:
  """Whether this process writes; the only one does."""
  return jax.process_index() == 0


def from_first(value):
  """The first process's value of something that JSON holds; all have to ask together."""
  if jax.process_count() == 1:
    return value
  text = np.frombuffer(json.dumps(value).encode(), np.uint8)
  length = int(multihost_utils.broadcast_one_to_all(np.array(len(text))))
  held = text if is_first() else np.zeros(length, np.uint8)
  return json.loads(multihost_utils.broadcast_one_to_all(held).tobytes())


@contextlib.contextmanager
def joined():
  """Joins the processes of a run, if the environment names any; leaves them at the end.

  Raises:
    ValueError: a part of the environment is missing or is no number.
  """
  settings = _settings()
  if settings is None:
    yield
    return
  # jax would catch SIGTERM, which has to end a process that trains nothing.
  jax.config.update('jax_enable_preemption_service', False)
  logging.getLogger('jax._src.distributed').setLevel(logging.WARNING)
  jax.distributed.initialize(
    **settings,
    heartbeat_timeout_seconds=_HEARTBEAT,
    shutdown_timeout_seconds=_PATIENCE,
  )
  if not is_first():
    sys.stdout = open(os.devnull, 'w')
  try:
    yield
  except BaseException as error:
    _leave(error)


def _settings() -> dict | None:
  """The arguments of `jax.distributed.initialize`; None for a process by itself."""
  if os.environ.get('JAXSPARSE_CLUSTER') == 'auto':
    return {}
  given = {name: os.environ.get(name) for name in _NAMES}
  # jax's own launchers may set the address alone.
  if not (given['JAX_NUM_PROCESSES'] or given['JAX_PROCESS_ID']):
    return None
  for name, value in given.items():
    if not value:
      raise ValueError(f'{name}: not set, though {_set(given)} is.')
    if name != _NAMES[0] and not value.isdecimal():
      raise ValueError(f'{name}: got {value!r}, wanted a whole number.')
  address, number, index = given.values()
  if int(index) >= int(number):
    raise ValueError(
      f'JAX_PROCESS_ID: got {index}, wanted less than JAX_NUM_PROCESSES: {number}.'
    )
  return dict(
    coordinator_address=address,
    num_processes=int(number),
    process_id=int(index),
    cluster_detection_method='deactivate',
  )


def _set(given) -> str:
  return ' and '.join(name for name, value in given.items() if value)


def _leave(error: BaseException):
  """Ends a process that the others cannot go on without, at once.

  An ordinary exit would wait for them, and they for this process.
  """
  if isinstance(error, SystemExit) and not isinstance(error.code, str):
    if error.code in (None, 0, 143):  # All of them end so, together.
      raise error
    code = error.code
  else:
    code = 130 if isinstance(error, KeyboardInterrupt) else 1
    if isinstance(error, SystemExit):
      print(error.code, file=sys.stderr)
    elif isinstance(error, jax.errors.JaxRuntimeError) and 'Gloo' in str(error):
      # The traceback would bury the message of the process that went first.
      print('The connection to another process is lost.', file=sys.stderr)
    else:
      traceback.print_exception(error)
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)

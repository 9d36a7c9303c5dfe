"""The training step, pure, and the loop that runs it on one device or many."""

from jaxsparse.training._loop import (
  RunResult,
  replicate,
  run,
  shard_step,
)
from jaxsparse.training._step import (
  TrainState,
  init_state,
  make_step,
)

__all__ = (
  'RunResult',
  'TrainState',
  'init_state',
  'make_step',
  'replicate',
  'run',
  'shard_step',
)

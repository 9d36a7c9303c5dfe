"""Checkpoints that survive kills, full disks and flipped bits; Orbax underneath."""

from jaxsparse.checkpoint._signals import SignalGuard, sigterm_guard
from jaxsparse.checkpoint._step import Restored
from jaxsparse.checkpoint._store import CheckpointError, Checkpoints, open_dir

__all__ = (
  'CheckpointError',
  'Checkpoints',
  'Restored',
  'SignalGuard',
  'open_dir',
  'sigterm_guard',
)

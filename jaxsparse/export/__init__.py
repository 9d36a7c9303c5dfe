"""Sparse models in a file, and as programs that run without their Python code."""

from jaxsparse.export._artefact import Exported, load, save
from jaxsparse.export._program import Program, deserialize, serialize

__all__ = (
  'Exported',
  'Program',
  'deserialize',
  'load',
  'save',
  'serialize',
)

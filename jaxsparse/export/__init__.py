"""Sparse models in a file, and as programs that run without their Python code.

For ONNX there is jax2onnx, a well-kept exporter, and no extra of ours: jax2onnx 0.17 wants
an orbax-checkpoint older than ours. Installed with `pip install --no-deps` beside what it
imports, it works on the dense model with its zeros,

    jax2onnx.to_onnx(lambda x: model.apply({'params': params}, x), [('batch', 784)])

where params are those of `js.compact.densify`. It replaces Flax's layers by its own, so it
cannot see through `js.layers.bind`, and an ONNX runtime multiplies by the zeros.
"""

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

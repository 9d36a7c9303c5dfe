"""Image-classification data in memory, its batches and its augmentation.

The `digits` data set is a real TFDS builder: `from experiments.datasets import digits`
makes it known to `tfds.data_source`.
"""

from experiments.datasets._augment import augment, normalize
from experiments.datasets._batches import batch_indices, epoch_order
from experiments.datasets._load import Data, load

__all__ = (
  'Data',
  'augment',
  'batch_indices',
  'epoch_order',
  'load',
  'normalize',
)

"""Image-classification data in memory, its batches, augmentation and corruption.

The `digits` data set is a real TFDS builder: `from experiments.datasets import digits`
makes it known to `tfds.data_source`.
"""

from experiments.datasets._augment import augment, normalize
from experiments.datasets._batches import batch_indices, epoch_order
from experiments.datasets._corruptions import CORRUPTIONS, corrupt
from experiments.datasets._load import Data, load
from experiments.datasets._outside import outside

__all__ = (
  'CORRUPTIONS',
  'Data',
  'augment',
  'batch_indices',
  'corrupt',
  'epoch_order',
  'load',
  'normalize',
  'outside',
)

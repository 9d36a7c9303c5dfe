"""Data in memory: images, batches, patches, augmentation, corruption; regression sets.

The `digits` data set is a real TFDS builder: `from experiments.datasets import digits`
makes it known to `tfds.data_source`.
"""

from experiments.datasets._augment import augment, normalize
from experiments.datasets._batches import batch_indices, epoch_order
from experiments.datasets._bicubic import resize
from experiments.datasets._corruptions import CORRUPTIONS, corrupt
from experiments.datasets._load import Data, load
from experiments.datasets._outside import outside
from experiments.datasets._patches import patches
from experiments.datasets._photographs import Photographs, photographs
from experiments.datasets._regression import (
  REGRESSION_SETS,
  RegressionData,
  Standardized,
  load_regression,
  standardize,
)

__all__ = (
  'CORRUPTIONS',
  'Data',
  'Photographs',
  'REGRESSION_SETS',
  'RegressionData',
  'Standardized',
  'augment',
  'batch_indices',
  'corrupt',
  'epoch_order',
  'load',
  'load_regression',
  'normalize',
  'outside',
  'patches',
  'photographs',
  'resize',
  'standardize',
)

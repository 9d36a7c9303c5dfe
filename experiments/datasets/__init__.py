"""Data in memory: images, photographs, their batches and changes; tables; ratings.

The `digits` data set is a real TFDS builder: `from experiments.datasets import digits`
makes it known to `tfds.data_source`.
"""

from experiments.datasets._augment import augment, normalize
from experiments.datasets._batches import batch_indices, epoch_order
from experiments.datasets._bicubic import resize
from experiments.datasets._corruptions import CORRUPTIONS, corrupt
from experiments.datasets._load import Data, load
from experiments.datasets._negatives import (
  evaluation_negatives,
  padded_lists,
  pair_codes,
  sample_negatives,
)
from experiments.datasets._outside import outside
from experiments.datasets._patches import patches
from experiments.datasets._photographs import Photographs, photographs
from experiments.datasets._rating_splits import SPLITS, RatingSplit, split_ratings
from experiments.datasets._ratings import (
  RATING_SETS,
  Ratings,
  load_ratings,
  low_rank_ratings,
  read_ratings,
)
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
  'RATING_SETS',
  'REGRESSION_SETS',
  'RatingSplit',
  'Ratings',
  'RegressionData',
  'SPLITS',
  'Standardized',
  'augment',
  'batch_indices',
  'corrupt',
  'epoch_order',
  'evaluation_negatives',
  'load',
  'load_ratings',
  'load_regression',
  'low_rank_ratings',
  'normalize',
  'outside',
  'padded_lists',
  'pair_codes',
  'patches',
  'photographs',
  'read_ratings',
  'resize',
  'sample_negatives',
  'split_ratings',
  'standardize',
)

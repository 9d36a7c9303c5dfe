"""MNIST-1D (Greydanus and Kobak 2024): small signals that tell methods apart."""

import random

import numpy as np

from experiments.datasets import _arrays

_SEED = 42  # Of the published data set.


def make_mnist1d() -> _arrays.Arrays:
  """Computes the published 4,000 + 1,000 signals of 40 values; nothing is downloaded.

  Returns:
    The signals, float32 (N, 40, 1, 1).

  Raises:
    ValueError: the package is not installed.
  """
  try:
    from mnist1d import data
  except ImportError as error:
    raise ValueError(
      "dataset 'mnist1d' is made by a package: pip install mnist1d."
    ) from error
  # The package seeds the generators of the whole process.
  states = random.getstate(), np.random.get_state()
  try:
    args = data.get_dataset_args()
    args.seed = _SEED
    made = data.make_dataset(args)
  finally:
    random.setstate(states[0])
    np.random.set_state(states[1])
  signals = [made[k].astype(np.float32)[:, :, None, None] for k in ('x', 'x_test')]
  labels = [made[k].astype(np.int32) for k in ('y', 'y_test')]
  names = tuple(str(digit) for digit in range(10))
  return _arrays.Arrays(signals[0], labels[0], signals[1], labels[1], names)

"""Which examples make up which batch: pure functions of step and seed."""

import functools

import numpy as np


def epoch_order(num_examples: int, epoch: int, seed: int) -> np.ndarray:
  """The order in which one epoch visits the examples.

  Args:
    num_examples: how many examples there are.
    epoch: which pass over the data, from 0.
    seed: an int in [0, 2**63).

  Returns:
    int32 permutation of `range(num_examples)`, not to be written to; the same in
    every process and with every version of NumPy.

  Raises:
    ValueError: a negative argument, or no example.

  Example:
    >>> from experiments import datasets
    >>> sorted(datasets.epoch_order(4, epoch=0, seed=0).tolist())
    [0, 1, 2, 3]
  """
  if num_examples < 1 or epoch < 0 or not 0 <= seed < 2**63:
    raise ValueError(
      f'num_examples={num_examples}, epoch={epoch}, seed={seed}: want at least one'
      ' example, epoch >= 0 and 0 <= seed < 2**63.'
    )
  return _epoch_order(int(num_examples), int(epoch), int(seed))


# A step needs the order of its epoch, and an epoch has many steps.
@functools.lru_cache(maxsize=8)
def _epoch_order(num_examples: int, epoch: int, seed: int) -> np.ndarray:
  # NumPy promises the raw words of a bit generator for ever, `permutation` not.
  words = np.random.Philox(key=[seed, epoch]).random_raw(num_examples)
  order = np.argsort(words, kind='stable').astype(np.int32)
  order.flags.writeable = False
  return order


def batch_indices(
  num_examples: int, batch_size: int, step: int, seed: int
) -> np.ndarray:
  """The examples of one training step.

  An epoch has `num_examples // batch_size` steps; the rest of its order is dropped,
  and the next epoch drops others. Nothing needs saving for a resumed run but `step`.

  Args:
    num_examples: how many examples there are.
    batch_size: how many of them a step takes, over all devices.
    step: the global step, from 0.
    seed: an int in [0, 2**63).

  Returns:
    int32 (batch_size,), all different.

  Raises:
    ValueError: a batch larger than the data, or a negative step.

  Example:
    >>> from experiments import datasets
    >>> datasets.batch_indices(10, 4, step=1, seed=0).shape
    (4,)
  """
  if not 1 <= batch_size <= num_examples or step < 0:
    raise ValueError(
      f'batch_size={batch_size}, step={step}: want 1 <= batch_size <= num_examples ='
      f' {num_examples} and step >= 0.'
    )
  epoch, index = divmod(int(step), num_examples // batch_size)
  order = epoch_order(num_examples, epoch, seed)
  return order[index * batch_size : (index + 1) * batch_size]

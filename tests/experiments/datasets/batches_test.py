"""The order of the examples."""

import subprocess
import sys

import numpy as np
import pytest

from experiments import datasets


def test_an_order_is_a_permutation_of_its_own_for_each_epoch_and_seed():
  orders = [datasets.epoch_order(50, e, s) for e, s in ((0, 0), (1, 0), (0, 1), (1, 1))]
  for order in orders:
    assert order.dtype == np.int32
    np.testing.assert_array_equal(np.sort(order), np.arange(50))
  assert len({order.tobytes() for order in orders}) == 4


def test_the_order_is_the_same_in_another_process_and_for_ever():
  golden = [2, 5, 7, 3, 0, 6, 4, 1]
  assert datasets.epoch_order(8, 3, 7).tolist() == golden
  code = (
    'from experiments import datasets; print(datasets.epoch_order(8, 3, 7).tolist())'
  )
  out = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  assert out.stdout.strip() == str(golden)


def test_orders_are_uniform():
  counts = np.zeros((4, 4))
  for epoch in range(2000):
    counts[np.arange(4), datasets.epoch_order(4, epoch, 0)] += 1
  # Each cell is binomial with mean 500 and deviation 19.4; five of them.
  assert np.abs(counts - 500).max() < 97


def test_batches_of_an_epoch_are_the_order_without_its_rest():
  batches = [datasets.batch_indices(10, 3, step, 5) for step in range(6)]
  first = np.concatenate(batches[:3])
  second = np.concatenate(batches[3:])
  np.testing.assert_array_equal(first, datasets.epoch_order(10, 0, 5)[:9])
  np.testing.assert_array_equal(second, datasets.epoch_order(10, 1, 5)[:9])


def test_a_batch_depends_on_its_step_alone():
  late = datasets.batch_indices(100, 10, 57, 0)
  for step in range(60):
    datasets.batch_indices(100, 10, step, 0)
  np.testing.assert_array_equal(late, datasets.batch_indices(100, 10, 57, 0))


def test_a_cached_order_cannot_be_spoilt():
  with pytest.raises(ValueError, match='read-only'):
    datasets.epoch_order(10, 0, 0)[0] = 3
  with pytest.raises(ValueError, match='read-only'):
    datasets.batch_indices(10, 5, 0, 0)[0] = 3


@pytest.mark.parametrize('batch_size', [0, 11])
def test_a_batch_size_that_does_not_fit_is_refused(batch_size):
  with pytest.raises(ValueError, match=f'batch_size={batch_size}.*= 10'):
    datasets.batch_indices(10, batch_size, 0, 0)


@pytest.mark.parametrize('arguments', [(0, 0, 0), (5, -1, 0), (5, 0, -1)])
def test_a_negative_argument_is_refused(arguments):
  with pytest.raises(ValueError, match='want at least one example'):
    datasets.epoch_order(*arguments)

"""Overlap, SAD and exploration, against counts done by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse as js


def _masks(kernel, head):
  return {
    'bias': jnp.ones((), bool),
    'head': jnp.array(head, bool),
    'kernel': jnp.array(kernel, bool),
  }


def _pair():
  a = _masks([[1, 1, 0], [0, 0, 0]], [[1, 1]])
  b = _masks([[1, 0, 1], [1, 0, 0]], [[0, 1]])
  # The head's mask holds one bool per output for 10 x 2 weights.
  params = {'bias': jnp.ones(3), 'head': jnp.ones((10, 2)), 'kernel': jnp.ones((2, 3))}
  return a, b, params


def test_overlap_by_hand():
  a, b, params = _pair()
  found = js.summary.overlap(a, b, params)
  assert found == js.summary.Overlap(
    leaves={'head': 0.5, 'kernel': 0.25}, total=11 / 24, num_shared=11, num_either=24
  )
  assert js.summary.overlap(b, a, params) == found
  assert js.summary.overlap(a, a, params).total == 1


def test_without_parameters_a_mask_counts_as_stored():
  a, b, _ = _pair()
  found = js.summary.overlap(a, b)
  assert found.leaves == {'head': 0.5, 'kernel': 0.25}
  assert (found.num_shared, found.num_either) == (1 + 1, 2 + 4)


def test_sad_by_hand():
  a, b, params = _pair()
  found = js.summary.sad(a, b, params)
  assert found.leaves == {'head': 10, 'kernel': 3}
  assert (found.total, found.share) == (13, 13 / 26)
  assert js.summary.sad(a, a).total == 0


def test_a_leaf_that_one_tree_does_not_prune():
  dense = {'kernel': jnp.ones((), bool)}
  sparse = {'kernel': jnp.array([[True, False, False, False]])}
  assert js.summary.overlap(dense, sparse).leaves == {'kernel': 0.25}
  assert js.summary.sad(dense, sparse).total == 3
  assert js.summary.sad(dense, dense) == js.summary.Sad({}, 0, 0.0)


def test_empty_sets_agree():
  nothing = {'kernel': jnp.zeros((2, 3), bool)}
  assert js.summary.overlap(nothing, nothing).total == 1
  assert js.summary.overlap({}, {}).total == 1


def test_counts_are_exact_above_what_float32_counts():
  size = 2**24 + 3
  a, b = {'kernel': np.ones(size, bool)}, {'kernel': np.zeros(size, bool)}
  assert js.summary.sad(a, b).total == size
  assert js.summary.exploration(a).total == 1


def test_exploration_accumulates_as_a_loop_over_sets_does():
  keys = jax.random.split(jax.random.key(0), 6)
  steps = [{'a': jax.random.bernoulli(k, 0.2, (9, 7))} for k in keys]
  ever, seen, shares = None, set(), []
  for masks in steps:
    ever = jax.jit(js.summary.ever_active)(ever, masks)
    seen |= set(np.flatnonzero(masks['a']).tolist())
    shares.append(js.summary.exploration(ever).total)
    assert shares[-1] == len(seen) / 63
  assert shares == sorted(shares) and shares[0] < shares[-1]


def test_exploration_counts_weights_of_pruned_leaves_only():
  a, b, params = _pair()
  ever = js.summary.ever_active(js.summary.ever_active(None, a), b)
  assert ever['bias'].ndim == 0
  found = js.summary.exploration(ever, params)
  assert found == js.summary.Share({'head': 1, 'kernel': 4 / 6}, 24 / 26)


def test_ever_active_survives_the_donation_of_the_masks():
  masks = {'a': jnp.array([True, False])}
  ever = js.summary.ever_active(None, masks)
  masks['a'].delete()
  assert ever['a'].tolist() == [True, False]


def test_foreign_trees_are_refused():
  a, b, params = _pair()
  with pytest.raises(ValueError, match='masks_b: has the structure'):
    js.summary.overlap(a, {'kernel': b['kernel']})
  with pytest.raises(ValueError, match=r'kernel has shape \(3, 3\)'):
    js.summary.sad(a, b | {'kernel': jnp.ones((3, 3), bool)})
  with pytest.raises(ValueError, match=r'mask of kernel has shape \(2, 3\)'):
    js.summary.exploration(a, params | {'kernel': jnp.ones((3, 2))})

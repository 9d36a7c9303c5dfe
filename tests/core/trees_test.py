"""Names, keys and counts."""

from typing import Any, NamedTuple

from flax import linen as nn
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse as js

core = js.core

WANTED = ['dense1/bias', 'dense1/kernel', 'dense2/bias', 'dense2/kernel']


class Linen(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.Dense(2, name='dense2')(nn.Dense(4, name='dense1')(x))


class Nnx(nnx.Module):
  def __init__(self, rngs):
    self.dense1 = nnx.Linear(3, 4, rngs=rngs)
    self.dense2 = nnx.Linear(4, 2, rngs=rngs)


@pytest.fixture(scope='module')
def module():
  with jax.numpy_dtype_promotion('standard'):
    return Nnx(nnx.Rngs(0))


def _names(tree):
  return core.named_leaves(tree)[0]


def test_names_are_equal_in_linen_and_nnx(module):
  with jax.numpy_dtype_promotion('standard'):
    params = Linen().init(jax.random.key(0), jnp.ones((1, 3)))['params']
  assert _names(params) == WANTED
  assert _names(nnx.state(module, nnx.Param)) == WANTED
  assert _names(module) == WANTED
  assert _names(nnx.to_pure_dict(nnx.state(module, nnx.Param))) == WANTED


def test_names_of_other_containers():
  class Pair(NamedTuple):
    weight: int
    bias: int

  assert _names(1.0) == ['param']
  assert _names((1.0, [2.0, 3.0])) == ['0', '1/0', '1/1']
  assert _names({'layer': Pair(1, 2)}) == ['layer/weight', 'layer/bias']
  assert _names({}) == []


def test_a_field_called_value_is_dropped_of_boxes_only(module):
  class Pair(NamedTuple):
    key: Any
    value: Any

  assert _names({'layer': Pair(1, 2)}) == ['layer/key', 'layer/value']
  # Also in one tree with boxes, of NNX and of Linen.
  boxed = nn.Partitioned(jnp.ones(2), (None,))
  tree = {'a': Pair(boxed, 2), 'b': nnx.state(module, nnx.Param)}
  assert _names(tree) == ['a/key', 'a/value', *(f'b/{name}' for name in WANTED)]


def test_a_dict_key_called_value_is_kept_in_the_middle():
  names = _names({'attention': {'value': {'kernel': 1.0}, 'key': {'kernel': 2.0}}})
  assert names == ['attention/key/kernel', 'attention/value/kernel']


def test_named_leaves_rebuilds_the_tree(module):
  names, leaves, treedef = core.named_leaves(module)
  again = treedef.unflatten(leaves)
  assert jax.tree.structure(again) == jax.tree.structure(module)
  assert len(names) == len(leaves) == treedef.num_leaves


def test_named_subset_keeps_only_what_is_named():
  tree = {'a': {'x': 1, 'y': 2}, 'b': 3}
  assert core.named_subset(tree, {'a/y', 'b'}) == {'a/y': 2, 'b': 3}


def test_as_key_takes_int_tracer_and_key():
  key = jax.random.key(7)
  assert core.as_key(7) == key
  assert core.as_key(key) is key
  assert jax.jit(core.as_key)(jnp.int32(7)) == key
  assert jax.jit(core.as_key)(key) == key


def test_leaf_key_is_the_same_in_every_process_and_differs_by_name():
  key = jax.random.key(0)
  # crc32 of the name, written out: a hash that changes would change all masks.
  assert core.leaf_key(key, 'dense/kernel') == jax.random.fold_in(key, 0x3AECBC13)
  assert core.leaf_key(key, 'dense/kernel') != core.leaf_key(key, 'dense1/kernel')
  assert core.leaf_key(key, 'a') != core.leaf_key(jax.random.key(1), 'a')


def test_count_true_beyond_what_float32_counts():
  # float32 sums stop at 2**24; this one has three more.
  mask = jnp.ones(2**24 + 3, bool)
  assert int(jax.jit(core.count_true)(mask)) == 2**24 + 3
  assert core.count_true(mask).dtype == jnp.int32


def test_count_true_beyond_float32_in_several_axes():
  mask = jnp.broadcast_to(jnp.array([True, True, False]), (2**11 + 1, 2**13, 3))
  assert int(jax.jit(core.count_true)(mask)) == (2**11 + 1) * 2**13 * 2


@pytest.mark.parametrize('axes', [(), (0,), (2,), (0, 2), (2, 1), (0, 1, 2)])
def test_count_true_along_axes(axes):
  mask = np.random.RandomState(0).rand(3, 4, 5) < 0.4
  counts = core.count_true(jnp.asarray(mask), axes)
  assert counts.dtype == jnp.int32
  np.testing.assert_array_equal(counts, mask.sum(axis=axes, keepdims=True))


@pytest.mark.parametrize('shape', [(), (0,), (0, 3)])
def test_count_true_of_scalars_and_empty(shape):
  assert int(core.count_true(jnp.ones(shape, bool))) == np.prod(shape)


def test_kept_weights_of_broadcast_masks():
  param = jnp.zeros((4, 6))
  assert int(core.kept_weights(jnp.ones((), bool), param)) == 24
  assert int(core.kept_weights(jnp.array([[True, False] * 3]), param)) == 12
  assert int(core.kept_weights(jnp.eye(4, 6, dtype=bool), param)) == 4
  assert int(core.kept_weights(jnp.ones((), bool), jnp.zeros((0, 3)))) == 0


def test_a_dict_entry_called_value_keeps_its_name():
  tree = {'attention': {'key': jnp.ones(1), 'value': jnp.ones(1)}}
  assert core.named_leaves(tree)[0] == ['attention/key', 'attention/value']


@pytest.mark.parametrize(
  'seed', [0.5, '0', True, jnp.float32(1), jax.random.PRNGKey(0)]
)
def test_another_seed_is_refused(seed):
  with pytest.raises(ValueError, match='seed=.*wanted an int'):
    core.as_key(seed)

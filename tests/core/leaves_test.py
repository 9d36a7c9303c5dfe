"""Leaf, the conventions for axes, and the choice of what is pruned."""

import dataclasses

from flax import linen as nn
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse as js

core = js.core


class Net(nn.Module):
  """One layer of every kind that the conventions know."""

  @nn.compact
  def __call__(self, x):
    x = nn.Conv(6, (3, 2), name='conv2d')(x)
    x = nn.LayerNorm(name='norm')(x.reshape(x.shape[0], -1, 6))
    x = nn.Conv(8, (5,), name='conv1d')(x)
    x = nn.MultiHeadDotProductAttention(2, name='attention')(x)
    x = x + nn.Embed(3, 8, name='embed')(jnp.zeros(x.shape[:2], int))
    return nn.Dense(4, name='dense')(x)


@pytest.fixture(scope='module')
def net_leaves():
  # Flax's own layers promote dtypes.
  with jax.numpy_dtype_promotion('standard'):
    shapes = jax.eval_shape(Net().init, jax.random.key(0), jnp.ones((1, 4, 4, 3)))
  return core.leaves_of(shapes['params'])


@pytest.mark.parametrize(
  'name, shape, in_axes, out_axes, fan_in, fan_out',
  [
    ('conv2d/kernel', (3, 2, 3, 6), (2,), (3,), 18, 36),
    ('conv1d/kernel', (5, 6, 8), (1,), (2,), 30, 40),
    ('attention/query/kernel', (8, 2, 4), (0,), (1, 2), 8, 8),
    ('attention/value/kernel', (8, 2, 4), (0,), (1, 2), 8, 8),
    ('attention/out/kernel', (2, 4, 8), (0, 1), (2,), 8, 8),
    ('dense/kernel', (8, 4), (0,), (1,), 8, 4),
    ('dense/bias', (4,), (), (), 4, 4),
  ],
)
def test_axes_follow_flax(net_leaves, name, shape, in_axes, out_axes, fan_in, fan_out):
  leaf = net_leaves[name]
  assert leaf.shape == shape
  assert (leaf.in_axes, leaf.out_axes, leaf.stack_axes) == (in_axes, out_axes, ())
  assert (leaf.fan_in, leaf.fan_out) == (fan_in, fan_out)
  assert leaf.size == np.prod(shape)


def _shapes(**kernels):
  """A tree of `<layer>/kernel` and, where a shape is given for it, `<layer>/bias`."""
  make = lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32)
  return {
    name: {'kernel': make(kernel)} | ({'bias': make(bias)} if bias else {})
    for name, (kernel, bias) in kernels.items()
  }


@pytest.mark.parametrize('stack', [(), (4,)])
def test_convolutions_named_as_attention_are_convolutions(stack):
  def axes(**kernels):
    kernels = {n: (stack + k, b and stack + b) for n, (k, b) in kernels.items()}
    leaves = core.leaves_of(_shapes(**kernels), {'*': js.stacked()} if stack else None)
    first = len(stack)
    return {
      n.split('/')[0]: tuple(
        tuple(a - first for a in axes) for axes in (x.in_axes, x.out_axes)
      )
      for n, x in leaves.items()
      if n.endswith('kernel')
    }

  conv, query, out = ((1,), (2,)), ((0,), (1, 2)), ((0, 1), (2,))
  # One bias per feature, not per head; or no bias, and nothing that fits beside it.
  assert axes(query=((5, 6, 8), (8,)), out=((5, 8, 8), (8,))) == dict(
    query=conv, out=conv
  )
  assert axes(query=((5, 6, 8), ()), value=((5, 6, 8), ())) == dict(
    query=conv, value=conv
  )
  assert axes(out=((5, 6, 8), ())) == dict(out=conv)
  # Attention of eight features in two heads, also with parts of it left out.
  assert axes(query=((8, 2, 4), (2, 4))) == dict(query=query)
  assert axes(value=((8, 2, 4), ()), out=((2, 4, 8), ())) == dict(value=query, out=out)


def test_kernels_are_the_weight_matrices_only(net_leaves):
  chosen = [name for name, leaf in net_leaves.items() if js.kernels(leaf)]
  assert chosen == [
    'attention/key/kernel',
    'attention/out/kernel',
    'attention/query/kernel',
    'attention/value/kernel',
    'conv1d/kernel',
    'conv2d/kernel',
    'dense/kernel',
  ]


def test_kernels_except_takes_several_patterns(net_leaves):
  keep = js.kernels_except('attention/*', 'dense/kernel')
  chosen = [name for name, leaf in net_leaves.items() if keep(leaf)]
  assert chosen == ['conv1d/kernel', 'conv2d/kernel']


def test_integer_and_bool_matrices_are_no_kernels():
  params = {'table': jnp.ones((2, 2), jnp.int32), 'flags': jnp.ones((2, 2), bool)}
  assert core.prunable_leaves(params, js.kernels) == {}


def test_bfloat16_kernels_are_kernels():
  params = {'kernel': jnp.ones((2, 2), jnp.bfloat16)}
  assert list(core.prunable_leaves(params, js.kernels)) == ['kernel']


def test_spatial_axes_and_slices():
  leaf = js.Leaf('k', (4, 3, 3, 8, 6), stack_axes=(0,), in_axes=(3,), out_axes=(4,))
  assert leaf.unit_axes == (1, 2, 3, 4)
  assert leaf.spatial_axes == (1, 2)
  assert leaf.num_slices == 4
  assert (leaf.fan_in, leaf.fan_out) == (72, 54)


@pytest.mark.parametrize(
  'axes', [{'in_axes': (2,)}, {'in_axes': (0,), 'out_axes': (0,)}, {'out_axes': (-1,)}]
)
def test_leaf_refuses_bad_axes(axes):
  with pytest.raises(ValueError, match=r'dense/kernel.*shape \(3, 4\)'):
    js.Leaf('dense/kernel', (3, 4), **axes)


@pytest.mark.parametrize(
  'name, shape, in_axes, out_axes',
  [
    ('blocks/dense/kernel', (4, 8, 6), (1,), (2,)),
    ('blocks/conv/kernel', (4, 3, 3, 8, 6), (3,), (4,)),
    ('blocks/attention/query/kernel', (4, 8, 2, 3), (1,), (2, 3)),
    ('blocks/attention/out/kernel', (4, 2, 3, 8), (1, 2), (3,)),
    ('blocks/norm/scale', (4, 8), (), ()),
  ],
)
def test_stacked_shifts_the_conventions(name, shape, in_axes, out_axes):
  leaf = js.stacked()(js.Leaf(name, shape))
  assert (leaf.stack_axes, leaf.in_axes, leaf.out_axes) == ((0,), in_axes, out_axes)
  assert leaf.num_slices == 4


def test_stacked_twice():
  leaf = js.stacked(2)(js.Leaf('kernel', (2, 3, 8, 6)))
  assert (leaf.num_slices, leaf.fan_in, leaf.fan_out) == (6, 8, 6)


def test_overrides_take_a_leaf_or_a_function_and_the_first_pattern_wins():
  params = {'a': jnp.ones((2, 3)), 'b': jnp.ones((2, 3)), 'c': jnp.ones((2, 3))}
  swapped = js.Leaf('any', (2, 3), in_axes=(1,), out_axes=(0,))
  flat = lambda leaf: dataclasses.replace(leaf, in_axes=(), out_axes=())
  leaves = core.leaves_of(params, {'a': swapped, '[ab]': flat})
  assert (leaves['a'].name, leaves['a'].in_axes) == ('a', (1,))
  assert leaves['b'].out_axes == ()
  assert leaves['c'].out_axes == (1,)


def test_override_of_another_shape_is_refused():
  with pytest.raises(ValueError, match=r'kernel has shape \(2, 3\).*\(3, 2\)'):
    core.leaves_of({'kernel': jnp.ones((2, 3))}, {'kernel': js.Leaf('k', (3, 2))})


@pytest.mark.parametrize(
  'call, what',
  [
    (lambda p: core.leaves_of(p, {'dens/*': js.stacked()}), 'leaves'),
    (lambda p: core.prunable_leaves(p, 'dens/*'), 'prunable'),
    (lambda p: core.prunable_leaves(p, ('dense/kernel', 'dens/*')), 'prunable'),
    (
      lambda p: _static(js.kernels_except('dense/*', 'dens/*')).init(p),
      'kernels_except',
    ),
    (lambda p: core.match({'dens/*': 1}, ['dense/kernel'], 'sparsity'), 'sparsity'),
  ],
)
def test_a_pattern_without_a_leaf_is_refused(call, what):
  with pytest.raises(ValueError, match=rf"{what}.*'dens/\*'.*dense/kernel"):
    call({'dense': {'kernel': jnp.ones((2, 2))}})


def _static(prunable):
  return js.transforms.static(optax.sgd(0.1), 0.5, seed=0, prunable=prunable)


def test_a_name_is_no_pattern():
  names = ['block[0]', 'block0', 'x']
  found = core.match({'block[0]': 1, 'block*': 2, '*': 3}, names, 'sparsity')
  assert found == {'block[0]': 1, 'block0': 2, 'x': 3}
  leaf = js.Leaf('block[0]', (2, 3), in_axes=(0,), out_axes=(1,))
  assert not js.kernels_except('block[0]')(leaf)


def test_prunable_keeps_the_order_of_the_tree_and_skips_empty_leaves():
  params = {'b': jnp.ones((2, 2)), 'a': jnp.ones((2, 2)), 'empty': jnp.ones((0, 2))}
  assert list(core.prunable_leaves(params, ('b', '*'))) == ['a', 'b']


def test_prunable_pattern_may_choose_what_is_no_kernel():
  params = {'embedding': jnp.ones((5, 2)), 'kernel': jnp.ones((2, 2))}
  assert list(core.prunable_leaves(params, 'embedding')) == ['embedding']


def test_a_leaf_beyond_int32_is_refused():
  params = {'kernel': jax.ShapeDtypeStruct((2**16, 2**15), jnp.float32)}
  with pytest.raises(ValueError, match='kernel: 2147483648 weights'):
    core.prunable_leaves(params, js.kernels)


def test_scalars_are_leaves_but_no_kernels():
  params = {'temperature': jnp.ones(())}
  leaf = core.leaves_of(params)['temperature']
  assert (leaf.size, leaf.num_slices, js.kernels(leaf)) == (1, 1, False)


def test_empty_tree():
  assert core.leaves_of({}) == {}
  assert core.prunable_leaves({}, js.kernels) == {}


def test_nnx_leaves_equal_linen_leaves():
  class Nnx(nnx.Module):
    def __init__(self, rngs):
      self.dense = nnx.Linear(3, 4, rngs=rngs)

  class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
      return nn.Dense(4, name='dense')(x)

  with jax.numpy_dtype_promotion('standard'):
    module = Nnx(nnx.Rngs(0))
    params = Linen().init(jax.random.key(0), jnp.ones((1, 3)))['params']
  state = nnx.state(module, nnx.Param)
  assert core.leaves_of(state) == core.leaves_of(params) == core.leaves_of(module)


def test_two_leaves_of_one_name_are_refused():
  params = {'a': {'b/kernel': jnp.ones(2)}, 'a/b': {'kernel': jnp.ones(2)}}
  with pytest.raises(ValueError, match='several leaves are called a/b/kernel'):
    core.leaves_of(params)


@pytest.mark.parametrize('given', [1, js.stacked])
def test_an_override_that_is_no_leaf_is_refused(given):
  with pytest.raises(ValueError, match='leaves: kernel got.*wanted a Leaf'):
    core.leaves_of({'kernel': jnp.ones((2, 3))}, {'kernel': given})


@pytest.mark.parametrize('prunable', [None, 3])
def test_prunable_of_another_type_is_refused(prunable):
  with pytest.raises(ValueError, match='prunable=.*wanted a predicate'):
    core.prunable_leaves({'kernel': jnp.ones((2, 3))}, prunable)


@pytest.mark.parametrize(
  'dtype, wanted',
  [('bfloat16', True), ('float8_e4m3fn', True), ('int4', False), ('int32', False)],
)
def test_kernels_are_of_a_float_dtype(dtype, wanted):
  leaf = js.Leaf('kernel', (2, 3), jnp.dtype(dtype), in_axes=(0,), out_axes=(1,))
  assert js.kernels(leaf) is wanted


def test_random_keys_are_no_kernels():
  keys = {'kernel': jax.random.split(jax.random.key(0), (2, 2))}
  assert not core.prunable_leaves(keys, js.kernels)

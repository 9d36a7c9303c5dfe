"""Distributions: totals to the weight, published ratios, NumPy references."""

import math

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse as js
from jaxsparse import distributions

BY_SHAPE = (
  distributions.uniform,
  distributions.uniform_plus,
  distributions.er,
  distributions.erk,
)
BY_SCORE = (distributions.global_pool, distributions.lamp)


def conv(name, *shape):
  return js.Leaf(name, shape, in_axes=(len(shape) - 2,), out_axes=(len(shape) - 1,))


def resnet20(width=16):
  """The kernels of the CIFAR ResNet-20 with 1x1 shortcuts, in network order."""
  leaves = [conv('stem', 3, 3, 3, width)]
  inputs = width
  for stage in range(3):
    outputs = width * 2**stage
    for block in range(3):
      name = f's{stage}b{block}'
      leaves.append(conv(f'{name}c1', 3, 3, inputs, outputs))
      leaves.append(conv(f'{name}c2', 3, 3, outputs, outputs))
      if inputs != outputs:
        leaves.append(conv(f's{stage}shortcut', 1, 1, inputs, outputs))
      inputs = outputs
  leaves.append(conv('fc', inputs, 10))
  return {leaf.name: leaf for leaf in leaves}


def kept_of(leaves, shares):
  kept = {n: round((1 - shares[n]) * leaf.size) for n, leaf in leaves.items()}
  for name, leaf in leaves.items():
    # The share is that of a whole number of weights, to the last bit.
    assert shares[name] == 1 - kept[name] / leaf.size
    assert 0 <= kept[name] <= leaf.size
  return kept


def total(leaves):
  return sum(leaf.size for leaf in leaves.values())


@pytest.mark.parametrize(
  'density, distribution, expected',
  [
    (0.05, distributions.er, '.4448 .1405 .1054 .1054 .0702 .0527 .0351 .1299'),
    (0.05, distributions.erk, '.4748 .1353 .0961 .8012 .0623 .0454 .0298 .9486'),
    (0.20, distributions.er, '1 .5654 .4241 .4241 .2827 .2120 .1414 .5230'),
    (0.20, distributions.erk, '1 .5938 .4219 1 .2735 .1992 .1309 1'),
  ],
)
def test_densities_of_the_released_solver(density, distribution, expected):
  leaves = resnet20()
  assert total(leaves) == 270896
  shares = distribution(leaves, 1 - density)
  names = 'stem s0b0c1 s1b0c1 s1shortcut s1b1c1 s2b0c1 s2b1c1 fc'.split()
  for name, value in zip(names, expected.split()):
    # Four digits, and the rounding to whole weights.
    tolerance = 0.5e-4 + 1 / leaves[name].size
    assert abs(1 - shares[name] - float(value)) <= tolerance, name


@pytest.mark.parametrize('distribution', BY_SHAPE)
@pytest.mark.parametrize('sparsity', [0.0, 0.1, 0.5, 0.8, 0.9, 0.951, 0.99])
def test_total_is_met_to_the_weight(distribution, sparsity):
  leaves = resnet20()
  if distribution is distributions.uniform_plus and sparsity == 0.99:
    leaves = resnet20(width=64)
  kept = kept_of(leaves, distribution(leaves, sparsity))
  assert sum(kept.values()) == round((1 - sparsity) * total(leaves))


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
  shapes=st.lists(
    st.lists(st.integers(1, 9), min_size=2, max_size=4), min_size=1, max_size=6
  ),
  sparsity=st.floats(0.0, 1.0, exclude_max=True),
)
@pytest.mark.parametrize(
  'distribution', [distributions.uniform, distributions.er, distributions.erk]
)
def test_any_shapes_meet_the_total(distribution, shapes, sparsity):
  leaves = {f'x{i}': conv(f'x{i}', *shape) for i, shape in enumerate(shapes)}
  kept = kept_of(leaves, distribution(leaves, sparsity))
  assert sum(kept.values()) == round((1 - sparsity) * total(leaves))


def test_uniform_rounds_by_largest_remainder():
  leaves = {'a': conv('a', 1, 5), 'b': conv('b', 1, 4), 'c': conv('c', 1, 4)}
  # Shares of 7 of 13: 2.69, 2.15 and 2.15.
  kept = kept_of(leaves, distributions.uniform(leaves, 6 / 13))
  assert kept == {'a': 3, 'b': 2, 'c': 2}


def test_uniform_is_exact_for_groups():
  leaves = {f'x{i}': conv(f'x{i}', 4 * i, 100003) for i in range(1, 5)}
  shares = distributions.uniform(leaves, 0.5)
  assert set(shares.values()) == {0.5}


def test_stacked_layers_have_the_ratio_of_one():
  alone = {f'b{i}': conv(f'b{i}', 40, 60) for i in range(4)} | {'h': conv('h', 64, 10)}
  stack = js.Leaf('b', (4, 40, 60), stack_axes=(0,), in_axes=(1,), out_axes=(2,))
  for distribution in (distributions.er, distributions.erk):
    apart = kept_of(alone, distribution(alone, 0.8))
    stacked = {'b': stack, 'h': alone['h']}
    together = kept_of(stacked, distribution(stacked, 0.8))
    assert abs(sum(apart[f'b{i}'] for i in range(4)) - together['b']) <= 4


def test_attention_kernels_count_all_input_and_output_axes():
  flat = {'q': conv('q', 64, 64), 'h': conv('h', 64, 10)}
  heads = js.Leaf('q', (64, 4, 16), in_axes=(0,), out_axes=(1, 2))
  assert distributions.erk(flat, 0.8) == distributions.erk(flat | {'q': heads}, 0.8)


def test_uniform_plus():
  leaves = resnet20()
  first, last = leaves['stem'].size, leaves['fc'].size
  shares = distributions.uniform_plus(leaves, 0.95)
  assert shares['stem'] == 0.0
  assert shares['fc'] == pytest.approx(0.8, abs=1 / last)
  others = (0.05 * 270896 - first - 0.2 * last) / (270896 - first - last)
  for name in leaves.keys() - {'stem', 'fc'}:
    assert shares[name] == pytest.approx(1 - others, abs=1 / leaves[name].size)
  shares = distributions.uniform_plus(leaves, 0.5)
  others = (0.5 * 270896 - first) / (270896 - first)
  assert shares['stem'] == 0.0
  assert shares['fc'] == pytest.approx(1 - others, abs=1 / last)


def test_uniform_plus_needs_its_layers():
  with pytest.raises(ValueError, match='wanted a convolution and a matrix'):
    distributions.uniform_plus({'a': conv('a', 8, 8)}, 0.5)
  with pytest.raises(ValueError, match=r"\['stem'\] keep 432 weights"):
    distributions.uniform_plus(resnet20(), 0.999)


def make_scores(leaves, seed=0):
  rng = np.random.default_rng(seed)
  return {
    n: np.abs(rng.normal(size=leaf.shape) * (i + 1)).astype(np.float32)
    for i, (n, leaf) in enumerate(leaves.items())
  }


def numpy_lamp(rows):
  """The definition: w^2 over the sum of the squares that are at least as large."""
  result = np.empty(rows.shape, np.float64)
  for i, row in enumerate(rows.astype(np.float64)):
    for j, w in enumerate(row):
      result[i, j] = w**2 / np.sum(row[row >= w] ** 2)
  return result


def numpy_counts(scores, num_kept):
  flat = np.concatenate([x.ravel() for x in scores.values()])
  level = np.sort(flat)[::-1][num_kept - 1]
  return {n: int((x >= level).sum()) for n, x in scores.items()}


def small_leaves():
  stack = js.Leaf('stack', (3, 8, 9), stack_axes=(0,), in_axes=(1,), out_axes=(2,))
  return {'stack': stack, 'a': conv('a', 10, 12), 'b': conv('b', 3, 3, 4, 6)}


@pytest.mark.parametrize('sparsity', [0.1, 0.5, 0.9])
def test_global_pool(sparsity):
  leaves = small_leaves()
  scores = make_scores(leaves)
  num_kept = round((1 - sparsity) * total(leaves))
  kept = distributions.global_pool(leaves, sparsity, scores)
  assert {n: int(k) for n, k in kept.items()} == numpy_counts(scores, num_kept)


@pytest.mark.parametrize('sparsity', [0.1, 0.5, 0.9])
def test_lamp(sparsity):
  leaves = small_leaves()
  scores = make_scores(leaves)
  relative = {
    n: numpy_lamp(x.reshape(leaves[n].num_slices, -1)) for n, x in scores.items()
  }
  num_kept = round((1 - sparsity) * total(leaves))
  kept = distributions.lamp(leaves, sparsity, scores)
  assert {n: int(k) for n, k in kept.items()} == numpy_counts(relative, num_kept)


def test_lamp_ignores_the_scale_of_a_layer():
  leaves = small_leaves()
  scores = make_scores(leaves)
  scaled = scores | {'a': scores['a'] * np.float32(2.0**100)}
  plain = distributions.lamp(leaves, 0.9, scores)
  assert distributions.lamp(leaves, 0.9, scaled) == plain
  assert distributions.global_pool(leaves, 0.9, scaled)['a'] == 55


def test_lamp_of_zeros_and_nan_still_meets_the_total():
  leaves = small_leaves()
  scores = make_scores(leaves)
  scores['a'][:] = 0
  scores['b'][0, 0] = np.nan
  kept = distributions.lamp(leaves, 0.5, scores)
  assert sum(int(k) for k in kept.values()) == round(0.5 * total(leaves))


@pytest.mark.parametrize('distribution', BY_SCORE)
def test_traced_sparsity(distribution):
  leaves = small_leaves()
  scores = make_scores(leaves)
  run = jax.jit(lambda s, x: distribution(leaves, s, x))
  for sparsity in (0.0, 0.25, 0.9):
    traced = run(jnp.float32(sparsity), scores)
    assert all(k.dtype == jnp.int32 for k in traced.values())
    assert sum(int(k) for k in traced.values()) == round((1 - sparsity) * total(leaves))
    static = distribution(leaves, sparsity, scores)
    assert {n: int(k) for n, k in traced.items()} == {
      n: int(k) for n, k in static.items()
    }


@pytest.mark.parametrize('distribution', BY_SCORE)
def test_scores_are_required(distribution):
  leaves = small_leaves()
  with pytest.raises(ValueError, match=r"no(ne)? .*came for \['stack', 'a', 'b'\]"):
    distribution(leaves, 0.5, None)
  with pytest.raises(ValueError, match=r"came for \['a'\]"):
    scores = make_scores(leaves)
    distribution(leaves, 0.5, {n: scores[n] for n in ('stack', 'b')})


@pytest.mark.parametrize('distribution', (*BY_SHAPE, *BY_SCORE))
def test_no_leaves(distribution):
  assert distribution({}, 0.5, {}) == {}
  assert distributions.fixing(distribution, {'*': 0.5})({}, 0.5, {}) == {}


@pytest.mark.parametrize('distribution', (*BY_SHAPE, *BY_SCORE))
@pytest.mark.parametrize('sparsity', [-0.1, 1.0, 1.5, math.nan])
def test_sparsity_out_of_range(distribution, sparsity):
  leaves = resnet20()
  with pytest.raises(ValueError, match='sparsity='):
    distribution(leaves, sparsity, make_scores(leaves))


def test_fixing_erk_plus():
  leaves = resnet20()
  shares = distributions.fixing(distributions.erk, {'fc': 0.0})(leaves, 0.8)
  assert list(shares) == list(leaves) and shares['fc'] == 0.0
  kept = kept_of(leaves, shares)
  assert sum(kept.values()) == round(0.2 * 270896)
  rest = {n: leaf for n, leaf in leaves.items() if n != 'fc'}
  left = round(0.2 * 270896) - 640
  alone = distributions.erk(rest, 1 - left / total(rest))
  assert {n: shares[n] for n in rest} == alone


def test_fixing_globs_and_first_match_wins():
  leaves = resnet20()
  fixed = {'s0b0c1': 0.0, 's0*': 0.5}
  shares = distributions.fixing(distributions.uniform, fixed)(leaves, 0.9)
  assert shares['s0b0c1'] == 0.0 and shares['s0b2c2'] == 0.5
  assert sum(kept_of(leaves, shares).values()) == round(0.1 * 270896)


def test_fixing_a_pool():
  leaves = small_leaves()
  scores = make_scores(leaves)
  pool = distributions.fixing(distributions.global_pool, {'a': 0.0})
  kept = pool(leaves, 0.6, scores)
  assert int(kept['a']) == leaves['a'].size
  assert sum(int(k) for k in kept.values()) == round(0.4 * total(leaves))
  traced = jax.jit(lambda s: pool(leaves, s, scores))(jnp.float32(0.6))
  assert {n: int(k) for n, k in traced.items()} == {n: int(k) for n, k in kept.items()}


def test_fixing_everything():
  leaves = {'a': conv('a', 8, 8), 'b': conv('b', 8, 8)}
  fixed = {'a': 0.25, 'b': 0.75}
  assert distributions.fixing(distributions.erk, fixed)(leaves, 0.5) == fixed
  with pytest.raises(ValueError, match='which leaves 13 of 0'):
    distributions.fixing(distributions.erk, fixed)(leaves, 0.4)


def test_fixing_what_cannot_be():
  leaves = resnet20()
  with pytest.raises(ValueError, match="'typo' matches no leaf"):
    distributions.fixing(distributions.erk, {'typo': 0.0})(leaves, 0.5)
  with pytest.raises(ValueError, match=r"fixed: \['s2b0c1'.*keep 204800 weights"):
    distributions.fixing(distributions.erk, {'s2*': 0.0})(leaves, 0.9)
  with pytest.raises(ValueError, match=r"fixed: \['s2b0c1'.*which leaves"):
    distributions.fixing(distributions.erk, {'s2*': 0.99})(leaves, 0.1)
  with pytest.raises(ValueError, match=r"'fc' has sparsity 1.5"):
    distributions.fixing(distributions.erk, {'fc': 1.5})

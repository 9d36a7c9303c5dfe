"""How many units each leaf keeps."""

import inspect
import math

import hypothesis as hp
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse as js

rules = js.rules
# What is counted here may be nothing, of which a budget warns.
_MAY_EMPTY = pytest.mark.filterwarnings('ignore:jaxsparse. nothing is left')


def _same(leaves, sparsity, scores=None):
  """Every leaf gets the total sparsity."""
  del scores
  return dict.fromkeys(leaves, sparsity)


def _budget(sparsity, structure=js.masks.Unstructured(), distribution=_same, **kwargs):
  return rules.Budget(sparsity, distribution, structure, **kwargs)


def _matrices(*shapes):
  return {f'{i}': jax.ShapeDtypeStruct(s, jnp.float32) for i, s in enumerate(shapes)}


def _target(budget, leaves):
  return (1 - budget.sparsity) * sum(leaf.size for leaf in leaves.values())


@_MAY_EMPTY
@hp.settings(max_examples=150)
@hp.given(
  st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=6),
  st.floats(0, 0.99),
)
def test_single_weights_meet_the_total_to_the_weight(shapes, sparsity):
  budget = _budget(sparsity)
  leaves = budget.pruned(_matrices(*shapes))
  kept = budget.num_kept(leaves)
  assert abs(sum(kept.values()) - _target(budget, leaves)) <= 0.5 + 1e-4
  for name, leaf in leaves.items():
    assert isinstance(kept[name], int)
    assert abs(kept[name] - (1 - sparsity) * leaf.size) < 1


@_MAY_EMPTY
@hp.settings(max_examples=150)
@hp.given(
  st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=6),
  st.sampled_from([(2, 2), (4, 4), (3, 5), (1, 8)]),
  st.floats(0, 0.99),
  st.booleans(),
)
def test_blocks_meet_the_total_to_one_unit(shapes, block, sparsity, traced):
  """Also ragged ones, which on average hold size / units weights."""
  shares = _same
  if traced:
    shares = lambda leaves, s, _: {n: np.float32(s) for n in leaves}
  budget = _budget(sparsity, js.masks.Block(block), shares)
  leaves = budget.pruned(_matrices(*shapes))
  kept = {n: int(k) for n, k in budget.num_kept(leaves).items()}
  worth = {n: x.size / budget.structure.num_units(x) for n, x in leaves.items()}
  total = sum(kept[n] * worth[n] for n in leaves)
  # One more weight per leaf where its share is first rounded to weights.
  slack = len(leaves) if traced else 1e-3
  assert abs(total - _target(budget, leaves)) <= max(worth.values()) + slack
  for name, leaf in leaves.items():
    assert 0 <= kept[name] <= budget.structure.num_units(leaf)


@_MAY_EMPTY
@pytest.mark.parametrize(
  'structure, wanted',
  [
    # 0.3 * (24 + 6 + 15) = 13.5 weights; exact 7.2, 1.8, 4.5.
    (js.masks.Unstructured(), {'0': 7, '1': 2, '2': 5}),
    # Exact blocks 1.8 of 6, 0.6 of 2 and 1.8 of 6, worth 4, 3 and 2.5 weights: two
    # more make 13 weights of 13.5, a third would make 16.
    (js.masks.Block((2, 2)), {'0': 2, '1': 0, '2': 2}),
    # Exact channels 1.8 of 6, 0.9 of 3 and 1.5 of 5.
    (js.masks.Channel(), {'0': 2, '1': 1, '2': 1}),
  ],
)
def test_golden_counts(structure, wanted):
  budget = _budget(0.7, structure)
  leaves = budget.pruned(_matrices((4, 6), (2, 3), (3, 5)))
  assert budget.num_kept(leaves) == wanted


@_MAY_EMPTY
def test_many_leaves_with_less_than_half_a_weight_each():
  # Each alone would round to nothing.
  budget = _budget(0.9)
  leaves = budget.pruned(_matrices(*[(2, 2)] * 10))
  assert sum(budget.num_kept(leaves).values()) == 4


def test_stacked_slices_share_to_one_unit():
  budget = _budget(0.6, leaves={'*': js.stacked()})
  params = {'blocks': jnp.ones((3, 4, 5))}
  masks = budget.masks(params, params)
  assert np.asarray(masks['blocks']).sum(axis=(1, 2)).tolist() == [8, 8, 8]
  budget = _budget(0.58, leaves={'*': js.stacked()})
  per_slice = np.asarray(budget.masks(params, params)['blocks']).sum(axis=(1, 2))
  assert per_slice.tolist() == [9, 8, 8]


@pytest.mark.parametrize('n, m', [(1, 3), (2, 3), (2, 4), (1, 10), (7, 10)])
def test_nm_is_exact_in_large_leaves(n, m):
  # Floats of a sum this large are not exact; one more weight would be (n+1):m.
  budget = _budget(1 - n / m, js.masks.NM(n, m))
  leaves = budget.pruned(_matrices((m * 2**11, 2**15), (m, 7), (m * 5, 3)))
  kept = budget.num_kept(leaves)
  assert kept == {name: leaf.size * n // m for name, leaf in leaves.items()}


def test_a_share_of_scores_may_be_counts_or_fractions():
  counts = lambda leaves, s, scores: {n: jnp.int32(2**24 + 1) for n in leaves}
  budget = _budget(0.5, distribution=counts)
  leaves = budget.pruned(_matrices((2**13, 2**13)))
  assert int(budget.num_kept(leaves)['0']) == 2**24 + 1
  shares = lambda leaves, s, scores: {n: jnp.float32(0.25) for n in leaves}
  budget = _budget(0.5, distribution=shares)
  leaves = budget.pruned(_matrices((2, 4)))
  assert int(budget.num_kept(leaves)['0']) == 6


def test_counts_of_scores_become_blocks_and_meet_the_total():
  # 5 of 16 weights in each of four leaves: 1.25 blocks each, five blocks in all.
  counts = lambda leaves, s, scores: {n: jnp.int32(5) for n in leaves}
  budget = _budget(0.5, js.masks.Block((2, 2)), counts)
  leaves = budget.pruned(_matrices(*[(4, 4)] * 4))
  kept = [int(k) for k in budget.num_kept(leaves).values()]
  assert sum(kept) == 5 and max(kept) - min(kept) == 1


def test_numpy_floats_are_plain_shares():
  plain = _budget(0.7)
  numpy = _budget(0.7, distribution=lambda x, s, _: {n: np.float64(s) for n in x})
  leaves = plain.pruned(_matrices((4, 6), (2, 3), (3, 5)))
  assert numpy.num_kept(leaves) == plain.num_kept(leaves)


def test_distribution_sees_the_scores_of_pruned_leaves():
  seen = {}

  def spy(leaves, sparsity, scores):
    seen.update(scores)
    return dict.fromkeys(leaves, sparsity)

  params = {'kernel': jnp.ones((2, 2)), 'bias': jnp.ones(2)}
  scores = {'kernel': jnp.arange(4.0).reshape(2, 2), 'bias': jnp.ones(2)}
  masks = _budget(0.5, distribution=spy).masks(params, scores)
  assert list(seen) == ['kernel']
  assert masks['kernel'].tolist() == [[False, False], [True, True]]
  assert masks['bias'].shape == ()


def test_shares_may_come_from_other_scores_than_positions():
  params = {'a': jnp.ones((1, 4)), 'b': jnp.ones((1, 4))}
  by_max = lambda leaves, s, scores: {n: jnp.int32(jnp.max(scores[n])) for n in leaves}
  scores = {'a': jnp.array([[4.0, 3.0, 2.0, 1.0]]), 'b': jnp.array([[1.0, 2, 3, 4]])}
  shares = {'a': jnp.full((1, 4), 1.0), 'b': jnp.full((1, 4), 3.0)}
  masks = _budget(0.5, distribution=by_max).masks(params, scores, shares=shares)
  assert masks['a'].astype(int).tolist() == [[1, 0, 0, 0]]
  assert masks['b'].astype(int).tolist() == [[0, 1, 1, 1]]


# --- what a distribution returns passes back ----------------------------------------------


_FIXED = js.distributions.fixing(js.distributions.global_pool, {'stem': 0.0})


@pytest.mark.parametrize('structure', [js.masks.Unstructured(), js.masks.Channel()])
@pytest.mark.parametrize(
  'distribution',
  [
    *(getattr(js.distributions, n) for n in js.distributions.__all__ if n != 'fixing'),
    js.distributions.fixing(js.distributions.erk, {'stem': 0.0}),
    _FIXED,
  ],
)
@_MAY_EMPTY
def test_what_a_distribution_returns_passes_back(distribution, structure):
  draw = np.random.default_rng(0).normal
  sizes = {'stem': (3, 3, 1, 8), 'block[0]': (3, 3, 8, 9), 'block0': (72, 7)}
  params = {n: jnp.asarray(draw(size=s), jnp.float32) for n, s in sizes.items()}
  scores = {n: jnp.abs(p) * p.ndim for n, p in params.items()}
  budget = _budget(0.7, structure, distribution)
  leaves = budget.pruned(params)
  shares = distribution(leaves, 0.7, scores)
  wanted = budget.num_kept(leaves, scores)
  assert {n: type(k) for n, k in wanted.items()} == dict.fromkeys(leaves, int)
  again = _budget(shares, structure)
  assert again.num_kept(leaves) == wanted
  # Also printed and typed in again, and where everything else is traced.
  typed = {n: int(s) if jnp.issubdtype(jnp.result_type(s), jnp.integer) else float(s)
           for n, s in shares.items()}  # fmt: skip
  assert _budget(typed, structure).num_kept(leaves) == wanted
  jax.eval_shape(lambda: again.masks(params, scores))
  traced = jax.jit(lambda shares: _budget(shares, structure).num_kept(leaves))
  if distribution in (js.distributions.global_pool, js.distributions.lamp):
    assert {n: int(k) for n, k in traced(shares).items()} == wanted


def test_a_mapping_may_hold_counts_fractions_and_schedules():
  budget = _budget({'0': 3, '1': np.int64(0), '2': jnp.int32(5), '3': 0.5,
                    '4': _ramp(0.5, 2)})  # fmt: skip
  leaves = budget.pruned(_matrices(*[(2, 4)] * 5))
  with pytest.warns(
    RuntimeWarning, match=r'nothing is left of 1 \(0 of 8 units kept\)'
  ):
    kept = [budget.num_kept(leaves, step=jnp.int32(t)) for t in range(2)]
  assert [list(map(int, k.values())) for k in kept] == [
    [3, 0, 5, 4, 8],
    [3, 0, 5, 4, 6],
  ]


def test_a_count_is_exact_in_a_large_leaf_and_known_to_its_structure():
  count = 2**26 + 1
  budget = _budget({'*': count})
  assert budget.num_kept(budget.pruned(_matrices((2**14, 2**13)))) == {'0': count}
  budget = _budget({'*': 8}, js.masks.NM(1, 2))
  assert budget.num_kept(budget.pruned(_matrices((4, 4)))) == {'0': 8}
  budget = _budget({'*': 4}, js.masks.NM(1, 2))
  with pytest.raises(ValueError, match=r'0: NM\(1, 2\) has sparsity 0.5'):
    budget.num_kept(budget.pruned(_matrices((4, 4))))


@pytest.mark.parametrize(
  'count, message',
  [
    (0, "'a' got the int 0; wanted 0.0 to remove nothing"),
    (-2, "'a' got -2; wanted weights kept, 0 or more"),
    (jnp.int32(-2), "'a' got -2"),
    (9, 'sparsity: a got 9; wanted at most its 8 weights'),
  ],
)
def test_counts_outside_their_range_are_refused(count, message):
  with pytest.raises(ValueError, match=message):
    budget = _budget({'a': count})
    budget.num_kept(budget.pruned({'a': jnp.ones((2, 4))}))


# --- leaves of which nothing is left ------------------------------------------------------


def test_a_leaf_of_which_nothing_is_left_is_named():
  params = {'small': jnp.ones((8, 3)), 'large': jnp.ones((8, 40))}
  tx = js.transforms.static(
    optax.sgd(0.1), 0.95, seed=0, structure=js.masks.Channel(),
    distribution=js.distributions.uniform,
  )  # fmt: skip
  message = r'nothing is left of small \(0 of 3 units kept\), and no signal'
  with pytest.warns(RuntimeWarning, match=message):
    state = jax.jit(tx.init)(params)
  assert int(js.get_masks(state)['small'].sum()) == 0
  # A count from scores is known only where nothing is traced.
  scores = {n: jnp.full(p.shape, p.size) for n, p in params.items()}
  budget = _budget(0.95, distribution=js.distributions.global_pool)
  with pytest.warns(RuntimeWarning, match=r'nothing is left of small \(0 of 24'):
    budget.masks(params, scores)
  jax.jit(budget.masks)(params, scores)


# --- per path ---------------------------------------------------------------------------


def test_sparsity_per_path():
  budget = _budget({'head/*': 0.5, '*': 0.75})
  params = {
    'body': {'kernel': jnp.ones((4, 4))},
    'head': {'kernel': jnp.ones((4, 2))},
  }
  kept = budget.num_kept(budget.pruned(params))
  assert kept == {'body/kernel': 4, 'head/kernel': 4}


def test_structure_per_path():
  structures = {
    '0': js.masks.NM(1, 2),
    '1': js.masks.Channel(),
    '*': js.masks.Block((2, 2)),
  }
  budget = _budget(0.5, structures)
  params = {k: jnp.ones((4, 4)) for k in '012'}
  masks = budget.masks(params, {k: jnp.arange(16.0).reshape(4, 4) for k in '012'})
  assert masks['0'].astype(int).tolist() == [[0] * 4, [1] * 4] * 2
  assert masks['1'].astype(int).tolist() == [[0, 0, 1, 1]]
  assert masks['2'].astype(int).tolist() == [[0] * 4] * 2 + [[1] * 4] * 2


@pytest.mark.parametrize(
  'budget, message',
  [
    (_budget({'0': 0.5}), r"sparsity: no pattern of \['0'\] matches 1; add '\*'"),
    (_budget({'kernel': 0.5, '*': 0.1}), "sparsity: the pattern 'kernel' matches no"),
    (_budget(0.5, {'0': js.masks.Channel()}), 'structure: no pattern.*matches 1'),
    (_budget(0.5, js.masks.NM(2, 4)), '0: axis 0 .* m=4'),
    (_budget(0.9, js.masks.NM(1, 2)), r'0: NM\(1, 2\) has sparsity 0.5, but 0.9'),
    (_budget(0.5, prunable='kernel'), "prunable: the pattern 'kernel' matches no"),
    (_budget(0.5, leaves={'kernel': js.stacked()}), "leaves: the pattern 'kernel'"),
  ],
)
def test_what_does_not_fit_is_refused(budget, message):
  with pytest.raises(ValueError, match=message):
    budget.num_kept(budget.pruned(_matrices((2, 4), (4, 4))))


def test_nm_refuses_a_distribution_that_reads_scores():
  counts = lambda leaves, s, scores: {n: jnp.int32(8) for n in leaves}
  budget = _budget(0.5, js.masks.NM(1, 2), counts)
  with pytest.raises(ValueError, match=r'0: NM\(1, 2\).*uniform'):
    budget.num_kept(budget.pruned(_matrices((4, 4))))


@pytest.mark.parametrize(
  'sparsity',
  [
    1.0,
    -0.1,
    2,
    math.nan,
    {'*': 1.5},
    lambda step: 1.0 + 0 * step,
    {'*': lambda s: 1.5},
    '0.9',
    None,
    [0.9],
    optax.sgd(0.1),
  ],
)
def test_sparsity_outside_its_range_is_refused(sparsity):
  with pytest.raises(ValueError, match=r'sparsity=.*\[0, 1\)'):
    _budget(sparsity)


@pytest.mark.parametrize('who', ['static', 'rigl', 'set', 'ste', 'one_shot'])
@pytest.mark.parametrize('where', ['', " for 'a'"])
def test_a_schedule_where_none_is_followed_is_refused(who, where):
  schedule = js.schedules.cubic(0.9, 0, 10)
  kwargs = {'seed': 0, 'when': js.schedules.never, 'step': 3}
  transform = getattr(js.transforms, who)
  taken = inspect.signature(transform).parameters
  with pytest.raises(ValueError, match=rf'{who}: .*{where} is a schedule.*gmp follows'):
    transform(
      optax.sgd(0.1),
      {'a': schedule} if where else schedule,
      **{k: v for k, v in kwargs.items() if k in taken},
    )


@pytest.mark.parametrize(
  'schedule, message',
  [
    (js.schedules.cubic(0.5, 0, 10, initial=0.9), 'starts at 0.9 and ends at 0.5'),
    ({'*': optax.linear_schedule(-0.5, 0.5, 10)}, "for '\\*' starts at -0.5"),
  ],
)
def test_gmp_refuses_a_schedule_that_starts_above_its_end(schedule, message):
  with pytest.raises(ValueError, match=f'gmp: .*{message}'):
    js.transforms.gmp(optax.sgd(0.1), schedule, when=js.schedules.always)


# --- schedules ----------------------------------------------------------------------------


def _ramp(final, stop):
  return lambda step: (
    jnp.float32(final) * jnp.minimum(jnp.asarray(step, jnp.float32) / stop, 1.0)
  )


@pytest.mark.parametrize('structure', [js.masks.Unstructured(), js.masks.Block((3, 3))])
def test_counts_at_every_step_equal_numpy(structure):
  stop, final = 11, 0.8
  budget = _budget(_ramp(final, stop), structure)
  leaves = budget.pruned(_matrices((7, 9), (20, 3)))
  ends = _budget(final, structure).num_kept(leaves)
  at = jax.jit(lambda step: budget.num_kept(leaves, step=step))
  for step in range(stop + 4):
    kept = at(jnp.int32(step))
    for name, leaf in leaves.items():
      units = structure.num_units(leaf)
      share = np.float32(final) * np.float32(min(step / stop, 1)) / np.float32(final)
      removed = np.round(share * np.float32(units - ends[name]))
      assert int(kept[name]) == units - int(removed)
  assert {n: int(k) for n, k in kept.items()} == ends


def test_counts_follow_the_cubic_schedule():
  schedule = js.schedules.cubic(0.9, start=3, stop=13)
  budget = _budget(schedule)
  leaves = budget.pruned(_matrices((10, 100)))
  kept = [int(budget.num_kept(leaves, step=jnp.int32(t))['0']) for t in range(16)]
  wanted = [
    1000 - round(900 * (1 - (1 - min(max(t - 3, 0) / 10, 1)) ** 3)) for t in range(16)
  ]
  # Float32 may round half a weight the other way; the ends are exact.
  assert np.abs(np.subtract(kept, wanted)).max() <= 1
  assert kept[:4] == [1000] * 4 and kept[13:] == [100] * 3
  assert kept == sorted(kept, reverse=True)


def test_the_end_is_exact_beyond_what_float32_counts():
  # Nothing of this size is allocated.
  sparsity = 0.1
  params = _matrices((2**15, 2**15 + 3), (3, 5))
  budget = _budget(_ramp(sparsity, 10))
  leaves = budget.pruned(params)
  wanted = _budget(sparsity).num_kept(leaves)
  assert abs(wanted['0'] - 0.9 * leaves['0'].size) <= 1
  assert wanted['0'] != int(np.float32(wanted['0']))
  kept = budget.num_kept(leaves, step=jnp.int32(10))
  assert {n: int(k) for n, k in kept.items()} == wanted
  start = budget.num_kept(leaves, step=jnp.int32(0))
  assert int(start['0']) == leaves['0'].size


def test_schedules_per_path_move_apart():
  budget = _budget({'0': _ramp(0.5, 2), '*': 0.75})
  leaves = budget.pruned(_matrices((2, 4), (2, 4)))
  kept = [budget.num_kept(leaves, step=jnp.int32(t)) for t in range(3)]
  assert [int(k['0']) for k in kept] == [8, 6, 4]
  assert [int(k['1']) for k in kept] == [2, 2, 2]


def test_scores_with_a_schedule_are_read_at_the_sparsity_of_the_step():
  shares = lambda leaves, s, scores: {n: jnp.float32(s) for n in leaves}
  budget = _budget(_ramp(0.5, 2), distribution=shares)
  leaves = budget.pruned(_matrices((2, 4)))
  kept = [int(budget.num_kept(leaves, None, jnp.int32(t))['0']) for t in range(3)]
  assert kept == [8, 6, 4]


def test_masks_are_made_under_jit_and_eval_shape():
  budget = _budget(_ramp(0.5, 2))
  params = {'kernel': jnp.arange(8.0).reshape(2, 4), 'bias': jnp.ones(4)}
  make = lambda p, step: budget.masks(p, p, step=step)
  masks = jax.jit(make)(params, jnp.int32(2))
  assert masks['kernel'].astype(int).tolist() == [[0] * 4, [1] * 4]
  shapes = jax.eval_shape(make, params, jnp.int32(2))
  assert shapes['kernel'].shape == (2, 4) and shapes['bias'].shape == ()


def test_a_traced_sparsity_is_refused():
  with pytest.raises(ValueError, match='sparsity=.*not traced'):
    jax.eval_shape(_budget, 0.5)


@pytest.mark.parametrize(
  'kwargs, message',
  [
    ({'structure': js.masks.Unstructured}, 'structure=<class.*Unstructured'),
    ({'structure': {'*': 'NM'}}, "structure='NM': wanted an object"),
    ({'distribution': 'erk'}, "distribution='erk': wanted a function"),
  ],
)
def test_parts_of_another_kind_are_refused(kwargs, message):
  with pytest.raises(ValueError, match=message):
    _budget(0.5, **kwargs)


@pytest.mark.parametrize(
  'shares, message',
  [({'0': 0.5}, '1 the share None'), ({'0': 0.5, '1': 1.5}, '1 the share 1.5')],
)
def test_a_distribution_that_shares_out_badly_is_refused(shares, message):
  budget = _budget(0.5, distribution=lambda *_: shares)
  with pytest.raises(ValueError, match=f'distribution: gave {message}'):
    budget.num_kept(budget.pruned(_matrices((2, 4), (4, 4))))

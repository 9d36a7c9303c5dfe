"""Plans: what is drawn, how often, and the same on the host and in a program."""

import json
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse as js

N, B = 103, 4
LABELS = np.repeat([0, 1, 2, 3], [50, 30, 20, 3])[
  np.random.default_rng(0).permutation(N)
]
SCORES = np.random.default_rng(1).normal(size=N)


def _plans(seed):
  common = dict(ratio=0.3, rounds=9, seed=seed)
  return {
    'rs2': js.data.rs2(N, B, **common),
    'rs2_with': js.data.rs2(N, B, replacement=True, **common),
    'strata': js.data.rs2(N, B, labels=LABELS, **common),
    'strata_with': js.data.rs2(N, B, replacement=True, labels=LABELS, **common),
    'full': js.data.full(N, B, epochs=3, seed=seed),
    'static': js.data.static_subset(N, B, **common),
    'subset': js.data.subset(
      np.arange(5, 50), np.arange(1, 46), num_examples=N, batch_size=B, rounds=4,
      seed=seed,
    ),
    'iid': js.data.iid(N, B, num_steps=50, seed=seed),
    'importance': js.data.importance(SCORES**2, B, num_steps=50, seed=seed),
    'curriculum': js.data.curriculum(SCORES, B, **common),
  }  # fmt: skip


PLANS = _plans(seed=3)
_every = pytest.mark.parametrize('name', PLANS)


@_every
def test_a_program_draws_the_bits_of_the_host_for_every_seed(name):
  traces = []

  @jax.jit
  def batch(plan, step):
    traces.append(None)
    return plan.batch(step)

  for seed in (3, 2**40 + 1):
    plan = _plans(seed)[name]
    assert isinstance(plan, js.data.Plan)
    steps = np.arange(plan.total_steps + 5)
    indices, weights = plan.batch(steps)
    assert (indices.dtype, weights.dtype) == (np.int32, np.float32)
    assert isinstance(indices, np.ndarray) and isinstance(weights, np.ndarray)
    assert indices.shape == weights.shape == (len(steps), B)
    assert indices.min() >= 0 and indices.max() < N
    for found, wanted in zip(batch(plan, jnp.asarray(steps)), (indices, weights)):
      np.testing.assert_array_equal(found, wanted)
      assert found.dtype == wanted.dtype
    # One step, and slots in any order, are the same stream.
    for found, wanted in zip(plan.batch(7), (indices[7], weights[7])):
      np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(plan.at(np.array([9, 2]))[0], indices.ravel()[[9, 2]])
  assert len(traces) == 1
  assert (_plans(4)[name].batch(steps)[0] != indices).any()


def test_a_traced_seed_draws_what_an_int_does():
  make = lambda seed: js.data.rs2(N, B, ratio=0.3, rounds=9, seed=seed)
  traced = jax.jit(lambda seed: make(seed).batch(5)[0])(3)
  np.testing.assert_array_equal(traced, make(3).batch(5)[0])


def test_the_stream_is_the_same_in_every_version():
  assert js.data.rs2(10, 5, ratio=0.5, rounds=2, seed=0).batch(0)[0].tolist() == [
    4, 0, 8, 5, 7,
  ]  # fmt: skip


@pytest.mark.parametrize('ratio', [0.04, 0.1, 0.31, 0.7, 1.0])
@pytest.mark.parametrize('labels', [None, LABELS])
def test_without_replacement_exposures_never_differ_by_more_than_one(ratio, labels):
  plan = js.data.rs2(N, B, ratio=ratio, rounds=9, labels=labels, seed=1)
  indices = plan.batch(np.arange(plan.total_steps))[0]
  counts = np.zeros(N, int)
  for step, batch in enumerate(indices):
    np.add.at(counts, batch, 1)
    assert counts.max() - counts.min() <= 1, step
  np.testing.assert_array_equal(counts, plan.exposures(plan.total_steps))


@pytest.mark.parametrize('ratio', [0.04, 0.3, 1.0])
def test_without_replacement_is_the_short_full_schedule_bit_for_bit(ratio):
  ours = js.data.rs2(N, B, ratio=ratio, rounds=9, seed=5)
  short = js.data.short_full(N, B, ratio=ratio, rounds=9, seed=5)
  assert (ours.total_steps, ours.steps_per_round) == (
    short.total_steps, short.steps_per_round,
  )  # fmt: skip
  steps = np.arange(ours.total_steps)
  for found, wanted in zip(ours.batch(steps), short.batch(steps)):
    np.testing.assert_array_equal(found, wanted)


def test_passes_and_seeds_have_orders_of_their_own():
  plan = js.data.full(N, B, epochs=5, seed=0)
  passes = plan.at(np.arange(3 * N))[0].reshape(3, N)
  other = js.data.full(N, B, epochs=5, seed=1).at(np.arange(3 * N))[0].reshape(3, N)
  for row in (*passes, *other):
    assert sorted(row.tolist()) == list(range(N))
  # Seeds that add to the number of the pass would share orders.
  rows = np.concatenate([passes, other])
  agree = (rows[:, None] == rows[None]).sum(-1)[np.triu_indices(6, 1)]
  assert agree.max() < 12


def test_with_replacement_each_round_is_a_subset_of_its_own():
  plan = PLANS['rs2_with']
  assert (plan.steps_per_round, plan.num_rounds, plan.total_steps) == (7, 9, 63)
  rounds = plan.batch(np.arange(63))[0].reshape(9, 28)
  assert all(len(set(row.tolist())) == 28 for row in rounds)
  many = js.data.rs2(N, B, ratio=0.3, rounds=600, replacement=True, seed=0)
  counts = many.exposures(many.total_steps)
  expected = 600 * 28 / N
  spread = np.sqrt(expected * (1 - 28 / N))
  assert abs(counts - expected).max() < 4.5 * spread
  assert counts.min() < expected - spread and counts.max() > expected + spread


def test_strata_of_a_pass_are_in_their_shares_in_every_round():
  plan = PLANS['strata']
  labels = LABELS[plan.batch(np.arange(plan.total_steps))[0]].reshape(9, 28)
  shares = np.bincount(LABELS) / N
  for row in labels:
    assert np.abs(np.bincount(row, minlength=4) - 28 * shares).max() < 2


def test_strata_of_rounds_are_rounded_at_random_and_unbiased():
  plan = js.data.rs2(
    N, 31, ratio=0.3, rounds=2000, replacement=True, labels=LABELS, seed=2
  )
  indices = plan.batch(np.arange(2000))[0]
  assert all(len(set(row.tolist())) == 31 for row in indices)
  counts = np.stack([np.bincount(row, minlength=4) for row in LABELS[indices]])
  quotas = 31 * np.bincount(LABELS) / N
  assert (np.abs(counts - quotas) < 1).all()
  # A share of 0.9 is 0 or 1: its mean has an error of at most 0.5 / sqrt(2000).
  np.testing.assert_allclose(counts.mean(0), quotas, atol=4 * 0.5 / np.sqrt(2000))
  exposures = plan.exposures(2000)
  spread = np.sqrt(2000 * 0.301 * 0.699)
  assert np.abs(exposures - 2000 * 31 / N).max() < 4.5 * spread


def test_a_static_subset_is_the_first_round_and_nothing_else():
  plan = PLANS['static']
  seen = np.flatnonzero(plan.exposures(plan.total_steps))
  one_step = js.data.rs2(N, 31, ratio=0.3, rounds=9, replacement=True, seed=3)
  assert sorted(one_step.batch(0)[0].tolist()) == seen.tolist()
  assert plan.total_steps == PLANS['rs2'].total_steps
  labelled = js.data.static_subset(N, B, ratio=0.3, rounds=9, labels=LABELS, seed=3)
  held = LABELS[np.flatnonzero(labelled.exposures(labelled.total_steps))]
  held = np.bincount(held, minlength=4)
  assert np.abs(held - 31 * np.bincount(LABELS) / N).max() < 1


def test_the_likelihood_counts_what_the_batches_stand_for():
  sizes = {name: plan.likelihood_size for name, plan in PLANS.items()}
  assert sizes.pop('static') == 31  # A posterior of 31 examples.
  assert set(sizes.values()) == {N}
  assert PLANS['rs2'].likelihood_scale == N / B
  unweighted = js.data.subset([1, 2, 3], num_examples=9, batch_size=3, rounds=1, seed=0)
  assert (unweighted.likelihood_size, unweighted.likelihood_scale) == (3, 1.0)


def test_a_weighted_subset_stands_for_all_data():
  # Record 3 stands for one example, 7 for two, 1 for five; in any unit.
  plan = js.data.subset(
    [3, 7, 1], [0.5, 1, 2.5], num_examples=8, batch_size=3, rounds=2, seed=0
  )
  indices, weights = plan.batch(1)
  assert dict(zip(indices.tolist(), weights.tolist())) == {3: 0.375, 7: 0.75, 1: 1.875}
  losses = np.arange(8.0)
  total = plan.likelihood_scale * (weights * losses[indices]).sum()
  assert total == pytest.approx(1 * 3 + 2 * 7 + 5 * 1)


def test_importance_weights_are_exactly_unbiased():
  plan = PLANS['importance']
  ends = [0, *map(int, plan.tables['ends']), 2**32]
  drawn = np.diff(ends) / 2**32
  wanted = 0.9 * SCORES**2 / (SCORES**2).sum() + 0.1 / N
  np.testing.assert_allclose(drawn, wanted, atol=2.0**-32)
  np.testing.assert_allclose(drawn * plan.tables['weights'], 1 / N, rtol=1e-7)
  assert plan.tables['weights'].max() <= 10 * (1 + 1e-6)
  many = js.data.importance(SCORES**2, 500, num_steps=200, floor=0.2, seed=0)
  indices, weights = (x.ravel() for x in many.batch(np.arange(200)))
  losses = np.cos(np.arange(N))
  estimate, error = (weights * losses[indices]), (weights * losses[indices]).std()
  assert abs(estimate.mean() - losses.mean()) < 4 * error / np.sqrt(indices.size)
  shares = np.bincount(indices, minlength=N) / indices.size
  q = 0.8 * SCORES**2 / (SCORES**2).sum() + 0.2 / N
  assert (np.abs(shares - q) < 5 * np.sqrt(q / indices.size)).all()


def test_new_scores_do_not_compile_again():
  batch = jax.jit(lambda plan: plan.batch(0)[0])
  make = lambda scores: js.data.importance(scores, B, num_steps=9, floor=0.5, seed=0)
  first, second = batch(make(SCORES**2)), batch(make(np.abs(SCORES)))
  assert batch._cache_size() == 1 and (first != second).any()


def test_the_effective_sample_size_is_that_of_kish():
  assert js.data.effective_sample_size(np.ones(7)) == 7
  assert js.data.effective_sample_size([2, 1]) == pytest.approx(9 / 5)
  with pytest.raises(ValueError, match='none is above 0'):
    js.data.effective_sample_size([0, 0])


def test_a_curriculum_begins_with_small_scores_and_ends_with_all():
  plan = js.data.curriculum(
    SCORES, 10, ratio=0.1, rounds=200, start=0.2, stop=0.5, seed=0
  )
  ranks = np.argsort(np.argsort(SCORES))[plan.batch(np.arange(200))[0]]
  pool = np.maximum(10, np.rint(N * (0.2 + 0.8 * np.minimum(1, np.arange(200) / 100))))
  assert (ranks < pool[:, None]).all()
  assert all(len(set(row.tolist())) == 10 for row in ranks)
  # The largest of ten lies near the end of its pool.
  assert (ranks.max(1) / pool).mean() > 0.85
  at_once = js.data.curriculum(SCORES, 10, ratio=0.1, rounds=9, stop=0, seed=0)
  assert set(at_once.tables['pools'].tolist()) == {N}


def test_a_curriculum_can_begin_with_the_easiest_of_every_class():
  labels = np.arange(100) // 50  # All that is easy is of one class.
  plan = js.data.curriculum(
    np.arange(100), 20, ratio=0.2, rounds=5, start=0.2, labels=labels, seed=0
  )
  expected = [*range(10), *range(50, 60)]
  np.testing.assert_array_equal(np.sort(plan.batch(0)[0]), expected)
  with pytest.raises(ValueError, match='labels'):
    js.data.curriculum(
      np.arange(100), 20, ratio=0.2, rounds=5, labels=labels[1:], seed=0
    )


def test_only_one_record_is_left_of_one():
  plan = js.data.full(1, 1, epochs=3, seed=0)
  assert plan.batch(np.arange(3))[0].tolist() == [[0], [0], [0]]


# --- going on ----------------------------------------------------------------------------


@_every
def test_a_fingerprint_survives_json_and_pickle(name):
  plan = PLANS[name]
  saved = json.loads(json.dumps(plan.fingerprint()))
  js.data.check_resume(pickle.loads(pickle.dumps(plan)), saved)
  # A plan whose arrays lie on the device is the same plan.
  js.data.check_resume(jax.tree.map(jnp.asarray, plan), saved)


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'seed': 2**33}, 'seed was 3 and is 8589934592'),
    ({'ratio': 0.31}, 'ratio was 0.3 and is 0.31'),
    ({'rounds': 10}, 'rounds was 9 and is 10; total_steps was 63 and is 70'),
    ({'replacement': True}, 'replacement was False and is True'),
    ({'labels': LABELS}, 'class_digest was absent and is .*stratified was False'),
  ],
)
def test_another_plan_is_refused_on_resume(changes, message):
  plan = js.data.rs2(N, B, **{'ratio': 0.3, 'rounds': 9, 'seed': 3, **changes})
  with pytest.raises(ValueError, match=f'plan: .*{message}'):
    js.data.check_resume(plan, PLANS['rs2'].fingerprint())


def test_other_labels_or_scores_are_refused_on_resume():
  other = np.roll(LABELS, 1)
  plan = js.data.rs2(N, B, ratio=0.3, rounds=9, labels=other, seed=3)
  with pytest.raises(ValueError, match='order_digest was'):
    js.data.check_resume(plan, PLANS['strata'].fingerprint())


def test_a_traced_plan_has_no_fingerprint():
  with pytest.raises(ValueError, match='outside of jit'):
    jax.jit(lambda p: p.fingerprint() and 0)(PLANS['rs2'])


# --- on the device -----------------------------------------------------------------------


@pytest.mark.parametrize('name', ['rs2', 'strata_with', 'importance'])
def test_a_scan_gathers_on_the_device_what_the_host_would_send(name):
  plan = PLANS[name]
  data = {'x': jnp.arange(N * 3.0).reshape(N, 3), 'y': jnp.arange(N)}

  @jax.jit
  def run(plan, data, start):
    body = lambda _, i: (None, js.data.gather(plan, data, start + i))
    return jax.lax.scan(body, None, jnp.arange(6))[1]

  device = jax.tree.map(jnp.asarray, plan)
  start = jnp.int32(4)
  jax.block_until_ready(run(device, data, start))
  with jax.transfer_guard('disallow'):
    batch, weights = run(device, data, start)
  indices, wanted = plan.batch(np.arange(4, 10))
  np.testing.assert_array_equal(batch['y'], indices)
  np.testing.assert_array_equal(batch['x'], np.arange(N * 3.0).reshape(N, 3)[indices])
  np.testing.assert_array_equal(weights, wanted)


def test_data_of_another_size_are_refused():
  with pytest.raises(ValueError, match=r"leaf 'x' has shape \(9, 2\).*\(103, \.\.\.\)"):
    js.data.gather(PLANS['rs2'], {'x': jnp.ones((9, 2))}, 0)


# --- errors ------------------------------------------------------------------------------


def _rs2(**changes):
  kwargs = {'num_examples': N, 'batch_size': B, 'ratio': 0.3, 'rounds': 9, 'seed': 0}
  return js.data.rs2(**{**kwargs, **changes})


def _subset(indices, weights=None, **changes):
  kwargs = {'num_examples': N, 'batch_size': 2, 'rounds': 9, 'seed': 0}
  return js.data.subset(indices, weights, **{**kwargs, **changes})


@pytest.mark.parametrize(
  'make, message',
  [
    (lambda: _rs2(ratio=0), r'ratio=0: wanted a number in \(0, 1\]'),
    (lambda: _rs2(ratio=1.01), r'ratio=1.01: wanted a number in \(0, 1\]'),
    (lambda: _rs2(ratio=float('nan')), 'ratio=nan'),
    (lambda: _rs2(ratio='a'), "ratio='a'"),
    (
      lambda: _rs2(ratio=0.03),
      'ratio=0.03: a round has 3 of 103 examples, fewer than batch_size=4',
    ),
    (lambda: _rs2(batch_size=0), 'batch_size=0: wanted an int in'),
    (lambda: _rs2(num_examples=2**31), 'num_examples=2147483648'),
    (lambda: _rs2(rounds=1.5), 'rounds=1.5'),
    (lambda: _rs2(rounds=2**30), r'total_steps=7516192768.*2\*\*32 examples'),
    (lambda: _rs2(seed=-1), 'seed=-1'),
    (lambda: _rs2(labels=LABELS[1:]), r'labels: got an array of shape \(102,\)'),
    (lambda: _rs2(labels=LABELS + 0.5), 'labels: got float64, wanted integers'),
    (lambda: _rs2(labels=LABELS - 1), r'labels\[\d+\]=-1'),
    (lambda: _rs2(labels=2 * LABELS), 'labels: class 1 of 7 has no example'),
    (
      lambda: _rs2(labels=np.arange(N), replacement=True),
      'a round has 31 examples, wanted at least one for each of the 103 classes',
    ),
    (
      lambda: js.data.full(3, 4, epochs=1, seed=0),
      'an epoch has 3 of 3 examples, fewer than batch_size=4',
    ),
    (
      lambda: js.data.static_subset(N, 4, ratio=0.01, rounds=1, seed=0),
      'the subset has 1 of 103 examples',
    ),
    (lambda: _subset([]), r'indices: got an array of shape \(0,\)'),
    (lambda: _subset([0, N]), r'indices\[1\]=103: wanted 0 <= index < 103'),
    (lambda: _subset([5, 5]), 'indices: 5 is there 2 times'),
    (lambda: _subset([5]), 'indices: got 1 records, fewer than batch_size=2'),
    (lambda: _subset([1, 2], [1.0]), r'weights: got an array of shape \(1,\)'),
    (lambda: _subset([1, 2], [1.0, -1]), 'weights: from -1.0 to 1.0'),
    (lambda: _subset([1, 2], [0, 0]), 'weights: from 0.0 to 0.0'),
    (lambda: _subset([1, 2], [1, np.inf]), r'weights\[1\]=inf'),
    (lambda: js.data.iid(N, B, num_steps=0, seed=0), 'num_steps=0'),
    (
      lambda: js.data.importance([1, 0, 2], 1, num_steps=1, floor=0.0, seed=0),
      r'probabilities\[1\]=0.0: would be drawn with probability 0,',
    ),
    (
      lambda: js.data.importance([1, -1], 1, num_steps=1, seed=0),
      'probabilities: from -1.0 to 1.0',
    ),
    (lambda: js.data.importance([1], 1, num_steps=1, floor=2, seed=0), 'floor=2'),
    (
      lambda: js.data.curriculum(SCORES, B, ratio=0.3, rounds=9, start=0, seed=0),
      'start=0: wanted',
    ),
    (
      lambda: js.data.curriculum(SCORES, B, ratio=0.3, rounds=9, stop=2, seed=0),
      'stop=2: wanted',
    ),
    (lambda: PLANS['rs2'].batch(-1), 'step=-1'),
  ],
)
def test_what_cannot_be_is_refused(make, message):
  with pytest.raises(ValueError, match=message):
    make()

"""The stream of a plan as Grain reads it: workers, hosts, resuming, broken records."""

import pickle
import subprocess
import sys

from absl import flags
import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse as js

N, B = 60, 6
PLANS = {
  'rs2': js.data.rs2(N, B, ratio=0.35, rounds=5, seed=3),
  'importance': js.data.importance(np.arange(1, N + 1), B, num_steps=15, seed=3),
}


class Squares:
  """A source in a module, as worker processes need it."""

  def __init__(self, broken=()):
    self.broken = broken

  def __len__(self):
    return N

  def __getitem__(self, index):
    if index in self.broken:
      raise OSError('bad block')
    return {'x': np.full(3, index**2, np.int32), 'name': np.int32(index)}


@pytest.fixture(autouse=True)
def parsed_flags():
  # Grain's workers are told the flags of absl, which pytest never parses.
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()


def _read(plan, workers=0, source=None, take=None, **kwargs):
  records = js.data.grain_dataset(plan, source or Squares(), **kwargs)
  batches = records.batch(B // kwargs.get('num_hosts', 1)).to_iter_dataset()
  if workers:
    batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
  return list(batches)[:take]


@pytest.mark.parametrize('name', PLANS)
def test_grain_and_the_device_give_one_stream_bit_for_bit(name):
  plan = PLANS[name]
  data = {
    'x': jnp.repeat(jnp.arange(N)[:, None] ** 2, 3, 1), 'name': jnp.arange(N),
  }  # fmt: skip
  steps = jnp.arange(plan.total_steps)
  batches, weights = jax.jit(js.data.gather)(plan, data, steps)
  read = _read(plan)
  assert len(read) == plan.total_steps == 15
  for step, example in enumerate(read):
    assert isinstance(example, js.data.Example)
    indices, wanted = plan.batch(step)
    np.testing.assert_array_equal(example.index, indices)
    for found in (weights[step], wanted):
      np.testing.assert_array_equal(example.weight, found)
    for key in data:
      np.testing.assert_array_equal(example.record[key], batches[key][step])


@pytest.mark.parametrize('start', [0, 1, 7, 14, 15])
@pytest.mark.parametrize('num_hosts', [1, 2, 3])
def test_a_run_goes_on_at_any_step_on_any_number_of_hosts(start, num_hosts):
  plan = PLANS['rs2']
  parts = [
    _read(plan, start=start, host=host, num_hosts=num_hosts)
    for host in range(num_hosts)
  ]
  for step, hosts in enumerate(zip(*parts, strict=True), start):
    index = np.concatenate([e.index for e in hosts])
    np.testing.assert_array_equal(index, plan.batch(step)[0])
  assert len(parts[0]) == 15 - start


def test_workers_change_nothing_wherever_a_run_goes_on():
  plan = PLANS['importance']
  alone = _read(plan, start=4)
  for example, wanted in zip(_read(plan, workers=2, start=4), alone, strict=True):
    for found, value in zip(jax.tree.leaves(example), jax.tree.leaves(wanted)):
      np.testing.assert_array_equal(found, value)


def test_grains_own_state_goes_on_too_and_our_fingerprint_guards_it():
  plan = PLANS['rs2']
  batches = js.data.grain_dataset(plan, Squares()).batch(B).to_iter_dataset()
  iterator = iter(batches)
  for _ in range(4):
    next(iterator)
  state, saved = iterator.get_state(), plan.fingerprint()
  again = iter(batches)
  again.set_state(state)
  np.testing.assert_array_equal(next(again).index, plan.batch(4)[0])
  # Grain takes the state of another plan without a word.
  other = js.data.rs2(N, B, ratio=0.4, rounds=5, seed=3)
  iter(js.data.grain_dataset(other, Squares()).batch(B).to_iter_dataset()).set_state(
    state
  )
  with pytest.raises(ValueError, match='ratio was 0.35 and is 0.4'):
    js.data.check_resume(other, saved)


@pytest.mark.parametrize('workers', [0, pytest.param(2, marks=pytest.mark.long)])
def test_a_record_that_cannot_be_read_is_named(workers):
  plan = PLANS['rs2']
  broken = int(plan.batch(3)[0][2])
  with pytest.raises(
    Exception, match=rf'record {broken} of step 3 .*OSError: bad block'
  ):
    _read(plan, workers, Squares((broken,)))


def test_a_record_source_can_be_pickled_in_the_middle():
  records = js.data.grain_dataset(PLANS['rs2'], Squares())
  first = records[5]
  again = pickle.loads(pickle.dumps(records))
  assert again[5].index == first.index and len(again) == len(records) == 15 * B


@pytest.mark.parametrize(
  'kwargs, message',
  [
    ({'source': range(9)}, 'source: has 9 records, wanted the 60 of the plan'),
    ({'num_hosts': 4}, 'num_hosts=4: wanted a divisor of batch_size=6'),
    ({'num_hosts': 2, 'host': 2}, r'host=2: wanted an int in \[0, 2\)'),
    ({'start': 16}, r'start=16: wanted an int in \[0, 16\)'),
  ],
)
def test_what_cannot_be_read_is_refused(kwargs, message):
  with pytest.raises(ValueError, match=message):
    js.data.grain_dataset(PLANS['rs2'], **{'source': Squares(), **kwargs})


def test_grain_is_loaded_only_by_those_who_use_it():
  code = (
    'import sys; sys.modules["grain"] = None\n'
    'import jaxsparse as js\n'
    'plan = js.data.full(4, 2, epochs=1, seed=0)\n'
    'try: js.data.grain_dataset(plan, range(4))\n'
    'except ImportError as error: print(error)'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  assert 'pip install grain' in done.stdout

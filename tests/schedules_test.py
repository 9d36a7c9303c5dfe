"""Schedules against NumPy, at Python and at traced steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse as js

STEPS = (0, 1, 9, 10, 11, 25, 50, 77, 109, 110, 111, 1000, 2**24 + 1)


def ramp(step, start, stop):
  return min(max((step - start) / (stop - start), 0.0), 1.0)


@pytest.mark.parametrize(
  'schedule, reference',
  [
    (js.schedules.constant(0.25), lambda t: 0.25),
    (
      js.schedules.cubic(0.9, 10, 110),
      lambda t: 0.9 - 0.9 * (1 - ramp(t, 10, 110)) ** 3,
    ),
    (
      js.schedules.cubic(0.9, 10, 110, initial=0.5),
      lambda t: 0.9 - 0.4 * (1 - ramp(t, 10, 110)) ** 3,
    ),
    (
      js.schedules.cosine(0.3, 110),
      lambda t: 0.15 * (1 + np.cos(np.pi * ramp(t, 0, 110))),
    ),
    (
      js.schedules.cosine(0.3, 110, final=0.1),
      lambda t: 0.1 + 0.1 * (1 + np.cos(np.pi * ramp(t, 0, 110))),
    ),
    (
      js.schedules.cosine_sparsity(0.9, 10, 110, initial=0.5),
      lambda t: 0.9 - 0.2 * (1 + np.cos(np.pi * ramp(t, 10, 110))),
    ),
    (js.schedules.one_shot(0.9, at=50), lambda t: 0.9 * (t >= 50)),
  ],
)
def test_values(schedule, reference):
  for step in STEPS:
    for given in (step, jnp.int32(step)):
      value = schedule(given)
      assert value.dtype == jnp.float32 and value.shape == ()
      np.testing.assert_allclose(value, reference(step), atol=1e-6)
  traced = jax.jit(schedule)
  for step in STEPS:
    np.testing.assert_allclose(traced(jnp.int32(step)), reference(step), atol=1e-6)


def test_a_number_is_a_schedule():
  assert float(js.schedules.as_fraction(0.25, 'drop_fraction')(7)) == 0.25
  schedule = js.schedules.cosine(0.3, 10)
  assert js.schedules.as_fraction(schedule, 'drop_fraction') is schedule
  with pytest.raises(ValueError, match='drop_fraction=1.5'):
    js.schedules.as_fraction(1.5, 'drop_fraction')


def test_the_first_value_of_a_fraction_is_checked_where_it_is_known():
  for first in (1.5, -0.5):
    with pytest.raises(ValueError, match=rf'drop_fraction\(0\)={first}'):
      js.schedules.as_fraction(optax.linear_schedule(first, 0.0, 9), 'drop_fraction')

  def traced(first):
    return js.schedules.as_fraction(lambda step: first, 'drop_fraction')(0)

  assert float(jax.jit(traced)(1.5)) == 1.5


def test_ends_are_exact():
  for make in (js.schedules.cubic, js.schedules.cosine_sparsity):
    schedule = make(0.7, 3, 1003, initial=0.1)
    assert float(schedule(3)) == float(np.float32(0.1))
    assert float(schedule(1003)) == float(np.float32(0.7))
  fraction = js.schedules.cosine(0.3, 7)
  assert float(fraction(0)) == float(np.float32(0.3))
  assert float(fraction(7)) == 0.0


def test_golden_cubic():
  schedule = js.schedules.cubic(0.8, 0, 4)
  values = [float(schedule(t)) for t in range(5)]
  # 0.8 (1 - (1, 27/64, 1/8, 1/64, 0))
  np.testing.assert_allclose(values, [0, 0.4625, 0.7, 0.7875, 0.8], rtol=1e-6)


@pytest.mark.parametrize(
  'when, expected',
  [
    (js.schedules.every(10), [10, 20, 30]),
    (js.schedules.every(10, stop=30), [10, 20]),
    (js.schedules.every(10, start=0, stop=31), [0, 10, 20, 30]),
    (js.schedules.every(10, start=15), [20, 30]),
    (js.schedules.every(10, start=20, stop=20), []),
    (js.schedules.at(3, 7, 7), [3, 7]),
    (js.schedules.at([7, 3]), [3, 7]),
    (js.schedules.at(np.array([5])), [5]),
    (js.schedules.at(0), [0]),
    (js.schedules.either(js.schedules.at(3), js.schedules.every(10)), [3, 10, 20, 30]),
    (js.schedules.never, []),
    (js.schedules.always, list(range(35))),
  ],
)
def test_when(when, expected):
  assert [t for t in range(35) if when(t)] == expected
  traced = jax.jit(when)
  values = [traced(jnp.int32(t)) for t in range(35)]
  assert values[0].dtype == jnp.bool_ and values[0].shape == ()
  assert [t for t in range(35) if values[t]] == expected
  batched = jax.vmap(when)(jnp.arange(35, dtype=jnp.int32))
  assert np.flatnonzero(batched).tolist() == expected


def test_schedules_serve_optax_and_scan():
  schedule, when = js.schedules.cosine(0.3, 5), js.schedules.every(2)

  def body(step, _):
    return step + 1, (schedule(step), when(step))

  _, (values, flags) = jax.lax.scan(body, jnp.int32(0), None, length=6)
  assert flags.tolist() == [False, False, True, False, True, False]
  assert (np.diff(values) < 0).all() and float(values[-1]) == 0.0


@pytest.mark.parametrize(
  'when, last',
  [
    (js.schedules.every(10), np.inf),
    (js.schedules.every(10, stop=30), 20),
    (js.schedules.every(10, stop=31), 30),
    (js.schedules.every(10, start=21, stop=29), -1),
    (js.schedules.every(10, stop=10), -1),
    (js.schedules.at(7, 3), 7),
    (js.schedules.always, np.inf),
    (js.schedules.either(js.schedules.at(3, 9), js.schedules.never), 9),
    (js.schedules.either(js.schedules.at(3), lambda step: step == 3), None),
    (js.schedules.never, -1),
    (None, -1),
    (lambda step: step == 3, None),
  ],
)
def test_last_step(when, last):
  assert js.schedules.last_step(when) == last
  if last not in (None, np.inf) and when is not None:
    assert ([-1] + [t for t in range(40) if when(t)])[-1] == last


def test_settled_at():
  settled_at = js.schedules.settled_at
  for schedule in (
    js.schedules.cubic(0.9, 5, 20),
    js.schedules.cosine(0.3, 20),
    js.schedules.cosine_sparsity(0.3, 1, 20),
    js.schedules.one_shot(0.5, at=20),
  ):
    assert settled_at(schedule) == 20
    assert float(schedule(19)) != float(schedule(20)) == float(schedule(99))
  assert settled_at(js.schedules.constant(0.5)) == settled_at(0.5) == 0
  assert settled_at(lambda step: 0.5) is None


@pytest.mark.parametrize(
  'make, message',
  [
    (lambda: js.schedules.constant(float('nan')), 'value=nan'),
    (lambda: js.schedules.cubic(1.2, 0, 10), 'final=1.2'),
    (lambda: js.schedules.cubic(0.9, 0, 10, initial=-0.1), 'initial=-0.1'),
    (lambda: js.schedules.cubic(0.9, 10, 10), 'stop=10: wanted an int of at least 11'),
    (lambda: js.schedules.cubic(0.9, -1, 10), 'start=-1'),
    (lambda: js.schedules.cosine(0.3, 0), 'stop=0'),
    (lambda: js.schedules.cosine(30, 10), 'initial=30'),
    (lambda: js.schedules.cosine_sparsity(0.3, 0.5, 10), 'start=0.5'),
    (lambda: js.schedules.one_shot(0.3, -2), 'at=-2'),
    (lambda: js.schedules.one_shot('0.3', 2), "final='0.3': wanted a finite"),
    (lambda: js.schedules.every(0), 'n=0'),
    (lambda: js.schedules.every(10, start=-1), 'start=-1'),
    (lambda: js.schedules.every(10, stop=5), 'stop=5'),
    (lambda: js.schedules.every(True), 'n=True'),
    (lambda: js.schedules.at(), 'no step'),
    (lambda: js.schedules.at([]), 'no step'),
    (lambda: js.schedules.at(3, -1), 'steps=-1'),
    (lambda: js.schedules.at(1.5), 'steps=1.5'),
  ],
)
def test_bad_arguments(make, message):
  with pytest.raises(ValueError, match=message):
    make()

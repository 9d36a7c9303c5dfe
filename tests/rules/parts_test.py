"""What other executions read of a transform and of a rule."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse as js


def test_parts_are_the_arguments():
  when = js.schedules.every(5)
  tx = js.transforms.rigl(optax.sgd(0.1), 0.5, seed=3, when=when, skip_step=True)
  parts = js.rules.parts_of(tx)
  assert isinstance(parts, js.rules.Parts)
  assert parts.when is when and parts.seed == 3 and parts.skip_step
  assert parts.rule.rewiring.growth == 'gradient'
  assert parts.rule.budget is parts.rule.rewiring.budget
  params = {'w': jnp.ones(3)}
  jax.tree.map(
    np.testing.assert_array_equal,
    parts.inner.update(params, parts.inner.init(params), params)[0],
    {'w': jnp.full(3, -0.1)},
  )


@pytest.mark.parametrize(
  'around',
  [
    lambda tx: optax.chain(optax.clip(1.0), tx),
    lambda tx: optax.MultiSteps(tx, 2),
    lambda tx: optax.adam(0.1),
    lambda tx: None,
  ],
)
def test_what_stands_around_a_transform_is_refused(around):
  tx = js.transforms.static(optax.adam(0.1), 0.5, seed=0)
  with pytest.raises(ValueError, match='not something around'):
    js.rules.parts_of(around(tx))


def test_a_rewiring_is_its_update():
  budget = js.rules.Budget(0.5, js.distributions.uniform, js.masks.Unstructured(), '*')
  rewiring = js.core.Rewiring(
    budget,
    js.criteria.magnitude,
    lambda e: jax.tree.map(jnp.abs, e.grads[0]),
    'gradient',
    js.schedules.constant(0.5),
  )
  params = {'w': jnp.array([[4.0, 1.0, 0.0], [2.0, 3.0, 0.0]])}
  grads = {'w': jnp.array([[0.0, 1.0, 9.0], [2.0, 0.0, 8.0]])}
  masks = {'w': params['w'] != 0}
  e = js.core.Evidence((params,), None, (grads,), masks, jnp.int32(0), None)
  decision = js.rules.rewire(rewiring)(e, 'memory')
  assert decision.masks['w'].astype(int).tolist() == [[1, 0, 1], [0, 1, 1]]
  assert decision.survivors['w'].astype(int).tolist() == [[1, 0, 0], [0, 1, 0]]
  assert decision.memory == 'memory'
  assert int(js.rules.share_of(0.5, jnp.int32(5))) == 2


def test_rules_know_when_they_have_settled():
  schedules = js.schedules
  budget = lambda s: js.rules.Budget(s, js.distributions.uniform, js.masks.NM(1, 2))
  gmp = lambda s: js.transforms.gmp_rule(budget(s)).settled_at
  assert gmp(schedules.cubic(0.5, 3, 9)) == 9
  assert gmp(lambda step: jnp.minimum(step / 10, 0.5)) is None
  assert budget({'a': 0.5, 'b': schedules.one_shot(0.5, 4)}).settled_at() == 4
  assert budget({'a': 0.5, 'b': lambda step: 0.5}).settled_at() is None
  assert js.transforms.one_shot_rule(budget(0.5)).settled_at == 0
  assert js.transforms.static_rule(budget(0.5)).settled_at is None


def test_moments_are_found_reset_and_held():
  inner, params = optax.adam(0.1), {'w': jnp.ones(2), 'b': jnp.ones(2)}
  state = inner.init(params)
  marks = js.rules.along(inner, params, state, {'w': 1, 'b': 0})
  assert marks == [None, 0, 1, 0, 1]
  ones = jax.tree.map(jnp.ones_like, state)
  kept = {'w': jnp.array([True, False]), 'b': jnp.ones((), bool)}
  reset = js.rules.reset_moments(inner, params, ones, kept)
  assert reset[0].mu['w'].tolist() == [1, 0] and reset[0].mu['b'].tolist() == [1, 1]
  held = js.rules.hold_moments(inner, params, state, ones, jnp.array(True))
  assert held[0].count == 1 and not held[0].nu['w'].any()


def test_one_tree_is_repeated_over_fields_and_a_wrapper_passes_the_parts_on():
  rule = js.core.MaskRule(init=lambda evidence: None, fields=lambda p: (p[0], p[1]))
  params = ({'w': jnp.ones(2), 'b': jnp.ones(2)}, {'w': jnp.ones(2), 'b': 0.0}, 1.0)
  # A node may be no array: that of a compact leaf is a pattern.
  first, second, rest = js.rules.spread(rule, {'w': (1, 2), 'b': 'all'}, params)
  assert (first['w'], second['w'], first['b']) == ((1, 2), (1, 2), 'all')
  assert bool(second['b']) and bool(rest)
  tx = js.transforms.static(optax.sgd(0.1), 0.5, seed=0)
  own = js.rules.attach_parts(lambda *args: tx.update(*args), js.rules.parts_of(tx))
  around = optax.GradientTransformation(tx.init, own)
  assert js.rules.parts_of(around) is js.rules.parts_of(tx)

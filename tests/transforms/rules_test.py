"""Every rule can be wrapped by hand, and then is the transform of its name."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse as js

S, transforms = js.schedules, js.transforms
_WHEN = S.every(2)


def _budget(sparsity):
  return js.rules.Budget(
    sparsity, js.distributions.uniform, js.masks.Unstructured(), js.kernels
  )


_CUBIC = S.cubic(0.75, 0, 4)
_SAME = {'distribution': js.distributions.uniform}
ROWS = {
  'static': (
    lambda o: js.keep_sparse(o, transforms.static_rule(_budget(0.75)), seed=0),
    lambda o: transforms.static(o, 0.75, seed=0, **_SAME),
  ),
  'gmp': (
    lambda o: js.keep_sparse(o, transforms.gmp_rule(_budget(_CUBIC)), _WHEN),
    lambda o: transforms.gmp(o, _CUBIC, when=_WHEN, **_SAME),
  ),
  'one_shot': (
    lambda o: js.keep_sparse(o, transforms.one_shot_rule(_budget(0.75)), S.at(3)),
    lambda o: transforms.one_shot(o, 0.75, step=3, **_SAME),
  ),
  'iss_p': (
    lambda o: js.keep_sparse(o, transforms.iss_p_rule(_budget(0.75), 4), S.always),
    lambda o: transforms.iss_p(
      o, 0.75, num_pruning_steps=4, learning_rate=0.1, **_SAME
    ),
  ),
  'set': (
    lambda o: js.keep_sparse(o, transforms.set_rule(_budget(0.75), 0.5), _WHEN, seed=0),
    lambda o: transforms.set(o, 0.75, seed=0, when=_WHEN, drop_fraction=0.5, **_SAME),
  ),
  'rigl': (
    lambda o: js.keep_sparse(
      o, transforms.rigl_rule(_budget(0.75), 0.5), _WHEN, seed=0
    ),
    lambda o: transforms.rigl(o, 0.75, seed=0, when=_WHEN, drop_fraction=0.5, **_SAME),
  ),
  'dsl': (
    lambda o: js.keep_sparse(o, transforms.dsl_rule(_budget(0.75), 0.5), _WHEN, seed=0),
    lambda o: transforms.dsl(
      o, 0.75, seed=0, when=_WHEN, drop_fraction=0.5, prunable=js.kernels
    ),
  ),
  'ste': (
    lambda o: js.keep_sparse(o, transforms.ste_rule(_budget(0.75)), S.always),
    lambda o: transforms.ste(o, 0.75, **_SAME),
  ),
}


def _train(tx):
  params = {'kernel': jax.random.normal(jax.random.key(0), (8, 6))}
  params, state = js.init(tx, params)
  update = jax.jit(tx.update)
  for i in range(6):
    grads = {'kernel': jax.random.normal(jax.random.key(i), (8, 6))}
    updates, state = update(grads, state, params)
    params = optax.apply_updates(params, updates)
  return params, state


@pytest.mark.parametrize('row', ROWS)
def test_a_wrapped_rule_is_its_transform(row):
  by_hand, transform = (_train(make(optax.adam(0.1))) for make in ROWS[row])
  jax.tree.map(np.testing.assert_array_equal, _plain(by_hand), _plain(transform))
  assert int(js.get_masks(by_hand[1])['kernel'].sum()) == 12


def _plain(tree):
  is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
  return jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, tree)

"""The tests of `my_transform`: copy them with it."""

import jax.numpy as jnp
from my_transform import my_transform
import optax
import pytest

import jaxsparse as js


def test_drops_the_least_worth_and_grows_the_largest_gradient():
  tx = my_transform(
    optax.sgd(0.1), 0.5, seed=0, when=js.schedules.at(0), drop_fraction=0.5
  )
  params = {'kernel': jnp.array([[4.0, 3.0], [2.0, 1.0]])}
  _, state = js.init(tx, params)
  # Small enough to check by eye: the first row is active, |w g| is 4 and 6.
  state = state._replace(masks={'kernel': jnp.array([[True, True], [False, False]])})
  params = {'kernel': jnp.array([[4.0, 3.0], [0.0, 0.0]])}
  grads = {'kernel': jnp.array([[1.0, 2.0], [7.0, 8.0]])}
  updates, state = tx.update(grads, state, params)
  assert js.get_masks(state)['kernel'].tolist() == [[False, True], [False, True]]
  new = optax.apply_updates(params, updates)['kernel']
  assert new[0, 0] == 0 and new[1, 0] == 0


def test_says_what_is_wrong():
  with pytest.raises(ValueError, match='sparsity'):
    my_transform(optax.sgd(0.1), 90, seed=0, when=js.schedules.every(2))


@pytest.mark.long
def test_conforms():
  def make_tx(inner, seed):
    return my_transform(
      inner, 0.75, seed=seed, when=js.schedules.every(2),
      distribution=js.distributions.uniform,
    )  # fmt: skip

  js.testing.check_transform(
    make_tx, num_kept={'dense1/kernel': 128, 'dense2/kernel': 64}, grows=True
  )

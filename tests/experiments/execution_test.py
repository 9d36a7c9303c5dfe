"""Runs that go over from masks to nonzeros halfway."""

import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import _execution
import jaxsparse as js

_STEPS = 12
_METHODS = {
  'iss_p': lambda seed, adam: js.transforms.iss_p(
    adam, 0.75, num_pruning_steps=5, learning_rate=0.05
  ),
  'one_shot': lambda seed, adam: js.transforms.one_shot(adam, 0.75, step=4),
}


def _config(**changed):
  config = dict(execution='compact', accumulate=1, steps_per_call=1)
  return types.SimpleNamespace(**{**config, **changed})


class _Run:
  """A tiny regression on 8 numbers."""

  def __init__(self, method, config, num_steps=_STEPS, adam=None):
    self.config, self.x = config, jax.random.normal(jax.random.key(1), (16, 8))
    self.model = nn.Sequential([nn.Dense(16), nn.relu, nn.Dense(4)])
    adam = adam or optax.adam(0.05)
    make_tx = lambda seed: _METHODS[method](seed, adam)
    params = self.model.init(jax.random.key(0), self.x)['params']
    self.init = lambda seed: js.training.init_state(make_tx(seed), params, seed=seed)
    spec = dict(name=method, transform=method)
    self.execution = _execution.Execution(config, spec, num_steps, make_tx, self.init)
    bound = js.layers.bind(self.model, js.compact.handler())

    def loss_fn(params, model_state, batch, key, state):
      params = _execution.joined(params, state.opt_state)
      error = bound({'params': params}, batch) - jnp.tanh(batch[:, :4])
      return jnp.mean(error**2), (model_state, {})

    self.step_fn = self.execution.step(loss_fn, lambda batch, data, key: batch)

  def to(self, num_steps, folder):
    per_call = self.config.steps_per_call
    with js.checkpoint.open_dir(folder) as directory:
      return js.training.run(
        self.step_fn, self.execution.held(self.init(0)), lambda step: np.array(self.x),
        num_steps, checkpoints=self.execution.checkpoints(directory),
        steps_per_call=per_call if per_call > 1 else None,
      ).state  # fmt: skip


def _same(a, b):
  a, b = jax.device_get((a, b))
  return jax.tree.all(jax.tree.map(lambda x, y: bool(np.array_equal(x, y)), a, b))


def _plain(state):
  return state._replace(key=jax.random.key_data(state.key))


_EACH = pytest.mark.parametrize(
  'method', ['iss_p', pytest.param('one_shot', marks=pytest.mark.long)]
)


@_EACH
def test_a_run_resumes_on_either_side_of_the_change(method, tmp_path):
  assert jax.local_device_count() > 1
  first = _Run(method, _config())
  whole = first.to(_STEPS, tmp_path / 'whole')
  assert isinstance(whole.opt_state, js.compact.CompactState)
  for at in (4, 5, 6):
    held = first.to(at, tmp_path / str(at))
    assert isinstance(held.opt_state, js.compact.CompactState) == (at > 5)
    # Nothing but the checkpoint is left of the first one.
    again = _Run(method, _config()).to(_STEPS, tmp_path / str(at))
    assert _same(_plain(again), _plain(whole))


@_EACH
def test_what_is_converted_halfway_is_the_masked_network(method, tmp_path):
  run = _Run(method, _config())
  compact = run.execution.dense(run.to(_STEPS, tmp_path / 'compact'))
  masked = _Run(method, _config(execution='pmap')).to(_STEPS, tmp_path / 'masked')
  assert run.execution.name == 'compact from step 5'
  for a, b in zip(*map(jax.tree.leaves, (compact.params, masked.params)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
  assert _same(js.get_masks(compact.opt_state), js.get_masks(masked.opt_state))


def test_the_form_changes_between_two_calls(tmp_path):
  run = _Run('one_shot', _config(steps_per_call=4))
  assert run.execution.name == 'compact from step 8'
  assert isinstance(run.to(8, tmp_path / 'a').opt_state, js.core.KeepSparseState)
  assert isinstance(run.to(12, tmp_path / 'b').opt_state, js.compact.CompactState)
  timed = run.execution.to_time(run.init(0))
  assert timed.params['layers_0']['kernel'].shape == (32,)


def test_a_run_that_ends_before_the_change_is_masked():
  execution = _Run('one_shot', _config(), num_steps=4).execution
  assert (execution.name, execution.changes) == ('masked', False)


def test_what_cannot_be_converted_is_refused_before_the_first_step():
  with pytest.raises(ValueError, match='method one_shot: .*Wanted an elementwise'):
    _Run('one_shot', _config(), adam=optax.adafactor(0.1))

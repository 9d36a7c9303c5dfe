"""Every transform passes every check; RigL does so with every optimizer."""

from collections.abc import Callable
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse as js

_UNIFORM = js.distributions.uniform
_EVERY_2 = js.schedules.every(2)
_QUARTER = {'dense1/kernel': 128, 'dense2/kernel': 64}
_GIVEN = js.masks.from_named(
  js.testing.small_params(),
  {
    'dense1/kernel': jnp.arange(512).reshape(16, 32) % 4 == 1,
    'dense2/kernel': jnp.arange(8).reshape(1, 8) < 2,
  },
)


@dataclasses.dataclass(frozen=True)
class Row:
  """A transform, and what is to be expected of it.

  Attributes:
    make_tx: `(inner, seed) -> tx`.
    num_kept: weights kept by leaf, or a function of the steps made.
    moves: whether masks change within the run.
    grows: whether weights grow at 0.
    dense_gradient: whether the inner optimizer sees gradients off the mask.
    any_tree: whether it takes other trees than the small network.
    variant: of another row; its checks are for `--all`.
    prepare: makes what it takes of the small network.
  """

  make_tx: Callable
  num_kept: dict | Callable = dataclasses.field(default_factory=lambda: _QUARTER)
  moves: bool = True
  grows: bool = False
  dense_gradient: bool = False
  any_tree: bool = True
  variant: bool = False
  prepare: Callable = lambda params: params


def _cubic(step):
  # 0.75 (1 - (1 - t / 4)^3) of the weights are gone after the update of step t.
  last = step - 1 - (step - 1) % 2
  share = 0.75 * (1 - (1 - min(last, 4) / 4) ** 3) if step else 0.0
  return {
    'dense1/kernel': round(512 * (1 - share)),
    'dense2/kernel': round(256 * (1 - share)),
  }


def _erk():
  # (in + out) / (in * out) times one constant, 0.25 * 768 weights together.
  raw = {'dense1/kernel': 48 / 512, 'dense2/kernel': 40 / 256}
  scale = 192 / (48 + 40)
  return {n: round(scale * r * s) for (n, r), s in zip(raw.items(), (512, 256))}


def _static(inner, seed):
  return js.transforms.static(inner, 0.75, seed=seed)


def _given(inner, seed):
  del seed
  return js.transforms.static(inner, masks=_GIVEN)


def _snip(inner, seed):
  del seed

  def loss(params):
    return sum(jnp.sum(jnp.sin(p)) for p in jax.tree.leaves(params))

  return js.transforms.static(
    inner, 0.75, criterion=js.criteria.snip(loss), distribution=_UNIFORM
  )


def _one_shot(inner, seed):
  del seed
  return js.transforms.one_shot(inner, 0.75, step=2)


def _gmp(inner, seed):
  del seed
  sparsity = js.schedules.cubic(0.75, start=0, stop=4)
  return js.transforms.gmp(inner, sparsity, when=_EVERY_2)


def _iss_p(inner, seed):
  del seed
  return js.transforms.iss_p(inner, 0.75, num_pruning_steps=6, learning_rate=1e-2)


def _iss_r(inner, seed):
  del seed
  return js.transforms.iss_r(inner, 0.75, num_pruning_steps=6, every=2)


def _set(inner, seed):
  return js.transforms.set(inner, 0.75, seed=seed, when=_EVERY_2, distribution=_UNIFORM)


def _rigl(inner, seed, **kwargs):
  kwargs = {'distribution': _UNIFORM, 'when': _EVERY_2, **kwargs}
  return js.transforms.rigl(inner, 0.75, seed=seed, **kwargs)


def _dsl(inner, seed):
  return js.transforms.dsl(
    inner, 0.75, seed=seed, when=_EVERY_2, prunable=js.kernels, tables=js.kernels
  )


def _dsl_released(inner, seed):
  return js.transforms.dsl_released(
    inner, 0.75, seed=seed, interval=2, total_steps=8, prunable=js.kernels
  )


def _sr_ste(inner, seed):
  del seed
  return js.transforms.sr_ste(inner, 1, 4)


def _ste(inner, seed):
  del seed
  return js.transforms.ste(inner, 0.75)


def _posterior(seed):
  return js.bayes.ssvi(0.75, seed=seed, when=_EVERY_2, distribution=_UNIFORM)


def _ssvi(inner, seed):
  return js.bayes.optimizer(_posterior(seed), inner, rho=optax.adam(1e-2))


def _gaussians(params):
  return _posterior(0).init(jax.random.key(0), params)


def _released_counts():
  # Random at the start, constant from then on.
  tx = _dsl_released(optax.sgd(0.1), 0)
  masks = js.get_masks(tx.init(js.testing.small_params()))
  return {n: int(masks[n]['kernel'].sum()) for n in ('dense1', 'dense2')}


def _rigl_variant(**kwargs):
  return Row(functools.partial(_rigl, **kwargs), grows=True, variant=True)


# A run is half over before the mask is hard: it is resumed across that step.
_HARD = lambda step: (
  _QUARTER if step >= 6 else {'dense1/kernel': 512, 'dense2/kernel': 256}
)
_ROWS = {
  'static': Row(_static, _erk(), moves=False),
  'static_given': Row(_given, moves=False, any_tree=False, variant=True),
  'static_snip': Row(_snip, moves=False, any_tree=False, variant=True),
  'one_shot': Row(_one_shot, lambda step: _QUARTER if step > 2 else {}),
  'gmp': Row(_gmp, _cubic),
  'iss_p': Row(_iss_p, _HARD),
  'iss_r': Row(_iss_r, _HARD, variant=True),
  'set': Row(_set, grows=True),
  'rigl': Row(_rigl, grows=True),
  'rigl_that_skips': _rigl_variant(skip_step=True),
  'rigl_block': _rigl_variant(structure=js.masks.Block((4, 2))),
  'rigl_channel': _rigl_variant(structure=js.masks.Channel()),
  'rigl_nm': _rigl_variant(structure=js.masks.NM(1, 4)),
  'dsl': Row(_dsl, grows=True),
  'dsl_released': Row(
    _dsl_released,
    {f'{n}/kernel': k for n, k in _released_counts().items()},
    dense_gradient=True,
    any_tree=False,
    variant=True,
  ),
  'ste': Row(_ste, dense_gradient=True),
  'sr_ste': Row(_sr_ste, dense_gradient=True),
  # A grown weight's rho is not 0: tests/bayes looks at it.
  'ssvi': Row(
    _ssvi,
    {f'{field}/{n}': k for field in ('mu', 'rho') for n, k in _QUARTER.items()},
    any_tree=False,
    prepare=_gaussians,
  ),
}


@functools.cache
def _history(name):
  # One compiled run serves the checks of a row; files are not shared by workers.
  return js.testing.train(_ROWS[name].make_tx, prepare=_ROWS[name].prepare)


# For the checks that take longest: one row of each kind of rule. The others are for `--all`.
_KINDS = ('static', 'iss_p', 'rigl', 'dsl', 'sr_ste', 'ssvi')


def _as_parameter(name, is_long):
  return pytest.param(name, marks=pytest.mark.long if is_long else [])


# Variants repeat what another row checks, with other arguments.
@pytest.fixture(
  params=[_as_parameter(name, row.variant) for name, row in _ROWS.items()]
)
def name(request):
  return request.param


@pytest.fixture(params=[_as_parameter(name, name not in _KINDS) for name in _ROWS])
def kind(request):
  return request.param


@pytest.fixture
def row(name):
  return _ROWS[name]


@pytest.fixture
def history(name):
  return _history(name)


def test_protocol(history):
  js.testing.check_protocol(history)


def test_counts_are_exact_at_every_step(row, history):
  js.testing.check_counts(history, row.num_kept)


def test_zeros_off_the_mask_at_every_step(history):
  js.testing.check_zeros(history)


def test_one_trace(history):
  js.testing.check_one_trace(history)


def test_masks_move_where_they_should(row, history):
  if row.moves:
    js.testing.check_masks_move(history)
  else:
    with pytest.raises(AssertionError, match='no mask changed'):
      js.testing.check_masks_move(history)


def test_grown_weights_start_afresh(row, history):
  if row.grows:
    js.testing.check_grown(history)


def test_extra_args(history):
  js.testing.check_extra_args(history)


def test_nan_off_the_mask(row, history):
  js.testing.check_nan(history, dense_gradient=row.dense_gradient)


def test_donation(history):
  js.testing.check_donation(history)


def test_checkpoint(history):
  js.testing.check_checkpoint(history)


@pytest.mark.parametrize('batch_step', [False, True])
def test_vmap_over_seeds(kind, batch_step):
  js.testing.check_vmap(_history(kind), batch_step=batch_step)


def test_bfloat16(history):
  js.testing.check_dtype(history, jnp.bfloat16)


def test_float32_stays(history):
  before, after = (
    jax.tree.map(lambda x: x.dtype, p) for p in (history.params[0], history.params[-1])
  )
  assert before == after


def test_containers(kind):
  if _ROWS[kind].any_tree:
    js.testing.check_containers(_history(kind))


def test_masked_node(row, history):
  if row.any_tree:
    js.testing.check_masked_node(history)


def test_odd_trees(row, history):
  if row.any_tree:
    js.testing.check_odd_trees(history)


def test_replicas(history):
  js.testing.check_replicas(history, num_devices=8)


def test_fewer_replicas(kind):
  js.testing.check_replicas(_history(kind), num_devices=2)


def test_sharded_params(kind):
  js.testing.check_sharded(_history(kind))


def _by_kind(params):
  return jax.tree.map(lambda p: 'matrix' if p.ndim == 2 else 'vector', params)


_OPTIMIZERS = {
  'sgd': lambda: optax.sgd(0.1),
  'momentum': lambda: optax.sgd(0.1, momentum=0.9),
  'nesterov': lambda: optax.sgd(0.1, momentum=0.9, nesterov=True),
  'adam': lambda: optax.adam(1e-2),
  'adamw': lambda: optax.adamw(1e-2, weight_decay=0.1),
  'amsgrad': lambda: optax.amsgrad(1e-2),
  'lion': lambda: optax.lion(1e-2),
  'adafactor': lambda: optax.adafactor(1e-2),
  'adafactor_factored': lambda: optax.adafactor(1e-2, min_dim_size_to_factor=8),
  'rmsprop': lambda: optax.rmsprop(1e-2, initial_scale=0.5),
  'adagrad': lambda: optax.adagrad(1e-1),
  'novograd': lambda: optax.novograd(1e-2),
  'lamb': lambda: optax.lamb(1e-2),
  'inject_hyperparams': lambda: optax.inject_hyperparams(optax.adam)(
    optax.linear_schedule(1e-2, 1e-3, 10)
  ),
  'multi_steps': lambda: optax.MultiSteps(optax.adam(1e-2), 2),
  'clipping': lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2)),
  'partition': lambda: optax.partition(
    {'matrix': optax.adam(1e-2), 'vector': optax.sgd(0.1, momentum=0.9)}, _by_kind
  ),
  'apply_if_finite': lambda: optax.apply_if_finite(optax.adam(1e-2), 5),
  'muon': lambda: optax.contrib.muon(1e-2),
  'prodigy': lambda: optax.contrib.prodigy(1.0),
  'schedule_free': lambda: optax.contrib.schedule_free_adamw(1e-2),
}


# What differs from one of the others in the arithmetic of a single weight alone.
_ALIKE = ('nesterov', 'amsgrad', 'rmsprop', 'adagrad', 'novograd', 'adafactor')


@pytest.mark.parametrize(
  'optimizer', [_as_parameter(n, n in _ALIKE) for n in _OPTIMIZERS]
)
def test_rigl_with_every_optimizer(optimizer):
  inner = _OPTIMIZERS[optimizer]()
  history = js.testing.train(_rigl, inner=inner, steps=6)
  js.testing.check_counts(history, _QUARTER)
  js.testing.check_zeros(history)
  js.testing.check_one_trace(history)
  js.testing.check_grown(history)
  assert jax.tree.all(jax.tree.map(lambda p: np.isfinite(p).all(), history.params[-1]))


@pytest.mark.parametrize('optimizer', ['momentum', 'adafactor', 'prodigy'])
@pytest.mark.parametrize('name', ['gmp', 'set', 'ste'])
def test_other_transforms_with_a_few_optimizers(name, optimizer):
  row, inner = _ROWS[name], _OPTIMIZERS[optimizer]()
  history = js.testing.train(row.make_tx, inner=inner, steps=6)
  js.testing.check_counts(history, row.num_kept)
  js.testing.check_zeros(history)
  js.testing.check_one_trace(history)


def _in_multi_steps(inner, seed):
  return optax.MultiSteps(_rigl(inner, seed), 2).gradient_transformation()


def _in_apply_if_finite(inner, seed):
  return optax.apply_if_finite(_rigl(inner, seed), 5)


def _after_clipping(inner, seed):
  return optax.chain(optax.clip_by_global_norm(1.0), _rigl(inner, seed))


@pytest.mark.parametrize(
  'make_tx', [_in_multi_steps, _in_apply_if_finite, _after_clipping]
)
def test_what_may_stand_outside(make_tx):
  history = js.testing.train(make_tx, steps=9)
  js.testing.check_counts(history, _QUARTER)
  js.testing.check_zeros(history)
  js.testing.check_one_trace(history)
  js.testing.check_masks_move(history)
  js.testing.check_grown(history)

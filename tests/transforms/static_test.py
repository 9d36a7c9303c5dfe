"""Static masks: random, by a criterion at init, and given."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse as js


def _bits(mask):
  return np.asarray(mask).astype(int).tolist()


def _static(sparsity=None, **kwargs):
  kwargs = {'distribution': js.distributions.uniform, **kwargs}
  return js.transforms.static(optax.sgd(0.5), sparsity, **kwargs)


def _params():
  keys = jax.random.split(jax.random.key(0), 2)
  return {
    'dense1': {'kernel': jax.random.normal(keys[0], (4, 8)), 'bias': jnp.zeros(8)},
    'dense2': {'kernel': jax.random.normal(keys[1], (8, 2)), 'bias': jnp.zeros(2)},
  }


def _apply(params, x):
  x = x @ params['dense1']['kernel'] + params['dense1']['bias'][None]
  return jax.nn.relu(x) @ params['dense2']['kernel'] + params['dense2']['bias'][None]


X = jax.random.normal(jax.random.key(3), (5, 4))


def _loss(params, x):
  return jnp.mean((_apply(params, x) - 1.0) ** 2)


def test_random_masks_stay_and_have_exact_counts():
  tx = _static(0.75, seed=0)
  params, state = js.init(tx, _params())
  first = state.masks
  assert [int(m.sum()) for m in jax.tree.leaves(first)] == [1, 8, 1, 4]
  for _ in range(3):
    updates, state = tx.update(jax.grad(_loss)(params, X), state, params)
    params = optax.apply_updates(params, updates)
  jax.tree.map(np.testing.assert_array_equal, state.masks, first)
  kernel = np.asarray(params['dense1']['kernel'])
  assert not kernel[~np.asarray(first['dense1']['kernel'])].any()


def test_kept_weights_train_as_with_the_inner_optimizer():
  tx = _static(0.5, seed=0)
  params, state = js.init(tx, _params())
  grads = jax.grad(_loss)(params, X)
  updates, _ = tx.update(grads, state, params)
  wanted = js.masks.apply(state.masks, jax.tree.map(lambda g: -0.5 * g, grads))
  jax.tree.map(np.testing.assert_array_equal, updates, wanted)


def test_seed_and_name_decide_the_masks():
  masks = lambda seed, params: _static(0.5, seed=seed).init(params).masks
  one, params = masks(0, _params()), _params()
  jax.tree.map(np.testing.assert_array_equal, one, masks(jax.random.key(0), params))
  other = masks(1, params)
  assert not np.array_equal(one['dense1']['kernel'], other['dense1']['kernel'])
  # A new layer leaves the masks of the others as they were.
  more = masks(0, {'aaa': {'kernel': jnp.ones((3, 3))}, **params})
  more.pop('aaa')
  jax.tree.map(np.testing.assert_array_equal, one, more)


def test_snip_with_one_threshold():
  criterion = js.criteria.snip(_loss, X)
  tx = _static(0.8, criterion=criterion, distribution=js.distributions.global_pool)
  params = _params()
  masks = tx.init(params).masks
  grads = jax.grad(_loss)(params, X)
  scores = {
    k: np.abs(np.asarray(params[k]['kernel'] * grads[k]['kernel'])) for k in params
  }
  pooled = np.sort(np.concatenate([s.ravel() for s in scores.values()]))
  threshold = pooled[-round(0.2 * pooled.size)]
  for k in params:
    np.testing.assert_array_equal(masks[k]['kernel'], scores[k] >= threshold)


def test_redraw_keeps_the_counts_and_draws_the_places():
  criterion = js.criteria.snip(_loss, X)
  kwargs = dict(criterion=criterion, distribution=js.distributions.global_pool)
  chosen = _static(0.5, **kwargs).init(_params()).masks
  drawn = _static(0.5, seed=0, redraw=True, **kwargs).init(_params()).masks
  again = _static(0.5, seed=1, redraw=True, **kwargs).init(_params()).masks
  for k in ('dense1', 'dense2'):
    count = int(chosen[k]['kernel'].sum())
    assert int(drawn[k]['kernel'].sum()) == int(again[k]['kernel'].sum()) == count
  assert not np.array_equal(drawn['dense1']['kernel'], again['dense1']['kernel'])
  assert not np.array_equal(drawn['dense1']['kernel'], chosen['dense1']['kernel'])


def _linear(params, x):
  return x @ params['dense1']['kernel'] @ params['dense2']['kernel']


def _numpy_synflow(params, sparsity, iterations):
  """Algorithm 1 of the paper for a linear net of two layers."""
  a, b = (np.abs(np.asarray(params[k]['kernel'])) for k in ('dense1', 'dense2'))
  mask = np.ones(a.size + b.size, bool)
  for i in range(1, iterations + 1):
    ma = a * mask[: a.size].reshape(a.shape)
    mb = b * mask[a.size :].reshape(b.shape)
    score_a, score_b = ma * mb.sum(axis=1), mb * ma.sum(axis=0)[:, None]
    scores = np.concatenate([score_a.ravel(), score_b.ravel()])
    scores[~mask] = -np.inf
    kept = round(mask.size * (1 - sparsity) ** (i / iterations))
    mask = np.isin(np.arange(mask.size), np.argsort(-scores)[:kept])
  return mask[: a.size].reshape(a.shape), mask[a.size :].reshape(b.shape)


@pytest.mark.parametrize('iterations', [1, 5, 100])
def test_synflow_in_many_rounds(iterations):
  params = _params()
  tx = _static(
    0.8,
    criterion=js.criteria.synflow(_linear, X),
    distribution=js.distributions.global_pool,
    iterations=iterations,
  )
  masks = tx.init(params).masks
  wanted = _numpy_synflow(params, 0.8, iterations)
  np.testing.assert_array_equal(masks['dense1']['kernel'], wanted[0])
  np.testing.assert_array_equal(masks['dense2']['kernel'], wanted[1])
  if iterations == 100:
    # The point of many rounds: paths stay whole, no weight leads nowhere.
    a, b = wanted
    np.testing.assert_array_equal(a.any(axis=0), b.any(axis=1))


def test_structure_and_sparsity_per_path():
  tx = _static(
    {'dense1/*': 0.5, '*': 0.25},
    seed=0,
    structure={'dense1/*': js.masks.NM(2, 4), '*': js.masks.Block((4, 1))},
  )
  masks = tx.init(_params()).masks
  first = np.asarray(masks['dense1']['kernel'])
  assert (first.reshape(1, 4, 8).sum(axis=1) == 2).all()
  blocks = np.asarray(masks['dense2']['kernel']).reshape(2, 4, 2).sum(axis=1)
  assert sorted(blocks.ravel().tolist()) == [0, 4, 4, 4]


def test_init_works_under_jit_and_eval_shape():
  tx, params = _static(0.5, seed=0), _params()
  wanted = tx.init(params).masks
  jax.tree.map(np.testing.assert_array_equal, jax.jit(tx.init)(params).masks, wanted)
  shapes = jax.eval_shape(tx.init, params).masks
  assert shapes['dense1']['kernel'].shape == (4, 8)


# --- masks that somebody brings -------------------------------------------------------------


def test_given_masks_fine_tune_a_sparse_model():
  params = js.masks.apply(_static(0.5, seed=0).init(_params()).masks, _params())
  masks = js.masks.from_nonzeros(params)
  tx = _static(masks=masks)
  start, state = js.init(tx, params)
  jax.tree.map(np.testing.assert_array_equal, start, params)
  updates, state = tx.update(jax.grad(_loss)(start, X), state, start)
  after = optax.apply_updates(start, updates)
  off = ~np.asarray(masks['dense1']['kernel'])
  assert off.sum() == 16 and not np.asarray(after['dense1']['kernel'])[off].any()


def test_given_masks_are_copied():
  masks = {'kernel': jnp.array([[True, False]])}
  tx = _static(masks=masks)
  params, state = js.init(tx, {'kernel': jnp.ones((1, 2))})
  jax.jit(tx.update, donate_argnums=1)(params, state, params)
  assert not masks['kernel'].is_deleted()


@pytest.mark.parametrize(
  'mask', [True, np.array([[True], [False]]), jnp.ones((), bool)]
)
def test_given_masks_may_be_broadcastable(mask):
  tx = _static(masks={'kernel': mask})
  params, _ = js.init(tx, {'kernel': jnp.ones((2, 3))})
  wanted = np.broadcast_to(mask, (2, 3)).astype(int).tolist()
  assert _bits(params['kernel']) == wanted


@pytest.mark.parametrize(
  'masks, message',
  [
    (
      {'other': jnp.ones((2, 3), bool)},
      'masks: of another model; they lack kernel, and other is in them only',
    ),
    ({'kernel': jnp.ones((3, 2), bool)}, r'masks: kernel has shape \(3, 2\).*\(2, 3\)'),
    ({'kernel': jnp.ones(3, bool)}, r'masks: kernel has shape \(3,\).*\(2, 3\)'),
    ({'kernel': jnp.ones((2, 3))}, 'masks: kernel has .* dtype float32; wanted bool'),
  ],
)
def test_given_masks_of_another_model_are_refused(masks, message):
  with pytest.raises(ValueError, match=message):
    _static(masks=masks).init({'kernel': jnp.ones((2, 3))})


# --- errors ------------------------------------------------------------------------------------


MASKS = {'kernel': jnp.ones((2, 3), bool)}


@pytest.mark.parametrize(
  'kwargs, message',
  [
    ({}, 'either sparsity= or masks='),
    ({'sparsity': 0.5, 'masks': MASKS, 'seed': 0}, 'either sparsity= or masks='),
    ({'sparsity': 0.5}, 'random masks need seed='),
    (
      {'sparsity': 0.5, 'criterion': js.criteria.magnitude, 'redraw': True},
      'random masks need seed=',
    ),
    ({'sparsity': 0.5, 'seed': 0, 'iterations': 0}, 'iterations=0.*wanted an int'),
    ({'sparsity': 0.5, 'seed': 0, 'iterations': 2.5}, 'iterations=2.5.*wanted an int'),
    ({'sparsity': {'*': 0.5}, 'seed': 0, 'iterations': 2}, 'one float'),
    ({'sparsity': 1.0, 'seed': 0}, r'sparsity=1.0.*\[0, 1\)'),
  ],
)
def test_bad_arguments_are_refused(kwargs, message):
  with pytest.raises(ValueError, match=message):
    _static(**kwargs)


def test_saliency_at_init_says_what_to_use():
  tx = _static(0.5, criterion=js.criteria.saliency)
  with pytest.raises(ValueError, match='snip'):
    tx.init(_params())

"""SSVI: what holds at every step, what grows how, resuming, replicas, ensembles."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse as js

_KEPT = {'dense1/kernel': 128, 'dense2/kernel': 64}
_NAMES = tuple(_KEPT)


def _ssvi(seed=0, **kwargs):
  kwargs = {
    'when': js.schedules.every(2),
    'distribution': js.distributions.uniform,
    **kwargs,
  }
  return js.bayes.ssvi(0.75, seed=seed, **kwargs)


def _optimizer(posterior):
  return js.bayes.optimizer(posterior, optax.adam(1e-2), rho=optax.adam(1e-2))


def _start(posterior):
  return posterior.init(jax.random.key(1), js.testing.small_params())


def _apply(theta, x):
  h = jnp.tanh(x @ theta['dense1']['kernel'] + theta['dense1']['bias'][None])
  h = h * theta['norm']['scale'][None]
  return h @ theta['dense2']['kernel'] + theta['dense2']['bias'][None]


def _log_likelihood(outputs, targets):
  return -0.5 * jnp.sum((outputs - targets) ** 2, -1)


def _batch():
  draw = np.random.default_rng(0).normal
  return tuple(jnp.asarray(draw(size=(16, n)), jnp.float32) for n in (16, 8))


def _make_step(posterior, tx, axis=None):
  elbo = js.bayes.negative_elbo(
    posterior, _apply, _log_likelihood, num_examples=160, temperature=0.3
  )

  def step(params, state, batch, key):
    key = jax.random.fold_in(key, state.step)
    if axis is not None:
      key = jax.random.fold_in(key, jax.lax.axis_index(axis))
    masks = js.get_masks(state)
    (_, info), grads = jax.value_and_grad(elbo, has_aux=True)(
      params, masks, batch, key, state.step
    )
    if axis is not None:
      grads = jax.lax.pmean(grads, axis)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state, (grads, info)

  return step


@functools.cache
def _run():
  """Seven steps of a tiny regression, everything kept; traced once or the test fails."""
  posterior = _ssvi()
  tx = _optimizer(posterior)
  params, state = js.init(tx, _start(posterior))
  traces = []
  advance = _make_step(posterior, tx)

  @jax.jit
  def step(*args):
    traces.append(None)
    return advance(*args)

  seen = [(params, state, None)]
  for _ in range(7):
    params, state, aux = step(params, state, _batch(), jax.random.key(2))
    seen.append((params, state, aux))
  return posterior, tx, seen, len(traces)


def _named(tree):
  return {n: np.asarray(x) for n, x in js.core.named_subset(tree, _NAMES).items()}


def test_every_step_keeps_its_counts_and_exact_zeros():
  posterior, _, seen, num_traces = _run()
  assert num_traces == 1
  for step, (params, state, _) in enumerate(seen):
    masks = js.get_masks(state)
    theta = posterior.sample(params, masks, jax.random.key(step))
    assert jax.tree.structure(masks) == jax.tree.structure(params.mu)
    for name, mask in _named(masks).items():
      assert mask.sum() == _KEPT[name]
      np.testing.assert_array_equal(_named(theta)[name] != 0, mask)
      for field in params:
        assert not np.any(_named(field)[name][~mask])
    assert all(
      r.shape == () for r in (params.rho['norm']['scale'], masks['norm']['scale'])
    )


def test_masks_move_when_due_and_grown_weights_start_afresh():
  _, _, seen, _ = _run()
  moved = 0
  for step in range(1, len(seen)):
    (before, old, _), (after, new, (grads, _)) = seen[step - 1], seen[step]
    was, now = _named(js.get_masks(old)), _named(js.get_masks(new))
    due = step - 1 in (2, 4, 6)
    for name in _NAMES:
      grown, lost = now[name] & ~was[name], was[name] & ~now[name]
      if not due:
        assert not np.any(grown | lost)
        continue
      moved += grown.sum()
      worth = np.abs(_named(before.mu)[name]) / np.exp(_named(before.rho)[name])
      num = int(np.floor(np.float32(0.3) * _KEPT[name]))
      order = np.argsort(np.where(was[name], worth, np.inf), axis=None)[:num]
      alive = was[name].copy()
      alive.flat[order] = False
      # What went was among the worst; what came has the largest gradient.
      assert not np.any(lost & alive)
      slope = np.where(alive, -1, np.abs(_named(grads.mu)[name]))
      new_ones = now[name] & ~alive
      assert slope[new_ones].min() >= slope[~now[name]].max()
      assert not np.any(_named(after.mu)[name][new_ones])
      mean = _named(before.rho)[name][alive].mean()
      np.testing.assert_allclose(_named(after.rho)[name][new_ones], mean, rtol=1e-5)
      for i, field in enumerate(('mu', 'rho')):
        adam = new.inner_state.inner_states[field].inner_state[0]
        for moment in (adam.mu, adam.nu):
          assert not np.any(_named(moment[i])[name][new_ones])
          assert np.all(_named(moment[i])[name][now[name] & alive] != 0)
  assert moved > 40


def test_sigma_learns():
  _, _, seen, _ = _run()
  rho = [_named(p.rho)['dense1/kernel'] for p, _, _ in (seen[0], seen[1])]
  mask = _named(js.get_masks(seen[1][1]))['dense1/kernel']
  np.testing.assert_allclose(np.abs(rho[1] - rho[0])[mask], 0.01, rtol=1e-2)


def test_scales_are_those_of_the_sparse_layer():
  posterior, _, seen, _ = _run()
  params, state, _ = seen[0]
  masks = _named(js.get_masks(state))
  total = 0.0
  for name, fan_in in (('dense1/kernel', 16), ('dense2/kernel', 32)):
    unit = 1 / np.sqrt(fan_in * 0.25)
    rho = _named(params.rho)[name][masks[name]]
    np.testing.assert_allclose(np.exp(rho), 0.05 * unit, rtol=1e-5)
    mu, sigma, prior = _named(params.mu)[name][masks[name]], 0.05 * unit, 0.7 * unit
    total += np.sum(np.log(prior / sigma) + (sigma**2 + mu**2) / (2 * prior**2) - 0.5)
  kl = posterior.kl(params, js.get_masks(state))
  np.testing.assert_allclose(kl, total, rtol=1e-4)


def test_a_distribution_that_reads_scores_has_its_densities_from_the_start():
  posterior = _ssvi(seed=3, distribution=js.distributions.global_pool)
  params, state = js.init(_optimizer(posterior), _start(posterior))
  masks = _named(js.get_masks(state))
  assert sum(m.sum() for m in masks.values()) == 192
  for name, fan_in in (('dense1/kernel', 16), ('dense2/kernel', 32)):
    assert masks[name].sum() != _KEPT[name]
    rho = _named(params.rho)[name][masks[name]]
    wanted = 0.05 / np.sqrt(fan_in * masks[name].mean())
    np.testing.assert_allclose(np.exp(rho), wanted, rtol=1e-5)


def test_conformance():
  """The checks that know nothing of fields: one trace, moving masks, Orbax."""
  make_tx = lambda inner, seed: js.bayes.optimizer(_ssvi(seed), inner, rho=inner)
  history = js.testing.train(make_tx, params=_start(_ssvi()), steps=7)
  js.testing.check_one_trace(history)
  js.testing.check_masks_move(history)
  # Saved after three steps: between two decisions, with the rule's memory.
  js.testing.check_checkpoint(history)
  shapes = jax.eval_shape(history.tx.init, history.params[0])
  assert jax.tree.structure(shapes) == jax.tree.structure(history.states[0])


def test_a_nan_off_the_mask_stays_there():
  _, tx, seen, _ = _run()
  params, state, (grads, _) = seen[1]
  update = jax.jit(tx.update)
  for _ in range(3):
    masks = js.get_masks(state)
    full = js.bayes.Gaussian(
      masks, jax.tree.map(lambda m, r: m if r.ndim else True, masks, params.rho)
    )
    bad = jax.tree.map(lambda m, g: jnp.where(m, g, jnp.nan), full, grads)
    updates, state = update(bad, state, params)
    params = optax.apply_updates(params, updates)
    for x in jax.tree.leaves((params, state.inner_state)):
      assert np.all(np.isfinite(x))


def _evidence(mu, rho, mask, grads):
  masks = {'kernel': mask}
  return js.core.Evidence(
    ({'kernel': mu}, {'kernel': rho}),
    None,
    ({'kernel': grads}, {'kernel': jnp.zeros_like(rho)}),
    masks,
    jnp.int32(2),
    None,
  )


@pytest.mark.parametrize(
  'grown_sigma, wanted',
  [('mean_rho', -4.0), ('layer_median', -5.0), ('eps', np.log(1e-6)), ('prior', None)],
)
def test_golden_update(grown_sigma, wanted):
  posterior = _ssvi(drop_fraction=0.25, grown_sigma=grown_sigma)
  mask = jnp.array([[1, 1, 0, 0], [1, 1, 0, 0]], bool)
  mu = jnp.where(mask, jnp.array([[1.0, -2.0, 0, 0], [0.5, 4.0, 0, 0]]), 0.0)
  # SNR: |mu| exp(-rho) is smallest for the 4, whose sigma is large.
  rho = jnp.where(mask, jnp.array([[-5.0, -6.0, 0, 0], [-1.0, 3.0, 0, 0]]), 0.0)
  grads = jnp.array([[0.0, 0, 0.5, -3.0], [0, 1.0, 2.0, 0]])
  evidence = _evidence(mu, rho, mask, grads)
  _, memory = posterior.rule.init(evidence._replace(key=jax.random.key(0)))
  decision = posterior.rule.update(evidence, memory)
  assert decision.masks['kernel'].astype(int).tolist() == [[1, 1, 0, 1], [1, 0, 0, 0]]
  assert decision.survivors['kernel'].astype(int).tolist() == [
    [1, 1, 0, 0],
    [1, 0, 0, 0],
  ]
  gaussian = js.bayes.Gaussian({'kernel': mu}, {'kernel': rho})
  value = posterior.rule.grown_value(gaussian, evidence._replace(decision=decision))
  wanted = np.log(0.7 / np.sqrt(2 * 0.5)) if wanted is None else wanted
  np.testing.assert_allclose(value.rho['kernel'], wanted, rtol=1e-5)
  assert not np.any(value.mu['kernel'])
  # Nobody survives: a new weight starts at the prior, or what was asked for.
  everything = _ssvi(drop_fraction=1.0, grown_sigma=grown_sigma)
  (alone,) = everything.rule.update(evidence, memory).memory.rho
  fallback = np.log(0.7) if grown_sigma != 'eps' else np.log(1e-6)
  np.testing.assert_allclose(alone, fallback, rtol=1e-5)


def test_gradients_of_their_own_decide_growth():
  _, tx, seen, _ = _run()
  (params, state, _), (plain, _, (grads, _)) = seen[2], seen[3]
  assert int(state.step) == 2
  was = _named(js.get_masks(state))['dense1/kernel']
  chosen = jax.tree.map(jnp.zeros_like, grads)
  spot = tuple(np.argwhere(~was)[7])
  chosen.mu['dense1']['kernel'] = chosen.mu['dense1']['kernel'].at[spot].set(1.0)
  step = jax.jit(lambda g: tx.update(grads, state, params, growth=g))
  updates, after = step(chosen)
  now = _named(js.get_masks(after))['dense1/kernel']
  assert now[spot]
  # The weights step along the gradients, not along what decided on growth.
  got = _named(optax.apply_updates(params, updates).mu)['dense1/kernel']
  alive = was & now & (got != 0)
  both = alive & (_named(plain.mu)['dense1/kernel'] != 0)
  assert both.sum() > 60
  np.testing.assert_allclose(
    got[both], _named(plain.mu)['dense1/kernel'][both], rtol=1e-5
  )
  # A tree like mu will do as well.
  shapes = jax.eval_shape(step, chosen.mu)
  assert jax.tree.structure(shapes[1]) == jax.tree.structure(after)


def test_a_global_scope_moves_counts_between_layers():
  posterior = _ssvi(scope='global', criterion=js.bayes.magnitude, drop_fraction=0.1)
  rule, draw = posterior.rule, np.random.default_rng(0).normal
  params, masks = _start(posterior), None
  masks, memory = rule.init(
    js.core.Evidence(tuple(params), None, None, None, jnp.int32(0), jax.random.key(0))
  )
  update, counts = jax.jit(rule.update), set()
  # The second layer is small and asks for nothing: it shrinks to its best weight.
  scale = {'dense1': 1.0, 'dense2': 1e-6, 'norm': 1.0}
  mu = {k: jax.tree.map(lambda x: scale[k] * x, v) for k, v in params.mu.items()}  # noqa: B023
  for step in range(8):
    grads = {
      k: jax.tree.map(lambda x: jnp.asarray(scale[k] * draw(size=x.shape), x.dtype), v)  # noqa: B023
      for k, v in mu.items()
    }
    evidence = js.core.Evidence(
      (mu, params.rho), None, (grads, grads), masks, jnp.int32(step), None
    )
    masks, _, memory = update(evidence, memory)
    kept = {n: int(m.sum()) for n, m in _named(masks).items()}
    assert sum(kept.values()) == 192
    counts.add(kept['dense2/kernel'])
  assert len(counts) > 3 and min(counts) == 1


@pytest.mark.parametrize(
  'structure, kept',
  [
    (js.masks.Channel(), 8),
    pytest.param(js.masks.NM(1, 4), 128, marks=pytest.mark.long),
  ],
)
def test_structures(structure, kept):
  posterior = _ssvi(structure=structure, keep_repicked=True, prunable='dense1/kernel')
  tx = _optimizer(posterior)
  params, state = js.init(tx, _start(posterior))
  step = jax.jit(_make_step(posterior, tx))
  first = js.get_masks(state)['dense1']['kernel']
  for _ in range(3):
    params, state, _ = step(params, state, _batch(), jax.random.key(2))
  mask = js.get_masks(state)['dense1']['kernel']
  assert int(mask.sum()) == kept == int(first.sum())
  assert np.any(mask != first)
  active = np.broadcast_to(mask, (16, 32))
  np.testing.assert_array_equal(params.rho['dense1']['kernel'] != 0, active)
  masks = js.get_masks(state)
  _, fewer = posterior.prune(params, masks, 0.5)
  assert int(fewer['dense1']['kernel'].sum()) <= kept


def test_a_sparse_leaf_may_be_deterministic_and_a_bayesian_one_dense():
  posterior = _ssvi(prunable='dense1/kernel', bayesian='dense2/kernel')
  tx = _optimizer(posterior)
  params, state = js.init(tx, _start(posterior))
  step = jax.jit(_make_step(posterior, tx))
  for _ in range(3):
    params, state, _ = step(params, state, _batch(), jax.random.key(2))
  masks = js.get_masks(state)
  assert int(masks['dense1']['kernel'].sum()) == 128
  assert params.rho['dense1']['kernel'].shape == ()
  assert masks['dense2']['kernel'].shape == ()
  theta = [posterior.sample(params, masks, jax.random.key(i)) for i in range(2)]
  np.testing.assert_array_equal(*(t['dense1']['kernel'] for t in theta))
  assert np.all(theta[0]['dense2']['kernel'] != theta[1]['dense2']['kernel'])


# One sparse layer is enough for what follows, and compiles in half the time.
_one_layer = functools.partial(_ssvi, prunable='dense1/kernel')


def test_replicas_draw_different_noise_and_hold_equal_masks():
  posterior = _one_layer()
  tx = _optimizer(posterior)
  start = js.init(tx, _start(posterior))
  advance = _make_step(posterior, tx, axis='batch')
  step = jax.pmap(
    advance, 'batch', devices=jax.local_devices()[:2], in_axes=(0, 0, 0, None)
  )
  # Equal data: what differs between the replicas is their noise.
  *copies, batch = jax.tree.map(lambda x: jnp.stack([x, x]), (*start, _batch()))
  for _ in range(3):
    *copies, (_, info) = jax.block_until_ready(step(*copies, batch, jax.random.key(2)))
    nll = np.asarray(info.nll)
    assert nll[0] != nll[1]
  for x in jax.tree.leaves(copies):
    x = jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    np.testing.assert_array_equal(*np.asarray(x))
  first, last = (js.get_masks(s)['dense1']['kernel'] for s in (start[1], copies[1]))
  assert np.any(np.asarray(last)[0] != np.asarray(first))


def test_an_ensemble_is_a_vmap_over_seeds():
  def begin(seed):
    posterior = _one_layer(seed)
    return js.init(_optimizer(posterior), _start(posterior))

  axes = (0, js.testing.step_axes(begin(0)[1]))
  params, states = jax.vmap(begin, out_axes=axes)(jnp.arange(2))
  advance = js.testing.make_step(_optimizer(_one_layer()))
  step = jax.jit(jax.vmap(advance, in_axes=(*axes, None), out_axes=axes))
  for i in range(3):
    params, states = step(params, states, float(i))
  masks = np.asarray(states.masks['dense1']['kernel'])
  assert masks.sum((1, 2)).tolist() == [128, 128]
  assert np.any(masks[0] != masks[1])


@pytest.mark.parametrize(
  'kwargs, message',
  [
    ({'grown_sigma': 'mean'}, "grown_sigma='mean'.*mean_rho"),
    ({'scope': 'all'}, "scope='all'.*layer"),
    ({'criterion': 'snr'}, "criterion='snr'"),
    ({'scope': 'global', 'structure': js.masks.Channel()}, "scope='global'.*Channel"),
    ({'drop_fraction': 1.5}, 'drop_fraction=1.5'),
    ({'prior_scale': -1.0}, 'prior_scale=-1.0'),
  ],
)
def test_bad_arguments_are_refused(kwargs, message):
  with pytest.raises(ValueError, match=message):
    _ssvi(**kwargs)


def test_a_global_scope_compares_like_with_like():
  kwargs = {'scope': 'global', 'bayesian': 'dense1/*'}
  posterior = _ssvi(**kwargs)
  with pytest.raises(ValueError, match='dense2/kernel is pruned but deterministic'):
    _optimizer(posterior).init(_start(posterior))
  posterior = _ssvi(criterion=js.bayes.magnitude, **kwargs)
  jax.eval_shape(_optimizer(posterior).init, _start(posterior))

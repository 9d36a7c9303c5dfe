"""Averages over weights against plain NumPy, and memory that does not grow."""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse as js

_KEY, _X_KEY = jax.random.key(3), jax.random.key(0)
_X = jax.random.normal(_X_KEY, (5, 4))
_PARAMS = {'kernel': jnp.ones((4, 3)) / 3}


class Toy(NamedTuple):
  """The least that `predict` asks of a posterior."""

  sample: object
  mean: object


def _sample(params, masks, key):
  noise = 2 * jax.random.normal(key, (4, 3))
  return {'kernel': jnp.where(masks['kernel'], params['kernel'] + noise, 0)}


_TOY = Toy(_sample, lambda params, masks: params)
_MASKS = {'kernel': jnp.array([[True], [True], [False], [True]])}


def _apply(theta, x):
  return x @ theta['kernel']


@functools.partial(jax.jit, static_argnames=('samples', 'mode', 'chunk'))
def _predict(key, samples, mode='sample', chunk=1):
  return js.bayes.predict(
    _TOY, _PARAMS, _MASKS, _apply, _X, key=key, samples=samples, mode=mode, chunk=chunk
  )


def _softmax(z):
  e = np.exp(z - z.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def _entropy(p):
  return -(p * np.log(p)).sum(-1)


def _check(prediction, logits):
  """Against the definition, from (S, B, C) logits."""
  each = _softmax(np.asarray(logits, np.float64))
  probs = each.mean(0)
  close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-6)
  assert isinstance(prediction, js.bayes.Prediction)
  close(prediction.probs, probs)
  close(prediction.logits, np.log(probs))
  close(prediction.predictive_entropy, _entropy(probs))
  close(prediction.expected_entropy, _entropy(each).mean(0))
  close(prediction.mutual_information, _entropy(probs) - _entropy(each).mean(0))
  norms = np.log(np.exp(np.asarray(logits, np.float64)).sum(-1))
  close(prediction.energy, -norms.mean(0))


def test_samples_are_averaged_whatever_the_chunk():
  keys = [jax.random.fold_in(_KEY, i) for i in range(6)]
  logits = [_apply(_sample(_PARAMS, _MASKS, key), _X) for key in keys]
  for chunk in (1, 3, 6):
    _check(_predict(_KEY, samples=6, chunk=chunk), logits)


def test_mixed_predictions_are_those_of_all_draws():
  keys = [jax.random.fold_in(key, i) for key in (_KEY, _X_KEY) for i in range(6)]
  logits = [_apply(_sample(_PARAMS, _MASKS, key), _X) for key in keys]
  _check(js.bayes.mix([_predict(key, samples=6) for key in (_KEY, _X_KEY)]), logits)
  with pytest.raises(ValueError, match='predictions: got none'):
    js.bayes.mix([])


def test_the_mean_mode_is_one_network():
  prediction = _predict(_KEY, samples=32, mode='mean', chunk=4)
  _check(prediction, _apply(_PARAMS, _X)[None])
  assert (prediction.mutual_information == 0).all()


def test_lrt_mode_draws_through_the_layers():
  model = nn.Dense(3, use_bias=False)
  bound = js.layers.bind(model, js.bayes.noisy_product)
  posterior = js.bayes.mean_field()
  params = posterior.init(_KEY, model.init(_KEY, _X)['params'])
  masks = {'kernel': jnp.array(True)}
  keys = [jax.random.fold_in(_KEY, i) for i in range(4)]
  draws = [js.bayes.local_reparametrization(posterior, params, masks, k) for k in keys]
  run = lambda theta, x: bound({'params': theta}, x)
  prediction = js.bayes.predict(
    posterior, params, masks, run, _X, key=_KEY, samples=4, mode='lrt', chunk=2
  )
  _check(prediction, jnp.stack([run(theta, _X) for theta in draws]))


def test_memory_does_not_grow_with_samples():
  def size(samples):
    compiled = _predict.lower(_KEY, samples=samples).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  # The keys of more draws would be 8 bytes each, their predictions 60.
  assert size(64) - size(8) <= 8 * 56


def test_sure_and_broken_logits():
  members = {'kernel': 1e4 * jnp.stack([jnp.eye(4, 3), jnp.eye(4, 3)])}
  prediction = js.bayes.predict_ensemble(members, _apply, jnp.eye(4))
  for entropy in prediction[2:5]:
    np.testing.assert_allclose(entropy[:3], 0, atol=1e-6)
  np.testing.assert_allclose(prediction.predictive_entropy[3], np.log(3), rtol=1e-6)
  # What one probability cannot say, its logarithm does.
  labels = jnp.array([1, 2, 0, 0])
  nll = js.bayes.negative_log_likelihood_of_logits(prediction.logits, labels)
  np.testing.assert_allclose(nll, (3e4 + np.log(3)) / 4, rtol=1e-5)
  broken = js.bayes.predict_ensemble([members], lambda m, x: x * jnp.nan, jnp.eye(4))
  assert all(np.isnan(values).all() for values in broken)


def test_ensembles_as_a_stack_and_as_a_list():
  stack = {'kernel': jax.random.normal(_KEY, (3, 4, 3))}
  members = [jax.tree.map(lambda a, i=i: a[i], stack) for i in range(3)]
  logits = [_apply(member, _X) for member in members]
  _check(js.bayes.predict_ensemble(stack, _apply, _X), logits)
  _check(js.bayes.predict_ensemble(members, _apply, _X), logits)
  one = js.bayes.predict_ensemble(members[:1], _apply, _X)
  assert (one.mutual_information == 0).all()
  for bad in ([], {'a': jnp.ones((2, 1)), 'b': jnp.ones((3, 1))}, {'a': jnp.ones(())}):
    with pytest.raises(ValueError, match='members: '):
      js.bayes.predict_ensemble(bad, _apply, _X)


@pytest.mark.parametrize(
  'change, message',
  [
    ({'samples': 0}, 'samples=0'),
    ({'samples': 4.0}, 'samples=4.0'),
    ({'samples': 4, 'chunk': 3}, 'chunk=3: wanted a divisor of samples=4'),
    ({'mode': 'map'}, "mode='map'"),
    ({'key': 0.5}, 'seed=0.5'),
  ],
)
def test_bad_arguments_are_named(change, message):
  with pytest.raises(ValueError, match=message):
    js.bayes.predict(_TOY, _PARAMS, _MASKS, _apply, _X, **{'key': _KEY, **change})


def _noisy_line(theta, x):
  return 100 + x @ theta['kernel'], jnp.exp(theta['kernel'][0, 0]) * jnp.ones(3)


def test_regression_has_two_variances_and_a_density():
  targets = 100 + np.random.default_rng(0).normal(size=(5, 3))
  keys = [jax.random.fold_in(_KEY, i) for i in range(6)]
  outs = [_noisy_line(_sample(_PARAMS, _MASKS, key), _X) for key in keys]
  means = np.stack([np.asarray(m, np.float64) for m, _ in outs])
  noise = np.stack([np.broadcast_to(v, (5, 3)) for _, v in outs]).astype(float)
  density = np.exp(-((targets - means) ** 2) / 2 / noise) / np.sqrt(2 * np.pi * noise)

  @functools.partial(jax.jit, static_argnames=('chunk', 'mode'))
  def run(targets, chunk, mode='sample'):
    return js.bayes.predict_regression(
      _TOY, _PARAMS, _MASKS, _noisy_line, _X,
      key=_KEY, samples=6, chunk=chunk, mode=mode, targets=targets,
    )  # fmt: skip

  close = functools.partial(np.testing.assert_allclose, rtol=1e-4)
  for chunk in (1, 3):
    found = run(targets, chunk)
    assert isinstance(found, js.bayes.Regression)
    close(found.mean, means.mean(0))
    close(found.epistemic, means.var(0))
    close(found.aleatoric, noise.mean(0))
    close(found.log_prob, np.log(density.mean(0)))
  mean = run(None, 1, mode='mean')
  assert mean.log_prob is None and (mean.epistemic == 0).all()
  with pytest.raises(ValueError, match=r'targets: shape \(5,\); wanted \(5, 3\)'):
    run(targets[:, 0], 1)


class Normed(nn.Module):
  """Two BatchNorms of different momentum: the first feeds the second."""

  @nn.compact
  def __call__(self, x, train):
    x = nn.BatchNorm(not train, momentum=0.99, name='first')(nn.Dense(4)(x))
    return nn.BatchNorm(not train, momentum=0.5, name='second')(nn.Dense(3)(x) ** 2)


def test_batch_norm_is_refitted_to_each_draw():
  model = Normed()
  batches = 5 + jax.random.normal(_KEY, (3, 8, 4))
  variables = model.init(_KEY, batches[0], True)
  stats = variables['batch_stats']

  def train_fn(theta, stats, x):
    variables = {'params': theta, 'batch_stats': stats}
    return model.apply(variables, x, True, mutable='batch_stats')[1]['batch_stats']

  refit = jax.jit(js.bayes.refit_batch_norm(train_fn, stats, batches))
  for scale in (1.0, 3.0):
    theta = jax.tree.map(lambda a, scale=scale: scale * a, variables['params'])
    outs = [x @ theta['Dense_0']['kernel'] for x in batches]  # Its bias is 0.
    found = refit(theta)
    want = np.mean([o.mean(0) for o in outs], axis=0)
    np.testing.assert_allclose(found['first']['mean'], want, rtol=1e-4)
    want = np.mean([np.var(o, axis=0) for o in outs], axis=0)
    np.testing.assert_allclose(found['first']['var'], want, rtol=1e-3)
    # By many steps of training the running averages come to the same.
    average = stats
    for _ in range(20):
      average = train_fn(theta, average, batches[0])
    alone = js.bayes.refit_batch_norm(train_fn, stats, batches[:1])(theta)
    np.testing.assert_allclose(
      alone['second']['mean'], average['second']['mean'], rtol=1e-3
    )
  # The draw carries its statistics, and the model reads them.
  draw = lambda key: (variables['params'], refit(variables['params']))
  run = lambda pair, x: model.apply(
    {'params': pair[0], 'batch_stats': pair[1]}, x, False
  )
  found = js.bayes.predict_draws(draw, run, batches[0], key=_KEY, samples=1)
  want = run((variables['params'], refit(variables['params'])), batches[0])
  np.testing.assert_allclose(found.probs, jax.nn.softmax(want), rtol=1e-4, atol=1e-6)
  with pytest.raises(ValueError, match='batches: got none'):
    js.bayes.refit_batch_norm(train_fn, stats, batches[:0])

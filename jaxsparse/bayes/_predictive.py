"""Predictions averaged over weights, at the memory of one draw."""

from collections.abc import Callable, Sequence
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxsparse.bayes import _draws


class Prediction(NamedTuple):
  """A classification, averaged over weights; entropies in nats.

  Attributes:
    probs: (B, C) mean probabilities.
    logits: (B, C) their logarithms, which do not underflow: for
      `negative_log_likelihood_of_logits` and `temperature_scaling`.
    predictive_entropy: (B,) entropy of `probs`: all of the uncertainty.
    expected_entropy: (B,) mean entropy of the single predictions: of the data.
    mutual_information: (B,) the difference, at least 0: of the weights.
    energy: (B,) mean over the draws of `-logsumexp(logits)`, which says how unlike the
      training data an input is, also where the probabilities are certain (Liu et al.,
      Energy-based Out-of-distribution Detection, NeurIPS 2020, section 3).
  """

  probs: jax.Array
  logits: jax.Array
  predictive_entropy: jax.Array
  expected_entropy: jax.Array
  mutual_information: jax.Array
  energy: jax.Array


def predict(
  posterior,
  params,
  masks,
  apply_fn: Callable[[Any, Any], jax.Array],
  x,
  *,
  key,
  samples: int = 32,
  mode: str = 'sample',
  chunk: int = 1,
) -> Prediction:
  r"""Classifies with the weights integrated out.

  .. math:: \bar p(x) = \frac1S \sum_s \text{softmax}(f(x; \theta_s)), \quad
     I = H[\bar p] - \frac1S \sum_s H[p_s], \quad \theta_s \sim q

  The draws run one after the other (`chunk` at a time) and only sums are kept, so
  memory does not grow with `samples`. Wrap the call in `jax.jit` with `apply_fn`,
  `samples`, `mode` and `chunk` bound to run it many times.

  Args:
    posterior: a `js.bayes.Posterior`, or any object with its functions `sample` and
      `mean` (and `noisy`).
    params: what these take; for a `Posterior` a `Gaussian`.
    masks: the masks, `js.get_masks(opt_state)`.
    apply_fn: `(theta, x) -> logits` of shape (B, C), with all that the model needs in
      evaluation bound: `lambda theta, x: model.apply({'params': theta, **state}, x)`.
    x: a batch, any pytree.
    key: typed key; draw s uses `fold_in(key, s)`, whatever `chunk` is.
    samples: S, of the modes that draw.
    mode: `'sample'` draws weights, shared by the examples of the batch; `'mean'` takes
      the mean weights, once; `'lrt'` draws the noise of the outputs, with an `apply_fn`
      made by `js.layers.bind(model, js.bayes.noisy_product)`.
    chunk: draws that run together, a divisor of `samples`.

  Returns:
    `Prediction`, float32. NaN where a logit is NaN.

  Raises:
    ValueError: another mode, `samples` below 1, or a `chunk` that does not divide it.

  Example:
    >>> import jax, jax.numpy as jnp, jaxsparse as js
    >>> posterior, x = js.bayes.mean_field(), jnp.ones((3, 4))
    >>> params = posterior.init(jax.random.key(0), {'kernel': jnp.zeros((4, 2))})
    >>> prediction = js.bayes.predict(
    ...   posterior, params, {'kernel': jnp.array(True)},
    ...   lambda theta, x: x @ theta['kernel'], x, key=jax.random.key(1), samples=8)
    >>> prediction.probs.shape, bool(prediction.mutual_information.min() > 0)
    ((3, 2), True)

  Depeweg et al., Decomposition of Uncertainty in Bayesian Deep Learning, ICML 2018.
  """
  draw = _draws.of_posterior(posterior, params, masks, mode)
  samples, chunk = (1, 1) if mode == 'mean' else (samples, chunk)
  return predict_draws(draw, apply_fn, x, key=key, samples=samples, chunk=chunk)


def predict_draws(
  draw: Callable[[jax.Array], Any],
  apply_fn: Callable[[Any, Any], jax.Array],
  x,
  *,
  key,
  samples: int = 32,
  chunk: int = 1,
) -> Prediction:
  """`predict` for anything that can be drawn: MC dropout, BatchNorm per draw.

  For MC dropout a draw is the key itself, `draw=lambda key: key`, and `apply_fn`
  gives it to the model as its dropout stream. BatchNorm's statistics, if they shall
  fit each draw, belong to the draw: see `refit_batch_norm`.

  Args:
    draw: `key -> theta`, any pytree.
    apply_fn: `(theta, x) -> logits` of shape (B, C).
    x: a batch, any pytree.
    key: typed key; draw s gets `fold_in(key, s)`.
    samples: how many draws.
    chunk: draws that run together, a divisor of `samples`.

  Returns:
    `Prediction`.

  Raises:
    ValueError: `samples` below 1, or a `chunk` that does not divide it.

  Example:
    >>> import flax.linen as nn, jax, jax.numpy as jnp, jaxsparse as js
    >>> model = nn.Sequential([nn.Dropout(0.5, deterministic=False), nn.Dense(2)])
    >>> x, key = jnp.ones((3, 4)), jax.random.key(0)
    >>> variables = model.init({'params': key, 'dropout': key}, x)
    >>> dropped = lambda key, x: model.apply(variables, x, rngs={'dropout': key})
    >>> prediction = js.bayes.predict_draws(lambda key: key, dropped, x, key=key)
    >>> bool((prediction.mutual_information > 0).all())
    True
  """

  def add(sums, logits):
    return jax.tree.map(lambda a, b, f: f(a, b), sums, _sums(logits), _ADD)

  def start(logits):
    zeros = jnp.zeros(logits.shape[:-1])
    # The logarithm of no probability at all.
    return _Sums(jnp.full(logits.shape, -jnp.inf), zeros, zeros)

  sums = _draws.over_draws(draw, apply_fn, x, key, samples, chunk, start, add)
  return _prediction(sums, samples)


def predict_ensemble(
  members, apply_fn: Callable[[Any, Any], jax.Array], x
) -> Prediction:
  r"""`predict` for trained networks: a deep ensemble, a soup's parts, one network.

  .. math:: \bar p(x) = \frac1M \sum_m \text{softmax}(f(x; \theta_m))

  Args:
    members: a list of params, run one after the other, or one tree whose arrays have a
      leading axis of M members, run by `vmap`. A list of one network gives its own
      probabilities and no mutual information, so that baselines share the metrics.
    apply_fn: `(theta, x) -> logits` of shape (B, C).
    x: a batch, any pytree.

  Returns:
    `Prediction`.

  Raises:
    ValueError: no member, or arrays with different leading axes.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> apply_fn = lambda theta, x: x @ theta['kernel']
    >>> members = {'kernel': jnp.stack([jnp.eye(2), -jnp.eye(2)])}
    >>> js.bayes.predict_ensemble(members, apply_fn, 3 * jnp.eye(2)).probs
    Array([[0.5, 0.5],
           [0.5, 0.5]], dtype=float32)

  Lakshminarayanan et al., Simple and Scalable Predictive Uncertainty Estimation using
  Deep Ensembles, NeurIPS 2017.
  """
  # A NamedTuple is a tree of params, not a list of members.
  if isinstance(members, list | tuple) and not hasattr(members, '_fields'):
    if not members:
      raise ValueError('members: got none.')
    logits = jnp.stack([apply_fn(theta, x) for theta in members])
  else:
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(members)}
    if len(sizes) != 1 or sizes & {(), (0,)}:
      raise ValueError(
        f'members: leading axes {sorted(sizes)}; wanted one number of members, the first'
        ' axis of every array.'
      )
    logits = jax.vmap(apply_fn, in_axes=(0, None))(members, x)
  return _prediction(_sums(logits), len(logits))


def mix(predictions: Sequence[Prediction]) -> Prediction:
  """The prediction of an ensemble whose members have been drawn from by themselves.

  Each counts the same, however many draws it stands for: the masks that one cyclic
  run leaves, or several posteriors.

  Args:
    predictions: of the same batch.

  Returns:
    `Prediction`: `mix([predict(a, ...), predict(b, ...)])` is what drawing as often from
    both gives.

  Raises:
    ValueError: no prediction.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> one, two = (js.bayes.predict_ensemble([a], lambda a, x: a * x, jnp.eye(2))
    ...             for a in (3.0, -3.0))
    >>> print(js.bayes.mix([one, two]).probs[0].round(2))
    [0.5 0.5]
  """
  if not predictions:
    raise ValueError('predictions: got none.')
  stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *predictions)
  sums = _Sums(
    jax.nn.logsumexp(stacked.logits, axis=0),
    jnp.sum(stacked.expected_entropy, axis=0),
    jnp.sum(stacked.energy, axis=0),
  )
  return _prediction(sums, len(predictions))


class _Sums(NamedTuple):
  """Over draws: logsumexp of log probabilities; sums of entropies and energies."""

  log_probs: Any
  entropy: Any
  energy: Any


_ADD = _Sums(jnp.logaddexp, jnp.add, jnp.add)


def _sums(logits) -> _Sums:
  """Of logits (draws, B, C)."""
  # A sum over many draws outgrows the mantissa of a short float.
  logits = logits.astype(jnp.float32)
  log_norm = jax.nn.logsumexp(logits, axis=-1)
  log_probs = jax.nn.log_softmax(logits)
  return _Sums(
    jax.nn.logsumexp(log_probs, axis=0),
    jnp.sum(_entropy(log_probs), axis=0),
    -jnp.sum(log_norm, axis=0),
  )


def _entropy(log_probs):
  # Probability 0 adds nothing; NaN stays NaN.
  terms = jnp.exp(log_probs) * log_probs
  return -jnp.sum(jnp.where(log_probs == -jnp.inf, 0, terms), axis=-1)


def _prediction(sums: _Sums, samples: int) -> Prediction:
  logits, expected = sums.log_probs - math.log(samples), sums.entropy / samples
  predictive = _entropy(logits)
  # Of nearly equal predictions the difference is rounding, of either sign.
  information = jnp.maximum(predictive - expected, 0)
  return Prediction(
    jnp.exp(logits), logits, predictive, expected, information, sums.energy / samples
  )

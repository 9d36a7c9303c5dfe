"""The one ELBO convention: nats per example, the KL divided by the data-set size."""

from collections.abc import Callable
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxsparse import schedules
from jaxsparse.bayes import _estimators, _held, _posterior


class Info(NamedTuple):
  """The parts of a negative ELBO, float scalars in nats per example.

  Attributes:
    nll: minus the mean log-likelihood under the drawn weights.
    kl: KL(q || prior) / num_examples, neither tempered nor warmed up.
    elbo: `-(nll + kl)`, the bound itself, whatever the temperature.
    aux: what `apply_fn` returned beside the outputs.
  """

  nll: jax.Array
  kl: jax.Array
  elbo: jax.Array
  aux: Any = None


def negative_elbo(
  posterior: _posterior.Posterior,
  apply_fn: Callable[..., Any],
  log_likelihood: Callable[[Any, Any], jax.Array],
  *,
  num_examples: int,
  temperature=0.3,
  warm_up=1.0,
  estimator: Callable = _estimators.weight_sampling,
  samples: int = 1,
  has_aux: bool = False,
) -> Callable[..., tuple[jax.Array, Info]]:
  r"""The loss of variational inference.

  .. math:: -\frac1B \sum_b E_q \log p(y_b | x_b, \theta)
    + w(t) \, T \, \frac{KL(q \| p)}{N}

  T = 1 and w = 1 is the negative ELBO per example; a smaller T is a cold posterior.
  The KL already pulls mu to 0 with strength `w T / (N s^2)`: weight decay comes on top.

  Args:
    posterior: `js.bayes.ssvi(...)` or `js.bayes.mean_field(...)`.
    apply_fn: `(theta, inputs) -> outputs`, where `theta` stands for the model's params.
      For local reparametrisation and Flipout, of a model bound as in `noisy_product`;
      on nonzeros, of one bound with `js.compact.handler()`.
    log_likelihood: `(outputs, targets) -> (B,)` array, nats, one value per example.
    num_examples: N, the size of the training set.
    temperature: T >= 0, a number, which may be traced, or a schedule.
    warm_up: w, a number in [0, 1] or a schedule such as
      `optax.linear_schedule(0.0, 1.0, steps // 2)`.
    estimator: `weight_sampling`, `local_reparametrization`, `flipout` or
      `mean_weights`.
    samples: draws of the weights that the likelihood is averaged over.
    has_aux: whether `apply_fn` returns `(outputs, aux)`, for example new BatchNorm
      statistics (the old ones, and keys, belong into `inputs`).

  Returns:
    `elbo(params, masks, batch, key, step) -> (loss, Info)` with `batch = (inputs,
    targets)`, and on nonzeros `masks = js.compact.get_patterns(opt_state)`; to be
    differentiated with respect to the Gaussian `params`. Under a device axis fold
    `jax.lax.axis_index` into the key, as `js.training.make_step` does: then replicas
    draw different noise, and masks, decided after the mean of the gradients, are equal.

  Raises:
    ValueError: a size, temperature or number of samples out of range; when called, a
      likelihood that is already averaged.

  Example:
    >>> import jax, jax.numpy as jnp, jaxsparse as js
    >>> posterior = js.bayes.mean_field()
    >>> params = posterior.init(jax.random.key(0), {'kernel': jnp.ones((4, 1))})
    >>> apply_fn = lambda theta, x: x @ theta['kernel']
    >>> log_likelihood = lambda y, target: -0.5 * jnp.sum((y - target) ** 2, -1)
    >>> elbo = js.bayes.negative_elbo(posterior, apply_fn, log_likelihood,
    ...                               num_examples=100)
    >>> batch = jnp.ones((8, 4)), jnp.ones((8, 1))
    >>> masks = {'kernel': jnp.ones((), bool)}
    >>> loss, info = elbo(params, masks, batch, jax.random.key(1), 0)
    >>> bool(jnp.isclose(loss, info.nll + 0.3 * info.kl))
    True
  """
  if (
    isinstance(num_examples, bool)
    or not isinstance(num_examples, int)
    or num_examples < 1
  ):
    raise ValueError(f'num_examples={num_examples!r}: wanted an int of at least 1.')
  if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
    raise ValueError(f'samples={samples!r}: wanted an int of at least 1.')
  if has_aux and samples > 1:
    raise ValueError(f'samples={samples}: wanted 1, as has_aux gives one aux.')
  known = not callable(temperature) and not isinstance(temperature, jax.core.Tracer)
  if known and not 0 <= temperature < math.inf:
    raise ValueError(f'temperature={temperature}: wanted a number >= 0 or a schedule.')
  warm_up = schedules.as_fraction(warm_up, 'warm_up')

  def draw(params, masks, batch, key):
    inputs, targets = batch
    outputs = apply_fn(estimator(posterior, params, masks, key), inputs)
    outputs, aux = outputs if has_aux else (outputs, None)
    values = log_likelihood(outputs, targets)
    if values.ndim != 1:
      raise ValueError(
        f'log_likelihood: returned an array of shape {values.shape}; wanted one value'
        ' per example, neither summed nor averaged over the batch.'
      )
    return -jnp.mean(values), aux

  def elbo(params, masks, batch, key, step):
    if samples == 1:
      nll, aux = draw(params, masks, batch, key)
    else:
      one = lambda key: draw(params, masks, batch, key)[0]
      keys = jax.random.split(key, samples)
      held = any(map(_held.is_held, _held.nodes(masks)))
      # Products of nonzeros have no batch of weights, and growth counts their calls.
      drawn = jnp.stack([one(k) for k in keys]) if held else jax.vmap(one)(keys)
      nll, aux = jnp.mean(drawn), None
    # In closed form, outside the draws: it adds no noise to the gradient.
    kl = posterior.kl(params, masks) / num_examples
    tempered = temperature(step) if callable(temperature) else temperature
    loss = nll + warm_up(step) * tempered * kl
    return loss, Info(nll, kl, -(nll + kl), aux)

  return elbo

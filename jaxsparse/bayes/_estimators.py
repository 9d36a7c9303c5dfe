"""Estimators of the expected log-likelihood: how weights are drawn in a step.

An estimator is `(posterior, params, masks, key) -> weights`, and `weights` is what
`apply_fn` gets in place of the model's params.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxsparse import core, sparse
from jaxsparse.bayes import _noise


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=('mu', 'sigma', 'key'),
  meta_fields=('method',),
)
@dataclasses.dataclass(frozen=True)
class Noisy:
  """A kernel that is a Gaussian: what `noisy_product` finds in the params.

  Attributes:
    mu: means, 0 off the mask; on nonzeros a `js.sparse.SparseArray`.
    sigma: standard deviations, 0 off the mask; as `mu`.
    key: of the layer's noise; several along the leading axes of stacked layers.
    method: `'local'` (local reparametrisation) or `'flipout'`.
  """

  mu: Any
  sigma: Any
  key: jax.Array
  method: str

  @property
  def dtype(self):
    """The dtype that it has for the layer's promotion."""
    return self.mu.dtype


def weight_sampling(posterior, params, masks, key) -> core.Params:
  """One draw of the weights for the whole minibatch; the model stays as it is.

  The cheapest estimator, and the default. All examples share the noise, so that the
  gradient's variance does not fall with the batch as it does for the others.

  Args:
    posterior: a `js.bayes.Posterior`.
    params: its `Gaussian`.
    masks: of `js.get_masks`.
    key: typed key.

  Returns:
    A tree like the model's params.
  """
  return posterior.sample(params, masks, key)


def local_reparametrization(posterior, params, masks, key) -> core.Params:
  r"""Noise on the outputs: each example and output has its own.

  .. math:: y = x \mu + \sqrt{x^2 \sigma^2} \, \epsilon

  Two products instead of one. In a convolution the noise is independent for every
  position, which a shared kernel would not give: moments are right one by one, not
  together. A kernel that a model uses twice has the same noise at equal shapes.

  Args:
    posterior: a `js.bayes.Posterior`.
    params: its `Gaussian`.
    masks: of `js.get_masks`.
    key: typed key.

  Returns:
    A tree for a model bound with `noisy_product`.

  Kingma et al. 2015, Variational dropout and the local reparameterization trick.
  """
  return posterior.noisy(params, masks, key, 'local')


def flipout(posterior, params, masks, key) -> core.Params:
  r"""One draw of the noise, with random signs for every example.

  .. math:: y = x \mu + ((x \odot s) (\sigma \odot \epsilon)) \odot r

  Two products. The signs s (inputs) and r (outputs) are drawn once per example and
  feature, so that every position of a convolution or a sequence sees the same weights.

  Args:
    posterior: a `js.bayes.Posterior`.
    params: its `Gaussian`.
    masks: of `js.get_masks`.
    key: typed key.

  Returns:
    A tree for a model bound with `noisy_product`.

  Wen et al. 2018, Flipout: efficient pseudo-independent weight perturbations.
  """
  return posterior.noisy(params, masks, key, 'flipout')


def mean_weights(posterior, params, masks, key) -> core.Params:
  """No noise at all: the loss at the mean, for growth `at the mean` and evaluation.

  Args:
    posterior: a `js.bayes.Posterior`.
    params: its `Gaussian`.
    masks: of `js.get_masks`.
    key: not used.

  Returns:
    A tree like the model's params.
  """
  del key
  return posterior.mean(params, masks)


def noisy_product(product, weight, x, *, handler: Callable | None = None):
  """The handler for `js.layers.bind` that runs a layer with a Gaussian kernel.

  A model bound with it runs as always on arrays, so one `apply_fn` serves all
  estimators, and prediction. On nonzeros see `noisy_handler`.

  Args:
    product: the layer's own product, see `js.layers.Product`.
    weight: a `Noisy` node, or what `handler` takes.
    x: the layer's input; its first axis enumerates examples.
    handler: computes the products of kernels that are held as their nonzeros.

  Returns:
    The layer's output, bias not included.

  Raises:
    ValueError: a kernel on nonzeros without a `handler`.

  Example:
    >>> import flax.linen as nn, jax, jax.numpy as jnp, jaxsparse as js
    >>> run = js.layers.bind(nn.Dense(2, use_bias=False), js.bayes.noisy_product)
    >>> posterior, x = js.bayes.mean_field(), jnp.ones((3, 4))
    >>> params = posterior.init(jax.random.key(0), {'kernel': jnp.ones((4, 2))})
    >>> masks = {'kernel': jnp.ones((), bool)}
    >>> weights = js.bayes.flipout(posterior, params, masks, jax.random.key(1))
    >>> run({'params': weights}, x).shape
    (3, 2)
  """
  held = weight.mu if isinstance(weight, Noisy) else weight
  if isinstance(held, sparse.SparseArray):
    if handler is None:
      raise ValueError(
        f'{product.name}: held as nonzeros; wanted js.bayes.noisy_handler('
        'js.compact.handler()) in js.layers.bind.'
      )
    apply = lambda x, kernel: handler(product, kernel, x)
  elif product.kind == 'dot' and (array := getattr(handler, 'array', None)):
    # A dense layer between sparse ones.
    apply = lambda x, kernel: array(product, kernel, x)
  else:
    apply = product.apply
  if not isinstance(weight, Noisy):
    return apply(x, weight)
  how = _local if weight.method == 'local' else _flipout
  return how(product, apply, weight, x)


def noisy_handler(handler: Callable) -> Callable:
  """`noisy_product` for a model on its nonzeros.

  Args:
    handler: of products on nonzeros, `js.compact.handler()`.

  Returns:
    A handler for `js.layers.bind`, which treats what stays dense between sparse layers
    as `handler` does.

  Raises:
    ValueError: a `handler` that is no function.

  Example:
    >>> import flax.linen as nn, jax, jax.numpy as jnp, jaxsparse as js, optax
    >>> posterior = js.bayes.ssvi(0.75, seed=0, when=js.schedules.every(100))
    >>> tx = js.bayes.optimizer(posterior, optax.adam(1e-3))
    >>> model, x = nn.Dense(4), jnp.ones((2, 8))
    >>> params = posterior.init(jax.random.key(0), model.init(jax.random.key(0), x))
    >>> tx, params, state = js.compact.convert(tx, *js.init(tx, params))
    >>> run = js.layers.bind(model, js.bayes.noisy_handler(js.compact.handler()))
    >>> patterns = js.compact.get_patterns(state)
    >>> run(posterior.sample(params, patterns, jax.random.key(1)), x).shape
    (2, 4)
  """
  if not callable(handler):
    raise ValueError(f'handler={handler!r}: wanted one like js.compact.handler().')
  run: Any = functools.partial(noisy_product, handler=handler)
  for name in ('array', 'add_bias'):
    if hasattr(handler, name):
      setattr(run, name, getattr(handler, name))
  return run


def _local(product, apply, weight, x):
  mean = apply(x, weight.mu)
  # The input of an embedding is indices, and a one-hot row is its own square.
  square = x if product.kind == 'embed' else x * x
  variance = apply(square, _map_values(lambda s: s * s, weight.sigma))
  held = isinstance(weight.mu, sparse.SparseArray) and product.kind == 'dot'
  noise = _noise.normal(weight.key, mean.shape, mean.dtype, feature_major=held)
  if held and mean.ndim == 2:
    # As the products lie in memory: XLA would copy each of them to another layout.
    return (mean.T + _sqrt(variance.T) * noise.T).T
  return mean + _sqrt(variance) * noise


def _map_values(function, kernel):
  """A kernel with other values."""
  if isinstance(kernel, sparse.SparseArray):
    return dataclasses.replace(kernel, values=function(kernel.values))
  return function(kernel)


def _sqrt(x):
  """The root, with derivative 0 where x is 0.

  An output whose inputs are all 0 has no noise, and no gradient of it. Fast
  convolutions round a sum of squares below 0: no noise either.
  """
  positive = x > 0
  # Both branches of a `where` are differentiated: the root must not see a 0.
  root = jnp.sqrt(jnp.where(positive, x, jnp.ones_like(x)))
  return jnp.where(positive, root, jnp.zeros_like(x))


def _flipout(product, apply, weight, x):
  # One each for epsilon, for the signs of the inputs, and for those of the outputs.
  keys = [jax.random.fold_in(weight.key, i) for i in range(3)]
  mean = apply(x, weight.mu)
  # Off the pattern of sigma nothing is drawn.
  pattern = getattr(weight.sigma, 'pattern', None)
  draw = lambda s: s * _noise.normal(keys[0], s.shape, s.dtype, pattern)
  contracted, num_out = _axes(product, len(weight.sigma.shape), x.ndim)
  outputs = range(mean.ndim - num_out, mean.ndim)
  # Indices carry no sign; the signs of the outputs still tell examples apart.
  signed = x if product.kind == 'embed' else x * _signs(keys[1], x, contracted)
  # A Gaussian is symmetric: epsilon with its signs flipped by s and r is a draw too.
  return mean + apply(signed, _map_values(draw, weight.sigma)) * _signs(
    keys[2], mean, outputs
  )


def _axes(product, kernel_ndim, x_ndim):
  """`(axes of x with features, number of feature axes of the output)`."""
  numbers = product.options.get('dimension_numbers')
  if product.kind != 'dot' or numbers is None:
    # Convolutions, look-ups and plain layers have their features last.
    return (x_ndim - 1,), 1
  (contracted, kernel_contracted), (_, batch) = numbers
  num_out = kernel_ndim - len(kernel_contracted) - len(batch)
  return tuple(a % x_ndim for a in contracted), num_out


def _signs(key, x, features):
  """Random signs for every example (the first axis) and feature."""
  shape = [n if a == 0 or a in features else 1 for a, n in enumerate(x.shape)]
  return jax.random.rademacher(key, tuple(shape), x.dtype)

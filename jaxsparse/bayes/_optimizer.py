"""The optimizer of a posterior: one for the means, one for rho, masks around both."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxsparse import core, rules
from jaxsparse.bayes import _posterior


class WithGrowth(NamedTuple):
  """Gradients, and other ones that only growth reads."""

  mu: core.Params
  rho: core.Params
  growth: core.Params


def optimizer(
  posterior: _posterior.Posterior,
  inner: optax.GradientTransformation,
  rho: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
  """The sparse optimizer of a posterior: `inner` steps mu, `rho` steps rho.

  Moments of both fields are reset for weights that grow. A global norm, as in
  clipping, is that of one field.

  Args:
    posterior: of `js.bayes.ssvi` or `js.bayes.mean_field`.
    inner: any elementwise optax optimizer; it sees `Gaussian(mu, MaskedNode)`.
    rho: the optimizer of rho; `optax.adam(1e-2)` moves log sigma by 1 % of sigma a
      step. None: `inner` once more, told that rho is 0, so that decoupled weight decay
      acts on mu only (what keeps copies of the params, as schedule-free optimizers
      do, needs a `rho=` of its own).

  Returns:
    An optax transformation over `Gaussian`, with `js.get_masks` in its state. `update`
    takes `growth=`: gradients, a Gaussian or a tree like mu, that growth reads instead
    of this step's: of another estimator (`js.bayes.mean_weights`), or a mean over
    several minibatches; see `js.bayes.when_due`.

  Raises:
    ValueError: an optimizer that is none.

  Example:
    >>> import jax, jax.numpy as jnp, jaxsparse as js, optax
    >>> posterior = js.bayes.mean_field()
    >>> tx = js.bayes.optimizer(posterior, optax.adam(5e-3), rho=optax.adam(1e-2))
    >>> params = posterior.init(jax.random.key(0), {'kernel': jnp.ones((4, 2))})
    >>> params, opt_state = js.init(tx, params)
    >>> updates, opt_state = tx.update(params, opt_state, params)
    >>> round(float(updates.mu['kernel'][0, 0]), 6)
    -0.005
  """
  for what, given in (('inner', inner), ('rho', rho)):
    if not hasattr(given, 'update') and (what, given) != ('rho', None):
      raise ValueError(f'{what}={given!r}: wanted an optax transformation.')
  parts = {'mu': inner, 'rho': _without_params(inner) if rho is None else rho}
  # Labels may be a prefix of the params: one for each field.
  both = optax.partition(parts, _posterior.Gaussian('mu', 'rho'))
  if posterior.rule is None:
    return _dense(both)
  sparse = rules.keep_sparse(
    both,
    posterior.rule,
    posterior.when,
    seed=posterior.seed,
    skip_step=posterior.skip_step,
  )

  def update(grads, state, params=None, *, growth=None, **extra_args):
    if growth is not None:
      is_whole = isinstance(growth, _posterior.Gaussian)
      # The rule strips the third field before the optimizers see the gradients.
      grads = WithGrowth(grads.mu, grads.rho, growth.mu if is_whole else growth)
    return sparse.update(grads, state, params, **extra_args)

  update = rules.attach_parts(update, rules.parts_of(sparse))
  return optax.GradientTransformationExtraArgs(sparse.init, update)


def when_due(posterior: _posterior.Posterior, step, compute, *args):
  """Computes something for growth only in the steps that decide on masks.

  Args:
    posterior: says when that is.
    step: the number of updates made, as `opt_state.step`.
    compute: a function of `args`, such as a gradient over several minibatches.
    *args: its arguments.

  Returns:
    What `compute` returns, or zeros like it.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> posterior = js.bayes.mean_field()._replace(when=js.schedules.at(3))
    >>> [js.bayes.when_due(posterior, t, jnp.exp, 0.0).item() for t in (2, 3)]
    [0.0, 1.0]
  """
  shapes = jax.eval_shape(compute, *args)
  zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
  if posterior.when is None:
    return zeros
  # A `cond` runs one branch, where a `where` would compute in every step.
  return jax.lax.cond(posterior.when(step), compute, lambda *_: zeros, *args)


def _without_params(inner):
  """The optimizer, which is told that the params are 0: nothing is left to decay."""
  inner = optax.with_extra_args_support(inner)

  def update(grads, state, params=None, **extra_args):
    if params is not None:
      params = jax.tree.map(jnp.zeros_like, params)
    return inner.update(grads, state, params, **extra_args)

  return optax.GradientTransformationExtraArgs(inner.init, update)


def _dense(both):
  """The plain optimizer, in the state that `js.get_masks` reads: nothing is masked."""

  def init(params):
    masks = jax.tree.map(lambda _: jnp.ones((), bool), params.mu)
    start = jnp.zeros((), jnp.int32)
    return core.KeepSparseState(start, masks, None, both.init(params), None)

  def update(grads, state, params=None, *, growth=None, **extra_args):
    del growth
    updates, inner_state = both.update(grads, state.inner_state, params, **extra_args)
    step = optax.safe_increment(state.step)
    return updates, state._replace(step=step, inner_state=inner_state)

  return optax.GradientTransformationExtraArgs(init, update)

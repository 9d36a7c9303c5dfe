"""Soft shrinkage: can what was shrunk come back, and how much of it does?"""

import dataclasses
import math

import jax
import numpy as np

from jaxsparse import core
from jaxsparse.summary import _counts


@dataclasses.dataclass(frozen=True)
class Shrinkage:
  """How the weights of one leaf stand that are shrunk, and those that are not.

  Attributes:
    threshold: the smallest magnitude of a weight that is not shrunk.
    largest: the largest magnitude of one that is; NaN where none is.
    ceiling: alpha lr / (1 - alpha), where a shrunk weight settles if each update of its
      optimizer adds lr to it; infinite for alpha = 1.
    can_return: whether the ceiling reaches the threshold. Before it is shrunk, a weight
      may stand at ceiling + lr, which counts for an alpha near 0.
    changed: the share of the support that was not in it before; NaN without a
      `previous`.
  """

  threshold: float
  largest: float
  ceiling: float
  can_return: bool
  changed: float


def support(opt_state) -> core.Masks | None:
  """The weights that soft shrinkage leaves alone, while all masks are True.

  Args:
    opt_state: the state of `js.transforms.iss_p`, `iss_r` or `greg`, wherever in a state
      it is.

  Returns:
    A bool tree like the masks; None where nothing is shrunk.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js, optax
    >>> tx = js.transforms.iss_p(
    ...     optax.adam(1e-3), 0.5, num_pruning_steps=100, learning_rate=1e-3)
    >>> params = {'kernel': jnp.array([[2.], [1.]])}
    >>> js.summary.support(tx.init(params))['kernel'].tolist()
    [[True], [False]]
  """
  for state in core.sparse_states(opt_state):
    if hasattr(state.memory, 'support'):
      return state.memory.support
  return None


def shrinkage(
  params: core.Params,
  opt_state,
  *,
  alpha: float,
  learning_rate: float,
  previous: core.Masks | None = None,
) -> dict[str, Shrinkage]:
  r"""Sets the ceiling of shrunk weights against the threshold of each leaf.

  .. math:: |w| \le \frac{\alpha \, \mathrm{lr}}{1 - \alpha}

  holds for what is multiplied by alpha in each step, if the updates of its optimizer
  are at most lr, as those of Adam nearly are. Where that is below the threshold, a
  weight that has been shrunk for some `1 / (1 - alpha)` steps cannot come back.

  Args:
    params: the parameters.
    opt_state: a state that holds that of `js.transforms.iss_p`.
    alpha: the share that is kept in each step.
    learning_rate: of this step.
    previous: an earlier `js.summary.support`, for the rate of change.

  Returns:
    `{leaf name: Shrinkage}` of the pruned leaves, on the host.

  Raises:
    ValueError: a state without a support; one of other parameters.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js, optax
    >>> tx = js.transforms.iss_p(
    ...     optax.adam(1e-3), 0.5, num_pruning_steps=100, learning_rate=1e-3)
    >>> params = {'kernel': jnp.array([[2.], [1.]])}
    >>> found = js.summary.shrinkage(
    ...     params, tx.init(params), alpha=0.95, learning_rate=1e-3)['kernel']
    >>> found.threshold, round(found.ceiling, 3), found.can_return
    (2.0, 0.019, False)
  """
  kept = support(opt_state)
  if kept is None:
    raise ValueError(
      'opt_state: no support of soft shrinkage in it; wanted a state of iss_p, iss_r or'
      ' greg.'
    )
  masks = _counts.named_masks(params, kept)
  before = None if previous is None else _counts.named_masks(params, previous)
  ceiling = alpha * learning_rate / (1 - alpha) if alpha < 1 else math.inf
  found = {}
  for name, value in zip(*core.named_leaves(params)[:2]):
    if not np.ndim(masks[name]):
      continue
    size = np.abs(np.asarray(jax.device_get(value), np.float32))
    mask = np.broadcast_to(np.asarray(masks[name]), size.shape)
    # Infinite where all weights are shrunk.
    threshold = float(np.min(size, where=mask, initial=np.inf))
    changed = math.nan
    if before is not None:
      new = mask & ~np.broadcast_to(np.asarray(before[name]), size.shape)
      changed = int(np.count_nonzero(new)) / max(int(np.count_nonzero(mask)), 1)
    found[name] = Shrinkage(
      threshold=threshold,
      largest=float(np.max(size, where=~mask, initial=-np.inf))
      if not mask.all()
      else math.nan,
      ceiling=ceiling,
      can_return=ceiling >= threshold,
      changed=changed,
    )
  return found

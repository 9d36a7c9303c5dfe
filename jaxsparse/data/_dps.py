"""DPS: learning which measurements of a signal to take."""

from collections.abc import Callable

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp


class DPS(nn.Module):
  r"""Deep probabilistic subsampling: keeps M of N measurements, and learns which.

  .. math:: r_m = \arg\max_{n \notin \{r_1 .. r_{m-1}\}} (\phi_{mn} + g_{mn}), \quad
     \nabla r_m := \nabla\, \text{softmax}\big((\phi_m + g_m) / \tau\big)

  It selects *inside* a record (pixels, k-space lines, features); the same M places
  serve nobody else: noise g is drawn for each record of the batch. Rows draw in their
  order, each among what is left. Forward the choice is hard, backward it is the
  softmax over what is left. Without noise (`deterministic=True`) it is the hard top-k:
  with shared logits the M largest, otherwise row after row. Costs O(B M N) time and
  memory.

  Attributes:
    num_kept: M, from 1 to N.
    temperature: tau, constant in the paper.
    shared: False for M rows of logits of their own; True for one row that all share,
      whose noise is shared too: Gumbel top-k.
    logits_init: initialiser of the (M, N) or (1, N) logits.

  Raises (when called):
    ValueError: M outside [1, N], a temperature that is not above 0, fewer than two axes.

  Example:
    >>> import jax, jax.numpy as jnp, jaxsparse as js
    >>> model = js.data.DPS(num_kept=2, shared=True)
    >>> params = {'params': {'logits': jnp.array([[0.0, 3.0, 1.0, 2.0]])}}
    >>> y, mask = model.apply(params, jnp.full((1, 4), 7.0), deterministic=True)
    >>> y.tolist()
    [[0.0, 7.0, 0.0, 7.0]]

  Huijben et al., Deep Probabilistic Subsampling for Task-adaptive Compressed Sensing,
  ICLR 2020, section 3.
  """

  num_kept: int
  temperature: float = 2.0
  shared: bool = False
  logits_init: Callable = nn.initializers.normal(0.5)

  @nn.compact
  def __call__(self, x: jax.Array, *, deterministic: bool):
    """Zeroes all but M measurements of each record.

    Args:
      x: (B, N, ...): the axis after the batch is the one that is sampled; channels
        after it are kept or dropped together.
      deterministic: False in training, which draws from the stream 'gumbel'.

    Returns:
      `(x * mask, mask)` with a mask (B, N) of zeros and ones, whose gradient is that of
      the relaxation.
    """
    x = jnp.asarray(x)
    if x.ndim < 2 or not 1 <= self.num_kept <= x.shape[1]:
      raise ValueError(
        f'num_kept={self.num_kept}, x of shape {x.shape}: wanted (B, N, ...) with'
        ' num_kept in [1, N].'
      )
    if not self.temperature > 0:
      raise ValueError(f'temperature={self.temperature}: wanted a number above 0.')
    rows = 1 if self.shared else self.num_kept
    logits = self.param('logits', self.logits_init, (rows, x.shape[1]))
    # (rows, B, N): each record of the batch gets its own noise.
    scores = jnp.broadcast_to(logits[:, None, :], (rows, *x.shape[:2]))
    if not deterministic:
      key = self.make_rng('gumbel')
      scores = scores + jax.random.gumbel(key, scores.shape, scores.dtype)
    mask = _sample(scores, self.num_kept, self.temperature)
    wide = mask.reshape(*mask.shape, *[1] * (x.ndim - 2))
    return x * wide.astype(x.dtype), mask


def _sample(scores, num_kept, temperature):
  """A mask (B, N) of `num_kept` ones, drawn row after row from (rows, B, N)."""
  # A shared row comes M times with one noise: its M largest, Gumbel top-k.
  scores = jnp.broadcast_to(scores, (num_kept, *scores.shape[1:]))

  def draw(taken, row):
    # With M <= N each row still has a finite score, so that no softmax is NaN.
    row = jnp.where(taken, -jnp.inf, row)
    hard = jax.nn.one_hot(jnp.argmax(row, axis=1), row.shape[1], dtype=bool)
    return taken | hard, jax.nn.softmax(row / temperature, axis=1)

  start = jnp.zeros(scores.shape[1:], bool)
  taken, soft = lax.scan(draw, start, scores)
  soft = jnp.sum(soft, axis=0)
  # In this order the forward value is exactly 0 or 1.
  return taken.astype(soft.dtype) + (soft - lax.stop_gradient(soft))


def dps_entropy(logits) -> jax.Array:
  r"""The entropy of the rows' distributions: the penalty that makes them decide.

  .. math:: -\sum_m \sum_n \pi_{mn} \log \pi_{mn}, \quad \pi_m = \text{softmax}(\phi_m)

  Costs O(M N).

  Args:
    logits: (M, N), as `params['params']['logits']` of `DPS`.

  Returns:
    A scalar in nats, at least 0; its weight in the loss is small, and ramps up.

  Raises:
    ValueError: another number of axes.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> print(f'{js.data.dps_entropy(jnp.zeros((1, 8))):.4f}')
    2.0794

  Huijben et al., ICLR 2020, section 3.
  """
  logits = jnp.asarray(logits)
  if logits.ndim != 2:
    raise ValueError(f'logits: shape {logits.shape}; wanted (M, N).')
  return _entropy(logits)


@jax.jit
def _entropy(logits):
  log_probs = jax.nn.log_softmax(logits, axis=1)
  return -jnp.sum(jnp.exp(log_probs) * log_probs)

"""Graph cut: like all records, unlike each other."""

import functools

import jax
from jax import lax
import jax.numpy as jnp

from jaxsparse.data import _gradient_rows, _record_inputs, _selection


def graph_cut(rows, size, *, trade_off: float = 1.0) -> _selection.Selection:
  r"""Graph cut: similar to the data, dissimilar among themselves.

  .. math:: \max_{|S| = k} \lambda \sum_{i \in V} \sum_{j \in S} s_{ij}
     - \sum_{i, j \in S} s_{ij}, \quad s_{ij} = \cos(g_i, g_j)

  Plain greedy, exact: the gain of x is
  `lambda sum_i s_ix - 2 sum_{j in S} s_jx - s_xx`, whose first sum is one product and
  whose second grows by one column a choice. Of equal gains the lower index. Costs
  O(k N D) time and O(N) memory beside the rows.

  Args:
    rows: (N, D) gradients or features, or LastLayerGradients; rows of zeros are similar
      to nothing.
    size: records to keep, an int; or a float in (0, 1], a share of N.
    trade_off: lambda; the function is monotone from 2 on for similarities above 0.

  Returns:
    The indices in the order of choice; no weights.

  Raises:
    ValueError: a size or a trade-off outside its range, another shape, NaN.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> rows = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> js.data.graph_cut(rows, 2).indices.tolist()
    [0, 2]

  Iyer and Bilmes, Submodular Optimization with Submodular Cover and Submodular
  Knapsack Constraints, NeurIPS 2013; Iyer et al., ALT 2021, section 2.
  """
  rows = _gradient_rows.as_rows('rows', rows)
  size = _record_inputs.as_size(size, _gradient_rows.num_rows(rows))
  trade_off = _record_inputs.as_positive('trade_off', trade_off)
  return _graph_cut(size, rows, jnp.float32(trade_off))


@functools.partial(jax.jit, static_argnums=0)
def _graph_cut(size, rows, trade_off):
  rows = _gradient_rows.normalize(rows)
  relevance = _gradient_rows.along(rows, _gradient_rows.total(rows))
  # 1, or 0 for a row of zeros.
  own = jnp.round(_gradient_rows.squares(rows))

  def choose(gains, _):
    best = jnp.argmax(gains)
    chosen = _gradient_rows.take(rows, best[None])
    gains = gains - 2 * _gradient_rows.products(rows, chosen)[:, 0]
    return gains.at[best].set(-jnp.inf), best

  _, indices = lax.scan(choose, trade_off * relevance - own, None, length=size)
  return _selection.unweighted(indices)

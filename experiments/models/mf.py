"""Recommenders that score by a dot product: matrix factorization and LightGCN."""

from flax import linen as nn
import jax
import jax.numpy as jnp

from experiments.models import _table
import jaxsparse as js


class MF(nn.Module):
  """Matrix factorization: the score of a user and an item is `<e_u, e_i>`.

  Attributes:
    num_users: rows of the table of users.
    num_items: rows of the table of items.
    features: columns of both.
    table: the kind of both, see `Table`.
    remainders: of hashed tables, for users and for items.
    stddev: of the initial rows.
    threshold: the initial one of soft tables.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from experiments import models
    >>> model = models.MF(num_users=5, num_items=7, features=4)
    >>> users, items = jnp.array([0, 1]), jnp.array([6, 2])
    >>> variables = jax.eval_shape(model.init, jax.random.key(0), users, items)
    >>> variables['params']['user']['embedding'].shape
    (5, 4)

  Rendle et al. 2009, BPR (arXiv 1205.2618), section 4.3.1.
  """

  num_users: int
  num_items: int
  features: int = 64
  table: str = 'dense'
  remainders: tuple[int, int] = (0, 0)
  stddev: float = 0.05
  threshold: float = -15.0

  def setup(self):
    make = lambda num, m: _table.Table(
      num, self.features, self.table, m, self.stddev, self.threshold
    )
    self.user = make(self.num_users, self.remainders[0])
    self.item = make(self.num_items, self.remainders[1])

  def __call__(self, users, items, graph=None):
    """Scores of pairs, the shape of `users`."""
    user, item = self.vectors(users, items)
    return jnp.sum(user * item, axis=-1)

  def vectors(self, users, items, graph=None):
    """The rows that `__call__` multiplies; None for all."""
    return self.user(users), self.item(items)

  def rows(self, users, items):
    """The rows of the tables themselves, which L2 decay is for."""
    return self.user(users), self.item(items)

  def score_all(self, users, graph=None):
    """Scores of all items for some users, (users, items)."""
    user, item = self.vectors(users, None, graph)
    return user @ item.T


class LightGCN(MF):
  """LightGCN: `<e_u, e_i>` after a few steps along the graph of interactions.

  With `E_k = D^-1/2 A D^-1/2 E_{k-1}` the vectors are the mean of E_0 ... E_K. Only edges
  are held, never a matrix of users and items, see `propagate`.

  Attributes:
    layers: K.

  The other attributes are those of `MF`. All methods want `graph`, what
  `models.normalized_edges` returns.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from experiments import models
    >>> graph = models.normalized_edges(jnp.array([[0, 1], [1, 0]]), 2, 2)
    >>> model = models.LightGCN(num_users=2, num_items=2, features=4)
    >>> users = jnp.array([0, 1])
    >>> scores, _ = jax.eval_shape(
    ...     model.init_with_output, jax.random.key(0), users, users, graph)
    >>> scores.shape
    (2,)

  He et al. 2020, LightGCN (arXiv 2002.02126), section 3.1.
  """

  layers: int = 3

  def __call__(self, users, items, graph=None):
    """Scores of pairs, the shape of `users`."""
    user, item = self.vectors(users, items, graph)
    return jnp.sum(user * item, axis=-1)

  def vectors(self, users, items, graph=None):
    """Rows after propagation; None for all."""
    user, item = self.user(), self.item()
    sums = user, item
    for _ in range(self.layers):
      user, item = propagate(graph, user, item)
      sums = sums[0] + user, sums[1] + item
    take = lambda x, i: (x if i is None else jnp.take(x, i, axis=0)) / (self.layers + 1)
    return take(sums[0], users), take(sums[1], items)


def propagate(graph, user, item, backend: str | None = None):
  """One step: users get the weighted sum of their items, items that of their users.

  Args:
    graph: of `normalized_edges`.
    user: (users, features).
    item: (items, features).
    backend: `'cpu'`, the compiled products of `js.sparse`; `'segments'`, gathers and sums
      over the edges; None for the first where it is there. Neither makes a matrix.

  Returns:
    Both tables after the step.
  """
  matrix = graph['matrix']
  if backend is None:
    # The other implementations of `js.sparse` multiply with a dense matrix.
    backend = js.sparse.choose_backend(matrix.pattern, user.shape[1])
  if backend == 'cpu':
    new_user = js.sparse.matmul(item.T, matrix, transpose=True, backend='cpu').T
    return new_user, js.sparse.matmul(user.T, matrix, backend='cpu').T
  add = lambda source, place, to, like: jax.ops.segment_sum(
    graph['weight'][:, None] * jnp.take(source, place, axis=0), to, like.shape[0]
  )
  new_user = add(item, graph['item'], graph['user'], user)
  return new_user, add(user, graph['user'], graph['item'], item)


def normalized_edges(pairs, num_users: int, num_items: int) -> dict:
  """The edges of a graph of interactions, with weights `1 / sqrt(d_u d_i)`.

  Args:
    pairs: (edges, 2), a user and an item each, none twice.
    num_users: users.
    num_items: items.

  Returns:
    `{'user', 'item', 'weight'}`, arrays (edges,), and the same as `'matrix'`, a
    `js.sparse.SparseArray`.

  Example:
    >>> import jax.numpy as jnp
    >>> from experiments import models
    >>> pairs = jnp.array([[0, 0], [0, 1], [1, 1]])
    >>> models.normalized_edges(pairs, 2, 2)['weight'].round(3).tolist()
    [0.7070000171661377, 0.5, 0.7070000171661377]
  """
  user, item = (jnp.asarray(pairs[:, c], jnp.int32) for c in (0, 1))
  degree = lambda index, num: jnp.maximum(jnp.bincount(index, length=num), 1)
  product = degree(user, num_users)[user] * degree(item, num_items)[item]
  weight = 1.0 / jnp.sqrt(product)
  shape = num_users, num_items
  fmt = js.sparse.choose_format(shape, len(user) / (num_users * num_items))
  pattern, order = js.sparse.from_coordinates(
    user, item, jnp.ones(user.shape, bool), fmt
  )
  matrix = js.sparse.SparseArray(weight[order], pattern)
  return {'user': user, 'item': item, 'weight': weight, 'matrix': matrix}

"""NeuMF: a dot product and a small network side by side."""

from collections.abc import Sequence

from flax import linen as nn
import jax.numpy as jnp

from experiments.models import _table


class NeuMF(nn.Module):
  """Neural matrix factorization: `w . [g_u * g_i, MLP([m_u, m_i])]`.

  Attributes:
    num_users: users.
    num_items: items.
    features: columns of the four tables.
    hidden: sizes of the layers of the network.
    dropout: share of its units dropped in training.
    table: the kind of all tables, see `Table`.
    remainders: of hashed tables, for users and for items.
    stddev: of the initial rows.
    threshold: the initial one of soft tables.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from experiments import models
    >>> model = models.NeuMF(num_users=5, num_items=7)
    >>> users, items = jnp.array([0, 1]), jnp.array([6, 2])
    >>> variables = jax.eval_shape(model.init, jax.random.key(0), users, items)
    >>> sorted(variables['params'])
    ['gmf_item', 'gmf_user', 'item', 'layers_0', 'layers_1', 'layers_2', 'out', 'user']

  He et al. 2017, Neural Collaborative Filtering (arXiv 1708.05031), section 3.4.
  """

  num_users: int
  num_items: int
  features: int = 16
  hidden: Sequence[int] = (32, 16, 8)
  dropout: float = 0.2
  table: str = 'dense'
  remainders: tuple[int, int] = (0, 0)
  stddev: float = 0.05
  threshold: float = -15.0

  def setup(self):
    make = lambda num, m: _table.Table(
      num, self.features, self.table, m, self.stddev, self.threshold
    )
    users, items = (
      (n, m) for n, m in zip((self.num_users, self.num_items), self.remainders)
    )
    self.gmf_user, self.gmf_item = make(*users), make(*items)
    self.user, self.item = make(*users), make(*items)
    self.layers = [nn.Dense(size) for size in self.hidden]
    self.drop = nn.Dropout(self.dropout)
    self.out = nn.Dense(1)

  def __call__(self, users, items, graph=None, train: bool = False):
    """Logits of pairs, the common shape of `users` and `items`."""
    product = self.gmf_user(users) * self.gmf_item(items)
    user, item = jnp.broadcast_arrays(self.user(users), self.item(items))
    x = jnp.concatenate([user, item], axis=-1)
    for layer in self.layers:
      x = self.drop(nn.relu(layer(x)), deterministic=not train)
    return self.out(jnp.concatenate([product, x], axis=-1))[..., 0]

  def rows(self, users, items):
    """The rows of the tables, which L2 decay is for."""
    user = jnp.concatenate([self.gmf_user(users), self.user(users)], axis=-1)
    item = jnp.concatenate([self.gmf_item(items), self.item(items)], axis=-1)
    return user, item

  def score_all(self, users, graph=None):
    """Logits of all items for some users, (users, items)."""
    return self(users[:, None], jnp.arange(self.num_items)[None, :])

"""One set of pure functions for every recommender."""

from collections.abc import Callable, Mapping
import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.models import mf, mult_vae, neumf

_MODELS = {
  'LightGCN': mf.LightGCN,
  'MF': mf.MF,
  'MultVAE': mult_vae.MultVAE,
  'NeuMF': neumf.NeuMF,
}
RECOMMENDERS = tuple(_MODELS)


class Recommender(NamedTuple):
  """What training and ranking need to know of a model.

  Attributes:
    init: `(key, data) -> params`.
    loss: `(params, batch, data, key, step) -> float32 scalar`, a mean over the batch. A
      batch has `users`, and `positives` and `negatives` where the model takes pairs.
    score: `(params, data, users, known) -> (users, items)`; `known` are the padded lists
      of what they have taken.
    vectors: `(params, data) -> (users, items)`, what a score multiplies; None where it
      is no product of two tables.
  """

  init: Callable[..., Any]
  loss: Callable[..., jax.Array]
  score: Callable[..., jax.Array]
  vectors: Callable[..., Any] | None = None


def recommender(
  name: str,
  num_users: int,
  num_items: int,
  options: Mapping[str, Any] | None = None,
  *,
  decay: float = 0.0,
  beta: float = 0.2,
  anneal_steps: int = 0,
) -> Recommender:
  """Builds a recommender by its name, with the loss of its paper.

  `MF` and `LightGCN` minimise BPR, `softplus(s_negative - s_positive)`, `NeuMF` the cross
  entropy of a positive and a negative item, `MultVAE` a multinomial negative ELBO. To the
  loss of a pair is added `decay / 2 (w_u |e_u|^2 + w_i |e_i|^2 + w_j |e_j|^2)` over the rows
  of the tables, with the weights `user_weight` and `item_weight` of the data.

  Args:
    name: a class of this package.
    num_users: users.
    num_items: items.
    options: further attributes of the class; a list becomes a tuple.
    decay: strength of the L2 decay.
    beta: the final weight of the KL divergence.
    anneal_steps: steps in which it rises to that.

  Returns:
    A `Recommender`; its `data` holds the weights, for `LightGCN` the `graph` of
    `normalized_edges`, for `MultVAE` the padded `history` of each user.

  Raises:
    ValueError: an unknown name or option.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from experiments import models
    >>> model = models.recommender('MF', 5, 7, {'features': 4})
    >>> params = model.init(jax.random.key(0), {})
    >>> model.score(params, {}, jnp.array([0, 3]), None).shape
    (2, 7)
  """
  if name not in _MODELS:
    raise ValueError(
      f'model: unknown name {name!r}; wanted one of {", ".join(sorted(_MODELS))}.'
    )
  make = _MODELS[name]
  given = {
    k: tuple(v) if isinstance(v, list) else v for k, v in (options or {}).items()
  }
  hidden = ('num_users', 'num_items', 'parent', 'name', 'self')
  known = [p for p in inspect.signature(make.__init__).parameters if p not in hidden]
  unknown = sorted(set(given) - set(known))
  if unknown:
    raise ValueError(
      f'{name}: unknown option {", ".join(unknown)}; wanted one of {", ".join(known)}.'
    )
  model = make(num_users=num_users, num_items=num_items, **given)
  if name == 'MultVAE':
    return _of_histories(model, beta, anneal_steps)
  pair_loss = _cross_entropy(model) if name == 'NeuMF' else _bpr(model)

  def init(key, data):
    one = jnp.zeros((1,), jnp.int32)
    return model.init(key, one, one, data.get('graph'))['params']

  def loss(params, batch, data, key, step):
    del step
    value = pair_loss(params, batch, data, key)
    return value + decay * _squares(model, params, batch, data) if decay else value

  def score(params, data, users, known):
    del known
    return model.apply({'params': params}, users, data.get('graph'), method='score_all')

  def vectors(params, data):
    variables, graph = {'params': params}, data.get('graph')
    return model.apply(variables, None, None, graph, method='vectors')

  is_product = isinstance(model, mf.MF)
  return Recommender(init, loss, score, vectors if is_product else None)


def _bpr(model):
  def loss(params, batch, data, key):
    del key
    items = jnp.concatenate([batch['positives'], batch['negatives']])
    user, item = model.apply(
      {'params': params}, batch['users'], items, data.get('graph'), method='vectors'
    )
    positive, negative = jnp.split(item, 2)
    return jnp.mean(jax.nn.softplus(jnp.sum(user * (negative - positive), axis=-1)))

  return loss


def _cross_entropy(model):
  def loss(params, batch, data, key):
    del data
    users = jnp.concatenate([batch['users'], batch['users']])
    items = jnp.concatenate([batch['positives'], batch['negatives']])
    logits = model.apply(
      {'params': params}, users, items, train=True, rngs={'dropout': key}
    )
    labels = jnp.arange(2).repeat(len(batch['users'])) == 0
    losses = optax.sigmoid_binary_cross_entropy(logits, labels.astype(logits.dtype))
    return 2 * jnp.mean(losses)

  return loss


def _squares(model, params, batch, data):
  items = jnp.concatenate([batch['positives'], batch['negatives']])
  rows = model.apply({'params': params}, batch['users'], items, method='rows')
  weights = data['user_weight'][batch['users']], data['item_weight'][items]
  totals = [jnp.sum(w * jnp.sum(x**2, axis=-1)) for x, w in zip(rows, weights)]
  return 0.5 * sum(totals) / len(batch['users'])


def _of_histories(model, beta, anneal_steps) -> Recommender:
  def as_rows(lists):
    rows = jnp.zeros((lists.shape[0], model.num_items), jnp.float32)
    # The padding is one past the last item.
    return rows.at[jnp.arange(lists.shape[0])[:, None], lists].set(1.0, mode='drop')

  def init(key, data):
    del data
    return model.init(key, jnp.zeros((1, model.num_items)))['params']

  def loss(params, batch, data, key, step):
    x = as_rows(data['history'][batch['users']])
    logits, mean, log_variance = model.apply(
      {'params': params}, x, train=True, rngs={'dropout': key}
    )
    nll = -jnp.sum(x * jax.nn.log_softmax(logits), axis=-1)
    kl = 0.5 * jnp.sum(jnp.exp(log_variance) + mean**2 - 1 - log_variance, axis=-1)
    share = jnp.minimum(step / anneal_steps, 1.0) if anneal_steps else 1.0
    return jnp.mean(nll + beta * share * kl)

  def score(params, data, users, known):
    del data, users
    return model.apply({'params': params}, as_rows(known))[0]

  return Recommender(init, loss, score)

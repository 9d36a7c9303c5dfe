"""What a network knows about what it does not know: one row of figures per network."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import datasets, models
import jaxsparse as js

_BATCH = 250


class Predictor(NamedTuple):
  """How a trained network predicts.

  Attributes:
    model: the network.
    posterior: a `js.bayes.Posterior`; None for deterministic weights.
    draws: `'dropout'` draws by leaving dropout on; '' draws from the posterior.
    samples: draws in all, shared out among the members.
    mean, std: of the training images.
  """

  model: models.Model
  posterior: Any
  draws: str
  samples: int
  mean: tuple[float, ...]
  std: tuple[float, ...]


def prediction_fn(predictor: Predictor):
  """Builds `(members, images, key, mode) -> js.bayes.Prediction` in numpy.

  `members` is a list of states whose predictions are averaged; `mode` is 'sample' or
  'mean', which uses the mean weights, without dropout.
  """
  model, posterior = predictor.model, predictor.posterior

  def one(state, images, key, mode, samples):
    x = datasets.normalize(images, predictor.mean, predictor.std)

    def apply_fn(theta, x):
      return model.apply(theta, state.model_state, x, train=False)[0]

    def dropped(key, x):
      return model.apply(state.params, state.model_state, x, train=True, key=key)[0]

    if posterior is not None:
      masks = js.get_masks(state.opt_state)
      return js.bayes.predict(
        posterior, state.params, masks, apply_fn, x,
        key=key, samples=samples, mode=mode,
      )  # fmt: skip
    if predictor.draws == 'dropout' and mode == 'sample':
      return js.bayes.predict_draws(
        lambda key: key, dropped, x, key=key, samples=samples
      )
    return js.bayes.predict_ensemble([state.params], apply_fn, x)

  compiled = jax.jit(one, static_argnums=(3, 4))

  def predict(members, images, key, mode='sample', samples=None):
    # Every member gets a draw at least.
    each = max(1, (samples or predictor.samples) // len(members))
    parts = []
    # Filled up with its first images, the last batch needs no program of its own.
    count = len(images)
    images = np.resize(images, (-(-count // _BATCH) * _BATCH, *images.shape[1:]))
    for start in range(0, count, _BATCH):
      batch = images[start : start + _BATCH]
      of_members = [
        compiled(state, batch, jax.random.fold_in(key, i), mode, each)
        for i, state in enumerate(members)
      ]
      parts.append(jax.tree.map(np.asarray, js.bayes.mix(of_members)))
    return jax.tree.map(lambda *xs: np.concatenate(xs)[:count], *parts)

  return predict


def figures(predict, members, splits, config) -> dict[str, float]:
  """All figures of one network.

  Args:
    predict: of `prediction_fn`.
    members: the states to average over.
    splits: `(validation, test, {name: images out of distribution})`; a split is
      `(images, labels)`.
    config: of the run.

  Returns:
    Column -> value. A temperature is fitted on validation (`_ts` columns); `mean_nll`
    and `one_nll` are those of the mean weights and of a single draw.
  """
  validation, (images, labels), outside = splits
  key = jax.random.key(config.data_seed)
  temperature = 1.0
  if len(validation[1]):
    held = predict(members, validation[0], key)
    temperature = float(js.bayes.temperature_scaling(held.logits, validation[1]))
  clean = predict(members, images, key)
  row = {'temperature': temperature, **_calibration(clean, labels, temperature)}
  nll = js.bayes.negative_log_likelihood_of_logits
  one = predict(members[:1], images, key, 'sample', 1)
  mean = predict(members, images, key, 'mean')
  row.update(mean_nll=float(nll(mean.logits, labels)))
  row.update(one_nll=float(nll(one.logits, labels)))
  row.update(_corrupted(predict, members, images, labels, temperature, config))
  for name, others in outside.items():
    shifted = predict(members, others, key)
    for score in ('predictive_entropy', 'mutual_information', 'energy'):
      pair = getattr(clean, score), getattr(shifted, score)
      row[f'auroc_{score}/{name}'] = float(js.bayes.auroc(*pair))
  return row


def _calibration(prediction, labels, temperature: float) -> dict[str, float]:
  logits, probs = prediction.logits, prediction.probs
  scaled = logits / temperature
  b = js.bayes
  values = {
    'accuracy': np.mean(probs.argmax(1) == labels),
    'nll': b.negative_log_likelihood_of_logits(logits, labels),
    'nll_ts': b.negative_log_likelihood_of_logits(scaled, labels),
    'brier': b.brier(probs, labels),
    'ece_top_label_l1_15': b.ece_top_label_l1(probs, labels, bins=15),
    'ece_top_label_l1_15_ts': b.ece_top_label_l1(
      jax.nn.softmax(jnp.asarray(scaled)), labels, bins=15
    ),
    'ece_marginal_l2_debiased_15': b.calibration_error_marginal_l2_debiased(
      probs, labels, bins=15
    ),
  }
  return {name: float(value) for name, value in values.items()}


def _corrupted(predict, members, images, labels, temperature, config):
  """The means of the figures over all corruptions and severities."""
  images, labels = images[: config.corrupted_images], labels[: config.corrupted_images]
  rows = []
  for number, kind in enumerate(datasets.CORRUPTIONS):
    for severity in config.severities:
      key = jax.random.fold_in(jax.random.key(config.data_seed), 10 * number + severity)
      changed = datasets.corrupt(key, images, kind, severity)
      prediction = predict(members, changed, key)
      rows.append(_calibration(prediction, labels, temperature))
  names = rows[0] if rows else ()
  return {f'corrupted_{n}': float(np.mean([r[n] for r in rows])) for n in names}


def outside_images(name: str, data, data_dir, seed: int) -> np.ndarray:
  """Test images of no class of ours, in the shape of ours.

  Args:
    name: a data set, or 'pixels_shuffled': our test images, their pixels in one random
      order, so that every intensity is kept and every shape lost.
    data: ours.
    data_dir: where data sets lie.
    seed: of the order.

  Returns:
    uint8 (N, H, W, C).

  Raises:
    ValueError: images of another shape.
  """
  images = data.test[0]
  if name == 'pixels_shuffled':
    order = np.random.default_rng(seed).permutation(images.shape[1] * images.shape[2])
    flat = images.reshape(len(images), -1, images.shape[3])
    return flat[:, order].reshape(images.shape)
  others = datasets.load(name, data_dir).test[0]
  if others.shape[1:] != images.shape[1:]:
    raise ValueError(
      f'config.out_of_distribution: the images of {name} are {others.shape[1:]}, those'
      f' of {data.name} {images.shape[1:]}.'
    )
  return others

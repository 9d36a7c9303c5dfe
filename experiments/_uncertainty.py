"""What a network knows about what it does not know: one row of figures per network."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import datasets, models
import jaxsparse as js

# A draw of the weights serves a whole batch: the larger, the fewer are drawn.
_BATCH = 1000


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


class Splits(NamedTuple):
  """What a network is tested on; computed once for all networks.

  Attributes:
    validation, test: `(images, labels)`.
    corrupted: the first test images, once per corruption and severity.
    outside: `{name: images of no class}`.
  """

  validation: tuple[np.ndarray, np.ndarray]
  test: tuple[np.ndarray, np.ndarray]
  corrupted: list[np.ndarray]
  outside: dict[str, np.ndarray]


def splits(config, data: datasets.Data, data_dir) -> Splits:
  """What the networks of a config are tested on."""
  images, corrupted = data.test[0][: config.corrupted_images], []
  for number, kind in enumerate(datasets.CORRUPTIONS):
    for severity in config.severities:
      key = jax.random.fold_in(jax.random.key(config.data_seed), 10 * number + severity)
      corrupted.append(np.asarray(datasets.corrupt(key, images, kind, severity)))
  outside = {
    name: datasets.outside(name, data, data_dir, config.data_seed)
    for name in config.out_of_distribution
  }
  return Splits(data.validation, data.test, corrupted, outside)


def figures(predict, members, splits: Splits, seed: int):
  """All figures of one network.

  Args:
    predict: of `prediction_fn`.
    members: the states to average over.
    splits: what to test on.
    seed: of the draws.

  Returns:
    `(row, seen)`. The row is column -> value: a temperature is fitted on validation
    (`_ts` columns); `mean_nll` and `one_nll` are those of the mean weights and of a
    single draw. What plots need is in `seen`: `probs` and `labels` of the test set, and
    `entropy/<set>`, in nats.
  """
  (images, labels), key = splits.test, jax.random.key(seed)
  nll = js.bayes.negative_log_likelihood_of_logits
  row, temperature = {'temperature': 1.0}, 1.0
  if len(splits.validation[1]):
    held = predict(members, splits.validation[0], key)
    temperature = float(js.bayes.temperature_scaling(held.logits, splits.validation[1]))
    row = {
      'temperature': temperature,
      'validation_nll': float(nll(held.logits, splits.validation[1])),
    }
  clean = predict(members, images, key)
  row.update(_calibration(clean, labels, temperature))
  one = predict(members[:1], images, key, 'sample', 1)
  mean = predict(members, images, key, 'mean')
  row.update(mean_nll=float(nll(mean.logits, labels)))
  row.update(one_nll=float(nll(one.logits, labels)))
  row.update(_corrupted(predict, members, splits, temperature, key))
  seen = {'probs': clean.probs, 'labels': labels}
  seen['entropy/test'] = clean.predictive_entropy
  for name, others in splits.outside.items():
    shifted = predict(members, others, key)
    seen[f'entropy/{name}'] = shifted.predictive_entropy
    for score in ('predictive_entropy', 'mutual_information', 'energy'):
      pair = getattr(clean, score), getattr(shifted, score)
      row[f'auroc_{score}/{name}'] = float(js.bayes.auroc(*pair))
  return row, seen


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


def _corrupted(predict, members, splits: Splits, temperature, key):
  """The means of the figures over all corruptions and severities."""
  rows = []
  for number, images in enumerate(splits.corrupted):
    prediction = predict(members, images, jax.random.fold_in(key, number))
    labels = splits.test[1][: len(images)]
    rows.append(_calibration(prediction, labels, temperature))
  names = rows[0] if rows else ()
  return {f'corrupted_{n}': float(np.mean([r[n] for r in rows])) for n in names}

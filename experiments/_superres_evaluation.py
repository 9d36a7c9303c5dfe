"""Enlarging whole images: scores, crops, seconds and bytes."""

import functools
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from experiments import (
  _image_metrics,
  _measure,
  _processes,
  _superres_settings,
  datasets,
)
import jaxsparse as js

_REPEATS = 5


def enlarger(config, model):
  """Builds `(params, model_state, low) -> high`, compiled once per shape.

  `low` is uint8 (h, w, 3); `high` is uint8 (H, W, 3), or (H, W, 1) of luma.
  """

  @jax.jit
  def enlarge(params, model_state, low):
    images = _superres_settings.seen(config, low[None])
    images, _ = model.apply(params, model_state, images, train=False)
    return jnp.round(255 * jnp.clip(images[0], 0, 1)).astype(jnp.uint8)

  return enlarge


def mean_scores(enlarge, photographs, border: int) -> dict[str, float]:
  """The means of `_image_metrics.scores` over images.

  Args:
    enlarge: `low -> high`, uint8.
    photographs: `datasets.Photographs`.
    border: see there.
  """
  found = [
    _image_metrics.scores(np.asarray(enlarge(low)), high, border)
    for low, high in zip(photographs.low, photographs.high)
  ]
  return {key: float(np.mean([f[key] for f in found])) for key in found[0]}


def score_columns(config) -> list[str]:
  """The columns of results.csv that hold the scores of each test set."""
  border = config.scale
  kinds = [
    f'psnr_y_border{border}',
    f'psnr_rgb_border{border}',
    f'ssim_y_border{border}',
  ]
  return [f'{name}/{kind}' for name in config.tests for kind in kinds]


def test_scores(config, enlarge, tests) -> dict[str, float]:
  """`{'<set>/<score>': mean}` over every test set."""
  row = {}
  for name, photographs in tests.items():
    found = mean_scores(enlarge, photographs, config.scale)
    row.update({f'{name}/{key}': value for key, value in found.items()})
  return row


def bicubic(config, low: np.ndarray) -> np.ndarray:
  """The baseline without weights."""
  return datasets.resize(low, config.scale)


def window(truth: np.ndarray, side: int) -> tuple[slice, slice]:
  """The square of an image with the steepest edges, on a coarse grid."""
  y = _image_metrics.luma(truth)
  energy = np.zeros_like(y)
  energy[:, 1:] += np.abs(np.diff(y, axis=1))
  energy[1:] += np.abs(np.diff(y, axis=0))
  tops, lefts = (range(0, max(n - side, 0) + 1, max(side // 2, 1)) for n in y.shape)
  top, left = max(
    ((t, x) for t in tops for x in lefts),
    key=lambda at: energy[at[0] : at[0] + side, at[1] : at[1] + side].sum(),
  )
  return slice(top, top + side), slice(left, left + side)


def save_crops(config, enlarge, tests, folder: pathlib.Path, label: str) -> None:
  """Writes `<folder>/<set>-<i>/<label>.png` for the first images of each test set."""
  if not _processes.is_first():
    return
  for name, photographs in tests.items():
    pairs = zip(photographs.low, photographs.high)
    for index, (low, high) in enumerate(pairs):
      if index == config.num_crops:
        break
      image = np.asarray(enlarge(low))
      if image.shape[-1] == 1:
        image = _coloured(image, bicubic(config, low))
      path = folder / f'{name}-{index}' / f'{label}.png'
      path.parent.mkdir(parents=True, exist_ok=True)
      Image.fromarray(image[window(high, config.crop)]).save(path)


def _coloured(luma: np.ndarray, colours: np.ndarray) -> np.ndarray:
  """The luma of a network with the colours of the bicubic image."""
  there = _image_metrics.luma(colours)[..., None]
  # A grey of 1 more is 219 / 255 more luma.
  moved = colours + (luma - there) * 255 / 219
  return np.clip(np.round(moved), 0, 255).astype(np.uint8)


def realised(config, method, state, low: np.ndarray) -> dict[str, float]:
  """Milliseconds to enlarge one image, and bytes held, with masks and on nonzeros.

  Args:
    config: of the run.
    method: with `enlarge`, `spec`, `sparse` and `masked_tx`.
    state: trained, with masks.
    low: uint8 (h, w, 3).

  Returns:
    `dense_ms`, `dense_bytes`; for a sparse method that has such a form also
    `nonzeros_ms` and `nonzeros_bytes`.
  """
  run = functools.partial(method.enlarge, state.params, state.model_state, low)
  row = {
    'dense_ms': _milliseconds(run),
    'dense_bytes': _measure.num_bytes(state.params),
  }
  if not method.sparse:
    return row
  try:
    _, values, held = js.compact.convert(
      method.masked_tx, state.params, state.opt_state
    )
  except ValueError:
    return row  # Masks that are not final, or a leaf without a sparse form.
  patterns = js.compact.get_patterns(held)
  model = _superres_settings.model(config, method.spec, js.compact.handler())
  enlarge = enlarger(config, model)
  joined = js.compact.join(values, patterns)
  run = functools.partial(enlarge, joined, state.model_state, low)
  row['nonzeros_bytes'] = _measure.num_bytes((values, patterns))
  row['nonzeros_ms'] = _milliseconds(run)
  return row


def _milliseconds(run) -> float:
  jax.block_until_ready(run())
  times = []
  for _ in range(_REPEATS):
    start = time.perf_counter()
    jax.block_until_ready(run())
    times.append(time.perf_counter() - start)
  return 1e3 * float(np.median(times))

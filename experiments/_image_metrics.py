"""PSNR and SSIM as the super-resolution literature computes them."""

import functools

import numpy as np

# Of MATLAB's rgb2ycbcr (ITU-R BT.601, studio swing), for colours in [0, 255].
LUMA = np.array([65.481, 128.553, 24.966]) / 255
OFFSET = 16.0
_PEAK = 255.0


def luma(image: np.ndarray) -> np.ndarray:
  """The Y channel: `16 + (65.481 R + 128.553 G + 24.966 B) / 255`, not rounded.

  Args:
    image: (..., 3) in [0, 255].

  Returns:
    float64 (...,) in [16, 235].

  Example:
    >>> import numpy as np
    >>> from experiments import _image_metrics
    >>> _image_metrics.luma(np.array([255, 255, 255], np.uint8)).round(3)
    np.float64(235.0)
  """
  return image.astype(np.float64) @ LUMA + OFFSET


def scores(found: np.ndarray, truth: np.ndarray, border: int) -> dict[str, float]:
  """What tables of super-resolution show, for one image.

  Args:
    found: uint8 (H, W, 3), or (H, W, 1) of luma in [16, 235].
    truth: uint8 (H, W, 3).
    border: pixels that are left out on each side: the scale, in the literature.

  Returns:
    `psnr_y_border{s}`, `ssim_y_border{s}` and, for colours, `psnr_rgb_border{s}`, in
    decibels and in [-1, 1].

  Raises:
    ValueError: shapes that differ, or an image without anything inside its border.

  Example:
    >>> import numpy as np
    >>> from experiments import _image_metrics
    >>> truth = np.full((20, 20, 3), 100, np.uint8)
    >>> found = _image_metrics.scores(truth + np.uint8(1), truth, border=2)
    >>> round(found['psnr_rgb_border2'], 2), round(found['psnr_y_border2'], 2)
    (48.13, 49.45)
  """
  if found.shape[:2] != truth.shape[:2] or truth.shape[-1] != 3:
    raise ValueError(
      f'found: shape {found.shape}; wanted that of the truth, {truth.shape}, in colours.'
    )
  if min(truth.shape[:2]) <= 2 * border:
    raise ValueError(f'border={border}: nothing is left of {truth.shape[:2]} pixels.')
  inside = slice(border, -border or None)
  found, truth = found[inside, inside], truth[inside, inside]
  named = {}
  if found.shape[-1] == 3:
    named[f'psnr_rgb_border{border}'] = psnr(found, truth)
    y = luma(found)
  else:
    y = found[..., 0].astype(np.float64)
  named[f'psnr_y_border{border}'] = psnr(y, luma(truth))
  named[f'ssim_y_border{border}'] = ssim(y, luma(truth))
  return named


def psnr(found: np.ndarray, truth: np.ndarray) -> float:
  """`10 log10(255^2 / mean squared error)`, infinite for equal images."""
  error = np.mean((found.astype(np.float64) - truth.astype(np.float64)) ** 2)
  with np.errstate(divide='ignore'):
    return float(10 * np.log10(_PEAK**2 / error))


def ssim(found: np.ndarray, truth: np.ndarray) -> float:
  """Structural similarity of two channels (Wang et al. 2004).

  Means over an 11x11 Gaussian window with sigma 1.5, wherever all of it is inside;
  K = 0.01 and 0.03, variances of the population.

  Args:
    found: float (H, W) in [0, 255].
    truth: the same.

  Returns:
    A number in [-1, 1]; NaN for an image smaller than the window.
  """
  if min(truth.shape) < 11:
    return float('nan')
  c1, c2 = (0.01 * _PEAK) ** 2, (0.03 * _PEAK) ** 2
  mean_x, mean_y = _blurred(found), _blurred(truth)
  var_x = _blurred(found**2) - mean_x**2
  var_y = _blurred(truth**2) - mean_y**2
  cov = _blurred(found * truth) - mean_x * mean_y
  above = (2 * mean_x * mean_y + c1) * (2 * cov + c2)
  return float(np.mean(above / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))))


def _blurred(channel: np.ndarray) -> np.ndarray:
  kernel = _gaussian()
  for axis in (0, 1):
    shifts = np.lib.stride_tricks.sliding_window_view(channel, len(kernel), axis)
    channel = shifts @ kernel
  return channel


@functools.cache
def _gaussian() -> np.ndarray:
  weights = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
  return weights / weights.sum()

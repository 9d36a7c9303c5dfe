"""Bicubic resizing as the super-resolution literature does it: that of MATLAB."""

import functools
import math

import numpy as np


def resize(image: np.ndarray, scale: float) -> np.ndarray:
  """Resizes an image with the cubic kernel of MATLAB's `imresize`.

  With s the scale, u = (x + 1/2) / s - 1/2 and h Keys' kernel with a = -1/2:

      y[x] = sum_i k(u - i) x[i] / sum_i k(u - i),  k(d) = min(s, 1) h(min(s, 1) d)

  so that it smooths before it makes an image smaller. Borders are mirrored; the columns
  of pixels come first, then the rows, and uint8 is rounded after each of the two.

  Args:
    image: (H, W, C), uint8, or float of any range.
    scale: of both sides, positive; sides become `ceil(side * scale)`.

  Returns:
    (H', W', C) of the same dtype; uint8 is rounded and clipped.

  Raises:
    ValueError: another shape or dtype, a scale that is not positive.

  Source: Keys 1981, Cubic Convolution Interpolation for Digital Image Processing.

  Example:
    >>> import numpy as np
    >>> from experiments import datasets
    >>> image = np.arange(16, dtype=np.uint8).reshape(4, 4, 1)
    >>> datasets.resize(image, 0.5)[..., 0].tolist()
    [[2, 5], [10, 13]]
  """
  is_float = np.issubdtype(image.dtype, np.floating)
  if image.ndim != 3 or not (is_float or image.dtype == np.uint8):
    raise ValueError(
      f'image: got {image.dtype}{list(image.shape)}; wanted (H, W, C), uint8 or float.'
    )
  if not scale > 0:
    raise ValueError(f'scale={scale!r}: wanted a positive number.')
  rows, columns = (_matrix(length, float(scale)) for length in image.shape[:2])
  # Half away from 0, as MATLAB rounds; NumPy's `round` goes to the even number.
  rounded = lambda x: x if is_float else np.clip(np.floor(x + 0.5), 0, 255)
  pixels = image.astype(np.float64)
  pixels = rounded(np.einsum('yh,hwc->ywc', rows, pixels, optimize=True))
  pixels = rounded(np.einsum('xw,ywc->yxc', columns, pixels, optimize=True))
  return pixels.astype(image.dtype)


@functools.lru_cache(maxsize=64)
def _matrix(length: int, scale: float) -> np.ndarray:
  """The weights of one axis, (length of the output, length)."""
  # A scale of 1/3 times a length of 9 must not become 4.
  outputs = math.ceil(length * scale - 1e-9)
  narrow = min(scale, 1.0)
  centres = (np.arange(outputs) + 0.5) / scale - 0.5
  reach = math.ceil(4 / narrow) + 2
  first = np.floor(centres - 2 / narrow).astype(int)
  taps = first[:, None] + np.arange(reach)
  weights = _cubic(narrow * (centres[:, None] - taps))
  weights /= weights.sum(1, keepdims=True)
  # Mirrored with the border pixel repeated; also where the image is narrow.
  inside = np.mod(taps, 2 * length)
  inside = np.where(inside >= length, 2 * length - 1 - inside, inside)
  matrix = np.zeros((outputs, length))
  np.add.at(matrix, (np.arange(outputs)[:, None], inside), weights)
  matrix.flags.writeable = False
  return matrix


def _cubic(x: np.ndarray) -> np.ndarray:
  x = np.abs(x)
  near = 1.5 * x**3 - 2.5 * x**2 + 1
  far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
  return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))

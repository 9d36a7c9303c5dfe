"""Which of many places are taken: a bit for each, or the gaps between them."""

import numpy as np

_WIDTHS = (np.uint8, np.uint16, np.uint32, np.uint64)


def encode(places: np.ndarray, total: int) -> tuple[str, np.ndarray]:
  """The shorter of two codes.

  Args:
    places: int64 (count,), rising, below `total`.
    total: how many places there are.

  Returns:
    `('bits', uint8)`, a bit for each place, or `('gaps', unsigned integers)` of the
    narrowest width: the first place, and how much further each next one is.
  """
  gaps = np.diff(places, prepend=np.int64(0))
  largest = int(gaps.max(initial=0))
  gaps = gaps.astype(next(w for w in _WIDTHS if largest <= np.iinfo(w).max))
  if gaps.nbytes <= -(-total // 8):
    return 'gaps', gaps
  taken = np.zeros(total, bool)
  taken[places] = True
  return 'bits', np.packbits(taken)


def decode(code: str, stored: np.ndarray, total: int) -> np.ndarray:
  """The places, int64 and rising.

  Raises:
    ValueError: what is wrong with what is stored.
  """
  if code == 'bits':
    if stored.dtype != np.uint8 or stored.shape != (-(-total // 8),):
      raise ValueError(f'{stored.size} bytes of bits for {total} places')
    return np.flatnonzero(np.unpackbits(stored, count=total)).astype(np.int64)
  if code != 'gaps':
    raise ValueError(f'places in an unknown code, {code!r}')
  if stored.dtype not in _WIDTHS or stored.ndim != 1:
    raise ValueError(f'gaps as {stored.dtype}{list(stored.shape)}')
  # In floats, where gaps of 64 bits cannot wrap around.
  end = stored.sum(dtype=np.float64)
  # Only the first gap may be 0: it is the first place itself.
  if (stored[1:] == 0).any() or (stored.size and end >= total):
    raise ValueError(f'a place twice, or beyond the {total} that there are')
  return np.cumsum(stored, dtype=np.int64)

"""How a width multiplier scales a layer."""


def scaled(features: int, width: float) -> int:
  """`features * width`, rounded, at least 1.

  Raises:
    ValueError: a width that is not positive.
  """
  if not width > 0:
    raise ValueError(f'width: got {width}, want a positive multiplier.')
  return max(1, round(features * width))

"""What is static about a sparse array: its shape, its blocks, its tiles."""

import dataclasses
import math

import numpy as np

from jaxsparse import core


@dataclasses.dataclass(frozen=True)
class Format:
  """How a weight is seen as a matrix (inputs, outputs), and in what order it is held.

  The first `in_axes` axes of the weight are its inputs, the others its outputs. What is
  held are blocks of `block` consecutive outputs of one input: single weights for 1.
  They stand by tiles of inputs, in a tile by output, for the forward product; a second
  order, by tiles of outputs and in a tile by input, serves the backward product. Tiles
  keep what is read again in the first cache; `choose_format` knows good ones.

  Blocks of several inputs, depth x block, are that many such slices in a row; `depth`
  promises that slices come in whole blocks, which the kernels of a GPU make use of.

  With `nm` at most n of every m consecutive inputs are held for each output; a
  `NMPattern` then tells which.

  Args:
    shape: the shape of the dense weight, such as (inputs, outputs) of a Dense kernel.
    in_axes: how many leading axes are inputs; None for all but the last.
    block: how many consecutive outputs are kept or pruned together.
    input_tile: inputs per tile; None for all.
    output_tile: outputs per tile, a multiple of `block`; None for all.
    depth: how many consecutive inputs are kept or pruned together.
    nm: `(n, m)`, or None.

  Raises:
    ValueError: axes, blocks, groups or tiles that the shape does not have; N:M together
      with blocks or tiles.

  Example:
    >>> import jaxsparse as js
    >>> fmt = js.sparse.Format((8, 3, 4), in_axes=1, block=4)
    >>> fmt.inputs, fmt.outputs, fmt.rows
    (8, 12, 3)
  """

  shape: tuple[int, ...]
  in_axes: int | None = None
  block: int = 1
  input_tile: int | None = None
  output_tile: int | None = None
  depth: int = 1
  nm: tuple[int, int] | None = None

  def __post_init__(self):
    ndim = len(self.shape)
    if self.in_axes is None:
      # Frozen, with a default that depends on the shape.
      object.__setattr__(self, 'in_axes', ndim - 1)
    if not 0 < self.in_axes < ndim:
      raise ValueError(
        f'Format: in_axes={self.in_axes} of shape {self.shape}; wanted at least one'
        ' axis of inputs and one of outputs.'
      )
    if max(self.inputs, self.outputs) >= 2**31:
      raise ValueError(f'Format: shape={self.shape} is more than int32 can index.')
    if self.block < 1 or self.outputs % self.block:
      raise ValueError(
        f'Format: block={self.block} does not divide the {self.outputs} outputs of'
        f' shape {self.shape}.'
      )
    for name, tile in (
      ('input_tile', self.input_tile),
      ('output_tile', self.output_tile),
    ):
      unit = self.block if name == 'output_tile' else 1
      if tile is not None and (tile < 1 or tile % unit):
        raise ValueError(f'Format: {name}={tile}; wanted a multiple of {unit}.')
    if self.depth < 1 or self.in_shape[-1] % self.depth:
      raise ValueError(
        f'Format: depth={self.depth} does not divide the last input axis of shape'
        f' {self.shape}.'
      )
    if self.nm is not None:
      self._check_nm(*self.nm)

  def _check_nm(self, n, m):
    if not 0 < n <= m <= 128 or self.in_shape[-1] % m:
      raise ValueError(
        f'Format: nm={self.nm} of shape {self.shape}; wanted 0 < n <= m <= 128, and m'
        ' that divides the last input axis.'
      )
    if (self.block, self.depth) != (1, 1) or self.input_tile or self.output_tile:
      raise ValueError(f'Format: nm={self.nm} has neither blocks nor tiles.')

  @property
  def groups(self) -> int:
    """How many groups of m inputs there are, with N:M."""
    assert self.nm is not None
    return self.inputs // self.nm[1]

  @property
  def in_shape(self) -> tuple[int, ...]:
    """The input axes of the weight."""
    return self.shape[: self.in_axes]

  @property
  def out_shape(self) -> tuple[int, ...]:
    """The output axes of the weight."""
    return self.shape[self.in_axes :]

  @property
  def inputs(self) -> int:
    """The rows of the dense matrix."""
    return math.prod(self.in_shape)

  @property
  def outputs(self) -> int:
    """The columns of the dense matrix."""
    return math.prod(self.out_shape)

  @property
  def rows(self) -> int:
    """Outputs, counted in blocks."""
    return self.outputs // self.block

  @property
  def input_tiles(self) -> int:
    """How many tiles of inputs there are."""
    return -(-self.inputs // (self.input_tile or max(self.inputs, 1)))

  @property
  def row_tiles(self) -> int:
    """How many tiles of outputs there are."""
    return -(-self.outputs // (self.output_tile or max(self.outputs, 1)))

  @property
  def num_blocks(self) -> int:
    """How many blocks the dense weight has."""
    return self.inputs * self.rows

  @property
  def input_dtype(self) -> np.dtype:
    """The narrowest dtype of the kernels that holds an input."""
    return _index_dtype(self.inputs)

  @property
  def row_dtype(self) -> np.dtype:
    """The narrowest dtype of the kernels that holds a row."""
    return _index_dtype(self.rows)


def _index_dtype(size):
  return np.dtype(np.uint16 if size <= 2**16 else np.int32)


def choose_format(
  shape: tuple[int, ...], density: float, in_axes: int | None = None, block: int = 1
) -> Format:
  """The format whose tiles suit a density.

  Args:
    shape: the shape of the dense weight.
    density: the fraction of weights that are kept.
    in_axes: how many leading axes are inputs; None for all but the last.
    block: how many consecutive outputs are kept or pruned together.

  Returns:
    A `Format`.

  Raises:
    ValueError: as `Format` does.

  Example:
    >>> import jaxsparse as js
    >>> js.sparse.choose_format((512, 512), 0.1).input_tiles
    4
    >>> js.sparse.choose_format((512, 512), 0.01).input_tiles
    1
  """
  # Measured: a tile of inputs pays while a row has about six weights in it; one of
  # outputs, whose rows are asked for ahead, may be the larger the emptier it is.
  if block > 1 or density < 0.035:
    return Format(shape, in_axes, block)
  outputs = 128 if density > 0.3 else 256 if density > 0.15 else 512
  return Format(shape, in_axes, block, 128, outputs)


def format_of(
  leaf: core.Leaf,
  density: float,
  block: int = 1,
  depth: int = 1,
  nm: tuple[int, int] | None = None,
) -> Format:
  """The format of one layer of a leaf.

  Args:
    leaf: a parameter, whose stacked layers have that format each.
    density: the fraction of weights that are kept.
    block: how many consecutive outputs are kept or pruned together.
    depth: how many consecutive inputs are.
    nm: `(n, m)` of an N:M weight, or None.

  Returns:
    A `Format` of the shape of the leaf without its stacked axes.

  Raises:
    ValueError: stacked axes that do not lead, outputs that are not the last axes; names
      the leaf.

  Example:
    >>> import jaxsparse as js
    >>> leaf = js.Leaf('kernel', (2, 8, 4), 'float32', (0,), (1,), (2,))
    >>> js.sparse.format_of(leaf, 0.01).shape
    (8, 4)
  """
  stacked, ndim = len(leaf.stack_axes), len(leaf.shape)
  in_axes = ndim - stacked - len(leaf.out_axes)
  leading = leaf.stack_axes == tuple(range(stacked))
  trailing = leaf.out_axes == tuple(range(stacked + in_axes, ndim))
  if not (leading and trailing and leaf.out_axes and in_axes > 0):
    raise ValueError(
      f'{leaf.name}: shape {leaf.shape} with stack_axes={leaf.stack_axes},'
      f' in_axes={leaf.in_axes}, out_axes={leaf.out_axes} cannot be compact; wanted'
      ' stacked axes first and output axes last (leaves=), or leave it dense'
      ' (prunable=).'
    )
  # The kernels of a GPU want such formats without tiles.
  if depth > 1 or nm is not None:
    return Format(leaf.shape[stacked:], in_axes, block, depth=depth, nm=nm)
  return choose_format(leaf.shape[stacked:], density, in_axes, block)

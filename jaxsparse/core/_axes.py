"""Which axes are inputs and outputs, by Flax's conventions."""

from collections.abc import Mapping

_PROJECTIONS = ('query', 'key', 'value')

Shapes = Mapping[str, tuple[int, ...]]


def conventional(
  name: str, shape: tuple[int, ...], first: int, shapes: Shapes | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
  """The input and the output axes of a leaf.

  Args:
    name: its path.
    shape: its shape.
    first: how many leading axes are stacked, and have no other role.
    shapes: the shapes of all leaves by name; None where they are not known, and a name
      must do.

  Returns:
    `(in_axes, out_axes)`, both empty for what is no matrix.
  """
  axes = tuple(range(first, len(shape)))
  if len(axes) < 2:
    return (), ()
  parent = name.split('/')[-2] if '/' in name else ''
  if len(axes) == 3 and parent in (*_PROJECTIONS, 'out'):
    if shapes is None or _in_attention(name, shape, first, shapes):
      return (axes[:2], axes[2:]) if parent == 'out' else (axes[:1], axes[1:])
  return axes[-2:-1], axes[-1:]


def _in_attention(name, shape, first: int, shapes: Shapes) -> bool:
  """Whether the siblings of a leaf named as attention's are attention's too.

  A 1-D convolution may have the same name and as many axes. But a projection has a
  bias per head, (heads, head_dim), and `out` contracts just these two axes.
  """
  *above, parent, own = name.split('/')
  sibling = lambda layer, leaf: shapes.get('/'.join([*above, layer, leaf]), ())
  bias = sibling(parent, 'bias')[first:]
  # The bias of `out` has one axis, as a convolution's has: it tells nothing.
  if parent != 'out' and bias:
    return bias == shape[first + 1 :]
  # (heads, head_dim) of the projections that there are.
  heads = [sibling(layer, own)[first + 1 :] for layer in _PROJECTIONS]
  if parent == 'out':
    return shape[first:-1] in heads
  return sibling('out', own)[first:-1] == shape[first + 1 :]

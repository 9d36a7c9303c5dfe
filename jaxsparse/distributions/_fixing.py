"""Distributions in which some leaves are given, and the rest makes up for them."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from jaxsparse import core
from jaxsparse.distributions import _counts, _shapes

# The released code's least density of the classifier.
_CLASSIFIER_DENSITY = 0.2


def fixing(
  distribution: core.Distribution, fixed: Mapping[str, float]
) -> Callable[..., core.Sparsities]:
  """Fixes the sparsity of some leaves; the others make up for it, the total stays.

  Args:
    distribution: shares out what is left among the other leaves.
    fixed: path pattern to sparsity in [0, 1]; the first match wins.

  Returns:
    A distribution. If its sparsity is traced, what cannot be met is clipped.

  Raises:
    ValueError: a fixed sparsity outside [0, 1]; when called, a pattern that matches
      no leaf, or fixed leaves that already keep too many or too few weights.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> params = {'stem': jnp.ones((3, 3, 3, 16)), 'head': jnp.ones((64, 10))}
    >>> distribution = js.distributions.fixing(js.distributions.erk, {'st*': 0.0})
    >>> shares = distribution(js.leaves_of(params), 0.5)
    >>> {name: round(s, 3) for name, s in shares.items()}
    {'head': 0.838, 'stem': 0.0}
  """
  for pattern, value in fixed.items():
    if not 0 <= value <= 1:
      raise ValueError(f'fixed: {pattern!r} has sparsity {value}; wanted [0, 1].')

  def fixed_distribution(leaves, sparsity, scores=None):
    if not leaves:
      return {}
    given = core.match(fixed, tuple(leaves), 'fixed')
    kept = {n: round((1 - s) * leaves[n].size) for n, s in given.items()}
    rest = {n: leaf for n, leaf in leaves.items() if n not in given}
    left = _counts.total_kept(leaves, sparsity) - sum(kept.values())
    size = _counts.total(rest)
    if isinstance(left, jax.Array):
      left = jnp.clip(left, 0, size).astype(jnp.float32)
    elif not (0 < left <= size or left == size == 0):
      raise ValueError(
        f'fixed: {sorted(given)} keep {sum(kept.values())} weights, which leaves {left}'
        f' of {size} for {sorted(rest)} at a total sparsity of {sparsity}.'
      )
    others = distribution(rest, 1 - left / size, scores) if size else {}
    counts = any(_is_count(x) for x in others.values())
    # All counts or all sparsities, as the other leaves have it.
    result = {
      n: jnp.int32(k) if counts else 1 - k / leaves[n].size for n, k in kept.items()
    }
    return {n: (result | others)[n] for n in leaves}

  return fixed_distribution


def uniform_plus(
  leaves: _counts.Leaves, sparsity: float, scores=None
) -> core.Sparsities:
  """Uniform, with a dense first convolution and a denser classifier.

  The first convolution is the one with the fewest input features; the classifier is
  the matrix with the fewest outputs, and keeps at least 20 %. All other leaves share
  what is left: `d = (D N - N_first - 0.2 N_last) / N_others`. The released code divides
  by N where the first convolution is no longer in the pool, and above D = 0.2 does not
  make up for it; here the total is exact.

  Args:
    leaves: the pruned leaves by name.
    sparsity: fraction removed over all leaves together, in [0, 1).
    scores: unused.

  Returns:
    `{name: sparsity}`.

  Raises:
    ValueError: no convolution or no matrix among the leaves (`fixing` names leaves
      instead), or a total too small for the fixed ones.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> params = {'stem': jnp.ones((3, 3, 3, 16)), 'head': jnp.ones((64, 10))}
    >>> leaves = js.leaves_of(params | {'block': jnp.ones((3, 3, 16, 64))})
    >>> shares = js.distributions.uniform_plus(leaves, 0.9)
    >>> {name: round(s, 3) for name, s in shares.items()}
    {'block': 0.949, 'head': 0.8, 'stem': 0.0}

  Liu et al., "The unreasonable effectiveness of random pruning", 2022.
  """
  del scores
  if not leaves:
    return {}
  convolutions = [x for x in leaves.values() if x.spatial_axes]
  matrices = [x for x in leaves.values() if not x.spatial_axes]
  if not convolutions or not matrices:
    raise ValueError(
      'uniform_plus: wanted a convolution and a matrix among the leaves'
      f' {list(leaves)}; use fixing(uniform, ...) to name what stays dense.'
    )
  first = min(convolutions, key=lambda x: _counts.lengths(x, x.in_axes)).name
  last = min(matrices, key=lambda x: _counts.lengths(x, x.out_axes)).name
  shares = fixing(_shapes.uniform, {_literal(first): 0.0})(leaves, sparsity)
  # Of two leaves the total alone decides on the classifier.
  if 1 - shares[last] >= _CLASSIFIER_DENSITY or len(leaves) == 2:
    return shares
  fixed = {_literal(first): 0.0, _literal(last): 1 - _CLASSIFIER_DENSITY}
  return fixing(_shapes.uniform, fixed)(leaves, sparsity)


def _is_count(share):
  return isinstance(share, jax.Array) and jnp.issubdtype(share.dtype, jnp.integer)


def _literal(name):
  # Brackets, stars and question marks of a leaf's name are no pattern.
  return ''.join(f'[{c}]' if c in '[*?' else c for c in name)

"""Distributions that look at shapes only."""

import math

from jaxsparse.distributions import _counts


def uniform(leaves: _counts.Leaves, sparsity: float, scores=None) -> dict[str, float]:
  """The same sparsity everywhere: `s_l = s`.

  Args:
    leaves: the pruned leaves by name.
    sparsity: fraction removed over all leaves together, in [0, 1).
    scores: unused.

  Returns:
    `{name: sparsity}`.

  Raises:
    ValueError: a sparsity outside [0, 1).

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> leaves = js.leaves_of({'a': jnp.ones((8, 8)), 'b': jnp.ones((4, 9))})
    >>> js.distributions.uniform(leaves, 0.75)
    {'a': 0.75, 'b': 0.75}
  """
  del scores
  kept = _counts.total_kept(leaves, sparsity)
  density = kept / max(_counts.total(leaves), 1)
  return _counts.share_out(leaves, dict.fromkeys(leaves, density), kept)


def er(leaves: _counts.Leaves, sparsity: float, scores=None) -> dict[str, float]:
  """Erdos-Renyi: `d_l = eps (n_in + n_out) / (n_in n_out)`, at most 1.

  While a density exceeds 1, the leaves with the largest ratio are made dense and eps
  is solved again for the others.

  Args:
    leaves: the pruned leaves by name; ratios are those of one stacked layer.
    sparsity: fraction removed over all leaves together, in [0, 1).
    scores: unused.

  Returns:
    `{name: sparsity}`.

  Raises:
    ValueError: a sparsity outside [0, 1).

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> params = {'stem': jnp.ones((3, 3, 3, 16)), 'head': jnp.ones((64, 10))}
    >>> shares = js.distributions.er(js.leaves_of(params), 0.5)
    >>> {name: round(s, 3) for name, s in shares.items()}
    {'head': 0.747, 'stem': 0.134}

  Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse
  connectivity", 2018.
  """
  del scores
  return _by_ratio(leaves, sparsity, lambda leaf: ())


def erk(leaves: _counts.Leaves, sparsity: float, scores=None) -> dict[str, float]:
  """Erdos-Renyi with kernels: `d_l = eps (n_in + n_out + sum k) / (n_in n_out prod k)`.

  As `er`, with the lengths k of a convolution's window; matrices get what `er` gives
  them up to eps.

  Args:
    leaves: the pruned leaves by name; ratios are those of one stacked layer.
    sparsity: fraction removed over all leaves together, in [0, 1).
    scores: unused.

  Returns:
    `{name: sparsity}`.

  Raises:
    ValueError: a sparsity outside [0, 1).

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> params = {'stem': jnp.ones((3, 3, 3, 16)), 'head': jnp.ones((64, 10))}
    >>> shares = js.distributions.erk(js.leaves_of(params), 0.5)
    >>> {name: round(s, 3) for name, s in shares.items()}
    {'head': 0.373, 'stem': 0.688}

  Evci et al., "Rigging the Lottery", 2020.
  """
  del scores
  return _by_ratio(leaves, sparsity, lambda leaf: leaf.spatial_axes)


def _by_ratio(leaves, sparsity, spatial_axes):
  """Densities in proportion to (sum of lengths) / (product of lengths), at most 1."""
  ratios = {}
  for name, leaf in leaves.items():
    window = [leaf.shape[a] for a in spatial_axes(leaf)]
    ends = [_counts.lengths(leaf, leaf.in_axes), _counts.lengths(leaf, leaf.out_axes)]
    ratios[name] = sum(ends + window) / max(math.prod(ends + window), 1)
  kept = _counts.total_kept(leaves, sparsity)
  dense = set()
  while len(dense) < len(leaves):
    others = [n for n in leaves if n not in dense]
    # What is dense keeps all of itself; eps shares the rest out anew.
    left = kept - sum(leaves[n].size for n in dense)
    weight = sum(ratios[n] * leaves[n].size for n in others)
    # The sum of eps r_l n_l over the others is what they may keep.
    eps = left / weight if weight else 0.0
    largest = max(ratios[n] for n in others)
    if eps * largest <= 1:
      break
    # All that attain the maximum together, so that equal layers stay equal.
    dense |= {n for n in others if ratios[n] == largest}
  densities = {n: 1.0 if n in dense else eps * ratios[n] for n in leaves}
  return _counts.share_out(leaves, densities, kept)

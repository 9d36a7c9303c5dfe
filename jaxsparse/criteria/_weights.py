"""Criteria that look at nothing but the weights."""

import jax
import jax.numpy as jnp

from jaxsparse import core


def magnitude(evidence: core.Evidence) -> core.Params:
  """|w|, of the updated parameters where a rule decides on them.

  Source: Han et al. 2015, Learning both Weights and Connections, section 3.

  Args:
    evidence: `updated_params`, or `params` where that is None.

  Returns:
    A tree like one field, dtypes kept.

  Example:
    >>> import jax.numpy as jnp, jaxsparse as js
    >>> e = js.core.Evidence((jnp.array([-2., 1.]),), None, None, None, 0, None)
    >>> js.criteria.magnitude(e).tolist()
    [2.0, 1.0]
  """
  seen = evidence.updated_params or evidence.params
  return jax.tree.map(jnp.abs, seen[0])


def random(evidence: core.Evidence) -> core.Params:
  """Uniform integers: every set of weights is equally likely.

  Scores are uint32 whatever the dtype of the weights: a bfloat16 uniform has 128
  values, and its ties would decide the mask. The key of a leaf is folded from its
  name, so that masks do not depend on the container or on other leaves.

  Args:
    evidence: `key`, which a rule has when it was given a seed.

  Returns:
    A tree like one field of uint32 below 2**31.

  Raises:
    ValueError: the rule has no seed.

  Example:
    >>> import jax, jax.numpy as jnp, jaxsparse as js
    >>> key = jax.random.key(0)
    >>> e = js.core.Evidence(({'w': jnp.ones(3)},), None, None, None, 0, key)
    >>> js.criteria.random(e)['w'].dtype
    dtype('uint32')
  """
  if evidence.key is None:
    raise ValueError('criteria.random: the transform needs seed=.')
  names, leaves, treedef = core.named_leaves(evidence.params[0])
  # One bit is spared, so that a score never reaches the mark of a survivor.
  draws = [
    jax.random.bits(core.leaf_key(evidence.key, n), x.shape, jnp.uint32) >> 1
    for n, x in zip(names, leaves)
  ]
  return treedef.unflatten(draws)

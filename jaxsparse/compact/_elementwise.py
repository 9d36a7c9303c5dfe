"""Whether an optimizer does on nonzeros what it does on the dense leaves."""

import jax
import jax.numpy as jnp

from jaxsparse import core
from jaxsparse.compact import _state, _values

# A norm is summed in another order; a half-precision update may round the other way.
_TOLERANCE = {4: 1e-4, 2: 2e-2}


def check(inner, dense, compact, patterns) -> None:
  """Takes two steps both ways, with random gradients, and compares them.

  Two, since the first may have a learning rate of 0.

  Args:
    inner: the optimizer.
    dense: `(params, state)` of masked training.
    compact: `(params, state)`, the params as the optimizer sees them.
    patterns: the patterns.

  Raises:
    ValueError: for an optimizer that reads the shape of a leaf, its place or its zeros.
  """
  # Factored statistics, such as Adafactor's, show by shape before any step.
  wanted = jax.eval_shape(inner.init, compact[0])
  shapes = lambda tree: [x.shape for x in jax.tree.leaves(tree)]
  if shapes(wanted) != shapes(compact[1]):
    raise _refusal('the dense leaves', compact[1])
  steps = jax.jit(lambda grads, params, state: _two_steps(inner, grads, params, state))
  grads = _random_like(dense[0], patterns)
  values = _values.map_sparse(_seen, patterns, grads)
  by_value = steps(values, *compact)
  by_leaf = _values.map_sparse(_seen, patterns, steps(grads, *dense))
  names, whole, _ = core.named_leaves(by_leaf)
  for name, a, b in zip(names, whole, jax.tree.leaves(by_value), strict=True):
    share = _TOLERANCE.get(a.dtype.itemsize, 1e-4)
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    allowed = share * jnp.max(jnp.abs(a), initial=0)
    if bool(jnp.max(jnp.abs(a - b), initial=0) > allowed):
      raise _refusal(name, compact[1])


def _two_steps(inner, grads, params, state):
  _, state = inner.update(grads, state, params)
  return inner.update(grads, state, params)[0]


def _seen(dense, pattern):
  return _values.as_seen(_values.gather(dense, pattern), pattern)


def _random_like(params, patterns):
  """Gradients that are 0 off the masks, as the optimizer gets them."""
  names, leaves, treedef = core.named_leaves(params)
  found, key = _state.named_patterns(patterns), jax.random.key(0)
  grads = []
  for name, leaf in zip(names, leaves):
    grad = jax.random.normal(core.leaf_key(key, name), leaf.shape).astype(leaf.dtype)
    if name in found:
      grad = jnp.where(_values.to_mask(found[name]), grad, jnp.zeros_like(grad))
    grads.append(grad)
  return treedef.unflatten(grads)


def _refusal(where, state) -> ValueError:
  is_state = lambda x: isinstance(x, tuple) and hasattr(x, '_fields')
  kinds = set()

  def walk(node):
    if is_state(node):
      kinds.add(type(node).__name__)
    if isinstance(node, (tuple, list)):
      list(map(walk, node))

  walk(state)
  return ValueError(
    f'inner: on the values of nonzeros it does not do what it does on the dense leaf'
    f' ({where}); it reads a shape, a place or the zeros, as Adafactor and Muon do. Its'
    f' states are {", ".join(sorted(kinds)) or "none"}. Wanted an elementwise'
    ' optimizer such as adam, or masked training.'
  )

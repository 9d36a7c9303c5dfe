"""How a method of an experiment runs: with masks, or on its nonzeros."""

from collections.abc import Callable
import copy
from typing import Any, NamedTuple

import jax

from experiments import _settings
import jaxsparse as js

# What is sparse from the first step on.
_COMPACT = ('static', 'set', 'rigl', 'ssvi', 'ssvi_released')
_DENSE = (*_settings.BASELINES, 'mean_field')


class Execution(NamedTuple):
  """What differs between the two.

  Attributes:
    name: 'dense', 'masked' or 'compact'.
    tx: the optimizer of the step.
    start: the state of training from that which `init` made.
    dense: the inverse of `start`.
  """

  name: str
  tx: Any
  start: Callable[[js.training.TrainState], js.training.TrainState]
  dense: Callable[[js.training.TrainState], js.training.TrainState]


def name_of(config, spec) -> str:
  """'compact' where the config asks for it and the method can, else 'masked'."""
  how = spec['posterior'] if 'posterior' in spec else spec['transform']
  if how in _DENSE:
    return 'dense'
  asked = config.execution == 'compact' and how in _COMPACT
  return 'compact' if asked else 'masked'


def masks_of(opt_state):
  """What a posterior's functions take: the masks, or the patterns."""
  held = isinstance(opt_state, js.compact.CompactState)
  return js.compact.get_patterns(opt_state) if held else js.get_masks(opt_state)


def joined(params, opt_state):
  """Deterministic params as the model takes them."""
  if not isinstance(opt_state, js.compact.CompactState):
    return params
  return js.compact.join(params, js.compact.get_patterns(opt_state))


def of_model(config, spec):
  """The config, with the handler that a model on nonzeros needs in its layers."""
  changed = copy.copy(config)
  if name_of(config, spec) == 'compact':
    changed.handler = js.compact.handler()
  return changed


def build(config, spec, make_tx, init) -> Execution:
  """The execution of a method.

  Args:
    config: of the run.
    spec: of the method.
    make_tx: `seed -> tx`, masked.
    init: `seed -> TrainState`, masked.
  """
  name, tx = name_of(config, spec), make_tx(0)
  if name != 'compact':
    return Execution(name, tx, lambda state: state, lambda state: state)
  first = init(0)
  # All seeds keep as many weights, so one program serves them.
  compact_tx, _, _ = js.compact.convert(tx, first.params, first.opt_state)

  def start(state):
    _, params, opt_state = js.compact.convert(tx, state.params, state.opt_state)
    return state._replace(params=params, opt_state=opt_state)

  def dense(state):
    _, params, opt_state = js.compact.densify(compact_tx, state.params, state.opt_state)
    return state._replace(params=params, opt_state=opt_state)

  return Execution(name, compact_tx, start, dense)


def backends(state, batch_size: int) -> str:
  """Who computes the product of each leaf that is held as its nonzeros."""
  patterns = js.compact.get_patterns(state.opt_state)
  is_pattern = js.sparse.is_pattern
  names, leaves, _ = js.core.named_leaves(patterns, is_leaf=is_pattern)
  found = {n: p for n, p in zip(names, leaves) if is_pattern(p)}
  chosen = {}
  for name, pattern in found.items():
    product = 'conv' if len(pattern.format.shape) == 4 else 'matmul'
    one = jax.tree.map(lambda x: x[0], pattern) if pattern.stack else pattern
    chosen[name] = js.sparse.choose_backend(one, batch_size, product)
  return ', '.join(f'{name}: {backend}' for name, backend in chosen.items())

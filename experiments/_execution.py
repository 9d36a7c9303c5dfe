"""How a method of an experiment runs: with masks, or on its nonzeros."""

import copy

import jax
import jax.numpy as jnp

from experiments import _settings
import jaxsparse as js

_DENSE = (*_settings.BASELINES, 'mean_field')


class Execution:
  """The form in which the state of a method is held, and its steps in that form.

  Where the config asks for it, what is sparse from the first step on is held as its
  nonzeros from the start. What makes its masks final in the course of the run (`gmp`,
  `one_shot`, `iss_p`, `iss_r`, `greg`) trains with masks until then and is converted once.
  What keeps something dense (`ste`), or is no transform of this library, trains with masks.

  Args:
    config: of the run.
    spec: of the method.
    num_steps: of the run.
    make_tx: `seed -> tx`, masked.
    init: `seed -> TrainState`, masked.

  Attributes:
    name: 'dense', 'masked', 'compact' or 'compact from step n'.
    changes: whether the form changes in the course of the run.

  Raises:
    ValueError: as `js.compact.convert` does, now rather than at the step of the change.
  """

  def __init__(self, config, spec, num_steps, make_tx, init):
    self._config, self._tx, self._compact_tx = config, make_tx(0), None
    self._final = _first_step(self._tx) if may_be_compact(config, spec) else None
    self._first = None
    if self._final is not None:
      # The form changes between two calls.
      calls = -(-self._final // config.steps_per_call)
      first = calls * config.steps_per_call
      self._first = first if first <= num_steps else None
    self.changes = bool(self._first)
    if self._first is None:
      self.name = 'dense' if _is_dense(spec) else 'masked'
      return
    self.name = f'compact from step {self._first}' if self.changes else 'compact'
    try:
      # All seeds get the same transform, so one program serves them.
      self.to_time(init(0))
    except ValueError as error:
      raise ValueError(f'method {spec["name"]}: {error}') from error

  def could_start_compact(self) -> bool:
    """Whether the method could be held as its nonzeros from the first step on."""
    return _first_step(self._tx) == 0

  def held(self, state):
    """The state, as nonzeros if it is one of which only these are held."""
    if self._first is None or _is_compact(state) or state.step < self._first:
      return state
    self._compact_tx, params, opt_state = js.compact.convert(
      self._tx, state.params, state.opt_state
    )
    return state._replace(params=params, opt_state=opt_state)

  def dense(self, state):
    """The inverse of `held`."""
    if not _is_compact(state):
      return state
    _, params, opt_state = js.compact.densify(
      self._compact_tx, state.params, state.opt_state
    )
    return state._replace(params=params, opt_state=opt_state)

  def step(self, loss_fn, prepare):
    """The compiled step, as `js.training.shard_step` returns it.

    Args:
      loss_fn: that of `js.training.make_step`; it sees the state.
      prepare: that of `js.training.make_step`.
    """
    config = self._config
    how = 'pmap' if config.execution == 'compact' else config.execution

    def compiled(tx):
      step = js.training.make_step(
        loss_fn, tx, prepare=prepare, accumulate=config.accumulate, sees_state=True
      )
      return js.training.shard_step(step, execution=how, scan=config.steps_per_call > 1)

    if not self.changes:
      return compiled(self._compact_tx or self._tx)
    masked, compact = compiled(self._tx), None

    def either(state, batch, data=None):
      nonlocal compact
      if not _is_compact(state):
        held = self.held(state)
        if held is state:
          return masked(state, batch, data)
        state = js.training.replicate(held, masked.devices)
      compact = compact or compiled(self._compact_tx)
      return compact(state, batch, data)

    either.devices = masked.devices  # type: ignore[attr-defined]
    return either

  def checkpoints(self, directory):
    """The directory, for states of one form: with masks where the form changes."""
    return _Masked(directory, self) if self.changes else directory

  def to_time(self, state):
    """A state at step 0 as a run is timed with it, in the form that it has in the end.

    Where this is reached in the course of the run, the masks are those that the last
    decision makes of the untrained weights.
    """
    if not self.changes:
      return self.held(state)
    opt_state = state.opt_state._replace(step=jnp.int32(self._final - 1))
    zeros = jax.tree.map(jnp.zeros_like, state.params)
    _, opt_state = self._tx.update(zeros, opt_state, state.params)
    params = js.apply_masks(state.params, opt_state)
    first = jnp.int32(self._first)
    return self.held(state._replace(step=first, params=params, opt_state=opt_state))


class _Masked:
  """A directory of checkpoints that holds states with their masks."""

  def __init__(self, directory, execution):
    self._directory, self._execution = directory, execution

  def __getattr__(self, name):
    return getattr(self._directory, name)

  def save(self, step, state, metric=None):
    return self._directory.save(step, self._execution.dense(state), metric=metric)

  def restore(self, target, step=None):
    return self._directory.restore(self._execution.dense(target), step=step)


def _first_step(tx) -> int | None:
  """The first step whose state can be converted; None where there is none."""
  try:
    return js.compact.first_step(tx)
  except ValueError:
    return None  # One of your own, which need not be of this library.


def _is_dense(spec) -> bool:
  how = spec['posterior'] if 'posterior' in spec else spec['transform']
  return how in _DENSE


def _is_compact(state) -> bool:
  return isinstance(state.opt_state, js.compact.CompactState)


def may_be_compact(config, spec) -> bool:
  """Whether the config asks for nonzeros, and the method has any."""
  return config.execution == 'compact' and not _is_dense(spec)


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
  if may_be_compact(config, spec):
    changed.handler = js.compact.handler()
  return changed


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

"""From what a config says to schedules: fractions of a run, runs in cycles."""

from collections.abc import Mapping
import inspect

import jax.numpy as jnp
import optax

from experiments import _names
import jaxsparse as js

# Arguments that count steps: a float there is a fraction of the run.
STEPS = (
  'at',
  'decay_steps',
  'n',
  'num_growing_steps',
  'num_pruning_steps',
  'start',
  'step',
  'stop',
  'transition_begin',
  'transition_steps',
  'warmup_steps',
)


def in_steps(value, num_steps):
  """A float is a fraction of the run, an int a number of steps."""
  whole = sum(num_steps) if isinstance(num_steps, tuple) else num_steps
  return round(value * whole) if isinstance(value, float) else value


def resolved(kwargs: Mapping, num_steps: int) -> dict:
  found = {k: in_steps(v, num_steps) if k in STEPS else v for k, v in kwargs.items()}
  if 'boundaries_and_scales' in found:
    # Pairs: the keys of a config are texts.
    pairs = found['boundaries_and_scales']
    found['boundaries_and_scales'] = {in_steps(s, num_steps): f for s, f in pairs}
  return found


def _restarted(make, lengths: tuple[int, ...]):
  """A schedule that begins anew with each cycle; `make(length)` is that of one."""
  starts = [sum(lengths[:i]) for i in range(len(lengths))]
  parts = [make(length) for length in lengths]

  def schedule(step):
    value = parts[0](step)
    for start, part in zip(starts[1:], parts[1:]):
      value = jnp.where(step >= start, part(step - start), value)
    return value

  return schedule


def schedule(value, num_steps, what: str):
  """A number as it is, 'always', or `{'schedule': name, ...}` of `js.schedules`."""
  if isinstance(value, str):
    return _names.attribute(js.schedules, value, what)
  if not isinstance(value, Mapping):
    return value
  if isinstance(num_steps, tuple):
    return _restarted(lambda length: schedule(value, length, what), num_steps)
  kwargs = dict(value)
  make = _names.attribute(js.schedules, kwargs.pop('schedule', None), what)
  steps = [in_steps(step, num_steps) for step in kwargs.pop('steps', ())]
  return make(*steps, **resolved(kwargs, num_steps))


def learning_rate(value, num_steps):
  """A number, or a schedule of optax; over each cycle if there are several."""
  if not isinstance(value, Mapping):
    return value
  if isinstance(num_steps, tuple):
    return _restarted(lambda length: learning_rate(value, length), num_steps)
  names = [n for n in dir(optax) if n.endswith(('_schedule', 'constant'))]
  make = getattr(optax, _names.choose(value['name'], names, 'learning_rate'))
  return called(make, 'learning_rate', resolved(value['kwargs'], num_steps))


def called(make, key, kwargs, *args):
  """Calls a factory of optax; a wrong argument is a sentence that lists the right."""
  try:
    return make(*args, **kwargs)
  except TypeError as error:
    raise ValueError(
      f'config.{key}.kwargs: {error}; {make.__name__} takes'
      f' {", ".join(inspect.signature(make).parameters)}.'
    ) from error

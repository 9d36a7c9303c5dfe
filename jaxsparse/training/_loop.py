"""The loop: devices, checkpoints, interruptions and non-finite losses."""

from collections.abc import Callable
import contextlib
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from jaxsparse import checkpoint, core
from jaxsparse.training import _processes, _step

_AXIS = 'devices'
_EXECUTIONS = ('pmap', 'shard_map', 'jit')


class RunResult(NamedTuple):
  """How a run ended.

  Attributes:
    state: the last state.
    finished: False when SIGTERM ended the run early (its state is saved).
    stopped: SIGTERM was received, maybe in the last step: what would follow the run
      should not.
  """

  state: _step.TrainState
  finished: bool
  stopped: bool = False


def _local_devices(devices):
  return list(jax.local_devices() if devices is None else devices)


def replicate(tree, devices=None):
  """Copies a tree to every device.

  The copy is real even on one device, where `jax.device_put` would alias: a step
  that donates its state never deletes the caller's arrays.

  Args:
    tree: pytree of arrays.
    devices: sequence of devices; all local ones by default.

  Returns:
    The tree, replicated, without a device axis.
  """
  mesh = Mesh(np.array(_local_devices(devices)), (_AXIS,))
  sharding = NamedSharding(mesh, PartitionSpec())
  tree = jax.device_put(tree, sharding)
  return jax.jit(lambda t: jax.tree.map(jnp.copy, t), out_shardings=sharding)(tree)


def shard_step(
  step,
  devices=None,
  execution: str = 'pmap',
  *,
  donate: bool = True,
  scan: bool = False,
):
  """Compiles a pure step for data parallelism over devices.

  Args:
    step: from `make_step`: `(state, batch, data=None, *, axis=None)`.
    devices: sequence of devices; by default all of this process or, after
      `jax.distributed.initialize`, of all processes, which then call the step together.
    execution: `'pmap'`, `'shard_map'` (the two give the same bits; several processes
      use this one) or `'jit'`, where the compiler partitions the global batch by itself.
    donate: reuse the memory of the state that is passed in.
    scan: take several steps per call: every leaf of the batch has a leading axis
      of steps, and so has every metric. Small models need it, because there the
      dispatch of a step costs as much as the step. Not for convolutions on a CPU: in a
      loop XLA compiles them to code that is several times slower.

  Returns:
    `(state, batch, data=None) -> (state, metrics)`. The batch is global, `(batch,
    ...)` or `(steps, batch, ...)`, for every execution, and in every process: each
    takes its rows from it. The state has no device axis, so a checkpoint fits any of
    them and any number of devices; every process holds a copy.

  Raises:
    ValueError: an unknown execution, or (at a call) a batch that the number of
      devices does not divide.
  """
  if execution not in _EXECUTIONS:
    raise ValueError(f'execution: got {execution!r}, wanted one of {_EXECUTIONS}.')
  devices = _processes.all_devices() if devices is None else list(devices)
  owned = _processes.own(devices)
  spans = len(owned) < len(devices)
  donated = (0,) if donate else ()
  batch_axis = 1 if scan else 0

  def local(state, batch, data, axis=None):
    if not scan:
      return step(state, batch, data, axis=axis)
    return jax.lax.scan(lambda s, b: step(s, b, data, axis=axis), state, batch)

  parallel = functools.partial(local, axis=_AXIS)
  mesh = Mesh(np.array(devices), (_AXIS,))
  batch_spec = PartitionSpec(*(None,) * batch_axis, _AXIS)
  if execution == 'pmap' and not spans:
    # No axis in the outputs: every device holds the same state after the mean.
    compiled = jax.pmap(
      parallel, _AXIS, in_axes=(None, 0, None), out_axes=(None, None),
      devices=devices, donate_argnums=donated,
    )  # fmt: skip
  else:
    specs = (PartitionSpec(), batch_spec, PartitionSpec())
    if execution != 'jit':
      # With check_vma=True, grad-then-pmean multiplies gradients by the number of
      # devices without a word. This is the one place that says so.
      local = jax.shard_map(
        parallel, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(),
        check_vma=False,
      )  # fmt: skip
    compiled = jax.jit(
      local,
      in_shardings=tuple(NamedSharding(mesh, s) for s in specs),
      out_shardings=NamedSharding(mesh, PartitionSpec()),
      donate_argnums=donated,
    )

  def call(state, batch, data=None):
    count = len(devices)
    batch = jax.tree.map(lambda x: _check_divides(x, batch_axis, count), batch)
    if spans:
      state, data = _processes.spanning((state, data), mesh)
      batch = _processes.shares(batch, NamedSharding(mesh, batch_spec))
      return _processes.copies(compiled(state, batch, data), mesh)
    if execution == 'pmap':
      batch = jax.tree.map(lambda x: _per_device(x, batch_axis, count), batch)
    return compiled(state, batch, data)

  call.devices = owned  # type: ignore[attr-defined]
  call.compiled = compiled  # type: ignore[attr-defined]
  return call


def _check_divides(x, axis, count):
  if x.shape[axis] % count:
    raise ValueError(
      f'batch: {x.shape[axis]} examples cannot be divided over {count} devices.'
    )
  return x


def _per_device(x, axis, count):
  """`(.., batch, ..)` -> `(devices, .., batch / devices, ..)`."""
  shape = (*x.shape[:axis], count, x.shape[axis] // count, *x.shape[axis + 1 :])
  x = x.reshape(shape)
  # pmap splits the first axis; that of the steps comes behind it.
  return x if axis == 0 else x.swapaxes(0, axis)


def run(
  step_fn,
  state: _step.TrainState,
  batches: Callable[[int], Any],
  num_steps: int,
  *,
  data=None,
  steps_per_call: int | None = None,
  checkpoints=None,
  save_every: int | None = None,
  on_start: Callable[[_step.TrainState], None] | None = None,
  on_steps: Callable[..., float | None] | None = None,
) -> RunResult:
  """Trains to `num_steps`, from the newest good checkpoint when there is one.

  Everything that the next step depends on is in the state or a function of the
  step, so an interrupted run that is started again takes exactly the steps that it
  would have taken. With several processes all of them call it with the same arguments,
  and a signal to one ends them all at the same step.

  Args:
    step_fn: from `shard_step`.
    state: the initial state; it is copied, so it stays valid.
    batches: `step -> batch`, pure: the batch of numpy arrays of step 0, 1, ...
    num_steps: the step at which to stop.
    data: passed to every step, unchanged.
    steps_per_call: for a `step_fn` with `scan=True`, the number of steps per call.
      Calls end at multiples of it, so `save_every` must be one.
    checkpoints: from `js.checkpoint.open_dir`; None saves nothing.
    save_every: save after every so many steps; the last step is always saved.
    on_start: called with the state that training goes on from, restored or new.
    on_steps: `(state, metrics) -> number or None`, called after each call with
      numpy metrics (with a leading axis of steps under `steps_per_call`); what it
      returns ranks a checkpoint saved at this step.

  Returns:
    `RunResult(state, finished, stopped)`.

  Raises:
    ValueError: `save_every` is no multiple of `steps_per_call`.
    FloatingPointError: the loss or a parameter became NaN or infinite; the message
      names the step, the first non-finite leaf and the last good checkpoint.
  """
  per_call = steps_per_call or 1
  if save_every and save_every % per_call:
    raise ValueError(
      f'save_every: got {save_every}, wanted a multiple of {steps_per_call=}.'
    )
  state = _restored(checkpoints, state)
  state = replicate(state, getattr(step_fn, 'devices', None))
  step = int(state.step)
  if on_start:
    on_start(state)
  guard = checkpoint.sigterm_guard() if checkpoints else contextlib.nullcontext()
  stopped = False
  with guard:
    while step < num_steps:
      # A run that goes on from within a call ends that call first: calls, and what
      # was compiled for them, stay those of a run that never stopped.
      end = min(step - step % per_call + per_call, num_steps)
      batch = _stacked(batches, step, end) if steps_per_call else batches(step)
      state, metrics = step_fn(state, batch, data)
      # Waits for the step: its loss must be known before the next one is taken.
      metrics = jax.tree.map(np.asarray, metrics)
      _check_loss(state, metrics, step, checkpoints)
      step = end

      metric = on_steps(state, metrics) if on_steps else None
      # Asked after every call, signal or not: the processes answer it together.
      stopped = isinstance(guard, checkpoint.SignalGuard) and _processes.in_any(
        guard.triggered
      )
      due = step == num_steps or (save_every and step % save_every == 0)
      if checkpoints is not None and (due or stopped):
        _check_leaves(state, step, checkpoints)
        checkpoints.save(step, state, metric=metric)
      if stopped:
        break
  if checkpoints is not None:
    checkpoints.wait()
  return RunResult(state, step >= num_steps, stopped)


def _stacked(batches, start, end):
  parts = [batches(step) for step in range(start, end)]
  # (steps, batch, ..), over which a step made with `scan=True` goes.
  return jax.tree.map(lambda *xs: np.stack(xs), *parts)


def _restored(checkpoints, state):
  restored = checkpoints.restore(state) if checkpoints is not None else None
  return state if restored is None else restored.state


def _check_loss(state, metrics, step, checkpoints):
  finite = np.atleast_1d(metrics['finite'])
  if finite.all():
    return
  # The first False: which of several steps in a call went wrong.
  bad = int(np.argmin(finite))
  loss = np.atleast_1d(metrics['loss'])[bad]
  _stop(state, step + bad, f'the loss is {loss}', checkpoints)


def _check_leaves(state, step, checkpoints):
  """Keeps a state that is already lost from being saved as a good checkpoint."""
  if _first_bad_leaf(state) is not None:
    _stop(state, step, 'a parameter is not finite', checkpoints)


def _stop(state, step, what, checkpoints):
  leaf = _first_bad_leaf(state)
  where = f'the first non-finite leaf is {leaf}' if leaf else 'all leaves are finite'
  saved = None
  if checkpoints is not None:
    # A save under way is a good checkpoint only once it has ended.
    checkpoints.wait()
    saved = checkpoints.latest_step()
  good = (
    'no checkpoint was saved'
    if saved is None
    else f'the last good checkpoint is step {saved}'
  )
  raise FloatingPointError(f'step {step}: {what}; {where}; {good}.')


def _first_bad_leaf(state):
  # Two trees, because one dict would put the model's state before its parameters.
  for tree in ({'params': state.params}, {'model_state': state.model_state}):
    for name, leaf in zip(*core.named_leaves(tree)[:2]):
      inexact = jnp.issubdtype(leaf.dtype, jnp.inexact)
      if inexact and not np.isfinite(np.asarray(leaf).astype(np.float32)).all():
        return name
  return None

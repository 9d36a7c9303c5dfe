"""What the masks of a trained network did, kept in a file for the report.

`traces/<method>-<seed>.npz` holds the masks of the first and of the last step, a bit per
weight, with the FLOPs of every layer, bytes and seconds.
"""

import json
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import _measure, _processes
import jaxsparse as js

_FOLDER = 'traces'


class Trace(NamedTuple):
  """One trained network.

  Attributes:
    method, seed: of the run.
    shapes: `{leaf: shape}` of the pruned parameters.
    start, end: `{leaf: mask}` at the first step, and of the tested network.
    steps: of the training.
    examples: of a step.
    seconds: of the training, with compilation and evaluations.
    bytes: of parameters, masks and optimizer state, as trained.
    flops: `{leaf: FLOPs}` of a dense forward pass of one example; '' is what belongs to
      no leaf; None where that says nothing.
    draws: forward passes of a prediction.
    products: products in a layer for each of its weight matrices, while training.
  """

  method: str
  seed: str
  shapes: dict[str, tuple[int, ...]]
  start: dict[str, np.ndarray]
  end: dict[str, np.ndarray]
  steps: int = 0
  examples: int = 0
  seconds: float | None = None
  bytes: dict[str, int] | None = None
  flops: dict[str, int] | None = None
  draws: int = 1
  products: int = 1


def masks_of(state, field=None) -> tuple[dict, dict]:
  """`({leaf: mask}, {leaf: shape})` of the pruned leaves of a state that has its masks.

  Args:
    state: with `params` and `opt_state`.
    field: the attribute of the params of a posterior that names its leaves.
  """
  params = getattr(state.params, field) if field else state.params
  if not js.core.sparse_states(state.opt_state):
    return {}, {}
  masks = jax.tree.leaves(js.get_masks(state.opt_state))
  names, leaves, _ = js.core.named_leaves(params)
  pruned = {n: (m, p.shape) for n, m, p in zip(names, masks, leaves) if np.ndim(m)}
  return {n: m for n, (m, _) in pruned.items()}, {n: s for n, (_, s) in pruned.items()}


def field_of(posterior) -> str | None:
  """What `masks_of` wants to know of a method with or without a posterior."""
  return None if posterior is None else 'mu'


def density(mask) -> float:
  """The kept share of a mask, counted in integers."""
  mask = np.asarray(mask)
  return int(np.count_nonzero(mask)) / max(mask.size, 1)


def density_row(state, field=None) -> dict[str, float]:
  """`{'density/<leaf>': share}` of a state that has its masks, for metrics.csv."""
  masks, _ = masks_of(state, field)
  return {f'density/{name}': density(mask) for name, mask in masks.items()}


def density_columns(init, prunable=js.kernels, field=None) -> list[str]:
  """The columns of the leaves that methods prune, the same whichever are trained.

  Args:
    init: `() -> state` of some method, dense or not; never run.
    prunable: predicate of the leaves.
    field: see `masks_of`.
  """
  params = jax.eval_shape(init).params
  leaves = js.leaves_of(getattr(params, field) if field else params)
  return [f'density/{name}' for name, leaf in leaves.items() if prunable(leaf)]


def of_states(method: str, seed, first, last, held, field=None) -> Trace:
  """The trace of a network that was trained, without what its states do not say.

  Args:
    method, seed: of the network.
    first: its state before the first step, with masks.
    last: its state at the end, with masks.
    held: the same as it was trained, perhaps on its nonzeros.
    field: see `masks_of`.
  """
  start, shapes = masks_of(first, field)
  end, _ = masks_of(last, field)
  return Trace(method, str(seed), shapes, start, end, bytes=_measure.held_bytes(held))


def write(workdir: pathlib.Path, trace: Trace) -> None:
  """Writes a trace into its file; of several processes the first one does."""
  if not _processes.is_first():
    return
  about = trace._asdict()
  masks = {'start': about.pop('start'), 'end': about.pop('end')}
  arrays: dict[str, Any] = {'about': np.array(json.dumps(about))}
  for when, leaves in masks.items():
    for name, mask in leaves.items():
      mask = np.asarray(mask)
      arrays[f'{when}/{name}'] = np.packbits(mask)
      arrays[f'shape/{name}'] = np.array(mask.shape)
  path = workdir / _FOLDER / f'{trace.method}-{trace.seed}.npz'
  path.parent.mkdir(exist_ok=True)
  np.savez_compressed(path, **arrays)


def load(workdir: pathlib.Path) -> list[Trace]:
  """All traces of a run directory."""
  return [_load(path) for path in sorted((workdir / _FOLDER).glob('*.npz'))]


def _load(path) -> Trace:
  with np.load(path) as arrays:
    about = json.loads(str(arrays['about']))
    about['shapes'] = {n: tuple(s) for n, s in about['shapes'].items()}
    unpack = lambda when, name: np.unpackbits(
      arrays[f'{when}/{name}'],
      count=int(np.prod(arrays[f'shape/{name}'], dtype=object)),
    ).reshape(arrays[f'shape/{name}'])
    masks = {
      when: {name: unpack(when, name).astype(bool) for name in about['shapes']}
      for when in ('start', 'end')
    }
  return Trace(**about, **masks)


def flops_of(found: js.summary.Flops) -> dict[str, int]:
  """The FLOPs of a dense forward pass by leaf, as a `Trace` holds them."""
  by_leaf = {name: int(dense) for name, (dense, _) in found.leaves.items() if dense}
  return {**by_leaf, '': int(found.unattributed)}

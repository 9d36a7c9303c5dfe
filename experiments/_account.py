"""What sparse training did and cost: densities in time, overlap of masks, FLOPs."""

from collections.abc import Callable
import inspect
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _schedules, _settings, _traces
import jaxsparse as js

# Rules that look at the gradients of weights which are not there.
_GRADIENTS_AT_UPDATES = ('rigl', 'dsl', 'dsl_released', 'ssvi', 'ssvi_released')
_GRADIENTS_ALWAYS = ('ste', 'sr_ste')
NOTE = (
  'Density: the kept share of the weights of the pruned leaves; in time: its mean over'
  ' all steps of training. Kept from the start: the share of the final weights that were'
  ' there before the first step. Overlap: intersection over union of the final masks of'
  ' two seeds, the mean of all pairs; by chance: of independent masks with the same'
  ' density in every layer. FLOPs are theoretical: those of products with kept weights.'
  ' A training step counts three forward passes (the pass, the gradients of activations,'
  ' those of weights) of each example at the density of that time; where a rule looks at'
  ' gradients of removed weights, they count for those steps. Bytes: parameters, masks'
  ' and optimizer state, as trained. Seconds: of one run on this machine, with'
  ' compilation and evaluations.'
)


def how(spec: dict) -> str:
  """The name of the transform or the posterior of a method of the config."""
  return spec.get('transform') or spec.get('posterior') or spec.get('ensemble', '')


def factory(spec: dict) -> Callable[..., Any] | None:
  """What makes the transform or the posterior of a method; None for a baseline."""
  if '.' in how(spec):
    try:
      return _settings.transform_of(spec)  # One of the user's own.
    except ValueError:
      return None  # Not to be found from where a report is read.
  room = js.bayes if 'posterior' in spec else js.transforms
  return getattr(room, how(spec)) if how(spec) in room.__all__ else None


def argument(spec: dict, name: str):
  """An argument of a method: as the config gives it, or the factory's default."""
  given = spec.get('kwargs', {})
  if name in given:
    return given[name]
  make = factory(spec)
  found = inspect.signature(make).parameters.get(name) if make else None
  return None if found is None or found.default is found.empty else found.default


def sizes(trace: _traces.Trace) -> dict[str, int]:
  """`{leaf: weights}` of the pruned leaves."""
  return {name: math.prod(shape) for name, shape in trace.shapes.items()}


def total(densities: dict[str, float], trace: _traces.Trace) -> float:
  """The density of all pruned leaves together; 1 where none is pruned."""
  weights = sizes(trace)
  if not weights:
    return 1.0
  return sum(densities[n] * k for n, k in weights.items()) / sum(weights.values())


def at(trace: _traces.Trace, when: str) -> dict[str, float]:
  """`{leaf: density}` at 'start' or at 'end'."""
  return {n: _traces.density(m) for n, m in getattr(trace, when).items()}


def in_time(trace: _traces.Trace, metrics: list[dict]) -> dict[str, float] | None:
  """`{leaf: density}`, the mean over training, from what was recorded on the way.

  Args:
    trace: of a network.
    metrics: all rows of metrics.csv.

  Returns:
    None where densities moved and nothing was recorded.
  """
  mine = [r for r in metrics if (r['method'], r['seed']) == (trace.method, trace.seed)]
  first, last, found = at(trace, 'start'), at(trace, 'end'), {}
  for name in trace.shapes:
    seen = [
      (int(r['step']), float(r[f'density/{name}']))
      for r in mine
      if r.get(f'density/{name}')
    ]
    if not seen and first[name] != last[name]:
      return None
    steps, values = zip((0, first[name]), *(seen or [(1, last[name])]))
    found[name] = float(np.trapezoid(values, steps)) / steps[-1]
  return found


def num_gradient_looks(spec: dict, steps: int) -> int:
  """The steps at which a rule sees the gradients of removed weights."""
  if how(spec) in _GRADIENTS_ALWAYS:
    return steps
  when = argument(spec, 'when')
  if how(spec) not in _GRADIENTS_AT_UPDATES or when is None:
    return 0
  due = when if callable(when) else _schedules.schedule(when, steps, 'when')
  return int(np.sum(jax.vmap(due)(jnp.arange(steps, dtype=jnp.int32))))


def training_flops(trace, spec: dict, metrics: list[dict]) -> float | None:
  """The FLOPs of all steps, as `NOTE` says; None where they cannot be known."""
  densities = in_time(trace, metrics)
  if trace.flops is None or densities is None:
    return None
  forward = _forward(trace, densities)
  removed = _forward(trace, {}) - forward
  looks = num_gradient_looks(spec, trace.steps)
  return trace.examples * trace.products * (3 * trace.steps * forward + looks * removed)


def inference_flops(trace) -> float | None:
  """The FLOPs of a prediction for one example; None where they cannot be known."""
  if trace.flops is None:
    return None
  return trace.draws * _forward(trace, at(trace, 'end'))


def _forward(trace, densities: dict[str, float]) -> float:
  return sum(n * densities.get(name, 1.0) for name, n in trace.flops.items())


def kept_from_start(trace) -> float:
  """The share of the final weights that were there before the first step."""
  kept = {n: _traces.density(trace.start[n] & m) for n, m in trace.end.items()}
  return total(kept, trace) / max(total(at(trace, 'end'), trace), 1e-12)


def is_static(trace) -> bool:
  """Whether the masks of the end are those of the start."""
  return all(np.array_equal(trace.start[n], m) for n, m in trace.end.items())


def overlap(traces: list[_traces.Trace]) -> tuple[float, float] | None:
  """The overlap of the final masks of two seeds, and that of independent masks.

  Args:
    traces: of one method.

  Returns:
    Means over all pairs of masks of equal shapes; None where there is no pair.
  """
  found = []
  for a, b in itertools.combinations(traces, 2):
    if a.shapes != b.shapes or not a.shapes:
      continue
    shapes = {n: jax.ShapeDtypeStruct(s, np.float32) for n, s in a.shapes.items()}
    both = js.summary.overlap(a.end, b.end, shapes)
    chance = [
      (k * p * q, k * (p + q - p * q))
      for k, p, q in zip(
        sizes(a).values(), at(a, 'end').values(), at(b, 'end').values()
      )
    ]
    shared, either = map(sum, zip(*chance))
    found.append((both.total, shared / either if either else 1.0))
  return None if not found else tuple(float(x) for x in np.mean(found, axis=0))


def by_method(traces: list[_traces.Trace]) -> dict[str, list[_traces.Trace]]:
  """The traces of each method."""
  groups: dict[str, list[_traces.Trace]] = {}
  for trace in traces:
    groups.setdefault(trace.method, []).append(trace)
  return groups


def spec_of(method: str, config: dict) -> dict:
  """The method of the config that a trace is of; its name may stand behind a set's."""
  specs = {m['name']: m for m in config['methods']}
  return specs.get(method) or specs.get(method.rpartition(' ')[2], {})


def table(config: dict, metrics: list[dict], traces: list[_traces.Trace]) -> str:
  """A Markdown table of what `NOTE` explains, a line per method."""
  head = [
    'method', 'density at the start', 'in time', 'at the end', 'kept from the start',
    'overlap of seeds', 'by chance', 'training FLOPs', 'FLOPs of a prediction', 'bytes',
    's/run',
  ]  # fmt: skip
  lines = [head, ['---', *['---:'] * (len(head) - 1)]]
  for method, group in by_method(traces).items():
    spec = spec_of(method, config)
    sparse = [t for t in group if t.shapes]
    moving = [in_time(t, metrics) for t in sparse]
    shares = overlap(group)
    lines.append(
      [
        method,
        _mean([total(at(t, 'start'), t) for t in group], _percent),
        _mean([d and total(d, t) for d, t in zip(moving, sparse)] or [1.0], _percent),
        _mean([total(at(t, 'end'), t) for t in group], _percent),
        _mean([kept_from_start(t) for t in sparse], _percent),
        *('-' if shares is None else _percent(x) for x in (shares or (0, 0))),
        *costs(group, spec, metrics),
      ]
    )  # fmt: skip
  return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def costs(traces, spec: dict, metrics: list[dict]) -> list[str]:
  """Four cells, means over traces: FLOPs of training, of a prediction, bytes, seconds."""
  held = [sum(t.bytes.values()) if t.bytes else None for t in traces]
  return [
    _mean([training_flops(t, spec, metrics) for t in traces], engineering),
    _mean([inference_flops(t) for t in traces], engineering),
    _mean(held, '{:,.0f}'.format),
    _mean([t.seconds for t in traces], '{:,.1f}'.format),
  ]


def _mean(values, form) -> str:
  if not values or any(v is None for v in values):
    return '-'
  return form(float(np.mean(values)))


def _percent(value: float) -> str:
  return f'{100 * value:.4g} %'


def engineering(value: float) -> str:
  """Three figures and a prefix: 4.32 M."""
  prefixes = ('', ' k', ' M', ' G', ' T', ' P', ' E')
  power = min(int(math.log10(max(abs(value), 1))) // 3, len(prefixes) - 1)
  return f'{value / 1000**power:.3g}{prefixes[power]}'

"""What a reader of a sparse result has to ask, answered from what a run left.

Liu and Wang 2023, Ten Lessons We Have Learned in the New "Sparseland", list what is
mixed up when sparse networks are compared: https://arxiv.org/abs/2302.02596
"""

from collections.abc import Mapping
import inspect

import numpy as np

from experiments import _account, _runs
import jaxsparse as js

_SMALL = ('small_dense', 'narrow_parameters')
# A small network has no more weights than the sparse one, and hardly fewer.
_MATCHED = 0.8, 1.02


def markdown(run: _runs.Run) -> str:
  """The table of questions and answers."""
  lines = ['| question | answer |', '| --- | --- |']
  lines += [f'| {question} | {answer} |' for question, answer in answers(run).items()]
  return '\n'.join(lines)


def answers(run: _runs.Run) -> dict[str, str]:
  """`{question: answer}`; what is answered with "no" weakens a comparison."""
  groups = _account.by_method(run.traces)
  sparse = {m: g for m, g in groups.items() if any(t.shapes for t in g)}
  return {
    'Dense-to-sparse or sparse-to-sparse?': _starts(sparse),
    'Static or dynamic masks?': _moves(sparse),
    'Which structure?': _by_answer(run, sparse, _structure),
    'Which sparsity in which layer?': _by_answer(run, sparse, _distribution),
    'Which layers are pruned?': _leaves(sparse),
    'Sparsity in time and at the end?': _in_time(run, sparse),
    'Training FLOPs and inference FLOPs apart?': _flops(run, groups),
    'Is time measured, beside FLOPs?': _time(run, groups),
    'Several seeds?': _seeds(run),
    'Equal budgets of steps and examples?': _budgets(run, groups),
    'A dense baseline?': _dense(run),
    'A small dense baseline with as many weights?': _small(run),
    'A random pruning baseline at the same sparsity?': _random(run, sparse),
    'How are the tested weights chosen?': _choice(run),
  }


def _names(methods) -> str:
  return ', '.join(methods)


def _listed(found: Mapping[str, list[str]]) -> str:
  return '; '.join(f'{kind}: {_names(methods)}' for kind, methods in found.items())


_NOTHING = 'no sparse network was recorded in this run'


def _starts(sparse) -> str:
  found: dict[str, list[str]] = {}
  for method, group in sparse.items():
    start, end = (
      np.mean([_account.total(_account.at(t, w), t) for t in group])
      for w in ('start', 'end')
    )
    # Counts are rounded to whole weights, for some rules anew at every update.
    kind = 'dense-to-sparse' if start > 1.05 * end else 'sparse-to-sparse'
    found.setdefault('never pruned' if end == 1 else kind, []).append(method)
  return _listed(found) or _NOTHING


def _moves(sparse) -> str:
  static = lambda group: all(map(_account.is_static, group))
  found: dict[str, list[str]] = {}
  for method, group in sparse.items():
    found.setdefault('static' if static(group) else 'dynamic', []).append(method)
  return _listed(found) or _NOTHING


def _by_answer(run, sparse, ask) -> str:
  found: dict[str, list[str]] = {}
  for method in sparse:
    found.setdefault(ask(_account.spec_of(method, run.config)), []).append(method)
  return _listed(found) or _NOTHING


def _structure(spec) -> str:
  given = _account.argument(spec, 'structure')
  if isinstance(given, Mapping):
    inside = ', '.join(f'{k}={v}' for k, v in given.items() if k != 'name')
    return f'{given.get("name", "by path")}({inside})'
  if given is None and _account.how(spec) == 'sr_ste':
    given = js.masks.NM(_account.argument(spec, 'n'), _account.argument(spec, 'm'))
  return 'unstructured' if given in (None, js.masks.Unstructured()) else str(given)


def _distribution(spec) -> str:
  given = _account.argument(spec, 'distribution')
  if inspect.isfunction(given):
    return given.__name__
  return 'by its own rule' if given is None else str(given)


def _leaves(sparse) -> str:
  found: dict[str, list[str]] = {}
  for method, group in sparse.items():
    leaves = list(group[0].shapes)
    more = f' and {len(leaves) - 6} more' if leaves[6:] else ''
    found.setdefault(f'{", ".join(leaves[:6])}{more}', []).append(method)
  if len(found) == 1:
    return f'{next(iter(found))}; nothing else, in all sparse methods'
  return _listed(found) or _NOTHING


def _in_time(run, sparse) -> str:
  found = []
  for method, group in sparse.items():
    profiles = [(_account.in_time(t, run.metrics), t) for t in group]
    if any(d is None for d, _ in profiles):
      found.append(f'{_names([method])}: not recorded on the way')
      continue
    mean = np.mean([_account.total(d, t) for d, t in profiles])
    end = np.mean([_account.total(_account.at(t, 'end'), t) for t in group])
    found.append(f'{_names([method])} {1 - mean:.1%} in time, {1 - end:.1%} at the end')
  return '; '.join(found) or _NOTHING


def _flops(run, groups) -> str:
  without = [m for m, g in groups.items() if any(t.flops is None for t in g)]
  if not groups:
    return 'no: nothing was recorded in this run'
  if len(without) == len(groups):
    return 'no: most of these models look tables up, which is no product'
  unknown = [
    m for m, g in groups.items() if m not in without
    and any(_account.training_flops(t, _account.spec_of(m, run.config), run.metrics)
            is None for t in g)
  ]  # fmt: skip
  left_out = [*without, *unknown]
  but = f', but not of {_names(left_out)}' if left_out else ''
  return f'yes: both columns are in the table, theoretical{but}'


def _time(run, groups) -> str:
  found = []
  if run.times:
    found.append('ms/step of all methods in turn')
  if any(t.seconds for g in groups.values() for t in g):
    found.append('seconds of whole runs')
  if not found:
    return 'no: neither steps nor runs were timed'
  executions = {r['execution'] for r in run.results if r.get('execution')} - {'-'}
  how = f'; executed {", ".join(sorted(executions))}' if executions else ''
  return f'yes: {" and ".join(found)}{how}'


def _seeds(run) -> str:
  seeds = {
    m: sorted({_runs.seed_of(r) for r in rows})
    for m, rows in _runs.groups(run.results).items()
    if rows[0]['method'] != 'bicubic'
  }
  counts = {m: len(s) for m, s in seeds.items()}
  alone = [m for m, n in counts.items() if n == 1]
  if len(alone) == len(counts):
    return 'no: one seed, so that no difference has an error'
  if alone:
    return f'no: {_names(alone)} with one seed only'
  least, most = min(counts.values()), max(counts.values())
  if least == most:
    return f'yes: {most} for each method'
  fewer = [m for m, n in counts.items() if n < most]
  return f'yes: {most}, but {least} or more for {_names(fewer)}'


def _budgets(run, groups) -> str:
  if not groups:
    return 'no: nothing was recorded in this run'
  found: dict[str, list[str]] = {}
  for method, group in groups.items():
    sets = method.rpartition(' ')[0]
    pairs = sorted({(t.steps, t.examples) for t in group})
    text = ' or '.join(f'{s:,} steps of {n:,} examples' for s, n in pairs)
    found.setdefault(f'{text} on {sets}' if sets else text, []).append(method)
  for method in _runs.groups(run.results):
    spec = _account.spec_of(method, run.config)
    if 'ensemble' in spec:
      text = f'{spec["members"]} networks like {spec["ensemble"]}'
      found.setdefault(text, []).append(method)
  if len({key.partition(' on ')[0] for key in found}) == 1:
    return f'yes: {next(iter(found)).partition(" on ")[0]} for each method'
  per_set = {m.rpartition(' ')[0] for m in groups}
  if len(found) == len(per_set):
    return f'yes, on each set: {"; ".join(found)}'
  return f'no: {_listed(found)}'


def _target(rows) -> float:
  return float(rows[0].get('target_sparsity') or 0)


def _how(run, method) -> str:
  return _account.how(_account.spec_of(method, run.config))


def _dense(run) -> str:
  groups = _runs.groups(run.results)
  found = [
    m for m, rows in groups.items()
    if not _target(rows) and _account.spec_of(m, run.config)
  ]  # fmt: skip
  return f'yes: {_names(found)}' if found else 'no: every network of this run is sparse'


def _sparse_rows(run):
  """`{method: rows}` of the methods that remove weights."""
  return {
    m: rows
    for m, rows in _runs.groups(run.results).items()
    if _target(rows) and _how(run, m) not in _SMALL
  }


def _kept(rows) -> float:
  return float(np.mean([_runs.kept_of(r) or np.nan for r in rows]))


def _small(run) -> str:
  small = {
    m: _kept(rows)
    for m, rows in _runs.groups(run.results).items()
    if _how(run, m) in _SMALL
  }
  if not small:
    return 'no: nothing in this run is dense and as small as the sparse networks'
  missing = []
  for method, rows in _sparse_rows(run).items():
    low, high = (factor * _kept(rows) for factor in _MATCHED)
    if not any(low <= n <= high for n in small.values()):
      missing.append(method)
  listed = ', '.join(f'{_names([m])} ({n:,.0f} weights)' for m, n in small.items())
  if missing:
    return f'no: {listed} has not as many weights as {_names(missing)}'
  return f'yes: {listed}'


def _random(run, sparse) -> str:
  found = {m for m, group in sparse.items() if _is_random(run, m, group)}
  rows = _sparse_rows(run)
  covered = {_target(rows[m]) for m in found if m in rows}
  missing = [m for m, own in rows.items() if _target(own) not in covered]
  if not found:
    return 'no: no method of this run keeps random weights'
  if missing:
    return f'no: {_names(sorted(found))} has not the sparsity of {_names(missing)}'
  return f'yes: {_names(m for m in sparse if m in found)}'


def _is_random(run, method, group) -> bool:
  spec = _account.spec_of(method, run.config)
  criterion = _account.argument(spec, 'criterion')
  drawn = criterion in (None, 'random', js.criteria.random)
  # What never moves is as it was drawn; a posterior's criterion is for its updates.
  starts = 'posterior' in spec or drawn
  return starts and all(map(_account.is_static, group))


def _choice(run) -> str:
  config = run.config
  if run.kind == 'recommend':
    return f'on validation: the best {config["select_by"]}'
  if config.get('select') == 'best':
    return 'on validation: the best of those that have reached their sparsity'
  if run.kind == 'data_subset':
    return 'the last ones; test accuracy was watched on the way, and chose nothing'
  if run.kind == 'regression':
    return 'the last ones; settings are chosen on a part of the training rows'
  return 'the last ones, tested once'

"""From a name in a config to an attribute, or to a sentence that lists the names."""

import difflib
import importlib


def choose(name, names, what):
  """`name`, if it is one of `names`; otherwise a ValueError that lists them."""
  if name not in names:
    near = difflib.get_close_matches(str(name), list(names), n=1, cutoff=0.4)
    hint = f' Did you mean {near[0]}?' if near else ''
    raise ValueError(
      f'{what}: unknown name {name!r}; wanted one of {", ".join(sorted(names))}.{hint}'
    )
  return name


def imported(path: str, what: str):
  """The callable at `module.name`; otherwise a ValueError that says what is not there."""
  module_name, _, name = path.rpartition('.')
  try:
    module = importlib.import_module(module_name)
  except ModuleNotFoundError as error:
    # A module that does not find what it imports is the user's to see.
    if error.name is None or not f'{module_name}.'.startswith(f'{error.name}.'):
      raise
    raise ValueError(
      f'{what}: got {path!r}, but there is no module {error.name!r}; wanted'
      ' module.name, the module in a folder that PYTHONPATH names.'
    ) from error
  public = [n for n, v in vars(module).items() if callable(v) and n[0] != '_']
  return getattr(module, choose(name, public, f'{what}, in {module_name}'))


def way(method: str, sparsity: float) -> str:
  """What methods that differ in nothing but their sparsity share of their names."""
  return method.removesuffix(f'_{100 * sparsity:g}')


def attribute(room, name, what):
  """The public attribute of a room, rules apart; otherwise a ValueError."""
  public = [n for n in room.__all__ if not n.endswith('_rule')]
  return getattr(room, choose(name, public, what))

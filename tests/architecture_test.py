"""The house: floors, names, exports, sizes, and what an import may load."""

import ast
import pathlib
import re
import statistics
import subprocess
import sys
import time

import pytest

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_LIBRARY = _ROOT / 'jaxsparse'
_FILES = sorted(_LIBRARY.rglob('*.py'))

# A room imports rooms of lower floors only, never a neighbour on its own floor.
_FLOORS = {
  'core': 0,
  'native': 0,
  'layers': 1,
  'masks': 1,
  'schedules': 1,
  'criteria': 2,
  'distributions': 2,
  'rules': 2,
  'sparse': 2,
  'bayes': 3,
  'compact': 3,
  'data': 3,
  'transforms': 3,
  'checkpoint': 4,
  'export': 4,
  'plots': 4,
  'summary': 4,
  'training': 5,
  'testing': 6,
}
_SAYS_NOTHING = {'base', 'common', 'helper', 'helpers', 'misc', 'util', 'utils'}
# numpy comes with jax. All else that a room needs is imported where it is used.
_CORE_DEPENDENCIES = {'absl', 'chex', 'flax', 'jax', 'numpy', 'optax', 'orbax'}


def _module(path):
  parts = path.relative_to(_ROOT).with_suffix('').parts
  return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


_TREES = {_module(path): ast.parse(path.read_text('utf-8')) for path in _FILES}
_PATHS = dict(zip(_TREES, _FILES))


def _room(module):
  parts = module.split('.')
  return parts[1] if len(parts) > 1 else None


_FOUND = {_room(module) for module in _TREES} - {None}
_ROOMS = sorted(room for room in _FOUND if f'jaxsparse.{room}' in _TREES)


def test_each_room_has_an_init():
  assert _ROOMS == sorted(_FOUND)


def _imports(nodes):
  """Yields (line, module) of each import; a name is a module where one exists."""
  for node in nodes:
    if isinstance(node, ast.Import):
      for alias in node.names:
        yield node.lineno, alias.name
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'line {node.lineno}: import rooms absolutely.'
      for alias in node.names:
        whole = f'{node.module}.{alias.name}'
        is_module = whole in _TREES or node.module == 'jaxsparse'
        yield node.lineno, whole if is_module else node.module


def _own_imports(module):
  found = _imports(ast.walk(_TREES[module]))
  return [(line, name) for line, name in found if name.split('.')[0] == 'jaxsparse']


def _climbs(room, other):
  return other != room and _FLOORS[other] >= _FLOORS[room]


def test_the_rule_of_floors():
  assert _climbs('masks', 'transforms') and _climbs('masks', 'schedules')
  assert not _climbs('transforms', 'masks') and not _climbs('masks', 'masks')


@pytest.mark.parametrize('module', [m for m in _TREES if m != 'jaxsparse'])
def test_imports_lower_floors_only(module):
  room = _room(module)
  assert room in _FLOORS, f'{room}: give the new room a floor in this test.'
  for line, name in _own_imports(module):
    other = _room(name)
    assert other is not None, f'{module}:{line}: import the room, not jaxsparse.'
    assert not _climbs(room, other), (
      f'{module}:{line}: {room} (floor {_FLOORS[room]}) imports {other} '
      f'(floor {_FLOORS[other]}).'
    )


def _find_cycle(graph):
  done, path = set(), []

  def visit(node):
    if node in path:
      return path[path.index(node) :] + [node]
    if node in done:
      return None
    path.append(node)
    cycle = next(filter(None, map(visit, sorted(graph.get(node, ())))), None)
    path.pop()
    done.add(node)
    return cycle

  return next(filter(None, map(visit, sorted(graph))), None)


def test_no_import_cycles():
  assert _find_cycle({'a': {'b'}, 'b': {'c'}, 'c': {'a'}}) == ['a', 'b', 'c', 'a']
  graph = {m: {name for _, name in _own_imports(m)} for m in _TREES}
  assert _find_cycle(graph) is None


@pytest.mark.parametrize('module', _TREES)
def test_third_party_imports_at_the_top_are_core_dependencies(module):
  # Inside a function anything may be imported: the user then asked for it.
  allowed = _CORE_DEPENDENCIES | {'jaxsparse'} | sys.stdlib_module_names
  for line, name in _imports(_TREES[module].body):
    assert name.split('.')[0] in allowed, f'{module}:{line}: {name}'


@pytest.mark.parametrize('path', _FILES, ids=_module)
def test_files_are_short_and_have_a_telling_name(path):
  assert path.stem.strip('_') not in _SAYS_NOTHING
  assert path.read_text('utf-8').count('\n') <= 300


def test_function_bodies_are_short():
  # The 90th percentile of the libraries this one learns from is 35 lines.
  lengths = []
  for tree in _TREES.values():
    for node in ast.walk(tree):
      if isinstance(node, ast.FunctionDef):
        body = node.body[1:] if ast.get_docstring(node) else node.body
        if body:
          lengths.append(body[-1].end_lineno - body[0].lineno + 1)
  assert statistics.quantiles(lengths, n=10)[-1] <= 35


def _assigned(tree, name):
  """The strings of a tuple of constants at the top of a module; None if absent."""
  for node in tree.body:
    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
      return list(ast.literal_eval(node.value))
  return None


def _definitions(module):
  """Public name -> defining node, for what a module defines at its top."""
  return {
    node.name: node
    for node in _TREES[module].body
    if isinstance(node, ast.FunctionDef | ast.ClassDef)
    and not node.name.startswith('_')
  }


def _exported(room):
  """Public name -> (module, name there), from the imports of a room's __init__."""
  exports = {}
  for node in _TREES[f'jaxsparse.{room}'].body:
    if isinstance(node, ast.ImportFrom) and _room(node.module or '') == room:
      for alias in node.names:
        exports[alias.asname or alias.name] = (node.module, alias.name)
  return exports


@pytest.mark.parametrize('room', _ROOMS)
def test_all_is_sorted_and_complete(room):
  names = _assigned(_TREES[f'jaxsparse.{room}'], '__all__')
  assert names is not None, f'jaxsparse.{room} has no __all__.'
  assert names == sorted(set(names))
  if _PATHS[f'jaxsparse.{room}'].name == '__init__.py':
    assert names == sorted(_exported(room))
  else:
    assert not set(_definitions(f'jaxsparse.{room}')) - set(names)


def _public_definitions():
  """Yields (room, name, node) of each function and class that a room exports."""
  for room in _ROOMS:
    own = {n: (f'jaxsparse.{room}', n) for n in _definitions(f'jaxsparse.{room}')}
    for name, (module, there) in sorted({**own, **_exported(room)}.items()):
      # A type alias is an assignment: there is nothing to document or to run.
      if module in _TREES and there in _definitions(module):
        yield room, name, _definitions(module)[there]


_PUBLIC = [pytest.param(*p, id=f'{p[0]}.{p[1]}') for p in _public_definitions()]


@pytest.mark.parametrize('room, name, node', _PUBLIC)
def test_public_names_are_documented(room, name, node):
  doc = ast.get_docstring(node)
  assert doc, f'{room}.{name} has no docstring.'
  assert doc.splitlines()[0].rstrip().endswith(('.', ':', '`', '?'))


def _is_protocol(node):
  return isinstance(node, ast.ClassDef) and 'Protocol' in map(ast.unparse, node.bases)


@pytest.mark.parametrize('room, name, node', _PUBLIC)
def test_public_names_are_tested(room, name, node):
  if _is_protocol(node):
    pytest.skip('a protocol has nothing to run')
  # Names such as `set` or `run` are everywhere, so the room must stand before them.
  used = rf'\b(js|{room}|_[a-z]\w*)\.{name}\b|^\s*(from|import) .*\b{name}\b'
  files = (_ROOT / 'tests').rglob('*_test.py')
  texts = (path.read_text('utf-8') for path in files)
  assert any(re.search(used, text, re.MULTILINE) for text in texts), (
    f'no test uses {room}.{name}.'
  )


def _loaded_by(code):
  """The top-level modules that are loaded in a fresh process after `code`."""
  code += '\nimport sys; print(*{m.split(".")[0] for m in sys.modules})'
  run = subprocess.run(
    [sys.executable, '-c', code], cwd=_ROOT, capture_output=True, text=True, check=True
  )
  return set(run.stdout.split())


_HEAVY = {
  'grain', 'matplotlib', 'safetensors', 'sklearn', 'tensorboardX', 'tensorflow',
  'tensorflow_datasets',
}  # fmt: skip


def test_importing_jaxsparse_loads_nothing_heavy():
  loaded = _loaded_by('import jaxsparse')
  assert not loaded & (_HEAVY | {'jax', 'orbax'})


def test_the_rooms_load_nothing_heavy():
  code = '\n'.join(f'import jaxsparse.{room}' for room in _ROOMS)
  loaded = _loaded_by(code)
  assert 'jax' in loaded
  assert not loaded & _HEAVY


def test_a_first_transform_loads_no_model_no_plots_and_no_checkpoints():
  code = 'import jaxsparse as js; js.init; js.get_masks; js.transforms.rigl'
  loaded = _loaded_by(code)
  assert {'jax', 'optax'} <= loaded
  assert not loaded & (_HEAVY | {'chex', 'flax', 'orbax', 'tensorstore'})


@pytest.mark.long
def test_importing_jaxsparse_takes_less_time_than_importing_jax_and_optax():
  codes = {
    'jax': 'import jax, optax',
    'jaxsparse': 'import jaxsparse',
    'first transform': 'import jaxsparse as js; js.init; js.transforms.rigl',
  }
  seconds = {name: [] for name in codes}
  # In turn, so that a busy second of the machine is everyone's; the first one warms up.
  for repeat in range(8):
    for name, code in codes.items():
      start = time.perf_counter()
      subprocess.run([sys.executable, '-c', code], cwd=_ROOT, check=True)
      if repeat:
        seconds[name].append(time.perf_counter() - start)
  medians = {name: statistics.median(values) for name, values in seconds.items()}
  assert medians['jaxsparse'] < 0.5 * medians['jax'], medians
  # Measured 1.2 with all of a first transform loaded.
  assert medians['first transform'] < 1.5 * medians['jax'], medians


def test_type_checkers_see_the_names_that_are_loaded_lazily():
  """`__all__` and the imports for type checkers name what `__getattr__` finds."""
  tree = _TREES['jaxsparse']
  (block,) = (
    n
    for n in tree.body
    if isinstance(n, ast.If) and ast.unparse(n.test) == 'TYPE_CHECKING'
  )
  seen = {
    alias.name: (node.module, alias.asname)
    for node in block.body
    for alias in node.names
  }
  rooms = _assigned(tree, '_ROOMS')
  (names,) = (
    ast.literal_eval(n.value)
    for n in tree.body
    if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == '_NAMES'
  )
  wanted = {room: ('jaxsparse', None) for room in rooms}
  wanted |= {name: (f'jaxsparse.{room}', None) for name, room in names.items()}
  assert seen == wanted
  assert _assigned(tree, '__all__') == sorted([*seen, '__version__'])


def test_the_lazy_names_exist():
  code = 'import jaxsparse as js\nfor n in js.__all__: getattr(js, n)'
  assert 'jaxsparse' in _loaded_by(code)
  names = _assigned(_TREES['jaxsparse'], '_ROOMS')
  assert names == _ROOMS, 'jaxsparse/__init__.py: _ROOMS must list every room, sorted.'


def test_one_version_string():
  version = ast.literal_eval(
    next(
      node.value
      for node in _TREES['jaxsparse'].body
      if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == '__version__'
    )
  )
  elsewhere = [p for p in _FILES if p != _LIBRARY / '__init__.py']
  for path in [*elsewhere, _ROOT / 'setup.py', _ROOT / 'pyproject.toml']:
    text = path.read_text('utf-8')
    assert f"'{version}'" not in text and f'"{version}"' not in text, path

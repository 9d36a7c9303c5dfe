"""The gallery and the reference: a page for each method, with all that it promises."""

import inspect
import pathlib
import re

import optax
import pytest

from docs import tables
import jaxsparse as js

_DOCS = pathlib.Path(__file__).resolve().parent.parent / 'docs'
_METHODS = _DOCS / 'methods'


def _makers(room, wanted):
  """Public functions of a room that say that they return this."""
  found = {name: getattr(room, name) for name in room.__all__}
  return [
    name
    for name, f in found.items()
    if inspect.isfunction(f) and inspect.signature(f).return_annotation is wanted
  ]


_TRANSFORMS = _makers(js.transforms, optax.GradientTransformationExtraArgs)
_POSTERIORS = _makers(js.bayes, js.bayes.Posterior)
_PLANS = _makers(js.data, js.data.Plan)


def test_methods_are_found():
  assert {'rigl', 'static', 'dsl_released'} <= set(_TRANSFORMS)
  assert {'mean_field', 'ssvi', 'ssvi_released'} == set(_POSTERIORS)
  assert {'full', 'rs2', 'importance'} <= set(_PLANS)
  rules = {n for n in js.transforms.__all__ if n.endswith('_rule')} | {'is_table'}
  assert set(js.transforms.__all__) == {*_TRANSFORMS, *rules}


@pytest.mark.parametrize('name', [*_TRANSFORMS, *_POSTERIORS, *_PLANS])
def test_every_method_has_a_page(name):
  page = (_METHODS / f'{name}.md').read_text('utf-8')
  assert re.match(r'# .+\n\n`js\.\w+\.' + name + '`', page)
  for part in ('\n$$\n', '\n```python\n', '\n## When to use it\n', '\n## Measured\n'):
    assert part in page, f'{name}.md: no {part.strip()}'
  assert f'](../figures/{name}.png)' in page
  index = (_METHODS / 'index.md').read_text('utf-8')
  assert f']({name}.md)' in index and f'\n{name}\n' in index


def test_every_room_has_its_reference():
  pages = {path.stem for path in (_DOCS / 'api').glob('*.md')} - {'index'}
  assert pages == set(js._ROOMS)


@pytest.mark.parametrize('path', sorted(_DOCS.rglob('*.md')), ids=lambda p: p.stem)
def test_measured_tables_are_those_of_the_results(path):
  text = path.read_text('utf-8')
  assert tables.filled(text) == text, 'run python -m docs.tables'


def test_a_method_without_results_is_refused():
  with pytest.raises(ValueError, match='no method riggle'):
    tables.filled('<!-- results: fashion_mnist_lenet5 rigl, riggle -->\n\n\n')


def test_figures_are_small_and_shown():
  figures = list((_DOCS / 'figures').iterdir())
  assert sum(path.stat().st_size for path in figures) < 1e6
  shown = ''.join(path.read_text('utf-8') for path in _DOCS.rglob('*.md'))
  assert [p.name for p in figures if f'figures/{p.name})' not in shown] == []

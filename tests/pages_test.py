"""README and the pages of docs/: their Python runs, and what they name exists."""

import pathlib
import re

import pytest

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_PATHS = [_ROOT / 'README.md', *sorted((_ROOT / 'docs').rglob('*.md'))]
_PAGES = {str(p.relative_to(_ROOT)): p.read_text(encoding='utf-8') for p in _PATHS}
_BLOCK = re.compile(r'^```python\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def _blocks(page):
  text = _PAGES[page]
  return [(text[: m.start(1)].count('\n'), m.group(1)) for m in _BLOCK.finditer(text)]


def _found(pattern):
  return sorted(
    {
      (page, found)
      for page, text in _PAGES.items()
      for found in re.findall(pattern, text)
    }
  )


def test_there_are_blocks_and_each_fence_is_closed():
  assert len(_blocks('README.md')) >= 1
  assert len(_blocks('docs/quickstart.md')) >= 2
  for page, text in _PAGES.items():
    assert len(_blocks(page)) == text.count('```python'), page


def test_the_readme_is_one_screen():
  assert _PAGES['README.md'].count('\n') <= 80


@pytest.mark.parametrize('page', [page for page in _PAGES if _blocks(page)])
def test_blocks_run_in_order(page):
  # One namespace a page: a reader types its blocks one after another.
  names = {'__name__': 'page'}
  for line, code in _blocks(page):
    # The blank lines give a failure the line number of the page.
    exec(compile('\n' * line + code, page, 'exec'), names)


@pytest.mark.parametrize('page,path', _found(r'\]\((?!http|#)([^)#]+)(?:#[^)]*)?\)'))
def test_links_lead_somewhere(page, path):
  assert ((_ROOT / page).parent / path).exists()


@pytest.mark.parametrize(
  'page,path', _found(r'(?:launch|experiments|benchmarks)/[\w/]+\.(?:sh|py)')
)
def test_scripts_exist(page, path):
  assert (_ROOT / path).is_file()


def test_the_measurements_of_the_readme_are_those_of_the_results():
  results = (_ROOT / 'experiments/results/README.md').read_text('utf-8')
  tables = '\n'.join([*(_PAGES[p] for p in _PAGES if p != 'README.md'), results])
  found = re.findall(r'[\d.]+ ± [\d.]*\d', _PAGES['README.md'])
  assert found
  for cell in found:
    assert re.search(rf'\| {re.escape(cell)} \|', tables), cell

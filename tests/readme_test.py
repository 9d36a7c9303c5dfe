"""The README: its Python blocks run, and the files that it names exist."""

import pathlib
import re

import pytest

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_README = (_ROOT / 'README.md').read_text(encoding='utf-8')
_BLOCK = re.compile(r'^```python\n(.*?)^```$', re.MULTILINE | re.DOTALL)
_BLOCKS = [
  (_README[: m.start(1)].count('\n'), m.group(1)) for m in _BLOCK.finditer(_README)
]


def test_there_are_blocks_and_each_fence_is_closed():
  assert len(_BLOCKS) >= 2
  assert len(_BLOCKS) == _README.count('```python')


def test_blocks_run_in_order():
  # One namespace: a reader types the blocks one after another.
  names = {'__name__': 'readme'}
  for line, code in _BLOCKS:
    # The blank lines give a failure the line number of the README.
    exec(compile('\n' * line + code, 'README.md', 'exec'), names)


@pytest.mark.parametrize(
  'path', sorted(set(re.findall(r'\]\((?!http|#)([^)#]+)\)', _README)))
)
def test_links_lead_somewhere(path):
  assert (_ROOT / path).exists()


@pytest.mark.parametrize(
  'path', sorted(set(re.findall(r'(?:launch|experiments)/[\w/]+\.(?:sh|py)', _README)))
)
def test_scripts_exist(path):
  assert (_ROOT / path).is_file()

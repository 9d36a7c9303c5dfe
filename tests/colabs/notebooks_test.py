"""The notebooks: they run from top to bottom, and what is committed is what they show."""

import json
import os
import pathlib
import subprocess
import sys

import nbformat
import pytest

from colabs import execute

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_NOTEBOOKS = sorted((_ROOT / 'colabs').glob('*.ipynb'))
_IDS = [path.stem for path in _NOTEBOOKS]


def test_there_are_three():
  assert _IDS == ['bayesian', 'sparse_training', 'write_a_transform']


@pytest.mark.parametrize('path', _NOTEBOOKS, ids=_IDS)
def test_it_can_be_read_without_running(path):
  notebook = nbformat.read(path, as_version=4)
  nbformat.validate(notebook)
  code = [cell for cell in notebook.cells if cell.cell_type == 'code']
  # In order, from a fresh kernel.
  assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
  shown = [output for cell in code for output in cell.outputs]
  assert sum('image/png' in output.get('data', {}) for output in shown) >= 2
  assert path.stat().st_size < 600_000
  # Installing is left to where the package is not there.
  assert 'find_spec' in code[0].source and not code[0].outputs


@pytest.mark.parametrize('path', _NOTEBOOKS, ids=_IDS)
def test_nothing_tells_where_and_when_it_ran(path):
  notebook = json.loads(path.read_text(encoding='utf-8'))
  assert notebook['metadata'] == execute.METADATA
  for number, cell in enumerate(notebook['cells']):
    assert not cell['metadata'] and cell['id'] == f'cell-{number}'
    for output in cell.get('outputs', ()):
      execute.check_output(output, path.name)


@pytest.mark.parametrize(
  'output,message',
  [
    ({'name': 'stderr', 'text': 'a warning'}, 'stderr: a warning'),
    ({'name': 'stdout', 'text': 'saved in /home/me/run'}, 'a path: /home/me/run'),
    ({'data': {'text/plain': f'see {_ROOT}/x.py'}}, 'a path: '),
  ],
)
def test_what_must_not_be_committed_is_refused(output, message):
  with pytest.raises(ValueError, match=f'cell 3: .*{message}'):
    execute.check_output(output, 'cell 3')


@pytest.mark.long
@pytest.mark.parametrize('path', _NOTEBOOKS, ids=_IDS)
def test_it_runs_from_top_to_bottom(path, tmp_path):
  command = [sys.executable, '-m', 'colabs.execute', path.stem, f'--out={tmp_path}']
  environment = {**os.environ, 'JAX_PLATFORMS': 'cpu'}
  done = subprocess.run(
    command, cwd=_ROOT, env=environment, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr[-4000:]
  ours, theirs = (
    nbformat.read(p, as_version=4).cells for p in (tmp_path / path.name, path)
  )
  # Numbers differ from machine to machine; sources, and kinds of outputs, do not.
  assert [cell.source for cell in ours] == [cell.source for cell in theirs]
  kinds = lambda cells: [
    [output.output_type for output in cell.get('outputs', ())] for cell in cells
  ]
  assert kinds(ours) == kinds(theirs)

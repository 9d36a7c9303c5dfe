"""Runs the notebooks from top to bottom, in fresh kernels, and saves what they show.

    launch/notebooks.sh                       all of them, saved in place
    launch/notebooks.sh bayesian --out=DIR    one of them, saved elsewhere

A cell that raises, warns or prints a path of this machine is an error. What is saved holds
no times, versions or other traces of who ran it.
"""

import argparse
import os
import pathlib
import re
import sys
import tempfile
import time

from jupyter_client.manager import AsyncKernelManager
import nbclient
import nbformat

_HERE = pathlib.Path(__file__).resolve().parent
METADATA = {
  'kernelspec': {
    'display_name': 'Python 3',
    'language': 'python',
    'name': 'python3',
  },
  'language_info': {'name': 'python'},
}
_PATH = re.compile(r'(?<![\w.])/(?:home|mnt|opt|root|tmp|usr|var|work|Users)/[^\s\'"]+')


def main(arguments=None) -> None:
  names = sorted(path.stem for path in _HERE.glob('*.ipynb'))
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('names', nargs='*', metavar='NAME', help=', '.join(names))
  parser.add_argument('--out', type=pathlib.Path, default=_HERE, help='where to save')
  options = parser.parse_args(arguments)
  for name in options.names or names:
    if name not in names:
      parser.error(f'no notebook {name!r}; there are {", ".join(names)}')
    started = time.perf_counter()
    notebook = executed(_HERE / f'{name}.ipynb')
    options.out.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, options.out / f'{name}.ipynb')
    print(f'{name}: {time.perf_counter() - started:.0f} s', flush=True)


def executed(path: pathlib.Path) -> nbformat.NotebookNode:
  """The notebook with the outputs of a fresh kernel.

  Args:
    path: of an `.ipynb` file.

  Returns:
    A notebook, without what differs from one machine to the next.

  Raises:
    nbclient.exceptions.CellExecutionError: a cell raised.
    ValueError: a cell warned, or shows a path of this machine.
  """
  notebook = nbformat.read(path, as_version=4)
  # Subprocesses of a notebook import from the repository too.
  paths = [str(_HERE.parent), *filter(None, [os.environ.get('PYTHONPATH')])]
  environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(paths)}
  # In an empty folder: what a notebook writes does not end up in the repository.
  with tempfile.TemporaryDirectory() as folder:
    # Sockets in that folder, which no other machine and no other user can listen to.
    kernel = {'kernel_name': 'python3', 'transport': 'ipc', 'ip': f'{folder}/kernel'}
    client = nbclient.NotebookClient(
      notebook,
      km=AsyncKernelManager(**kernel),
      timeout=900,
      record_timing=False,
      coalesce_streams=True,  # However the kernel cut them.
      resources={'metadata': {'path': folder}},
    )
    client.execute(env=environment)
  notebook.metadata = nbformat.from_dict(METADATA)
  for number, cell in enumerate(notebook.cells):
    cell.id = f'cell-{number}'
    cell.metadata = nbformat.from_dict({})
    for output in cell.get('outputs', ()):
      output.get('metadata', {}).clear()
      check_output(output, f'{path.name}, cell {number}')
  nbformat.validate(notebook)
  return notebook


def check_output(output, where: str) -> None:
  """Refuses what no reader should see.

  Args:
    output: of a cell.
    where: the cell, for the message.

  Raises:
    ValueError: a warning, or a path of this machine.
  """
  if output.get('name') == 'stderr':
    raise ValueError(f'{where}: wrote to stderr: {output["text"]}')
  shown = {'text': output.get('text', ''), **output.get('data', {})}
  # In the base64 of a picture anything may stand.
  words = [text for kind, text in shown.items() if not kind.startswith('image/')]
  for text in map(str, words):
    found = _PATH.search(text)
    if found or str(_HERE.parent) in text:
      raise ValueError(f'{where}: shows a path: {found[0] if found else text}')


if __name__ == '__main__':
  sys.exit(main())

"""Writes measured results into the pages of the documentation: `python -m docs.tables`.

A page says what it wants, and the table below the line is made anew:

    <!-- results: fashion_mnist_lenet300 dense, rigl -->

of the rows of `experiments/results/fashion_mnist_lenet300.csv` whose method is one of
those, at any sparsity. A test holds what is committed to what this would write.
"""

import csv
import pathlib
import re

from experiments import tables

_DOCS = pathlib.Path(__file__).resolve().parent
_RESULTS = _DOCS.parent / 'experiments' / 'results'
_PLACE = re.compile(
  r'(<!-- results: (\w+) ([\w, ]+) -->\n)\n*(?:\|.*\n)*\n*', re.MULTILINE
)


def filled(text: str) -> str:
  """The text of a page with its tables as the results have them."""
  made = lambda m: f'{m[1]}\n{_table(m[2], m[3].split(", "))}\n\n'
  return _PLACE.sub(made, text).rstrip('\n') + '\n'


def _table(name, ways):
  with (_RESULTS / f'{name}.csv').open(newline='') as file:
    rows = [r for r in csv.DictReader(file) if _way(r['method']) in ways]
  missing = set(ways) - {_way(row['method']) for row in rows}
  if missing:
    raise ValueError(f'{name}.csv: no method {", ".join(sorted(missing))}.')
  return tables.table(rows, brief=True)


def _way(method):
  return re.sub(r'_\d+$', '', method)


def main():
  for page in sorted(_DOCS.rglob('*.md')):
    text = page.read_text('utf-8')
    if filled(text) != text:
      page.write_text(filled(text), 'utf-8')
      print(page.relative_to(_DOCS.parent))


if __name__ == '__main__':
  main()

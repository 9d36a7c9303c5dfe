"""Reports: Markdown beside its figures, and the same as one HTML file by itself."""

import base64
import html
import json
import pathlib
import re
from typing import NamedTuple
import urllib.parse

import markdown_it

from experiments import _account, _checklist, _runs
import jaxsparse as js

# Nothing is loaded from anywhere; the fonts are those of the reader's system.
_STYLE = r"""
:root { color-scheme: light; }
body { margin: 0 auto; padding: 1rem; max-width: 68rem; color: #1a1a1a;
  background: #fff; font: 1rem/1.5 system-ui, -apple-system, 'Segoe UI', sans-serif; }
h1 { font-size: 1.7rem; margin: .5rem 0; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; padding-top: .6rem;
  border-top: 1px solid #ddd; }
nav { font-size: .9rem; } nav a { margin-right: .9rem; white-space: nowrap; }
a { color: #0b5cad; text-decoration: none; }
p { max-width: 46rem; }
p.note { color: #555; font-size: .88rem; }
div.table { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .85rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid #e2e2e2; vertical-align: top; }
th { text-align: left; border-bottom: 2px solid #999; vertical-align: bottom; }
td:first-child, th:first-child { position: sticky; left: 0; background: #fff;
  min-width: 5.5rem; }
div.numbers td:first-child { white-space: nowrap; }
tbody tr:hover td { background: #f3f7fb; }
td[style*=right] { white-space: nowrap; }
div.words td { min-width: 9rem; }
div.words td + td { overflow-wrap: anywhere; }
td.yes::before { content: '\2713\a0'; color: #14672f; }
td.no::before { content: '\2717\a0'; color: #a01c1c; }
td.no { color: #a01c1c; }
code { font: .92em ui-monospace, 'DejaVu Sans Mono', monospace; }
p code { white-space: nowrap; }
figure { margin: 1.2rem 0; max-width: 50rem; break-inside: avoid; }
figure img { max-width: 100%; height: auto; }
figcaption { color: #555; font-size: .88rem; }
@media (max-width: 40rem) {
  body { padding: .7rem; } th, td { padding: .25rem .4rem; }
  div.numbers td:first-child { max-width: 8rem; white-space: normal;
    overflow-wrap: break-word; }
  div.words td:first-child, div.words th:first-child { position: static; }
  div.words td { min-width: 6rem; }
}
@media print {
  @page { size: A4 landscape; margin: 12mm; }
  body { max-width: none; padding: 0; font-size: 10pt; } nav { display: none; }
  table { font-size: 7pt; } th, td { padding: 2px 4px; }
  td[style*=right] { white-space: normal; }
  div.table { overflow: visible; } tr { break-inside: avoid; }
  div.words table { font-size: 8pt; }
  h2 { break-after: avoid; } figure img { max-height: 78mm; }
}
"""
_TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""


class Page(NamedTuple):
  """What an experiment itself has to say.

  Attributes:
    title: one line.
    about: what was trained on what, a sentence or two of Markdown.
    tables: Markdown tables, an empty line between two.
    note: how the numbers of the tables came about.
    figures: `{file in the run directory: what it shows}`.
  """

  title: str
  about: str
  tables: str
  note: str
  figures: dict[str, str]


def write(workdir: pathlib.Path, page: Page) -> str:
  """Writes report.md and report.html, with what every report has.

  Args:
    workdir: the run directory, with its tables.
    page: what is special of the experiment.

  Returns:
    What the terminal shows: the tables and their note.
  """
  run = _runs.load(workdir)
  figures = {**page.figures, **_densities(run)}
  parts = [f'# {page.title}', page.about, '## Results', page.tables, page.note]
  parts += [f'![{about}]({name})' for name, about in figures.items()]
  if run.traces:
    counted = _account.table(run.config, run.metrics, run.traces)
    parts += ['## Sparsity and cost', counted, _account.NOTE]
  parts += ['## Checklist', _checklist.markdown(run)]
  parts += ['## Configuration', configuration(run.config)]
  parts += ['## Environment', environment(run.environment)]
  save(workdir / 'report', '\n\n'.join(parts) + '\n')
  where = workdir / 'report.html'
  return f'\n{page.tables}\n\n{page.note}\n{where}, report.md'


def save(path: pathlib.Path, text: str) -> None:
  """Writes `<path>.md` and `<path>.html`; figures are files beside them.

  Args:
    path: without an ending.
    text: Markdown that begins with its title.
  """
  path.with_suffix('.md').write_text(text, encoding='utf-8')
  page = html_of(text, path.parent)
  path.with_suffix('.html').write_text(page, encoding='utf-8')


def _densities(run: _runs.Run) -> dict[str, str]:
  """Draws the density of each layer over steps, where any was recorded."""
  columns = [c for c in (run.metrics or [{}])[0] if c.startswith('density/')]
  # The step before the first is known from the masks of the start.
  rows: list[dict] = [
    {'method': t.method, 'seed': t.seed, 'step': 0}
    | {f'density/{name}': value for name, value in _account.at(t, 'start').items()}
    for t in run.traces
    if t.shapes
  ]
  sparse = {row['method'] for row in rows}
  rows += [row for row in run.metrics if row['method'] in sparse]
  if not columns or not rows:
    return {}
  js.plots.density_over_time(rows, run.workdir / 'density_over_time.png')
  return {
    'density_over_time.png': 'Density of each layer over steps, mean of all seeds'
  }


def code(value) -> str:
  """A value of a config in a cell of a Markdown table."""
  text = value if isinstance(value, str) else json.dumps(value)
  text = text.replace('|', r'\|').replace('`', "'")
  return f'`{text}`' if text else ''


def configuration(config: dict) -> str:
  """Two tables: the keys of a config, and its methods."""
  lines = ['| key | value |', '| --- | --- |']
  lines += [f'| {k} | {code(v)} |' for k, v in config.items() if k != 'methods']
  lines += ['', '| method | settings |', '| --- | --- |']
  for spec in config['methods']:
    own = ', '.join(f'{k}={json.dumps(v)}' for k, v in spec.items() if k != 'name')
    lines.append(f'| {spec["name"]} | {code(own)} |')
  return '\n'.join(lines)


def environment(commands: list[dict]) -> str:
  """A table of what a run was made with; of several commands, what differs too."""
  if not commands:
    return 'Not recorded: the run is of an older version.'
  lines = ['| | |', '| --- | --- |']
  for key in dict.fromkeys(k for c in commands for k in c):
    values = dict.fromkeys(c.get(key, '-') for c in commands)
    lines.append(f'| {key} | {", then ".join(map(code, values))} |')
  return '\n'.join(lines)


def html_of(text: str, folder: pathlib.Path) -> str:
  """Renders Markdown as one HTML file, its figures inside.

  Args:
    text: Markdown that begins with its title.
    folder: where the figures lie.
  """
  parser = markdown_it.MarkdownIt('commonmark', {'html': False}).enable('table')
  parser.add_render_rule('image', _image)
  parser.add_render_rule('table_open', _table_open)
  parser.add_render_rule('table_close', lambda *_: '</table></div>\n')
  tokens = parser.parse(text)
  _dress(tokens)
  body = parser.renderer.render(tokens, parser.options, {'folder': folder})
  heads = [
    tokens[i + 1] for i, t in enumerate(tokens) if t.tag == 'h2' and t.nesting == 1
  ]
  links = ' '.join(f'<a href="#{_slug(t.content)}">{t.content}</a>' for t in heads)
  title = html.escape(text.partition('\n')[0].removeprefix('# '))
  # Behind the title, not above it.
  body = body.replace('</h1>\n', f'</h1>\n<nav>{links}</nav>\n', 1)
  return _TEMPLATE.format(title=title, style=_STYLE, body=body)


def _slug(text: str) -> str:
  return re.sub('[^a-z0-9]+', '-', text.lower())


def _dress(tokens) -> None:
  """Marks what the style sheet tells apart."""
  table = None
  for i, token in enumerate(tokens):
    following = tokens[i + 1] if i + 1 < len(tokens) else None
    if token.type == 'heading_open':
      token.attrSet('id', _slug(following.content))
    elif token.type == 'table_open':
      table = token
      token.meta['kind'] = 'words'
    elif token.type == 'th_open' and 'right' in str(token.attrGet('style')):
      table.meta['kind'] = 'numbers'
    elif token.type == 'td_open' and (
      word := re.match('(yes|no)\\b', following.content)
    ):
      token.attrSet('class', word[1])
    elif token.type == 'paragraph_open':
      children = following.children or []
      if [c.type for c in children] == ['image']:
        token.tag = tokens[i + 2].tag = 'figure'
      elif tokens[i - 1].type == 'table_close':
        token.attrSet('class', 'note')


def _table_open(renderer, tokens, index, options, env) -> str:
  return f'<div class="table {tokens[index].meta["kind"]}"><table>\n'


def _image(renderer, tokens, index, options, env) -> str:
  token = tokens[index]
  path = env['folder'] / urllib.parse.unquote(token.attrGet('src'))
  about = html.escape(token.content)
  data = base64.b64encode(path.read_bytes()).decode()
  image = f'<img src="data:image/png;base64,{data}" alt="{about}">'
  return f'{image}\n<figcaption>{about}</figcaption>'

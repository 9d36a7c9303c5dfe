"""Reads docstrings as they are written: code in single backticks, indented equations.

In reStructuredText a single backtick is a role, a bar or a star is markup, and an
indented block is a quotation. Here a single backtick is code, bars and stars are what
they look like, and an indented block is shown as it stands.
"""

import re

from sphinx.util import inspect

# What is already markup: roles, code, and words in stars; the rest is plain text.
_MARKUP = re.compile(
  r'(:[\w:]+:`[^`]+`|``[^`]+``|`[^`]+`|(?<!\S)\*[A-Za-z][A-Za-z -]*\*(?![\w*]))'
)
_ARXIV = re.compile(r'arXiv (\d{4}\.\d{4,5})')
_SECTION = re.compile(
  r'(Args|Attributes|Returns|Yields|Raises|Raises \(when called\)|Examples?|Note):$'
)


def setup(app):
  # Before napoleon, which takes the sections apart.
  app.connect('autodoc-process-docstring', _process, priority=400)
  app.connect('autodoc-skip-member', _skip)
  app.connect('autodoc-process-signature', _sign)
  return {'parallel_read_safe': True}


def _skip(app, what, name, obj, skip, options):
  # The fields of a NamedTuple: the docstring's `Attributes:` has them.
  return True if type(obj).__name__ == '_tuplegetter' else None


def _sign(app, what, name, obj, options, signature, returns):
  # A protocol is a function's type: nobody makes one.
  if getattr(obj, '_is_protocol', False) and '__call__' in vars(obj):
    found = inspect.signature(obj.__call__)
    call = inspect.stringify_signature(found, unqualified_typehints=True)
    return re.sub(r'\(self(, )?', '(', call).rpartition(' -> ')[::2]
  return None


def _process(app, what, name, obj, options, lines):
  lines[:] = _show_blocks(lines)
  chunks = []
  # Inline markup may go on in the next line, so whole stretches of text are changed.
  for is_code, stretch in _stretches(lines):
    text = '\n'.join(stretch)
    chunks += (text if is_code else _escape(text)).split('\n')
  lines[:] = chunks


def _escape(text):
  parts = _MARKUP.split(text)
  for i, part in enumerate(parts):
    if i % 2 == 0:
      part = re.sub(r'([*|\\])', r'\\\1', part)
      part = re.sub(r'(\w)_(?!\w)', r'\1\\_', part)
      # `frequency_power: p.` is no list whose first item is p.
      part = re.sub(r'(?m)(^|: )(\w)\.(?=\s|$)', r'\1\2\\.', part)
      parts[i] = _ARXIV.sub(r'`arXiv \1 <https://arxiv.org/abs/\1>`__', part)
    elif part.startswith('`') and not part.startswith('``'):
      # A letter right after code would keep it from being code.
      follows = parts[i + 1][:1]
      parts[i] = f'`{part}`' + ('\\ ' if follows.isalnum() else '')
  return ''.join(parts)


def _indent(line):
  return len(line) - len(line.lstrip())


def _stretches(lines):
  """Yields (whether it is code, lines): directives, literal blocks and doctests."""
  stretch, code_from, doctest = [], None, False
  for line in lines:
    starts = re.match(r'\s*(\.\. \w+::|::$)', line)
    if code_from is not None and line.strip() and _indent(line) <= code_from:
      yield True, stretch
      stretch, code_from = [], None
    if doctest and not line.strip():
      yield True, stretch
      stretch, doctest = [], False
    if code_from is None and not doctest:
      if starts or line.lstrip().startswith('>>>'):
        if stretch:
          yield False, stretch
        stretch = []
        if starts:
          code_from = _indent(line)
        else:
          doctest = True
    stretch.append(line)
  if stretch:
    yield code_from is not None or doctest, stretch


def _show_blocks(lines):
  """Puts `::` before blocks that are indented under a paragraph of the body."""
  shown, in_section, block = [], False, False
  for number, line in enumerate(lines):
    bare = line.strip()
    if bare and not _indent(line):
      in_section = bool(_SECTION.match(bare))
      block = in_section or bare.startswith(('- ', '.. '))
    elif bare and not block and number:
      shown += ['', '::', '']
      block = True
    shown.append(line)
  return shown

"""Equations as MathML, which browsers draw without a script from the network."""

import re

from docutils import nodes
from latex2mathml import converter
from sphinx.util import logging

_LOGGER = logging.getLogger(__name__)
# What the converter does not know, and what it does know instead.
_INSTEAD = {
  r'\\arg(?![a-z])': r'\\operatorname{arg}\\,',
  r'\\[Bb]ig(\\[lr](Vert|angle))': r'\1',
  r'\\texttt\{([^}]*)\}': lambda m: rf'\text{{{m[1]}}}'.replace(r'\_', '_'),
}


def setup(app):
  app.add_html_math_renderer('mathml', (_inline, None), (_block, None))
  return {'parallel_read_safe': True, 'parallel_write_safe': True}


def _inline(writer, node):
  writer.body.append(_convert(node, 'inline'))
  raise nodes.SkipNode


def _block(writer, node):
  writer.body.append(f'<div class="math">{_convert(node, "block")}</div>')
  raise nodes.SkipNode


def _convert(node, display):
  text = node.astext()
  for pattern, instead in _INSTEAD.items():
    text = re.sub(pattern, instead, text)
  equation = converter.convert(text, display=display)
  if '\\' in equation:
    # It shows the name of a command that it does not know.
    _LOGGER.warning('an equation is not understood: %s', text, location=node)
  return equation

"""Equations as MathML, which browsers draw without a script from the network."""

from docutils import nodes
from latex2mathml import converter


def setup(app):
  app.add_html_math_renderer('mathml', (_inline, None), (_block, None))
  return {'parallel_read_safe': True, 'parallel_write_safe': True}


def _inline(writer, node):
  writer.body.append(converter.convert(node.astext()))
  raise nodes.SkipNode


def _block(writer, node):
  equation = converter.convert(node.astext(), display='block')
  writer.body.append(f'<div class="math">{equation}</div>')
  raise nodes.SkipNode

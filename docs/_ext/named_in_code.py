"""Makes links of names in code: `js.transforms.rigl` leads to its reference."""

import re

from docutils import nodes

import jaxsparse

_NAME = re.compile(r'\bjs\.(\w+(?:\.\w+)*)')


def setup(app):
  app.connect('doctree-resolved', _link)
  return {'parallel_read_safe': True, 'parallel_write_safe': True}


def _link(app, doctree, page):
  known = app.env.domains.python_domain.objects
  for literal in list(doctree.findall(nodes.literal)):
    found = _NAME.search(literal.astext())
    if not found:
      continue
    # The names at the top are those of a room.
    room = jaxsparse._NAMES.get(found[1])
    whole = f'{room}.{found[1]}' if room else found[1]
    entry = known.get(f'jaxsparse.{whole}')
    if not entry or isinstance(literal.parent, nodes.reference):
      continue
    uri = app.builder.get_relative_uri(page, entry.docname) + f'#{entry.node_id}'
    link = nodes.reference('', '', internal=True, refuri=uri)
    literal.replace_self(link)
    link += literal

"""How Sphinx builds the documentation; `launch/docs.sh` calls it."""

import pathlib
import sys

_DOCS = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(_DOCS.parent), str(_DOCS / '_ext')]

import jaxsparse  # noqa: E402

project = 'jaxsparse'
author = 'The jaxsparse authors'
project_copyright = author
version = release = jaxsparse.__version__

extensions = [
  'sphinx.ext.autodoc',
  'sphinx.ext.napoleon',
  'sphinx.ext.viewcode',
  'myst_parser',
  # Ours, in _ext.
  'docstrings',
  'mathml',
  'named_in_code',
]
exclude_patterns = ['_ext']

# The docstrings are Google's style; a field is described once, in the docstring.
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_attr_annotations = False
napoleon_custom_sections = [('Raises (when called)', 'returns_style')]
autodoc_default_options = {'members': True, 'imported-members': True}
autodoc_member_order = 'alphabetical'
autodoc_preserve_defaults = True  # `distributions.erk`, not <function erk at 0x...>.
autodoc_typehints_format = 'short'
add_module_names = False
python_display_short_literal_types = True
maximum_signature_line_length = 80

# Equations in dollars, as GitHub shows them too.
myst_enable_extensions = ['dollarmath']
myst_heading_anchors = 3
html_math_renderer = 'mathml'

html_theme = 'furo'
html_title = f'jaxsparse {release}'
html_static_path = ['_static']
html_css_files = ['jaxsparse.css']
html_copy_source = False
html_show_sphinx = False

"""How the reference reads docstrings."""

import importlib.util
import pathlib

import pytest

_PATH = pathlib.Path(__file__).resolve().parents[2] / 'docs' / '_ext' / 'docstrings.py'


@pytest.fixture(scope='module')
def read():
  spec = importlib.util.spec_from_file_location('docstrings', _PATH)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)

  def read(text):
    lines = text.split('\n')
    module._process(None, 'function', 'f', None, None, lines)
    return '\n'.join(lines)

  return read


@pytest.mark.parametrize(
  'text,wanted',
  [
    ('the `a * b` of c', 'the ``a * b`` of c'),
    ('in `code\nthat` goes on', 'in ``code\nthat`` goes on'),
    ('the *largest* of a*b', 'the *largest* of a\\*b'),
    ('every `n`th', 'every ``n``\\ th'),
    ('the largest |w| * 2', 'the largest \\|w\\| \\* 2'),
    ('dL/dx_ and x_i', 'dL/dx\\_ and x_i'),
    (
      '(arXiv 1911.11134)',
      '(`arXiv 1911.11134 <https://arxiv.org/abs/1911.11134>`__)',
    ),
    ('Args:\n  power: p.', 'Args:\n  power: p\\.'),
    ('``kept`` and :ref:`this`', '``kept`` and :ref:`this`'),
  ],
)
def test_text_is_what_it_looks_like(read, text, wanted):
  assert read(text) == wanted


def test_an_indented_block_is_shown_as_it_stands(read):
  text = 'With w:\n\n    w <- |w|\n\nand `n`.\n\nArgs:\n  w: of w*w.'
  wanted = 'With w:\n\n\n::\n\n    w <- |w|\n\nand ``n``.\n\nArgs:\n  w: of w\\*w.'
  assert read(text) == wanted


def test_equations_and_examples_are_left_alone(read):
  text = '.. math:: |x_i|\n  * y_\n\nExample:\n  >>> f(*x)\n  `a`\n\nb*c'
  assert read(text) == text.replace('b*c', 'b\\*c')

"""The examples in the docstrings of jaxsparse run and print what they say."""

import doctest
import importlib
import io
import pkgutil

import pytest

import jaxsparse

_MODULES = sorted(
  m.name for m in pkgutil.walk_packages(jaxsparse.__path__, 'jaxsparse.')
)


def _examples(module):
  finder = doctest.DocTestFinder(exclude_empty=True)
  return [t for t in finder.find(module, module.__name__) if t.examples]


def _as_parameter(name):
  # A whole row of the conformance table, which has a test for each of its checks.
  long = name == 'jaxsparse.testing._transform'
  return pytest.param(name, marks=pytest.mark.long) if long else name


@pytest.mark.parametrize('name', [_as_parameter(n) for n in ('jaxsparse', *_MODULES)])
def test_examples_run(name):
  runner = doctest.DocTestRunner(verbose=False)
  report = io.StringIO()
  for test in _examples(importlib.import_module(name)):
    # Each example starts from nothing, as a reader who copies it does.
    test.globs = {'__name__': '__main__'}
    runner.run(test, out=report.write)
  assert runner.failures == 0, report.getvalue()


def test_the_finder_sees_examples():
  core = importlib.import_module('jaxsparse.core._leaves')
  assert 'jaxsparse.core._leaves.stacked' in [t.name for t in _examples(core)]

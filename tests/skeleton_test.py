"""The files of docs/skeleton, which readers copy, pass their own tests."""

import doctest
import importlib
import pathlib

import pytest

_FOLDER = pathlib.Path(__file__).resolve().parent.parent / 'docs' / 'skeleton'


@pytest.fixture
def tests(monkeypatch):
  # As a reader has them: two files in a folder of their own.
  monkeypatch.syspath_prepend(str(_FOLDER))
  return importlib.import_module('my_transform_test')


def test_its_short_tests_pass(tests):
  tests.test_drops_the_least_worth_and_grows_the_largest_gradient()
  tests.test_says_what_is_wrong()


def test_its_example_runs(tests):
  module = importlib.import_module('my_transform')
  assert doctest.testmod(module).attempted == 3
  assert not doctest.testmod(module).failed


@pytest.mark.long
def test_it_conforms(tests):
  tests.test_conforms()

"""The examples in the docstrings of the models, the data sets and the metrics run."""

import doctest
import importlib
import io
import pkgutil

import pytest

from experiments import datasets, models

_MODULES = sorted(
  module.name
  for package in (datasets, models)
  for module in pkgutil.walk_packages(package.__path__, f'{package.__name__}.')
) + ['experiments._image_metrics']


@pytest.mark.parametrize('name', _MODULES)
def test_examples_run(name, tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  runner = doctest.DocTestRunner(verbose=False)
  report = io.StringIO()
  module = importlib.import_module(name)
  for test in doctest.DocTestFinder(exclude_empty=True).find(module, name):
    # Each example starts from nothing, as a reader who copies it does.
    test.globs = {'__name__': '__main__'}
    runner.run(test, out=report.write)
  assert runner.failures == 0, report.getvalue()


def test_every_public_name_has_a_docstring():
  for package in (datasets, models):
    for name in package.__all__:
      assert getattr(package, name).__doc__, name
    assert list(package.__all__) == sorted(package.__all__)

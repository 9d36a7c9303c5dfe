"""Sparse and Bayesian networks in JAX: pure mask transforms that wrap optax.

>>> import jaxsparse as js, optax
>>> tx = js.transforms.static(optax.adam(1e-3), sparsity=0.9, seed=0)
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  # For type checkers and editors, which do not see what is loaded on first use.
  from jaxsparse import (
    bayes,
    checkpoint,
    compact,
    core,
    criteria,
    data,
    distributions,
    export,
    layers,
    masks,
    native,
    plots,
    rules,
    schedules,
    sparse,
    summary,
    testing,
    training,
    transforms,
  )
  from jaxsparse.core import (
    Leaf,
    MaskRule,
    kernels,
    kernels_except,
    leaves_of,
    stacked,
  )
  from jaxsparse.rules import apply_masks, get_masks, init, keep_sparse, view

__version__ = '0.1.0'

# Loaded on first use: importing jaxsparse must not pay for plots or checkpoints.
_ROOMS = (
  'bayes',
  'checkpoint',
  'compact',
  'core',
  'criteria',
  'data',
  'distributions',
  'export',
  'layers',
  'masks',
  'native',
  'plots',
  'rules',
  'schedules',
  'sparse',
  'summary',
  'testing',
  'training',
  'transforms',
)
_NAMES = {
  'Leaf': 'core',
  'MaskRule': 'core',
  'apply_masks': 'rules',
  'get_masks': 'rules',
  'init': 'rules',
  'keep_sparse': 'rules',
  'kernels': 'core',
  'kernels_except': 'core',
  'leaves_of': 'core',
  'stacked': 'core',
  'view': 'rules',
}

__all__ = (
  'Leaf',
  'MaskRule',
  '__version__',
  'apply_masks',
  'bayes',
  'checkpoint',
  'compact',
  'core',
  'criteria',
  'data',
  'distributions',
  'export',
  'get_masks',
  'init',
  'keep_sparse',
  'kernels',
  'kernels_except',
  'layers',
  'leaves_of',
  'masks',
  'native',
  'plots',
  'rules',
  'schedules',
  'sparse',
  'stacked',
  'summary',
  'testing',
  'training',
  'transforms',
  'view',
)

# A type checker knows all names, and should say which one does not exist.
if not TYPE_CHECKING:

  def __getattr__(name):
    if name in _NAMES:
      return getattr(importlib.import_module(f'jaxsparse.{_NAMES[name]}'), name)
    if name in _ROOMS:
      return importlib.import_module(f'jaxsparse.{name}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__():
  return list(__all__)

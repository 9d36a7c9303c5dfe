"""Installs jaxsparse; the version is read from `jaxsparse/__init__.py`."""

import pathlib
import re

import setuptools

_ROOT = pathlib.Path(__file__).resolve().parent


def _version():
  text = (_ROOT / 'jaxsparse' / '__init__.py').read_text(encoding='utf-8')
  return re.search(r"^__version__ = '([^']+)'$", text, re.MULTILINE).group(1)


# What experiments/ needs to load data and to draw; TensorFlow is not among it.
_EXPERIMENTS = [
  'array_record>=0.8',
  'importlib_resources>=6',  # tensorflow-datasets 4.9.10 imports it undeclared.
  'matplotlib>=3.8',
  'ml_collections>=1.0',
  'pillow>=10',
  'scikit-learn>=1.4',
  'tensorboardX>=2.6',
  'tensorflow-datasets>=4.9.9',
  'tqdm>=4.66',
]
_TEST = ['hypothesis>=6.100', 'pytest>=8', 'pytest-xdist>=3.5']
_DEV = ['mypy>=1.15', 'pre-commit>=3.7', 'ruff>=0.9']

setuptools.setup(
  name='jaxsparse',
  version=_version(),
  description='Sparse and Bayesian networks in JAX: mask transforms that wrap optax.',
  long_description=(_ROOT / 'README.md').read_text(encoding='utf-8'),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  packages=setuptools.find_packages(include=['jaxsparse', 'jaxsparse.*']),
  python_requires='>=3.11',
  install_requires=[
    'absl-py>=2.1',
    'chex>=0.1.90',
    'flax>=0.12',
    'jax>=0.10',
    'optax>=0.2.6',
    'orbax-checkpoint>=0.11.30',
  ],
  extras_require={
    'cuda12': ['jax[cuda12]'],
    'dev': _DEV,
    'experiments': _EXPERIMENTS,
    'test': _TEST,
    'tpu': ['jax[tpu]'],
  },
  classifiers=[
    'Development Status :: 3 - Alpha',
    'Intended Audience :: Science/Research',
    'License :: OSI Approved :: Apache Software License',
    'Programming Language :: Python :: 3.11',
    'Programming Language :: Python :: 3.12',
    'Programming Language :: Python :: 3.13',
    'Topic :: Scientific/Engineering :: Artificial Intelligence',
  ],
)

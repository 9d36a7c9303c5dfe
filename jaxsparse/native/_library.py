"""Loads the library that setup.py built, and gives its calls to XLA."""

from collections.abc import Iterator
import contextlib
import contextvars
import ctypes
import functools
import os
import pathlib
import re
import sysconfig

from absl import logging
import jax

_TARGETS = {
  'jaxsparse_argsort': 'JaxsparseArgsort',
  'jaxsparse_backward': 'JaxsparseBackward',
  'jaxsparse_backward_values': 'JaxsparseBackwardValues',
  'jaxsparse_backward_x': 'JaxsparseBackwardX',
  'jaxsparse_conv_backward': 'JaxsparseConvBackward',
  'jaxsparse_conv_backward_values': 'JaxsparseConvBackwardValues',
  'jaxsparse_conv_backward_x': 'JaxsparseConvBackwardX',
  'jaxsparse_conv_forward': 'JaxsparseConvForward',
  'jaxsparse_flat_indices': 'JaxsparseFlatIndices',
  'jaxsparse_forward': 'JaxsparseForward',
  'jaxsparse_normal': 'JaxsparseNormal',
  'jaxsparse_select': 'JaxsparseSelect',
  'jaxsparse_take': 'JaxsparseTake',
  'jaxsparse_take_backward': 'JaxsparseTakeBackward',
  'jaxsparse_top_indices': 'JaxsparseTopIndices',
}
CALLS = tuple(_TARGETS)
_VARIABLE = 'JAXSPARSE_NATIVE'
_CHOICES = ('avx512', 'avx2', 'portable')
# Per context: what another thread traces meanwhile keeps its kernels.
_IS_UNWANTED = contextvars.ContextVar('jaxsparse_kernels_are_unwanted', default=False)


def available() -> bool:
  """Whether the compiled kernels can be used in this process.

  They are used by themselves where they can be: in a process in which jax computes on
  the CPU and on nothing else. The environment variable
  JAXSPARSE_NATIVE=off turns them off; `avx2` and `portable` choose an instruction set
  below the best of the machine. It is read once.

  Returns:
    A bool. The first time that it is False for another reason than `off`, the log says
    why.

  Example:
    >>> import jaxsparse as js
    >>> js.native.available() == (js.native.why_not() is None)
    True
  """
  return why_not() is None


def why_not() -> str | None:
  """Why the compiled kernels cannot be used; None if they can.

  Example:
    >>> import jaxsparse as js
    >>> reason = js.native.why_not()
    >>> print(reason or js.native.instruction_set())  # doctest: +SKIP
    avx512
  """
  platform = jax.default_backend()
  if platform != 'cpu':
    return f'jax computes on a {platform}'
  # Set by JAX_PLATFORMS: what is traced now may be lowered for any of them.
  platforms = getattr(jax.config, 'jax_platforms', None) or ''
  if ',' in platforms:
    return f'jax has several platforms, {platforms}'
  return _load()[1]


def instruction_set() -> str | None:
  """Which kernels this machine runs: `'avx512'`, `'avx2'`, `'portable'` or None.

  Example:
    >>> import jaxsparse as js
    >>> js.native.instruction_set() in ('avx512', 'avx2', 'portable', None)
    True
  """
  return None if why_not() else _load()[0].jaxsparse_instruction_set().decode()


def stays_whole() -> bool:
  """Whether a call of a kernel that is traced now sees arrays of one device.

  XLA cannot split such a call: it would gather a sharded operand on every device. So
  the kernels are for processes with one device, and for code that is written per
  device (pmap, shard_map).

  Example:
    >>> import jax, jaxsparse as js
    >>> js.native.stays_whole() or jax.device_count() > 1
    True
  """
  if _IS_UNWANTED.get():
    return False
  return jax.device_count() == 1 or jax.sharding.get_abstract_mesh().are_all_axes_manual


@contextlib.contextmanager
def without() -> Iterator[None]:
  """What is traced inside chooses no kernel by itself, as where there is none.

  What jax has traced before, with a kernel in it, it may take from its caches.

  Example:
    >>> import jaxsparse as js
    >>> with js.native.without():
    ...   js.native.stays_whole()
    False
  """
  token = _IS_UNWANTED.set(True)
  try:
    yield
  finally:
    _IS_UNWANTED.reset(token)


@functools.cache
def _load():
  """`(library, None)`, or `(None, reason)`."""
  chosen = os.environ.get(_VARIABLE, '')
  if chosen == 'off':
    return None, f'{_VARIABLE}=off'
  if chosen and chosen not in _CHOICES:
    raise ValueError(
      f'{_VARIABLE}={chosen}: wanted off, {", ".join(_CHOICES)}, or nothing.'
    )
  reason, library = None, None
  try:
    library = _open()
    _register(library)
  # AttributeError: a library of an older build, which lacks one of the calls.
  except (OSError, AttributeError) as error:
    reason = str(error)
    logging.warning(
      'jaxsparse runs without its compiled kernels: %s. Installing it anew with a C++'
      ' compiler builds them; %s=off says that none are wanted.',
      reason,
      _VARIABLE,
    )
  return library, reason


def _open():
  suffix = sysconfig.get_config_var('EXT_SUFFIX')
  path = pathlib.Path(__file__).with_name('csrc') / f'kernels{suffix}'
  if not path.exists():
    raise OSError(f'{path.name} was not built')
  library = ctypes.CDLL(str(path))
  library.jaxsparse_instruction_set.restype = ctypes.c_char_p
  built = library.jaxsparse_ffi_major(), library.jaxsparse_ffi_minor()
  running = _ffi_version()
  # To register calls of a newer interface would take its CPU from jax.
  if built[0] != running[0] or built[1] > running[1]:
    raise OSError(
      f'{path.name} was built for version {built[0]}.{built[1]} of the FFI, jax'
      f' {jax.__version__} has {running[0]}.{running[1]}'
    )
  return library


def _register(library):
  for name, symbol in _TARGETS.items():
    capsule = jax.ffi.pycapsule(getattr(library, symbol))
    jax.ffi.register_ffi_target(name, capsule, platform='cpu')


def _ffi_version():
  """The version of XLA's foreign function interface in the running jax."""
  header = pathlib.Path(jax.ffi.include_dir()) / 'xla' / 'ffi' / 'api' / 'c_api.h'
  text = header.read_text(encoding='utf-8')
  found = re.findall(r'#define XLA_FFI_API_(?:MAJOR|MINOR) (\d+)', text)
  if len(found) != 2:
    raise OSError(f'{header} does not say the version of the FFI')
  return tuple(map(int, found))

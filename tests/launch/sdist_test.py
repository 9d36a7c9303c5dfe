"""What is handed out as source builds: all that the kernels are made of is in it."""

import pathlib
import subprocess
import sys
import tarfile

_ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_the_source_archive_holds_the_kernels_and_the_mark_of_types(tmp_path):
  # The build writes an egg-info: not into the tree that is tested.
  command = [sys.executable, 'setup.py', '-q', 'egg_info', '-e', str(tmp_path)]
  command += ['sdist', '-d', str(tmp_path)]
  subprocess.run(command, cwd=_ROOT, check=True, capture_output=True)
  (archive,) = tmp_path.glob('*.tar.gz')
  with tarfile.open(archive) as file:
    held = {name.partition('/')[2] for name in file.getnames()}
  kernels = [*_ROOT.glob('jaxsparse/native/csrc/*.cc')]
  kernels += _ROOT.glob('jaxsparse/native/csrc/*.h')
  wanted = {str(path.relative_to(_ROOT)) for path in kernels}
  assert len(wanted) > 10
  assert wanted | {'jaxsparse/py.typed', 'LICENSE', 'README.md', 'setup.py'} <= held

"""Faults that really happen: flipped bits, torn directories, full and locked disks."""

import errno
import os
import pathlib
import random
import shutil
import subprocess
import sys
from types import SimpleNamespace
import warnings

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

import jaxsparse as js
from jaxsparse.checkpoint import _noise
from tests.checkpoint import trees


def _state(seed: int):
  rng = np.random.default_rng(seed)
  return {
    'w': jnp.asarray(rng.normal(size=(64, 32)), jnp.float32),
    'mask': jnp.asarray(rng.random((64, 32)) < 0.1),
    'bf16': jnp.asarray(rng.normal(size=300), jnp.bfloat16),
    'step': seed,
  }


@pytest.fixture
def two_steps(tmp_path):
  """A directory with the good steps 1 and 2."""
  with js.checkpoint.open_dir(tmp_path, config={'lr': 0.1}) as checkpoints:
    for step in (1, 2):
      checkpoints.save(step, _state(step), extra={'position': step})
  return tmp_path


def _restore(directory):
  """The step that came back, checked bit for bit, and the warnings."""
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    with js.checkpoint.open_dir(directory, config={'lr': 0.1}) as checkpoints:
      restored = checkpoints.restore(_state(0))
  trees.assert_same(restored.state, _state(restored.step))
  assert restored.extra == {'position': restored.step}
  return restored.step, [str(w.message) for w in caught]


def _assert_fell_back(directory):
  step, messages = _restore(directory)
  assert step == 1
  assert len(messages) == 2
  assert f'{directory}/2 is damaged: ' in messages[0]
  assert f'older checkpoint {directory}/1' in messages[1]


def _files(directory):
  return sorted(p for p in directory.rglob('*') if p.is_file())


def _flip(path: pathlib.Path, bit: int):
  content = bytearray(path.read_bytes())
  content[bit // 8] ^= 1 << bit % 8
  path.write_bytes(content)


def test_flipped_bits_are_found_or_harmless(two_steps):
  draw = random.Random(0)
  files = [p for p in _files(two_steps / '2') if p.stat().st_size]
  sizes = [p.stat().st_size for p in files]
  # Each file once, then as a disk would: in proportion to size.
  hit, fell_back = files + draw.choices(files, sizes, k=60), []
  for path in hit:
    bit = draw.randrange(8 * path.stat().st_size)
    _flip(path, bit)
    step, messages = _restore(two_steps)
    assert step == (1 if messages else 2)
    fell_back.append(step == 1)
    _flip(path, bit)
  assert _restore(two_steps) == (2, [])
  # Most of the bytes are the arrays': the test would pass on an empty loop.
  assert sum(fell_back[len(files) :]) >= 40


def test_every_file_truncated_or_missing_is_found_or_harmless(two_steps):
  found = 0
  for path in _files(two_steps / '2'):
    content = path.read_bytes()
    for keep in (None, 0, len(content) // 2, len(content) - 1):
      path.unlink(missing_ok=True)
      if keep is not None:
        path.write_bytes(content[: max(keep, 0)])
      step, messages = _restore(two_steps)
      assert step == (1 if messages else 2)
      found += step == 1
    path.write_bytes(content)
  assert _restore(two_steps) == (2, [])
  assert found >= 8


def _empty(step):
  shutil.rmtree(step)
  step.mkdir()


def _half_copied(step):
  for path in _files(step)[1::2]:
    path.unlink()


def _garbage_metadata(step):
  (step / 'arrays' / '_METADATA').write_bytes(os.urandom(200))


def _garbage_manifest(step):
  for path in _files(step / 'manifest'):
    path.write_text('{"leaves": {}}')


def _no_arrays(step):
  shutil.rmtree(step / 'arrays')


def _no_manifest(step):
  shutil.rmtree(step / 'manifest')


def _a_file(step):
  shutil.rmtree(step)
  step.write_text('')


def _copy_of_another_step(step):
  shutil.rmtree(step)
  shutil.copytree(step.parent / '1', step)


def _arrays_of_another_step(step):
  shutil.rmtree(step / 'arrays')
  shutil.copytree(step.parent / '1' / 'arrays', step / 'arrays')


def _config_of_another_run(step):
  for path in _files(step / 'config'):
    path.write_text(path.read_text().replace('0.1', '0.3'))


_DAMAGES = [
  _a_file,
  _arrays_of_another_step,
  _config_of_another_run,
  _copy_of_another_step,
  _empty,
  _garbage_manifest,
  _garbage_metadata,
  _half_copied,
  _no_arrays,
  _no_manifest,
]


@pytest.mark.parametrize('damage', _DAMAGES, ids=lambda f: f.__name__)
def test_a_damaged_step_is_named_and_the_older_one_taken(two_steps, damage):
  damage(two_steps / '2')
  _assert_fell_back(two_steps)
  with js.checkpoint.open_dir(two_steps) as checkpoints:
    with pytest.raises(js.checkpoint.CheckpointError, match='step 2: '):
      checkpoints.restore(_state(0), step=2)
    trees.assert_same(checkpoints.restore(_state(0), step=1).state, _state(1))
    with pytest.raises(ValueError, match='holds no step 3; there: 1, 2'):
      checkpoints.restore(_state(0), step=3)


@pytest.mark.filterwarnings('ignore:Checkpoint .* is damaged')
@pytest.mark.filterwarnings('ignore:Restored the older checkpoint')
def test_the_run_goes_on_after_a_damaged_step(two_steps):
  _half_copied(two_steps / '2')
  with js.checkpoint.open_dir(two_steps) as checkpoints:
    assert checkpoints.restore(_state(0)).step == 1
    assert checkpoints.save(2, _state(2), extra={'position': 2})
  assert _restore(two_steps) == (2, [])
  # What was damaged is kept for whoever wants to look at it.
  assert sorted(p.name for p in two_steps.iterdir()) == ['1', '2', 'damaged.2']


def test_all_steps_damaged(two_steps):
  for step in ('1', '2'):
    _half_copied(two_steps / step)
  with js.checkpoint.open_dir(two_steps) as checkpoints:
    with pytest.warns(UserWarning, match='damaged'):
      with pytest.raises(
        js.checkpoint.CheckpointError, match='no good checkpoint: step 2: .*; step 1: '
      ):
        checkpoints.restore(_state(0))


def test_leftovers_of_killed_saves_are_removed_at_open(two_steps):
  for name in ('3.orbax-checkpoint-tmp', '4.orbax-checkpoint-tmp-1234'):
    (two_steps / name / 'arrays').mkdir(parents=True)
    (two_steps / name / 'arrays' / 'data').write_text('half')
  (two_steps / 'notes.txt').write_text('mine')
  with js.checkpoint.open_dir(two_steps, readonly=True) as reader:
    assert reader.steps() == (1, 2)
  assert len(list(two_steps.iterdir())) == 5
  with js.checkpoint.open_dir(two_steps) as checkpoints:
    assert checkpoints.steps() == (1, 2)
  assert sorted(p.name for p in two_steps.iterdir()) == ['1', '2', 'notes.txt']


@pytest.fixture
def small_disk(tmp_path):
  """A file system of its own with 6 MiB; skipped where we may not mount one."""
  disk = tmp_path / 'disk'
  disk.mkdir()
  mount = ['mount', '-t', 'tmpfs', '-o', 'size=6m', 'tmpfs', str(disk)]
  if os.geteuid() or not shutil.which('mount') or _call(mount):
    pytest.skip('mounting a small disk needs root and a container that allows it')
  yield disk
  _call(['umount', '-l', str(disk)])


def _call(command) -> int:
  return subprocess.run(command, capture_output=True, check=False).returncode


def _big(megabytes: int):
  return {'w': np.random.default_rng(0).integers(0, 255, megabytes * 2**20, np.uint8)}


def test_a_really_full_disk(small_disk):
  with js.checkpoint.open_dir(small_disk) as checkpoints:
    checkpoints.save(1, _big(2))
    checkpoints.wait()
    message = f'step 2 could not .*{small_disk}: no space left .* there: 1'
    with pytest.raises(js.checkpoint.CheckpointError, match=message):
      checkpoints.save(2, _big(5))
      checkpoints.wait()
    # What the failed save had written is gone: a smaller one finds room.
    assert [p.name for p in small_disk.iterdir()] == ['1']
    assert checkpoints.restore(_big(2)).step == 1
    assert checkpoints.save(2, _big(2)) is True
    checkpoints.wait()
    assert checkpoints.steps() == (1, 2)


def test_a_really_read_only_disk(small_disk):
  with js.checkpoint.open_dir(small_disk) as checkpoints:
    checkpoints.save(1, {'x': jnp.ones(3)})
  assert not _call(['mount', '-o', 'remount,ro', str(small_disk)])
  with pytest.raises(js.checkpoint.CheckpointError, match='system is read-only'):
    js.checkpoint.open_dir(small_disk / 'new')
  checkpoints = js.checkpoint.open_dir(small_disk)
  assert checkpoints.restore({'x': jnp.zeros(3)}).step == 1
  with pytest.raises(js.checkpoint.CheckpointError, match='step 2 .*is read-only'):
    checkpoints.save(2, {'x': jnp.ones(3)})
    checkpoints.close()
  assert checkpoints.steps() == (1,)


def test_a_path_under_a_file(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(js.checkpoint.CheckpointError, match='part of the path is a file'):
    js.checkpoint.open_dir(tmp_path / 'file' / 'checkpoints')


def test_a_directory_that_vanished(tmp_path):
  directory = tmp_path / 'gone'
  checkpoints = js.checkpoint.open_dir(directory)
  directory.rmdir()
  directory.write_text('')
  with pytest.raises(js.checkpoint.CheckpointError, match='step 1 could not'):
    checkpoints.save(1, {'x': jnp.ones(3)})
    checkpoints.close()


@pytest.mark.parametrize('surfaces', ['save', 'wait', 'close', 'restore'])
def test_an_error_in_the_background_surfaces_at_the_next_call(
  two_steps, monkeypatch, surfaces
):
  """Also where no disk can be mounted: the writing thread meets ENOSPC."""
  checkpoints = js.checkpoint.open_dir(two_steps)
  checkpoints.restore(_state(0))
  wait = ocp.AsyncCheckpointer.wait_until_finished

  def full(self):
    wait(self)
    shutil.rmtree(two_steps / '3')
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  checkpoints.save(3, _state(3))
  monkeypatch.setattr(ocp.AsyncCheckpointer, 'wait_until_finished', full)
  arguments = {'save': (4, _state(4)), 'restore': (_state(0),)}.get(surfaces, ())
  with pytest.raises(
    js.checkpoint.CheckpointError, match='step 3 .*no space left.* there: 1, 2'
  ):
    getattr(checkpoints, surfaces)(*arguments)
  monkeypatch.undo()
  assert checkpoints.save(3, _state(3)) is True
  checkpoints.close()
  assert checkpoints.steps() == (1, 2, 3)


def test_only_the_noise_of_closed_loops_is_dropped(monkeypatch):
  reported = []
  monkeypatch.setattr('sys.unraisablehook', reported.append)
  _noise.ignore_closed_loops.__wrapped__()
  closed = RuntimeError('Event loop is closed')
  wanted = [
    SimpleNamespace(exc_value=ValueError('Event loop is closed'), object=None),
    SimpleNamespace(exc_value=RuntimeError('Event loop'), object=None),
    SimpleNamespace(exc_value=closed, object=print),
  ]
  for one in (*wanted, SimpleNamespace(exc_value=closed, object=None)):
    sys.unraisablehook(one)
  assert reported == wanted

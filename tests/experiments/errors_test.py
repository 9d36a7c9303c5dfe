"""What a new user does wrong, and the sentence that says what to do."""

import errno
import os
import signal
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import _commands, _records, _settings
from experiments.configs import _defaults
import jaxsparse as js


def _params(width=6):
  head = {'kernel': jnp.ones((width, 3)), 'bias': jnp.zeros(3)}
  return {
    'dense1': {'kernel': jnp.ones((8, width)), 'bias': jnp.zeros(width)},
    'head': head,
  }


_OTHER = {'layer': {'kernel': jnp.ones((8, 6))}}


def _static(**changes):
  return js.transforms.static(optax.sgd(0.1), **{'sparsity': 0.5, 'seed': 0, **changes})


def _update(grads, params):
  tx = _static()
  _, state = js.init(tx, _params())
  return tx.update(grads, state, params)


_MISTAKES = {
  'a percentage': (
    lambda: _static(sparsity=90),
    r'sparsity=90: wanted a fraction removed in \[0, 1\).* For 90 % give 0\.9\.',
  ),
  'a percentage of one path': (
    lambda: js.init(_static(sparsity={'head/*': 0.5, '*': 95.0}), _params()),
    'sparsity.*95.* For 95 % give 0.95',
  ),
  'a typing error in what is left dense': (
    lambda: js.init(_static(prunable=js.kernels_except('haed/*')), _params()),
    "kernels_except: the pattern 'haed/\\*' matches no leaf; the leaves are .*head/kernel",
  ),
  'a typing error in what is pruned': (
    lambda: js.init(_static(prunable='dense/*'), _params()),
    "prunable: the pattern 'dense/\\*' matches no leaf; the leaves are .*dense1/kernel",
  ),
  'masks of another model': (
    lambda: js.init(_static(sparsity=None, seed=None, masks=_OTHER), _params()),
    'masks: of another model; they lack .*head/kernel, and layer/kernel is in them only',
  ),
  'masks of a wider model': (
    lambda: js.init(
      _static(sparsity=None, seed=None, masks=js.masks.from_nonzeros(_params(7))),
      _params(),
    ),
    r'masks: dense1/.* has shape \(.*7.*\).*broadcastable to \(.*6.*\)',
  ),
  'a state of another model': (
    lambda: _update(_OTHER, _OTHER),
    r'state: it has 4 masks for 1 parameters; .*another model\. Call tx\.init',
  ),
  'a state of a narrower model': (
    lambda: _update(_params(7), _params(7)),
    r'state: the mask of dense1/kernel has shape \(8, 6\), the parameter \(8, 7\)',
  ),
  'gradients of another shape': (
    lambda: _update(_params(7), _params()),
    r'grads: dense1/bias has shape \(7,\), the parameter \(6,\)',
  ),
  'gradients of another model': (
    lambda: _update(_OTHER, _params()),
    'grads: of another model than the params; they lack .*head/kernel, and layer/kernel',
  ),
  'no parameters for the update': (
    lambda: _static().update(_params(), _static().init(_params())),
    'update.grads, state, params. needs params',
  ),
}


@pytest.mark.parametrize('name', _MISTAKES)
def test_a_mistake_in_the_library_says_what_to_do(name):
  mistake, message = _MISTAKES[name]
  with pytest.raises(ValueError, match=message):
    mistake()


@pytest.mark.parametrize(
  'prunable',
  [js.kernels_except('*'), lambda leaf: leaf.name.startswith('dense2')],
  ids=['all are excepted', 'a predicate that fits nothing'],
)
def test_a_filter_that_leaves_nothing_is_no_silence(prunable):
  message = 'chooses no leaf, and nothing is pruned; the leaves are .*dense1/kernel'
  with pytest.warns(RuntimeWarning, match=message):
    js.init(_static(prunable=prunable), _params())


def test_a_layer_without_a_channel_is_named():
  tx = _static(
    sparsity=0.99,
    structure=js.masks.Channel(),
    distribution=js.distributions.uniform,
  )
  message = r'nothing is left of dense1/kernel \(0 of 6 units kept\).*Remove less'
  with pytest.warns(RuntimeWarning, match=message):
    js.init(tx, _params())


def test_a_checkpoint_of_another_config_or_model_is_refused(tmp_path):
  with js.checkpoint.open_dir(tmp_path / 'run', config={'rate': 0.1}) as store:
    store.save(1, {'w': jnp.ones(3)})

  def restore(target, **config):
    with js.checkpoint.open_dir(tmp_path / 'run', config=config) as store:
      store.restore(target)

  with pytest.raises(
    ValueError, match='another config: rate: 0.1 in the checkpoint, 1'
  ):
    restore({'w': jnp.ones(3)}, rate=1)
  with pytest.raises(ValueError, match=r'w: the checkpoint holds float32 \(3,\)'):
    restore({'w': jnp.ones(4)}, rate=0.1)
  with pytest.raises(ValueError, match='of another model: it lacks v'):
    restore({'v': jnp.ones(3)}, rate=0.1)


def test_ctrl_c_during_a_save_leaves_the_last_whole_checkpoint(tmp_path, monkeypatch):
  def interrupted(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGINT)
    raise AssertionError('The signal comes first.')

  with js.checkpoint.open_dir(tmp_path / 'run') as store:
    store.save(1, {'w': jnp.ones(3)})
    store.wait()
    with monkeypatch.context() as patch:
      patch.setattr(np, 'asarray', interrupted)
      with pytest.raises(KeyboardInterrupt):
        store.save(2, {'w': jnp.zeros(3)})
  with js.checkpoint.open_dir(tmp_path / 'run') as store:
    restored = store.restore({'w': jnp.zeros(3)})
  assert restored.step == 1 and restored.state['w'].tolist() == [1, 1, 1]


def _said(capsys, main) -> tuple[int, str]:
  """The exit status and the words of a program that ends with an error."""
  with pytest.raises(SystemExit) as caught:
    _commands.guarded(main)(['train.py'])
  code = caught.value.code
  return (code, capsys.readouterr().err) if isinstance(code, int) else (1, code)


def _raise(error):
  def main(argv):
    raise error

  return main


@pytest.mark.parametrize(
  ('error', 'message'),
  [
    (OSError(errno.ENOSPC, 'No space left on device'), 'Make room there; the same com'),
    (
      OSError(errno.EFBIG, 'File too large', '/run/a.csv'),
      '/run/a.csv: File too large. ',
    ),
    (PermissionError(errno.EACCES, 'Permission denied', '/run'), 'where you may write'),
    (OSError(errno.EROFS, 'Read-only file system', '/run'), 'where you may write'),
    (FloatingPointError('loss is nan'), 'train.py: loss is nan'),
  ],
)
def test_what_the_system_refuses_is_one_sentence(capsys, error, message):
  code, said = _said(capsys, _raise(error))
  assert code == 1 and message in said and said.count('\n') == 0


def test_ctrl_c_outside_of_training_says_that_the_command_goes_on(capsys):
  code, said = _said(capsys, _raise(KeyboardInterrupt()))
  assert code == 130 and 'the same command, with the same --workdir, goes on' in said


@pytest.mark.parametrize(
  ('error', 'platforms', 'message'),
  [
    (
      AssertionError(),
      'cuda',
      'JAX_PLATFORMS=cuda: jax found no such device. Unset it',
    ),
    (
      RuntimeError("Unable to initialize backend 'tpu'"),
      'tpu',
      "backend 'tpu'. Unset it",
    ),
  ],
)
def test_a_device_that_is_not_there(capsys, monkeypatch, error, platforms, message):
  monkeypatch.setattr(_commands.jax, 'devices', lambda: _raise(error)(None))
  monkeypatch.setenv('JAX_PLATFORMS', platforms)
  code, said = _said(capsys, lambda argv: None)
  assert code == 1 and message in said and 'set it to cpu' in said


def test_a_platform_that_jax_refuses():
  program = 'from experiments import _commands; _commands.guarded(print)(["x.py"])'
  done = subprocess.run(
    [sys.executable, '-c', program], env={**os.environ, 'JAX_PLATFORMS': 'tpu'},
    capture_output=True, text=True,
  )  # fmt: skip
  if done.returncode == 0:
    pytest.skip('there is a TPU here')
  assert done.stderr.splitlines()[-1].startswith('x.py: JAX_PLATFORMS=tpu: ')
  assert 'Traceback' not in done.stderr


def _config(**changes):
  config = _defaults.get_config()
  config.update(changes)
  return _settings.check(config)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (
      {'execution': 'gpu'},
      "config.execution: unknown name 'gpu'; wanted one of compact",
    ),
    ({'select': 'last'}, "config.select: got 'last', wanted 'final' or 'best'"),
    ({'seeds': ()}, 'config.seeds: got none'),
  ],
)
def test_a_config_that_cannot_be(changes, message):
  with pytest.raises(ValueError, match=message):
    _config(**changes)


def test_a_run_directory_that_cannot_be(tmp_path, monkeypatch):
  config = _config()
  (tmp_path / 'file').write_text('')
  with pytest.raises(ValueError, match='--workdir: .*file cannot be .*it is a file'):
    _records.claim(tmp_path / 'file', config)
  with pytest.raises(ValueError, match='--workdir: .*Not a directory.* you may write'):
    _records.claim(tmp_path / 'file' / 'run', config)

  def refuse(dir):
    raise PermissionError(errno.EACCES, 'Permission denied', dir)

  # Root may write anywhere.
  monkeypatch.setattr(_records.tempfile, 'TemporaryFile', refuse)
  with pytest.raises(
    ValueError, match=r'\(Permission denied\)\. Give a directory where'
  ):
    _records.claim(tmp_path / 'run', config)


def test_the_lock_of_a_killed_run_is_free(tmp_path):
  program = (
    'import pathlib, os, signal, sys; from experiments import _records as r, _settings;'
    ' from experiments.configs import _defaults as d;'
    ' lock = r.claim(pathlib.Path(sys.argv[1]), _settings.check(d.get_config()));'
    ' print("claimed", flush=True); sys.stdin.read()'
  )
  with subprocess.Popen(
    [sys.executable, '-c', program, str(tmp_path)],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
  ) as other:  # fmt: skip
    assert other.stdout.readline() == 'claimed\n'
    with pytest.raises(
      ValueError, match='another process trains in .*Wait for its end'
    ):
      _records.claim(tmp_path, _config())
    other.kill()
    other.wait()
  assert (tmp_path / 'lock').exists()
  _records.claim(tmp_path, _config()).close()

import csv
import json
import os
import pathlib
import signal
import subprocess
import sys

import optax
import pytest

from experiments import _records, _settings
from experiments.configs import _defaults, digits

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_CONFIG = """
from experiments.configs import _defaults

def get_config():
  config = _defaults.get_config()
  config.name = 'tiny'
  config.model = dict(name='MLP', api='linen', options=dict(features=(24,)))
  config.batch_size = 32
  config.num_steps = {num_steps}
  config.seeds = (0, 1)
  config.methods = (
    dict(name='small_dense', transform='small_dense', sparsity=0.5),
    dict(name='rigl', transform='rigl', sparsity=0.5, kwargs=dict(
      when=dict(schedule='every', n=6, stop=0.75),
      drop_fraction=dict(schedule='cosine', initial=0.3, stop=0.75))),
  )
  config.eval_every = 10
  config.checkpoint_every = 20
  config.steps_per_call = 5
  config.timing_rounds = 1
  return config
"""


@pytest.fixture(scope='module')
def job(tmp_path_factory):
  """`(config file, environment)` of a tiny job; data is prepared once."""
  folder = tmp_path_factory.mktemp('job')
  config = folder / 'tiny.py'
  config.write_text(_CONFIG.format(num_steps=60))
  environment = {
    'JAX_COMPILATION_CACHE_DIR': str(folder / 'cache'),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    **os.environ,
    'PYTHONPATH': os.pathsep.join([str(_ROOT), os.environ.get('PYTHONPATH', '')]),
    'JAX_PLATFORMS': 'cpu',
    'JAX_NUM_CPU_DEVICES': '1',
    'XDG_CACHE_HOME': str(folder / 'xdg'),
    'TFDS_DATA_DIR': str(folder / 'tfds'),
  }
  return config, environment


def _command(config, *arguments):
  script = str(_ROOT / 'experiments' / 'classify.py')
  return [sys.executable, script, f'--config={config}', *map(str, arguments)]


def _run(job, *arguments, config=None):
  config, environment = config or job[0], job[1]
  return subprocess.run(
    _command(config, *arguments), env=environment, capture_output=True, text=True
  )


def _rows(path):
  with path.open(newline='') as file:
    rows = list(csv.DictReader(file))
  for row in rows:
    row.pop('steps_per_second', None)
  return rows


def _digests(workdir):
  """The digests of every leaf of every last checkpoint."""
  found = {}
  for folder in sorted((workdir / 'checkpoints').iterdir()):
    step = max(int(p.name) for p in folder.iterdir() if p.name.isdigit())
    manifest = json.loads((folder / str(step) / 'manifest' / 'metadata').read_text())
    found[folder.name] = (step, manifest['leaves'])
  return found


@pytest.fixture(scope='module')
def whole(job, tmp_path_factory):
  """A run that nothing interrupts."""
  workdir = tmp_path_factory.mktemp('whole') / 'run'
  done = _run(job, f'--workdir={workdir}')
  assert done.returncode == 0, done.stderr
  return workdir, done.stdout


def test_a_run_leaves_everything_that_a_reader_needs(whole):
  workdir, output = whole
  for name in ('report.md', 'learning_curves.png', 'density_over_time.png'):
    assert (workdir / name).stat().st_size > 0
  assert list((workdir / 'tensorboard').rglob('*tfevents*'))
  report = (workdir / 'report.md').read_text()
  for text in ('| small_dense', '| rigl', '±', 'learning_curves.png', 'saves no time'):
    assert text in report
  assert '| rigl' in output and 'steps/s' in output and 'sparsity 50.0%' in output


def test_methods_are_compared_at_equal_steps_seeds_and_weights(whole):
  workdir, _ = whole
  metrics = _rows(workdir / 'metrics.csv')
  steps = [str(s) for s in range(10, 61, 10)]
  for method in ('small_dense', 'rigl'):
    for seed in '01':
      rows = [r for r in metrics if (r['method'], r['seed']) == (method, seed)]
      assert [r['step'] for r in rows] == steps
  small, rigl = (
    next(r for r in _rows(workdir / 'results.csv') if r['method'] == m)
    for m in ('small_dense', 'rigl')
  )
  # 64x24 + 24x10 kernels; 24 + 10 biases are never pruned.
  assert int(rigl['weights']) == 1810 and int(rigl['kept']) == 922
  assert 922 - 75 < int(small['kept']) <= 922
  assert float(rigl['nominal_sparsity']) == 0.5
  # Two FLOPs per multiply-add; ERK keeps the small head denser than the first layer.
  assert int(rigl['dense_flops']) == 2 * (64 * 24 + 24 * 10)
  assert abs(int(rigl['sparse_flops']) - int(rigl['dense_flops']) / 2) <= 2
  assert int(rigl['param_bytes']) == 4 * 1810
  assert float(rigl['test_accuracy']) > 0.5


def test_a_finished_run_trains_nothing_again(job, whole):
  workdir, _ = whole
  before = (workdir / 'metrics.csv').read_text(), _digests(workdir)
  again = _run(job, f'--workdir={workdir}')
  assert again.returncode == 0, again.stderr
  assert '-0 step ' not in again.stdout and '| rigl' in again.stdout
  assert before == ((workdir / 'metrics.csv').read_text(), _digests(workdir))


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_goes_on_bit_for_bit(job, whole, tmp_path, number):
  workdir = tmp_path / 'run'
  config, environment = job
  with subprocess.Popen(
    _command(config, f'--workdir={workdir}'),
    env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
  ) as process:  # fmt: skip
    # By then the save of step 20 is whole, that of step 40 may not be.
    for line in process.stdout:
      if 'rigl-0 step     50' in line:
        process.send_signal(number)
        break
    process.stdout.read()
  assert process.wait() == (143 if number == signal.SIGTERM else -number)
  assert len(_rows(workdir / 'results.csv')) == 2

  again = _run(job, f'--workdir={workdir}')
  assert again.returncode == 0, again.stderr
  assert 'small_dense-1 step' not in again.stdout
  assert 'rigl-0 step     10' not in again.stdout
  for name in ('metrics.csv', 'results.csv'):
    assert _rows(workdir / name) == _rows(whole[0] / name)
  assert _digests(workdir) == _digests(whole[0])


def test_another_config_in_the_same_directory_is_refused(job, whole):
  done = _run(job, f'--workdir={whole[0]}', '--config.batch_size=16')
  assert done.returncode == 1
  assert 'begun with another config; batch_size differ' in done.stderr
  assert 'Traceback' not in done.stderr


@pytest.mark.parametrize(
  'argument, wanted',
  [
    ('--config.dataset=digitz', ('digitz', 'digits')),
    ('--config.model.name=MPL', ("unknown name 'MPL'", 'LeNet5', 'Did you mean MLP?')),
    ('--config.batch_sise=3', ('batch_sise',)),
    ('--config=nowhere.py', ('nowhere.py',)),
  ],
)
def test_a_mistake_is_one_sentence(job, tmp_path, argument, wanted):
  done = _run(job, argument, f'--workdir={tmp_path / "run"}')
  assert done.returncode == 1
  for text in wanted:
    assert text in done.stderr
  assert 'Traceback' not in done.stderr
  assert not (tmp_path / 'run').exists()


def test_help_names_the_flags(job):
  done = _run(job, '--help')
  assert 'metrics.csv' in done.stdout
  for flag in ('--config', '--workdir', '--data_dir'):
    assert flag in done.stdout


def _config(**changes):
  config = _defaults.get_config()
  with config.unlocked():
    for key, value in changes.items():
      config[key] = value
  return config


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'learning_rat': 1.0}, "unknown key 'learning_rat'.*Did you mean learning_rate"),
    ({'model': {'name': 'MLP', 'size': 3}}, "config.model: unknown key 'size'"),
    (
      {'methods': ({'name': 'a', 'transform': 'riggle'},)},
      "'riggle'.*Did you mean rigl",
    ),
    ({'methods': ({'name': 'a', 'transfrom': 'rigl'},)}, "unknown keys .'transfrom'"),
    ({'methods': ({'transform': 'dense'},)}, 'needs its own name'),
    ({'seeds': ()}, 'seeds not empty'),
    ({'select': 'luckiest'}, "'final' or 'best'"),
    ({'only': 'densee'}, "config.only: .*'densee'.*mean dense"),
  ],
)
def test_a_config_that_cannot_be_is_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    _settings.check(_config(**changes))


@pytest.mark.parametrize(
  'spec, message',
  [
    ({'sparsity': 0.9, 'kwargs': {'wen': 1}}, "argument of method m: .*'wen'"),
    ({'sparsity': 0.9}, "method m: .*'when'"),
    ({'sparsity': 0.9, 'kwargs': {'distribution': 'erkk'}}, "'erkk'.*mean erk"),
    ({'sparsity': 0.9, 'kwargs': {'when': {'schedule': 'often'}}}, "when: .*'often'"),
  ],
)
def test_a_transform_that_cannot_be_is_refused(spec, message):
  spec = {'name': 'm', 'transform': 'rigl', **spec}
  with pytest.raises(ValueError, match=message):
    _settings.transform(spec, optax.sgd(0.1), 0, 100)


def test_an_optimizer_that_optax_has_not_is_refused():
  config = _settings.check(_config(optimizer={'name': 'adamm', 'kwargs': {}}))
  with pytest.raises(ValueError, match="optimizer: .*'adamm'.*sgd.*mean adam"):
    _settings.optimizer(config, 100)


def test_floats_are_fractions_of_the_run_where_steps_are_meant():
  assert _settings.in_steps(0.75, 2000) == 1500
  assert _settings.in_steps(75, 2000) == 75
  assert (
    _settings.num_steps(_settings.check(_config(num_steps=0, epochs=2)), 1000) == 14
  )
  assert _settings.rounded(1049, 100) == 1000


def test_the_default_config_is_valid_and_compares_five_methods():
  config = _settings.check(digits.get_config())
  names = [m['name'] for m in config.methods]
  assert names == ['dense', 'small_dense', 'static_erk', 'rigl', 'gmp']
  assert {_settings.final_sparsity(m) for m in config.methods} == {0.0, 0.9}


def test_a_table_drops_the_row_that_a_kill_cut_off(tmp_path):
  path = tmp_path / 'rows.csv'
  table = _records.Table(path, ('step', 'loss'))
  table.append({'step': 1, 'loss': 0.5})
  table.append({'step': 2, 'loss': 0.25})
  with path.open('a') as file:
    file.write('3,0.12')
  again = _records.Table(path, ('step', 'loss'))
  assert [r['step'] for r in again.rows] == ['1', '2']
  again.keep(lambda row: int(row['step']) < 2)
  again.append({'step': 2, 'loss': 0.125})
  assert path.read_text() == 'step,loss\n1,0.5\n2,0.125\n'
  with pytest.raises(ValueError, match='another --workdir'):
    _records.Table(path, ('step', 'error'))

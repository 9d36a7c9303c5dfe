import csv
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import optax
import pytest

from experiments import _criteria, _records, _report, _schedules, _settings
from experiments.configs import _defaults, digits
import jaxsparse as js

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


@pytest.mark.long
def test_on_nonzeros_the_same_network_is_trained(job, whole, tmp_path):
  workdir = tmp_path / 'run'
  done = _run(
    job, f'--workdir={workdir}', '--config.execution=compact', '--config.only=rigl'
  )
  assert done.returncode == 0, done.stderr
  assert 'rigl on its nonzeros: dense1/kernel: ' in done.stdout
  masked = [r for r in _rows(whole[0] / 'results.csv') if r['method'] == 'rigl']
  for row, wanted in zip(_rows(workdir / 'results.csv'), masked, strict=True):
    assert (row['execution'], wanted['execution']) == ('compact', 'masked')
    assert row['kept'] == wanted['kept']
    assert abs(float(row['test_accuracy']) - float(wanted['test_accuracy'])) < 0.01
    # Kernels are half empty; biases are not.
    assert int(row['param_bytes']) == 4 * int(row['kept'])
    assert int(wanted['param_bytes']) == 4 * int(wanted['weights'])
  # Both clocks stand in the table of the masked run.
  assert '| rigl        |   compact |' in whole[1]


def test_a_run_leaves_everything_that_a_reader_needs(whole):
  workdir, output = whole
  plots = ('learning_curves.png', 'density_over_time.png', 'step_times.png')
  for name in ('report.md', 'report.html', *plots):
    assert (workdir / name).stat().st_size > 0
  # One sparsity makes no curve.
  assert not (workdir / 'accuracy_vs_sparsity.png').exists()
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


def test_a_finished_run_in_a_read_only_directory_shows_its_table(job, whole):
  workdir, _ = whole
  config = _settings.check(_config(seeds=(0, 7)))
  config.__dict__.update(
    json.loads((workdir / 'config.json').read_text()), seeds=(0, 7)
  )
  with pytest.raises(ValueError, match='is read-only, and rigl-7 not trained yet'):
    _records.check_finished(workdir, config, ['rigl'])
  assert not _records.is_read_only(workdir)
  before = {path: path.read_bytes() for path in workdir.glob('*.*')}
  # Root may write anywhere, unless it drops CAP_DAC_OVERRIDE (1) from what it may get.
  dropped = (
    'import ctypes, os, sys; os.geteuid() or ctypes.CDLL(None).prctl(24, 1, 0, 0, 0);'
    ' os.execv(sys.argv[1], sys.argv[1:])'
  )
  command = _command(job[0], f'--workdir={workdir}')
  try:
    workdir.chmod(0o555)
    done = subprocess.run(
      [sys.executable, '-c', dropped, *command],
      env=job[1], capture_output=True, text=True,
    )  # fmt: skip
  finally:
    workdir.chmod(0o755)
  assert done.returncode == 0, done.stderr
  assert '| rigl' in done.stdout
  assert done.stdout.endswith(f'{workdir} is read-only: nothing was written.\n')
  assert before == {path: path.read_bytes() for path in workdir.glob('*.*')}


@pytest.mark.long
def test_several_sparsities_become_a_curve_and_options_may_be_new(job, tmp_path):
  config = tmp_path / 'several.py'
  static = [
    dict(name=f'static_{100 * s:g}', transform='static', sparsity=s) for s in (0.5, 0.8)
  ]
  text = _CONFIG.format(num_steps=10).replace(
    '  return config',
    f'  config.methods = tuple({static}) + (dict(name="dense", transform="dense"),)\n'
    '  config.seeds = (0,)\n  return config',
  )
  config.write_text(text)
  workdir = tmp_path / 'run'
  done = _run(
    job, f'--workdir={workdir}', '--config.model.options.dtype=bfloat16', config=config
  )
  assert done.returncode == 0, done.stderr
  saved = json.loads((workdir / 'config.json').read_text())
  assert saved['model']['options'] == {'features': [24], 'dtype': 'bfloat16'}
  report = (workdir / 'report.md').read_text()
  for name in ('accuracy_vs_sparsity.png', 'step_times.png'):
    assert f']({name})' in report and (workdir / name).stat().st_size > 0
  assert 'Step times over that of dense' in report


@pytest.mark.parametrize(
  'number', [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.long)]
)
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
  # A slow signal comes in the last step, whose result is then kept.
  assert len(_rows(workdir / 'results.csv')) in (2, 3)

  again = _run(job, f'--workdir={workdir}')
  assert again.returncode == 0, again.stderr
  assert 'small_dense-1 step' not in again.stdout
  assert 'rigl-0 step     10' not in again.stdout
  for name in ('metrics.csv', 'results.csv'):
    assert _rows(workdir / name) == _rows(whole[0] / name)
  assert _digests(workdir) == _digests(whole[0])


@pytest.mark.long
def test_masks_that_become_final_are_converted_halfway_and_resume(job, tmp_path):
  config = tmp_path / 'pruned.py'
  method = dict(
    name='gmp', transform='gmp',
    sparsity=dict(schedule='cubic', final=0.8, start=0.0, stop=0.3),
    kwargs=dict(when=dict(schedule='every', n=6)),
  )  # fmt: skip
  text = _CONFIG.format(num_steps=60)
  config.write_text(
    text.replace('  return config', f'  config.methods = ({method},)\n  return config')
  )
  for name, arguments in (
    ('masked', ()), ('compact', ('--config.execution=compact',)),
  ):  # fmt: skip
    done = _run(job, f'--workdir={tmp_path / name}', *arguments, config=config)
    assert done.returncode == 0, done.stderr
  masked, compact = (_rows(tmp_path / n / 'results.csv') for n in ('masked', 'compact'))
  for row, wanted in zip(compact, masked, strict=True):
    # A decision at step 18, the first at the final sparsity, is the last one, and a call
    # ends at step 20.
    assert row['execution'] == 'compact from step 20'
    assert (row['kept'], row['nominal_sparsity']) == (
      wanted['kept'], wanted['nominal_sparsity'],
    )  # fmt: skip
    assert abs(float(row['test_loss']) - float(wanted['test_loss'])) < 1e-3
    assert int(row['param_bytes']) == 4 * int(row['kept'])

  # As a kill leaves it, after the last save and before the test; and in between.
  for first in (60, 40, 20):
    for path in (tmp_path / 'compact' / 'checkpoints' / 'gmp-1').iterdir():
      if path.name.isdigit() and int(path.name) > first:
        shutil.rmtree(path)
    lines = (tmp_path / 'compact' / 'results.csv').read_text().splitlines(True)
    (tmp_path / 'compact' / 'results.csv').write_text(''.join(lines[:-1]))
    again = _run(
      job, f'--workdir={tmp_path / "compact"}', '--config.execution=compact',
      config=config,
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert _rows(tmp_path / 'compact' / 'results.csv') == compact


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
    ('--config.batch_size=0', ('config.batch_size: got 0',)),
    ('--config.optimizer.name=adam', ("argument 'momentum'", 'adam takes')),
    ('--nope=3', ("Unknown command line flag 'nope'",)),
  ],
)
def test_a_mistake_is_one_sentence(job, tmp_path, argument, wanted):
  done = _run(job, argument, f'--workdir={tmp_path / "run"}')
  assert done.returncode == 1
  for text in wanted:
    assert text in done.stderr
  assert 'Traceback' not in done.stderr
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  'arguments, wanted',
  [
    (('--config.learning_rat=3',), 'Did you mean learning_rate?'),
    (
      ('--config.model.options.dtipe=float16',),
      'MLP: unknown option dtipe; want one of',
    ),
    (
      ('--config=experiments/configs/fashion_mnist_lenet300.py:abc',),
      "config argument: got 'abc', wanted 'all' or a sparsity.",
    ),
    (('--config.dataset=cifar10',), 'download_and_prepare()"\n'),
  ],
)
def test_a_mistake_in_the_default_config_is_one_sentence(
  job, tmp_path, arguments, wanted
):
  script = str(_ROOT / 'experiments' / 'classify.py')
  command = [sys.executable, script, *arguments, f'--workdir={tmp_path / "run"}']
  environment = {**job[1], 'TFDS_DATA_DIR': str(tmp_path)}
  done = subprocess.run(
    command, env=environment, cwd=_ROOT, capture_output=True, text=True
  )
  assert done.returncode == 1
  assert done.stderr.startswith('classify.py: ') and wanted in done.stderr
  assert 'Traceback' not in done.stderr


def test_a_directory_where_nothing_was_trained_takes_another_config(tmp_path):
  first, second = (_settings.check(_config(batch_size=n)) for n in (16, 32))
  _records.claim(tmp_path, first).close()
  _records.Table(tmp_path / 'metrics.csv', ('step', 'density/a'))
  _records.claim(tmp_path, second).close()
  table = _records.Table(tmp_path / 'metrics.csv', ('step', 'density/b'))
  assert json.loads((tmp_path / 'config.json').read_text())['batch_size'] == 32
  table.append({'step': 1, 'density/b': 1.0})
  with pytest.raises(ValueError, match='another config; batch_size differ'):
    _records.claim(tmp_path, first)


def test_two_processes_do_not_train_in_one_directory(tmp_path):
  config = _settings.check(_config())
  with _records.claim(tmp_path, config):
    with pytest.raises(ValueError, match='another process trains in'):
      _records.claim(tmp_path, config)
  _records.claim(tmp_path, config).close()


@pytest.mark.parametrize(
  'prepared, message',
  [
    (True, 'The checkpoint of step 20 could not be written'),
    (False, 'cannot prepare digits here'),
  ],
)
def test_what_cannot_be_written_is_one_sentence(
  job, whole, tmp_path, prepared, message
):
  del whole  # It has prepared the data.
  # Of the files of a run, only those of the arrays are so large.
  # In the child itself: jax warns of a fork, which `preexec_fn` would need.
  limited = (
    'import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000));'
    ' os.execv(sys.argv[1], sys.argv[1:])'
  )
  environment = {**job[1], 'JAX_ENABLE_COMPILATION_CACHE': 'false'}
  if not prepared:
    environment |= {'TFDS_DATA_DIR': str(tmp_path), 'XDG_CACHE_HOME': str(tmp_path)}
  # Wide enough that its arrays are over the limit at any step, however they compress.
  command = _command(
    job[0], f'--workdir={tmp_path / "run"}', '--config.only=rigl',
    '--config.model.options.features=(300,)',
  )  # fmt: skip
  done = subprocess.run(
    [sys.executable, '-c', limited, *command],
    env=environment, capture_output=True, text=True,
  )  # fmt: skip
  assert done.returncode == 1
  assert 'classify.py: ' in done.stderr and message in done.stderr
  assert 'Traceback' not in done.stderr


def test_the_choice_of_leaves_is_shown():
  mask = lambda *shape: jax.ShapeDtypeStruct(shape, bool)
  masks = {'a': {'kernel': mask(4, 2), 'bias': mask()}, 'b': {'kernel': mask(1, 2)}}
  assert _report.leaf_choice(masks) == 'a/kernel, b/kernel; dense: a/bias'
  assert _report.leaf_choice(masks, 1) == 'a/kernel and 1 more; dense: a/bias'
  assert _report.leaf_choice({'bias': mask()}) == 'nothing; dense: bias'


def test_gradient_criteria_are_bound_by_name():
  params = {'kernel': jnp.array([[1.0, -2.0], [0.5, 3.0]])}
  images = jnp.array([[2.0, 1.0]])
  apply_fn = lambda p, x: x @ p['kernel']
  loss = lambda p, batch: jnp.sum(apply_fn(p, batch['images']) * batch['labels'])
  probe = _criteria.Probe(
    loss, apply_fn, {'images': images, 'labels': jnp.array([[1.0, -1.0]])}
  )
  evidence = js.core.Evidence((params,), None, None, None, 0, None)
  score = lambda name: _criteria.bound(name, probe)(evidence)['kernel'].tolist()
  assert score('snip') == [[2.0, 4.0], [0.5, 3.0]]  # |w x label|
  assert score('grasp') == [[0.0, 0.0], [0.0, 0.0]]  # A linear loss has no curvature.
  assert score('synflow') == [[1.0, 2.0], [0.5, 3.0]]  # |w| times ones
  assert score('magnitude') == [[1.0, 2.0], [0.5, 3.0]]


@pytest.mark.parametrize(
  'spec, wanted',
  [
    ({'transform': 'static', 'kwargs': {'criterion': 'snip'}}, True),
    ({'transform': 'static', 'kwargs': {'criterion': 'magnitude'}}, False),
    ({'transform': 'static', 'kwargs': {}}, False),
  ],
)
def test_only_gradient_criteria_take_a_batch(spec, wanted):
  assert _criteria.takes_probe({'name': 'm', **spec}) is wanted


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


def _gradient(transform, criterion):
  return {'name': 'm', 'transform': transform, 'kwargs': {'criterion': criterion}}


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
    ({'seeds': ()}, 'seeds: got none'),
    ({'timing_rounds': 0}, 'config.timing_rounds: got 0, wanted at least 1'),
    ({'methods': (3,)}, 'config.methods: got 3, wanted dicts'),
    (
      {'methods': (_gradient('one_shot', 'snip'),)},
      'criterion of method m: snip.*only static',
    ),
    (
      {'methods': (_gradient('static', 'snap'),)},
      "criterion: unknown name 'snap'.*mean snip",
    ),
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


_MINE = """
import jaxsparse as js

def mine(inner, sparsity, *, seed, when, share=0.1):
  assert 0 < share < 1
  return js.transforms.set(inner, sparsity, seed=seed, when=when, drop_fraction=share)
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
  """The name of a module of the user's own, with the transform `mine`."""
  (tmp_path / 'own_transforms.py').write_text(_MINE)
  (tmp_path / 'own_broken.py').write_text('import surely_not_installed')
  monkeypatch.syspath_prepend(tmp_path)
  yield 'own_transforms'
  sys.modules.pop('own_transforms', None)


def test_a_transform_of_ones_own_is_named_by_its_path(mine):
  kwargs = {'when': {'schedule': 'every', 'n': 5}, 'share': 0.2}
  spec = {'name': 'm', 'transform': f'{mine}.mine', 'sparsity': 0.5, 'kwargs': kwargs}
  tx = _settings.transform(spec, optax.sgd(0.1), seed=0, num_steps=10)
  params, opt_state = js.init(tx, {'kernel': jnp.ones((4, 4))})
  assert int(js.get_masks(opt_state)['kernel'].sum()) == 8
  with pytest.raises(ValueError, match="argument of method m: .*'shar'.*mean share"):
    spec = {**spec, 'kwargs': {'shar': 0.2}}
    _settings.transform(spec, optax.sgd(0.1), seed=0, num_steps=10)


@pytest.mark.parametrize(
  'path,error,message',
  [
    ('nowhere.mine', ValueError, r"method m: .*no module 'nowhere'.*PYTHONPATH"),
    ('own_transforms.mien', ValueError, r"in own_transforms: .*'mien'.*mean mine"),
    ('own_transforms.js', ValueError, r"unknown name 'js'; wanted one of mine"),
    ('own_broken.mine', ModuleNotFoundError, 'surely_not_installed'),
  ],
)
def test_a_path_that_leads_nowhere_is_said(mine, path, error, message):
  with pytest.raises(error, match=message):
    _settings.transform_of({'name': 'm', 'transform': path})


@pytest.mark.long
def test_a_network_can_be_pruned_at_init_by_a_criterion_that_needs_a_batch(
  job, tmp_path
):
  config = tmp_path / 'snip.py'
  method = dict(name='snip', transform='static', sparsity=0.9)
  method['kwargs'] = dict(criterion='snip', distribution='global_pool')
  config.write_text(
    _CONFIG.format(num_steps=20).replace(
      '  return config',
      f'  config.methods, config.seeds = ({method},), (0,)\n  return config',
    )
  )
  done = _run(job, f'--workdir={tmp_path / "run"}', config=config)
  assert done.returncode == 0, done.stderr
  assert 'pruned by snip: dense1/kernel, head/kernel; dense: dense1/bias' in done.stdout
  (row,) = _rows(tmp_path / 'run' / 'results.csv')
  assert float(row['nominal_sparsity']) == pytest.approx(0.9, abs=1e-3)
  (last,) = _rows(tmp_path / 'run' / 'metrics.csv')[-1:]
  # Pixels that are always 0 have no gradient, so the first layer loses most.
  assert float(last['density/dense1/kernel']) < 0.1 < float(last['density/head/kernel'])


def test_an_optimizer_that_optax_has_not_is_refused():
  config = _settings.check(_config(optimizer={'name': 'adamm', 'kwargs': {}}))
  with pytest.raises(ValueError, match="optimizer: .*'adamm'.*sgd.*mean adam"):
    _settings.optimizer(config, 100)


def test_floats_are_fractions_of_the_run_where_steps_are_meant():
  assert _schedules.in_steps(0.75, 2000) == 1500
  assert _schedules.in_steps(75, 2000) == 75
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
  columns = ('method', 'seed', 'step')
  table = _records.Table(path, columns)
  for method, step in (('a', 1), ('a', 2), ('b', 2)):
    table.append({'method': method, 'seed': 0, 'step': step})
  with path.open('a') as file:
    file.write('a,0')
  again = _records.Table(path, columns)
  assert [r['step'] for r in again.rows] == ['1', '2', '2']
  # The steps after a checkpoint are made again, those of other runs stay.
  again.rewind('a', 0, 1)
  again.append({'method': 'a', 'seed': 0, 'step': 2})
  assert path.read_text() == 'method,seed,step\na,0,1\nb,0,2\na,0,2\n'
  with pytest.raises(ValueError, match='another --workdir'):
    _records.Table(path, ('step', 'error'))

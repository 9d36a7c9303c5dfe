"""The super-resolution binary: one small run, killed and resumed, and its parts."""

import csv
import os
import pathlib
import signal
import subprocess
import sys
import types

import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from experiments import (
  _image_metrics,
  _schedules,
  _settings,
  _superres_evaluation,
  _superres_report,
  _superres_settings,
  datasets,
)
from experiments.configs import (
  _superres_defaults,
  superres_bsd_edsr,
  superres_bsd_espcn,
  superres_sample,
  superres_swinir_light,
)

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_CONFIG = """
from experiments.configs import _superres_defaults

def get_config():
  config = _superres_defaults.get_config()
  config.name = 'tiny'
  config.train, config.tests = ({folder!r},), dict(own={folder!r})
  config.validation = 1
  config.color = 'y'
  config.model = dict(name='ESPCN', options=dict(features=(8, 8)))
  config.patch, config.batch_size, config.num_steps = 6, 4, 24
  config.methods = tuple(
    m for m in _superres_defaults.methods(0.9) if m['name'] in {methods!r}
  )
  config.eval_every, config.checkpoint_every = 4, 4
  config.timing_rounds, config.crop, config.num_crops = 1, 16, 1
  return config
"""


@pytest.fixture(scope='module')
def job(tmp_path_factory):
  """`(folder, environment)` with three small photographs."""
  folder = tmp_path_factory.mktemp('superres')
  (folder / 'images').mkdir()
  whole = datasets.photographs('sample:china', 2).high[0]
  for index in range(3):
    image = Image.fromarray(whole[100 * index : 100 * index + 40, 200:248])
    image.save(folder / 'images' / f'{index}.png')
  environment = {
    'JAX_COMPILATION_CACHE_DIR': str(folder / 'cache'),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    **os.environ,
    'PYTHONPATH': os.pathsep.join([str(_ROOT), os.environ.get('PYTHONPATH', '')]),
    'JAX_PLATFORMS': 'cpu',
    'JAX_NUM_CPU_DEVICES': '1',
  }
  return folder, environment


def _command(folder, workdir, methods):
  config = folder / f'{"_".join(methods)}.py'
  text = _CONFIG.format(folder=str(folder / 'images'), methods=methods)
  config.write_text(text)
  script = str(_ROOT / 'experiments' / 'superres.py')
  return [sys.executable, script, f'--config={config}', f'--workdir={workdir}']


def _rows(path):
  with path.open(newline='') as file:
    return list(csv.DictReader(file))


def test_a_run_ends_with_a_report(job):
  folder, environment = job
  workdir = folder / 'one'
  command = _command(folder, workdir, ('iss_p_90',))
  run = subprocess.run(command, env=environment, capture_output=True, text=True)
  assert run.returncode == 0, run.stderr
  assert 'pruned by iss_p_90: conv1/kernel, conv2/kernel, upscale/kernel' in run.stdout
  bicubic, iss_p = _rows(workdir / 'results.csv')
  assert bicubic['method'] == 'bicubic' and float(bicubic['own/psnr_y_border2']) > 20
  assert float(iss_p['nominal_sparsity']) == pytest.approx(0.9, abs=0.01)
  assert iss_p['own/psnr_rgb_border2'] == ''  # A network of luma has no colours.
  assert float(iss_p['nonzeros_bytes']) < float(iss_p['dense_bytes'])
  assert float(iss_p['nonzeros_ms']) > 0
  metrics = _rows(workdir / 'metrics.csv')
  assert [float(r['sparsity']) > 0 for r in metrics] == [False] + 5 * [True]
  assert [float(r['learning_rate']) for r in metrics][:2] == [1e-3, 1e-3]
  first, second = metrics[:2]
  assert float(first['ceiling']) == pytest.approx(0.019)
  assert 0 <= float(second['changed/conv2/kernel']) <= 1
  assert 0 < float(first['threshold/conv2/kernel']) < 1
  for name in (
    'report.md',
    'report.html',
    'crops_own_0.png',
    'psnr_vs_sparsity_own.png',
  ):
    assert (workdir / name).exists()
  # Truth, bicubic and one method, three times enlarged.
  with Image.open(workdir / 'crops_own_0.png') as panel:
    assert panel.size == (3 * (48 + 4), 48 + 16)
  assert 'iss_p_90' in (workdir / 'report.md').read_text()


@pytest.mark.long
def test_a_killed_run_takes_the_steps_that_it_would_have_taken(job):
  folder, environment = job
  methods = ('iss_r_90', 'iht_90', 'greg_90')
  straight = _command(folder, folder / 'straight', methods)
  run = subprocess.run(straight, env=environment, capture_output=True, text=True)
  assert run.returncode == 0, run.stderr
  command = _command(folder, folder / 'killed', methods)
  with subprocess.Popen(
    command, env=environment, stdout=subprocess.PIPE, text=True
  ) as first:
    for line in first.stdout:
      if 'step      4' in line:  # Before the mask is hard.
        first.send_signal(signal.SIGTERM)
        break
    first.stdout.read()
  assert first.returncode == 143
  run = subprocess.run(command, env=environment, capture_output=True, text=True)
  assert run.returncode == 0, run.stderr
  timed = ('dense_ms', 'nonzeros_ms', 'steps_per_second')
  for table in ('results.csv', 'metrics.csv'):
    a, b = (_rows(folder / name / table) for name in ('straight', 'killed'))
    keep = lambda row: {
      # What changed is counted from the last look, which a killed run has not had.
      k: v
      for k, v in row.items()
      if k not in timed and not k.startswith('changed/')
    }
    assert list(map(keep, a)) == list(map(keep, b))


@pytest.mark.long
def test_steps_of_one_call_are_those_of_single_calls(job):
  folder, environment = job
  losses = []
  for per_call in (1, 4):
    workdir = folder / f'calls_{per_call}'
    command = _command(folder, workdir, ('iss_p_90',))
    run = subprocess.run(
      [*command, f'--config.steps_per_call={per_call}'],
      env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    losses.append(
      [float(r['val_psnr_y_border2']) for r in _rows(workdir / 'metrics.csv')]
    )
  np.testing.assert_allclose(*losses, rtol=1e-4)


@pytest.mark.parametrize(
  'config',
  [
    superres_sample.get_config(),
    superres_bsd_edsr.get_config('0.95'),
    superres_bsd_espcn.get_config('0.9,0.99'),
    superres_swinir_light.get_config(),
  ],
  ids=lambda config: config.name,
)
def test_configs_build(config):
  checked = _superres_settings.check(config)
  for spec in checked.methods:
    _superres_settings.make_tx(checked, spec, 0)


def test_the_paper_s_rate_is_held_and_then_halved():
  config = _superres_settings.check(superres_swinir_light.get_config())
  rate = _superres_settings.learning_rate(config)
  found = [float(rate(jnp.int32(step))) for step in (0, 99_999, 349_000, 351_000, 6e5)]
  np.testing.assert_allclose(found, [2e-4, 2e-4, 2e-4, 1e-4, 2e-4 / 16], rtol=1e-6)


def _changed(**changes):
  config = _superres_defaults.get_config()
  for key, value in changes.items():
    config[key] = value
  return config


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'color': 'grey'}, "config.color: unknown name 'grey'; wanted one of rgb, y"),
    ({'loss': 'l3'}, "config.loss: unknown name 'l3'"),
    ({'patch': 0}, 'config.patch: got 0, wanted at least 1'),
    ({'steps_per_call': 3}, 'num_steps: got 1000, wanted a multiple of .*steps_per_call=3'),
    ({'train': ()}, 'train and tests each need at least one folder'),
    (
      {'learning_rate': {'name': 'constant_schedule', 'kwargs': {}, 'hold': 2000}},
      'hold: got 2000 steps of 1000; wanted less',
    ),
    (
      {'methods': ({'name': 'x', 'transform': 'static', 'sparsity': 0.5,
                    'kwargs': {'criterion': 'snip'}},)},
      'x has a criterion that looks at labels',
    ),
  ],
)  # fmt: skip
def test_what_cannot_be_is_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    _superres_settings.check(_changed(**changes))


def test_a_schedule_that_decays_too_early_is_refused():
  config = _changed(
    methods=_superres_defaults.methods(0.9),
    learning_rate={**_superres_defaults.get_config().learning_rate, 'hold': 0.1},
  )
  config = _superres_settings.check(config)
  spec = next(s for s in config.methods if s['name'] == 'iss_p_90')
  with pytest.raises(ValueError, match='iss_p_90: iss_p: learning_rate falls'):
    _superres_settings.make_tx(config, spec, 0)


def test_validation_images_are_not_trained_on():
  config = _superres_settings.check(
    _changed(train=('sample:china', 'sample:flower', 'sample:china'), validation=1)
  )
  train, held, tests = _superres_settings.load(config, None)
  assert train.names == ('sample:china',) * 2 and held.names == ('sample:flower',)
  assert list(tests) == ['flower']
  config.validation = 3
  with pytest.raises(ValueError, match='config.validation: got 3 of 3'):
    _superres_settings.load(config, None)


def test_a_luma_network_sees_matlab_s_luma():
  image = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
  config = types.SimpleNamespace(color='y')
  seen = np.asarray(_superres_settings.seen(config, jnp.asarray(image)))
  np.testing.assert_allclose(255 * seen[..., 0], _image_metrics.luma(image), rtol=1e-5)
  # Luma that is exact gives the colours back that are bicubic.
  luma = np.round(_image_metrics.luma(image)[..., None]).astype(np.uint8)
  again = _superres_evaluation._coloured(luma, image)
  assert np.abs(again.astype(int) - image).max() <= 1


def test_a_crop_shows_the_steepest_edges():
  truth = np.zeros((32, 48, 3), np.uint8)
  truth[20:30, 36:46] = 255
  rows, columns = _superres_evaluation.window(truth, 16)
  assert (rows.start, columns.start) == (16, 32)
  whole = _superres_evaluation.window(truth, 64)
  assert truth[whole].shape == truth.shape


def test_the_table_leaves_out_what_was_not_measured():
  row = {
    'method': 'a',
    'execution': 'masked',
    'x/psnr_y_border2': '30',
    'kept': '1000',
    'dense_ms': 'nan',
  }
  blank = dict.fromkeys(_superres_report._SIZES, '')
  text = _superres_report.table([{**blank, **row}, {**blank, **row}], {'a': 0.01})
  assert '30.00 ± 0.00' in text and '1,000' in text and text.endswith('10.0 |')


def test_pairs_of_a_config_become_boundaries():
  kwargs = {'boundaries_and_scales': ((0.5, 0.1), (90, 0.1))}
  found = _schedules.resolved(kwargs, 100)
  assert found == {'boundaries_and_scales': {50: 0.1, 90: 0.1}}


def test_a_transform_that_wants_the_rate_gets_it():
  spec = {'name': 'x', 'transform': 'iss_p', 'sparsity': 0.5}
  spec['kwargs'] = {'num_pruning_steps': 0.5}
  with pytest.raises(ValueError, match='method x: iss_p: learning_rate falls'):
    _settings.transform(
      spec, None, 0, 10, rate=lambda step: 1.0 / (1.0 + jnp.float32(step))
    )

"""Photographs for super-resolution: MATLAB's bicubic, patches, odd files, metrics."""

import hashlib

import numpy as np
from PIL import Image
import pytest

from experiments import _image_metrics, datasets


def test_a_step_is_resized_by_the_known_weights():
  """At 1/2 they are (-3, -9, 29, 111, 111, 29, -9, -3) / 256."""
  column = np.zeros((16, 1, 1))
  column[8:] = 256.0
  weights = np.array([-3, -9, 29, 111, 111, 29, -9, -3])
  wanted = [
    sum(w for w, i in zip(weights, range(2 * x - 3, 2 * x + 5)) if i >= 8)
    for x in range(8)
  ]
  found = datasets.resize(column, 0.5)[:, 0, 0]
  np.testing.assert_allclose(found[:6], wanted[:6], atol=1e-9)


def test_a_border_is_mirrored_with_its_pixel():
  row = np.array([1.0, 2.0, 4.0, 8.0]).reshape(1, 4, 1)
  # Enlarged by 2, the first pixel lies at -1/4: taps at -2, -1, 0, 1.
  h = lambda x: (
    1.5 * x**3 - 2.5 * x**2 + 1 if x <= 1 else -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
  )
  first = h(1.75) * 2 + h(0.75) * 1 + h(0.25) * 1 + h(1.25) * 2
  assert datasets.resize(row, 2.0)[0, 0, 0] == pytest.approx(first)


def test_golden_array():
  image = (np.arange(12 * 18 * 3).reshape(12, 18, 3) * 37 % 256).astype(np.uint8)
  assert datasets.resize(image, 1 / 3)[..., 0].tolist() == _GOLDEN


_GOLDEN = [
  [114, 134, 118, 132, 108, 141],
  [112, 137, 118, 141, 124, 141],
  [124, 143, 126, 133, 122, 120],
  [124, 122, 127, 123, 122, 142],
]


@pytest.mark.parametrize('scale', [0.5, 1 / 3, 0.25, 2, 3])
def test_a_flat_image_stays_flat(scale):
  image = np.full((24, 36, 3), 77, np.uint8)
  found = datasets.resize(image, scale)
  assert found.shape == (24 * scale, 36 * scale, 3) and (found == 77).all()


@pytest.mark.data
@pytest.mark.parametrize(
  'scale, y, rgb, ssim',
  [(2, 33.67, 31.79, 0.9303), (3, 30.40, 28.62, 0.8689), (4, 28.43, 26.69, 0.8111)],
)
def test_bicubic_on_set5(data_dir, scale, y, rgb, ssim):
  root = next((d for d in (data_dir, data_dir.parent) if (d / 'set5').is_dir()), None)
  if root is None:
    pytest.skip(f'needs set5/HR and set5/LR_bicubic in {data_dir} or beside it')
  given = datasets.photographs(
    'set5/HR', scale, str(root), low='set5/LR_bicubic/X{scale}'
  )
  ours = datasets.photographs('set5/HR', scale, str(root))
  for a, b in zip(ours.low, given.low, strict=True):
    np.testing.assert_array_equal(a, b)  # MATLAB's, to the bit.
  found = [
    _image_metrics.scores(datasets.resize(low, scale), high, scale)
    for low, high in zip(ours.low, ours.high)
  ]
  mean = {k: np.mean([f[k] for f in found]) for k in found[0]}
  assert mean[f'psnr_y_border{scale}'] == pytest.approx(y, abs=0.05)
  assert mean[f'psnr_rgb_border{scale}'] == pytest.approx(rgb, abs=0.05)
  assert mean[f'ssim_y_border{scale}'] == pytest.approx(ssim, abs=5e-4)


def test_ssim_is_that_of_scikit_image():
  metrics = pytest.importorskip('skimage.metrics')
  rng = np.random.default_rng(0)
  a = rng.uniform(16, 235, (40, 30))
  b = np.clip(a + rng.normal(0, 9, a.shape), 0, 255)
  wanted = metrics.structural_similarity(
    a, b, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
  )
  assert _image_metrics.ssim(a, b) == pytest.approx(wanted, abs=1e-6)


def test_ssim_of_one_window():
  """By the formula, with the window's weights written out."""
  rng = np.random.default_rng(1)
  a, b = rng.uniform(0, 255, (2, 11, 11))
  line = np.exp(-((np.arange(11) - 5.0) ** 2) / 4.5)
  w = np.outer(line, line) / line.sum() ** 2
  ma, mb = (w * a).sum(), (w * b).sum()
  va, vb = (w * (a - ma) ** 2).sum(), (w * (b - mb) ** 2).sum()
  cov = (w * (a - ma) * (b - mb)).sum()
  c1, c2 = 2.55**2, 7.65**2
  wanted = (2 * ma * mb + c1) * (2 * cov + c2)
  wanted /= (ma**2 + mb**2 + c1) * (va + vb + c2)
  assert _image_metrics.ssim(a, b) == pytest.approx(wanted)
  assert np.isnan(_image_metrics.ssim(a[:9], b[:9]))


def test_scores_leave_the_border_out():
  truth = np.full((20, 24, 3), 50, np.uint8)
  found = truth.copy()
  found[:2] = 255
  assert _image_metrics.scores(found, truth, 2)['psnr_rgb_border2'] == np.inf
  assert _image_metrics.scores(found, truth, 1)['psnr_y_border1'] < 30
  y = _image_metrics.luma(truth)[..., None]
  assert list(_image_metrics.scores(y, truth, 2)) == [
    'psnr_y_border2',
    'ssim_y_border2',
  ]
  with pytest.raises(ValueError, match='wanted that of the truth'):
    _image_metrics.scores(found[1:], truth, 2)
  with pytest.raises(ValueError, match='border=10: nothing is left'):
    _image_metrics.scores(found, truth, 10)


@pytest.fixture
def folder(tmp_path):
  """Five files in five modes, of two sizes, in no order of theirs."""
  rng = np.random.default_rng(0)
  pixels = lambda *shape: rng.integers(0, 256, shape, dtype=np.uint8)
  Image.fromarray(pixels(21, 31, 3)).save(tmp_path / 'b_colour.png')
  Image.fromarray(pixels(20, 30)).save(tmp_path / 'c_grey.bmp')
  Image.fromarray(pixels(20, 30, 4)).save(tmp_path / 'a_alpha.png')
  deep = rng.integers(0, 65536, (20, 30), dtype=np.uint16)
  Image.fromarray(deep).save(tmp_path / 'd_deep.png')
  Image.fromarray(pixels(20, 30, 3)).quantize(8).save(tmp_path / 'e_palette.png')
  (tmp_path / 'notes.txt').write_text('no image')
  return tmp_path, deep


def test_every_mode_becomes_three_channels(folder):
  path, deep = folder
  data = datasets.photographs(str(path), 2)
  assert [n.rsplit('/', 1)[-1][0] for n in data.names] == list('abcde')
  assert {(x.shape, x.dtype) for x in data.high} == {((20, 30, 3), np.dtype('uint8'))}
  assert {x.shape for x in data.low} == {(10, 15, 3)}
  np.testing.assert_array_equal(data.high[3][..., 1], deep >> 8)
  assert (data.high[2][..., 0] == data.high[2][..., 2]).all()


def test_what_cannot_be_used_is_named(folder):
  path, _ = folder
  with pytest.raises(ValueError, match=r'a_alpha.png: 20x30 pixels; .* at least 24'):
    datasets.photographs(str(path), 2, smallest=24)
  data = datasets.photographs(str(path), 2, most=2)
  assert len(data.names) == 2
  with pytest.raises(ValueError, match='a_alpha.png: 10x15 pixels at low .* 12x12'):
    datasets.patches(data, 1, 12, 0, 0)
  with pytest.raises(ValueError, match='no such folder'):
    datasets.photographs('nowhere', 2, str(path))
  (path / 'empty').mkdir()
  with pytest.raises(ValueError, match='empty: no image in it'):
    datasets.photographs('empty', 2, str(path))
  with pytest.raises(ValueError, match='wanted one of sample:china, sample:flower'):
    datasets.photographs('sample:dog', 2)
  (path / 'small').mkdir()
  Image.new('RGB', (10, 10)).save(path / 'small' / 'a.png')
  with pytest.raises(ValueError, match='small: 1 images for the 5'):
    datasets.photographs(str(path), 2, low=str(path / 'small'))
  with pytest.raises(ValueError, match=r'a.png: 10x10 pixels, .* has 20x30; .* 1/2'):
    datasets.photographs(str(path), 2, low=str(path / 'small'), most=1)
  (path / 'a_broken.png').write_bytes(b'PNG')
  with pytest.raises(ValueError, match='a_broken.png: not a readable image'):
    datasets.photographs(str(path), 2)
  with pytest.raises(ValueError, match=r'image: got int64\[4, 4\]; wanted \(H, W, C\)'):
    datasets.resize(np.zeros((4, 4), int), 2)
  with pytest.raises(ValueError, match='scale=0: wanted a positive number'):
    datasets.resize(np.zeros((4, 4, 1)), 0)


def _numbered():
  """Photographs whose pixels tell where they are."""
  low = []
  for index, (height, width) in enumerate([(8, 9), (12, 7)]):
    y, x = np.mgrid[:height, :width].astype(np.uint8)
    low.append(np.stack([y, x, np.full_like(y, index)], -1))
  high = [np.repeat(np.repeat(x, 2, 0), 2, 1) for x in low]
  return datasets.Photographs(('one', 'two'), tuple(high), tuple(low), 2)


def test_patches_are_cut_from_the_same_place():
  batch = datasets.patches(_numbered(), 200, 6, step=3, seed=1)
  np.testing.assert_array_equal(batch['high'][:, ::2, ::2], batch['low'])
  seen = {tuple(p[..., 2].ravel()[:1]) for p in batch['low']}
  assert seen == {(0,), (1,)}
  # Eight ways: where the first row and column of the patch have gone.
  corners = batch['low'][:, ::5, ::5, :2].astype(int).reshape(200, 4, 2)
  lowest = (corners - corners.min(1, keepdims=True)) // 5
  assert len({tuple(c.ravel()) for c in lowest}) == 8
  tops = {(p[..., 2].flat[0], p[..., 0].min(), p[..., 1].min()) for p in batch['low']}
  assert len(tops) == 3 * 4 + 7 * 2  # Every place of both photographs.


def test_a_step_has_the_same_patches_for_ever():
  data = _numbered()
  again = [datasets.patches(data, 3, 4, step=s, seed=0)['low'] for s in (5, 6, 5)]
  np.testing.assert_array_equal(again[0], again[2])
  assert not np.array_equal(again[0], again[1])
  other = datasets.patches(data, 3, 4, step=5, seed=1)['low']
  assert not np.array_equal(again[0], other)
  digest = hashlib.sha256(again[0].tobytes()).hexdigest()
  assert digest[:12] == _DIGEST
  plain = datasets.patches(data, 50, 4, step=0, seed=0, augment=False)['low']
  assert (np.diff(plain[..., 0].astype(int), axis=1) == 1).all()
  with pytest.raises(ValueError, match='batch_size=0, size=4, step=0'):
    datasets.patches(data, 0, 4, 0, 0)


_DIGEST = 'f26f27f96212'

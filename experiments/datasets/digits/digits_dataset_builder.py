"""The TFDS builder of scikit-learn's optical digits; needs no TensorFlow."""

import numpy as np
import tensorflow_datasets as tfds

_DESCRIPTION = """
1,797 handwritten digits of 8x8 pixels, 43 writers, as shipped in scikit-learn. It
is the test part of the UCI set, and scikit-learn keeps no writer ids, so the split
into train and test is by image, not by writer: 20 % of each class, drawn once with a
fixed key. The 17 grey levels 0..16 are spread over 0..255.
"""

_CITATION = """
@misc{alpaydin1998optical,
  title={Optical Recognition of Handwritten Digits},
  author={Alpaydin, E. and Kaynak, C.},
  year={1998},
  publisher={UCI Machine Learning Repository},
  doi={10.24432/C50P49}
}
"""


class Builder(tfds.core.GeneratorBasedBuilder):
  """Prepares `digits`: 1,442 training and 355 test images.

  The images are a plain uint8 tensor, because TFDS needs TensorFlow to encode its
  `Image` feature; of the file formats only `array_record` is random access and
  complete without TensorFlow.

  Example:
    >>> import tempfile
    >>> import tensorflow_datasets as tfds
    >>> from experiments.datasets import digits
    >>> directory = tempfile.mkdtemp()
    >>> builder = tfds.builder('digits', data_dir=directory, file_format='array_record')
    >>> builder.download_and_prepare()  # doctest: +ELLIPSIS
    Downloading and preparing dataset ...
    >>> builder.as_data_source('train')[0]['image'].shape
    (8, 8, 1)
  """

  VERSION = tfds.core.Version('1.0.0')

  def _info(self) -> tfds.core.DatasetInfo:
    features = tfds.features.FeaturesDict(
      {
        'image': tfds.features.Tensor(shape=(8, 8, 1), dtype=np.uint8),
        'label': tfds.features.ClassLabel(num_classes=10),
      }
    )
    return tfds.core.DatasetInfo(
      builder=self,
      description=_DESCRIPTION,
      features=features,
      supervised_keys=('image', 'label'),
      homepage='https://archive.ics.uci.edu/dataset/80',
      citation=_CITATION,
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # The images come with scikit-learn.
    return {
      'train': self._generate_examples(test=False),
      'test': self._generate_examples(test=True),
    }

  def _generate_examples(self, test: bool):
    from sklearn import datasets

    images, labels = datasets.load_digits(return_X_y=True)
    images = np.round(images.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    for index in np.flatnonzero(_is_test(labels) == test).tolist():
      yield index, {'image': images[index], 'label': int(labels[index])}


def _is_test(labels) -> np.ndarray:
  """A fifth of each class, by the raw words of Philox: the same in every NumPy."""
  chosen = np.zeros(len(labels), bool)
  for label in range(10):
    members = np.flatnonzero(labels == label)
    words = np.random.Philox(key=[0, label]).random_raw(len(members))
    chosen[members[np.argsort(words)[: len(members) // 5]]] = True
  return chosen

"""The optical digits of scikit-learn as a TFDS data set.

Importing this package registers the builder, so that
`tfds.data_source('digits', ...)` finds it by name.
"""

from experiments.datasets.digits.digits_dataset_builder import Builder

__all__ = ('Builder',)

"""Which data a step sees: plans over records, and how batches are made of them.

A plan is a pure function from a step to record indices and weights; RS2 and all that it
is held against are plans.
"""

from jaxsparse.data._device import gather
from jaxsparse.data._grain import Example, grain_dataset
from jaxsparse.data._plan import Plan, check_resume
from jaxsparse.data._policies import full, iid, short_full, static_subset, subset
from jaxsparse.data._rs2 import rs2
from jaxsparse.data._weighted import curriculum, effective_sample_size, importance

__all__ = (
  'Example',
  'Plan',
  'check_resume',
  'curriculum',
  'effective_sample_size',
  'full',
  'gather',
  'grain_dataset',
  'iid',
  'importance',
  'rs2',
  'short_full',
  'static_subset',
  'subset',
)

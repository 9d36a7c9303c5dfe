"""Conformance checks for transforms, ours and other people's."""

from jaxsparse.testing._devices import check_replicas, check_sharded
from jaxsparse.testing._history import (
  History,
  MakeTx,
  gradients,
  make_step,
  small_params,
  train,
)
from jaxsparse.testing._runs import (
  check_checkpoint,
  check_donation,
  check_extra_args,
  check_nan,
  check_vmap,
  step_axes,
)
from jaxsparse.testing._steps import (
  check_counts,
  check_grown,
  check_masks_move,
  check_one_trace,
  check_protocol,
  check_zeros,
)
from jaxsparse.testing._transform import check_transform
from jaxsparse.testing._trees import (
  check_containers,
  check_dtype,
  check_masked_node,
  check_odd_trees,
)

__all__ = (
  'History',
  'MakeTx',
  'check_checkpoint',
  'check_containers',
  'check_counts',
  'check_donation',
  'check_dtype',
  'check_extra_args',
  'check_grown',
  'check_masked_node',
  'check_masks_move',
  'check_nan',
  'check_odd_trees',
  'check_one_trace',
  'check_protocol',
  'check_replicas',
  'check_sharded',
  'check_transform',
  'check_vmap',
  'check_zeros',
  'gradients',
  'make_step',
  'small_params',
  'step_axes',
  'train',
)

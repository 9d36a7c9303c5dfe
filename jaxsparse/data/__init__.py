"""Which data a step sees: plans over records, and what chooses among records.

A plan is a pure function from a step to record indices and weights; RS2 and all that it
is held against are plans. Scores rank records and selections choose them:
`js.data.subset(*selection, ...)` is a plan of the chosen ones.
"""

from jaxsparse.data._aum import AumState, aum_init, aum_scores, aum_update
from jaxsparse.data._contrastive import cal
from jaxsparse.data._device import gather
from jaxsparse.data._dps import DPS, dps_entropy
from jaxsparse.data._forgetting import (
  ForgettingState,
  forgetting_init,
  forgetting_scores,
  forgetting_update,
)
from jaxsparse.data._gais_style import GaisScores, gais_style
from jaxsparse.data._glister import glister
from jaxsparse.data._gradient_rows import LastLayerGradients, last_layer_gradients
from jaxsparse.data._grain import Example, grain_dataset
from jaxsparse.data._greedy_facility import craig, facility_location
from jaxsparse.data._greedy_geometry import herding, k_center_greedy
from jaxsparse.data._greedy_graph_cut import graph_cut
from jaxsparse.data._information_gain import label_propagation, mig
from jaxsparse.data._matching import gradmatch
from jaxsparse.data._plan import Plan, check_resume
from jaxsparse.data._policies import full, iid, short_full, static_subset, subset
from jaxsparse.data._prototypes import (
  Prototypes,
  prototype_distances,
  ssp_prototypes,
)
from jaxsparse.data._rs2 import rs2
from jaxsparse.data._scores import el2n, entropy, least_confidence, margin
from jaxsparse.data._scores_gradients import deepfool_margin, grand, grand_last_layer
from jaxsparse.data._selection import (
  Selection,
  class_budgets,
  per_class,
  random_subset,
  top_scores,
)
from jaxsparse.data._stratified import ccs, moderate
from jaxsparse.data._weighted import curriculum, effective_sample_size, importance

__all__ = (
  'AumState',
  'DPS',
  'Example',
  'ForgettingState',
  'GaisScores',
  'LastLayerGradients',
  'Plan',
  'Prototypes',
  'Selection',
  'aum_init',
  'aum_scores',
  'aum_update',
  'cal',
  'ccs',
  'check_resume',
  'class_budgets',
  'craig',
  'curriculum',
  'deepfool_margin',
  'dps_entropy',
  'effective_sample_size',
  'el2n',
  'entropy',
  'facility_location',
  'forgetting_init',
  'forgetting_scores',
  'forgetting_update',
  'full',
  'gais_style',
  'gather',
  'glister',
  'gradmatch',
  'grain_dataset',
  'grand',
  'grand_last_layer',
  'graph_cut',
  'herding',
  'iid',
  'importance',
  'k_center_greedy',
  'label_propagation',
  'last_layer_gradients',
  'least_confidence',
  'margin',
  'mig',
  'moderate',
  'per_class',
  'prototype_distances',
  'random_subset',
  'rs2',
  'short_full',
  'ssp_prototypes',
  'static_subset',
  'subset',
  'top_scores',
)

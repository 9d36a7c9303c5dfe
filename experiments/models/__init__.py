"""Small networks in Linen and NNX, one adapter for both, and recommenders."""

from experiments.models._adapters import Model, from_linen, from_nnx
from experiments.models._matched import matched_width, num_params
from experiments.models._recommender import RECOMMENDERS, Recommender, recommender
from experiments.models._table import TABLES, Table
from experiments.models.edsr import EDSR
from experiments.models.espcn import ESPCN
from experiments.models.fsrcnn import FSRCNN
from experiments.models.lenet5 import LeNet5
from experiments.models.mf import MF, LightGCN, normalized_edges, propagate
from experiments.models.mlp import MLP
from experiments.models.mlp_nnx import NnxMLP
from experiments.models.mult_vae import MultVAE
from experiments.models.neumf import NeuMF
from experiments.models.regressor import Regressor
from experiments.models.resnet import ResNet
from experiments.models.resnet_nnx import NnxResNet
from experiments.models.swinir import SwinIR
from experiments.models.vit import ViT
from experiments.models.wide_resnet import WideResNet

# Last: it looks the names above up.
from experiments.models._build import build, build_upscaler  # isort: skip

__all__ = (
  'EDSR',
  'ESPCN',
  'FSRCNN',
  'LeNet5',
  'LightGCN',
  'MF',
  'MLP',
  'Model',
  'MultVAE',
  'NeuMF',
  'NnxMLP',
  'NnxResNet',
  'RECOMMENDERS',
  'Recommender',
  'Regressor',
  'ResNet',
  'SwinIR',
  'TABLES',
  'Table',
  'ViT',
  'WideResNet',
  'build',
  'build_upscaler',
  'from_linen',
  'from_nnx',
  'matched_width',
  'normalized_edges',
  'num_params',
  'propagate',
  'recommender',
)

"""Small networks in Linen and NNX, and one adapter for both."""

from experiments.models._adapters import Model, from_linen, from_nnx
from experiments.models._matched import matched_width, num_params
from experiments.models.edsr import EDSR
from experiments.models.espcn import ESPCN
from experiments.models.fsrcnn import FSRCNN
from experiments.models.lenet5 import LeNet5
from experiments.models.mlp import MLP
from experiments.models.mlp_nnx import NnxMLP
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
  'MLP',
  'Model',
  'NnxMLP',
  'NnxResNet',
  'Regressor',
  'ResNet',
  'SwinIR',
  'ViT',
  'WideResNet',
  'build',
  'build_upscaler',
  'from_linen',
  'from_nnx',
  'matched_width',
  'num_params',
)

"""Encoders and heads: linen modules called as `module(inputs, train=..., axis_name=...)`.

An encoder maps inputs to features [N, F]; a head maps features to embeddings [N, D]. Parameters are
float32; `dtype="bfloat16"` computes in bfloat16. Statistics of BatchNorm live in the collection
`batch_stats`.
"""

from jaxcl.encoders.cnn import SmallCNN
from jaxcl.encoders.heads import (
    moco_v1_projector,
    moco_v2_projector,
    moco_v3_predictor,
    moco_v3_projector,
    simclr_v1_projector,
    simclr_v2_projector,
)
from jaxcl.encoders.mlp import MLP
from jaxcl.encoders.norm import BatchNorm
from jaxcl.encoders.resnet import ResNet
from jaxcl.encoders.scales import LearnableTemperature, SigmoidScaleAndBias

__all__ = [
    "MLP",
    "BatchNorm",
    "LearnableTemperature",
    "ResNet",
    "SigmoidScaleAndBias",
    "SmallCNN",
    "moco_v1_projector",
    "moco_v2_projector",
    "moco_v3_predictor",
    "moco_v3_projector",
    "simclr_v1_projector",
    "simclr_v2_projector",
]

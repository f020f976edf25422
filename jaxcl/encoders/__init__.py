"""Encoders and heads: linen modules called as `module(inputs, train=..., axis_name=...)`; and
learned scales of similarities, modules without inputs.

An encoder maps inputs to features [N, F]; a head maps features to embeddings [N, D]. Parameters are
float32; `dtype="bfloat16"` computes in bfloat16. Statistics of BatchNorm live in the collection
`batch_stats`.
"""

from jaxcl.encoders.cnn import SmallCNN
from jaxcl.encoders.convnext import ConvNeXt
from jaxcl.encoders.efficientnet import EfficientNetLite
from jaxcl.encoders.feature_maps import features_and_map, keep_feature_map
from jaxcl.encoders.heads import (
    barlow_twins_projector,
    byol_projector,
    dino_projector,
    moco_v1_projector,
    moco_v2_projector,
    moco_v3_predictor,
    moco_v3_projector,
    nnclr_projector,
    simclr_v1_projector,
    simclr_v2_projector,
    simsiam_predictor,
    simsiam_projector,
    swav_projector,
)
from jaxcl.encoders.mlp import MLP
from jaxcl.encoders.norm import BatchNorm
from jaxcl.encoders.prototypes import Prototypes
from jaxcl.encoders.resnet import ResNet
from jaxcl.encoders.samples import Recurrence, SampleConvolutions, wav2vec_front
from jaxcl.encoders.scales import LearnableTemperature, SigmoidScaleAndBias
from jaxcl.encoders.series import OnFrames, TemporalConvolutions
from jaxcl.encoders.sound import OnSpectrogram
from jaxcl.encoders.speech import FrameTransformer, LSTMSpeaker, ProductQuantizer
from jaxcl.encoders.tanh import TanhProjector
from jaxcl.encoders.text import TextTransformer, bert, clip_text, modern_text
from jaxcl.encoders.vit import ViT
from jaxcl.encoders.wide_resnet import WideResNet

__all__ = [
    "MLP",
    "BatchNorm",
    "ConvNeXt",
    "EfficientNetLite",
    "FrameTransformer",
    "LSTMSpeaker",
    "LearnableTemperature",
    "OnFrames",
    "OnSpectrogram",
    "ProductQuantizer",
    "Prototypes",
    "Recurrence",
    "ResNet",
    "SampleConvolutions",
    "SigmoidScaleAndBias",
    "SmallCNN",
    "TanhProjector",
    "TemporalConvolutions",
    "TextTransformer",
    "ViT",
    "WideResNet",
    "barlow_twins_projector",
    "bert",
    "byol_projector",
    "clip_text",
    "dino_projector",
    "features_and_map",
    "keep_feature_map",
    "moco_v1_projector",
    "moco_v2_projector",
    "moco_v3_predictor",
    "moco_v3_projector",
    "modern_text",
    "nnclr_projector",
    "simclr_v1_projector",
    "simclr_v2_projector",
    "simsiam_predictor",
    "simsiam_projector",
    "swav_projector",
    "wav2vec_front",
]

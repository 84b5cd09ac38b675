"""Functions of nn.functional that torch also has at its top level or as methods."""

from __future__ import annotations

from headrace.functional.base import FUNCTIONS, METHODS
from headrace.nn import functional as F

for _name in [
    "relu",
    "relu_",
    "rrelu",
    "prelu",
    "selu",
    "celu",
    "threshold",
    "hardshrink",
    "softmax",
    "log_softmax",
    "dropout",
    "alpha_dropout",
    "feature_dropout",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "batch_norm",
    "layer_norm",
    "group_norm",
    "instance_norm",
    "rms_norm",
    "embedding",
    "embedding_bag",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "avg_pool1d",
    "adaptive_avg_pool1d",
    "adaptive_max_pool1d",
    "bilinear",
    "pixel_shuffle",
    "pixel_unshuffle",
    "channel_shuffle",
    "binary_cross_entropy_with_logits",
]:
    FUNCTIONS[_name] = getattr(F, _name)
for _name in ("relu", "relu_", "prelu", "hardshrink", "softmax", "log_softmax"):
    METHODS[_name] = getattr(F, _name)

"""keras-hub's ``DenseNetBackbone`` and ``DenseNetImageClassifier``.

Its stem pads "same", so it is another network than torchvision's or keras.applications' with the
same weights, by several percent at the feature map.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from densespec.weights.layouts import Layout, keras_names
from densespec.weights.tensors import Tensors

BACKBONE = "layers/dense_net_backbone/"
_WHOLE = {"stem.conv": "conv1_conv", "stem.norm": "conv1_bn", "final.norm": "bn"}
_LEAVES = {"norm1": "1_bn", "conv1": "1_conv", "norm2": "2_bn", "conv2": "2_conv"}


def layer_name(node: str) -> str:
    """``block2.layer3.norm1`` is ``stack2_block3_1_bn``."""
    if node in _WHOLE:
        return _WHOLE[node]
    if match := re.fullmatch(r"block(\d+)\.layer(\d+)\.(\w+)", node):
        block, layer, leaf = match.groups()
        return f"stack{block}_block{layer}_{_LEAVES[leaf]}"
    if match := re.fullmatch(r"transition(\d+)\.(norm|conv)", node):
        return f"transition{match[1]}_{'bn' if match[2] == 'norm' else 'conv'}"
    return "predictions" if node == "classifier" else node.replace(".", "_")


def _claims(tensors: Tensors, metadata: Mapping[str, str]) -> bool:
    if any(name.startswith(BACKBONE) for name in tensors):
        return True
    return "stack1_block1_1_conv" in metadata.get("layer_names", "")


LAYOUT = Layout(
    name="keras-hub",
    about="keras_hub.models.DenseNetBackbone and DenseNetImageClassifier",
    containers=("keras-weights",),
    keys=keras_names.keys(layer_name, BACKBONE),
    axes="window_in_out",
    claims=_claims,
    evidence=keras_names.evidence(layer_name, BACKBONE),
    implements={
        **keras_names.NORM,
        "bottleneck_width": 4,
        "spatial_dims": 2,
        "stem_kind": "conv-norm-relu",
        "stem_width": 64,
        "stem_kernel": 7,
        "stem_stride": 2,
        "stem_pool": 3,
        "padding": "same",
        "conv_bias": False,
        "batch_norm_epsilon": 1.001e-5,
        "transition_relu": True,
        "final_norm": True,
        "dropout_rate": 0.0,
    },
    ignored=keras_names.is_bookkeeping,
    metadata=keras_names.metadata(layer_name, BACKBONE),
)

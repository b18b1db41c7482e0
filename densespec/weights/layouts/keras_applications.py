"""``keras.applications.DenseNet*``: Keras 3 files, and the legacy ``.h5`` it was published as."""

from __future__ import annotations

import re

from densespec.weights.layouts import Layout, keras_names
from densespec.weights.tensors import Tensor, Tensors

_WHOLE = {
    "stem.conv": "conv1_conv",
    "stem.norm": "conv1_bn",
    "final.norm": "bn",
    "classifier": "predictions",
}
MARK = "conv2_block1_0_bn"
_LEAVES = {"norm1": "0_bn", "conv1": "1_conv", "norm2": "1_bn", "conv2": "2_conv"}


def layer_name(node: str) -> str:
    """``block2.layer3.norm1`` is ``conv3_block3_0_bn``, ``transition1.conv`` is ``pool2_conv``."""
    if node in _WHOLE:
        return _WHOLE[node]
    if match := re.fullmatch(r"block(\d+)\.layer(\d+)\.(\w+)", node):
        block, layer, leaf = match.groups()
        return f"conv{int(block) + 1}_block{layer}_{_LEAVES[leaf]}"
    if match := re.fullmatch(r"transition(\d+)\.(norm|conv)", node):
        return f"pool{int(match[1]) + 1}_{'bn' if match[2] == 'norm' else 'conv'}"
    return node.replace(".", "_")


def _normalise(tensors: Tensors) -> dict[str, Tensor]:
    """Keras 2 called the stem's layers ``conv1/conv`` and ``conv1/bn``."""
    modern = keras_names.normalise_legacy(tensors)
    return {
        name.replace("conv1/conv/", "conv1_conv/").replace("conv1/bn/", "conv1_bn/"): tensor
        for name, tensor in modern.items()
    }


LAYOUT = Layout(
    name="keras-applications",
    about="keras.applications.DenseNet121, 169 and 201",
    containers=("keras-weights", "keras-legacy", "keras"),
    keys=keras_names.keys(layer_name),
    axes="window_in_out",
    claims=lambda tensors, metadata: (
        MARK in metadata.get("layer_names", "") or f"{MARK}/gamma" in _normalise(tensors)
    ),
    evidence=keras_names.evidence(layer_name),
    implements={
        **keras_names.NORM,
        "growth_rate": 32,
        "bottleneck_width": 4,
        "compression": 0.5,
        "spatial_dims": 2,
        "stem_kind": "conv-norm-relu",
        "stem_width": 64,
        "stem_kernel": 7,
        "stem_stride": 2,
        "stem_pool": 3,
        "padding": "symmetric",
        "conv_bias": False,
        "batch_norm_epsilon": 1.001e-5,
        "transition_relu": True,
        "final_norm": True,
        "dropout_rate": 0.0,
    },
    normalise=_normalise,
    ignored=keras_names.is_bookkeeping,
    metadata=keras_names.metadata(layer_name),
)

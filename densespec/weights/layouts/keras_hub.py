"""Names arrays as keras-hub's ``DenseNetBackbone`` and ``DenseNetImageClassifier`` do.

Its stem pads "same". So with the same weights it is another network than torchvision's or
keras.applications': feature maps differ by several percent.
"""

from __future__ import annotations

from collections.abc import Mapping

from densespec.weights.layouts import Layout, keras_names
from densespec.weights.tensors import Tensors

BACKBONE = "layers/dense_net_backbone/"

# block2.layer3.norm1 is stack2_block3_1_bn.
layer_name = keras_names.port_names(
    block=lambda number: f"stack{number}",
    transition=lambda number: f"transition{number}",
    leaves={"norm1": "1_bn", "conv1": "1_conv", "norm2": "2_bn", "conv2": "2_conv"},
)


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
    implements={**keras_names.PORT, "padding": "same"},
    ignored=keras_names.is_bookkeeping,
    metadata=keras_names.metadata(layer_name, BACKBONE),
)

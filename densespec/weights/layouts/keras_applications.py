"""``keras.applications.DenseNet*``: Keras 3 files, and the legacy ``.h5`` it was published as."""

from __future__ import annotations

from densespec.weights.layouts import Layout, keras_names
from densespec.weights.tensors import Tensor, Tensors

MARK = "conv2_block1_0_bn"

# block2.layer3.norm1 is conv3_block3_0_bn, transition1.conv is pool2_conv.
layer_name = keras_names.port_names(
    block=lambda number: f"conv{number + 1}",
    transition=lambda number: f"pool{number + 1}",
    leaves={"norm1": "0_bn", "conv1": "1_conv", "norm2": "1_bn", "conv2": "2_conv"},
)


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
        **keras_names.PORT,
        "padding": "symmetric",
        "growth_rate": 32,
        "compression": 0.5,
    },
    normalise=_normalise,
    ignored=keras_names.is_bookkeeping,
    metadata=keras_names.metadata(layer_name),
)

"""Names arrays as in Keras models that densespec built, for any spec."""

from __future__ import annotations

from densespec.weights.layouts import Layout, keras_names
from densespec.weights.layouts.keras_flat import flat
from densespec.weights.stated.keras_network import stated_network


def layer_name(node: str) -> str:
    """Name a node's layer: ``block2.layer3.norm1`` becomes ``block2_layer3_norm1``."""
    return node.replace(".", "_")


LAYOUT = Layout(
    name="densespec-keras",
    about="Keras models built by densespec",
    containers=("keras-weights", "keras", "keras-legacy"),
    keys=keras_names.keys(layer_name),
    axes="window_in_out",
    claims=keras_names.claims("stem_conv"),
    evidence=keras_names.evidence(layer_name),
    normalise=flat(layer_name),
    ignored=keras_names.is_bookkeeping,
    metadata=keras_names.metadata(layer_name),
    stated_network=stated_network,
)

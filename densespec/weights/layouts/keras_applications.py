"""Names arrays as ``keras.applications.DenseNet*`` does, in Keras 3's files and legacy ``.h5``."""

from __future__ import annotations

import re
from collections.abc import Mapping

from densespec.weights.layouts import Layout, keras_names, renamed
from densespec.weights.layouts.keras_flat import flat
from densespec.weights.stated.keras_network import CONFIG_KEYS, stated_network
from densespec.weights.tensors import Tensor, Tensors

MARK = "conv2_block1_0_bn"

# block2.layer3.norm1 is conv3_block3_0_bn, transition1.conv is pool2_conv.
layer_name = keras_names.port_names(
    block=lambda number: f"conv{number + 1}",
    transition=lambda number: f"pool{number + 1}",
    leaves={"norm1": "0_bn", "conv1": "1_conv", "norm2": "1_bn", "conv2": "2_conv"},
)


# Keras 2's names: of the stem, of what is made again in one session, and of the classifier.
_OLD_NAMES = (
    (re.compile(r"\bconv1/(conv|bn)(?=/|_\d)"), r"conv1_\1"),
    (re.compile(r"((?:_|\b)(?:conv|bn)|fc1000|predictions)_\d+(?=/[^/]+$)"), r"\1"),
    (re.compile(r"\bfc1000/"), "predictions/"),
)


def _modern(name: str) -> str:
    name = name.removesuffix(":0")
    for old, new in _OLD_NAMES:
        name = old.sub(new, name)
    return name


_flat = flat(layer_name)


def _normalise(tensors: Tensors) -> dict[str, Tensor]:
    return _flat(renamed(tensors, _modern))


def _is_nameless(tensors: Tensors, metadata: Mapping[str, str]) -> bool:
    layer, leaf = "layers/conv2d", "/vars/0"
    homes = {name.removesuffix(layer + leaf) for name in tensors if name.endswith(layer + leaf)}
    beside = {name.partition(f"{layer}_")[0] for name in tensors if f"{layer}_" in name}
    return not homes.isdisjoint(beside) and not keras_names.notes_names(metadata)


def _claims(tensors: Tensors, metadata: Mapping[str, str]) -> bool:
    texts = "".join(metadata.get(key, "") for key in ("layer_names", *CONFIG_KEYS))
    return (
        MARK in texts
        or any(_modern(name) == f"{MARK}/gamma" for name in tensors)
        or _is_nameless(tensors, metadata)
    )


def _notes(metadata: Mapping[str, str]) -> tuple[str, ...]:
    if "layer_names" not in metadata or keras_names.notes_names(metadata):
        return ()
    return ("it notes no names of layers, and is taken for keras.applications' by its shapes",)


LAYOUT = Layout(
    name="keras-applications",
    about="keras.applications.DenseNet121, 169 and 201",
    containers=("keras-weights", "keras-legacy", "keras"),
    keys=keras_names.keys(layer_name),
    axes="window_in_out",
    claims=_claims,
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
    stated_network=stated_network,
    notes=_notes,
)

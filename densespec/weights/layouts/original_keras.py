"""Names arrays as the Keras original of ``densenet169-bc``, whose units are models within models.

In Keras 3's ``.weights.h5`` the path of an array consists of attributes, numbers of layers, and the
place where the program keeps its layers:
``layer_dense/dense_block_1/dense_layers/dense_layer/conv1/bn`` in the network as it is,
``layers/dense_block_1/...`` in the one made functional. A legacy ``.h5`` has names of layers in
both: ``block_1/layer_0/layer_0conv1/batch_normalization_7``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping

from densespec.network.graph import Graph
from densespec.weights.evidence import Evidence, KernelShape, evidence_by_name
from densespec.weights.layouts import Layout, canonical_shape, keras_names, original, renamed
from densespec.weights.layouts.keras_names import LEGACY, legacy_key, numbered, variable_key
from densespec.weights.layouts.places import UNIT, by_place
from densespec.weights.tensors import Tensor, Tensors

_LAYERS = {"norm": "batch_normalization", "conv": "conv2d"}

_path = by_place(
    stem=lambda kind: f"bn_relu_conv/{UNIT[kind]}",
    layer=lambda block, layer, kind, number: (
        f"{numbered('dense_block', block - 1)}/dense_layers/"
        f"{numbered('dense_layer', layer - 1)}/conv{number}/{UNIT[kind]}"
    ),
    transition=lambda number, kind: f"{numbered('transition_layer', number - 1)}/conv/{UNIT[kind]}",
    others={"classifier": "dense"},
)
_layer_name = by_place(
    stem=lambda kind: f"conv1/{_LAYERS[kind]}",
    layer=lambda block, layer, kind, number: (
        f"block_{block - 1}/layer_{layer - 1}/layer_{layer - 1}conv{number}/{_LAYERS[kind]}"
    ),
    transition=lambda number, kind: f"trans_{number - 1}/trans_{number - 1}conv1/{_LAYERS[kind]}",
    others={"classifier": "dense"},
)

_STEM = re.compile(r"(.+/)?(layer_dense/|layers/)bn_relu_conv/.+")
_LEGACY_STEM = re.compile(r"(.+/)?()conv1/conv2d(_\d+)?/kernel")

# Numbers that go on from model to model, and Keras 2.14's paths, which have no attributes.
_OTHER_SPELLINGS = (
    (re.compile(r"\b(batch_normalization|conv2d|^dense)_\d+(?=/\w+$)"), r"\1"),
    (re.compile(r"/layers/batch_normalization/"), "/bn/"),
    (re.compile(r"/layers/conv2d/"), "/conv/"),
    (re.compile(r"(dense_block(?:_\d+)?)/layers/"), r"\1/dense_layers/"),
    (re.compile(r"(dense_layer(?:_\d+)?)/layers/bn_relu_conv/"), r"\1/conv1/"),
    (re.compile(r"(dense_layer(?:_\d+)?)/layers/bn_relu_conv_1/"), r"\1/conv2/"),
    (re.compile(r"(transition_layer(?:_\d+)?)/layers/bn_relu_conv/"), r"\1/conv/"),
)


def _stem(tensors: Tensors) -> re.Match[str] | None:
    """Find what stands before the stem, and where the program keeps its layers."""
    names = [name.removesuffix(":0") for name in tensors]
    found = (_STEM.fullmatch(name) or _LEGACY_STEM.fullmatch(name) for name in names)
    return next((match for match in found if match), None)


def claims(root: str) -> Callable[[Tensors, Mapping[str, str]], bool]:
    """Make the function that says whether a file's network keeps its layers there.

    For ``""``, a legacy file does, too.
    """

    def of(tensors: Tensors, metadata: Mapping[str, str]) -> bool:
        stem = _stem(tensors)
        return stem is not None and stem[2] == root

    return of


def keys(root: str) -> Callable[[Graph, str], dict[str, str]]:
    """Make the function that names the arrays of a network that keeps its layers there."""

    def of(graph: Graph, container: str) -> dict[str, str]:
        key = legacy if container == LEGACY else _key(root)
        return {weight.name: key(weight.name) for weight in graph.weights}

    return of


def legacy(weight: str) -> str:
    """Name an array in a legacy file."""
    return legacy_key(weight, _layer_name)


def _key(root: str) -> Callable[[str], str]:
    return lambda weight: variable_key(weight, root + _path(weight.rpartition(".")[0]))


def evidence(root: str) -> Callable[[Tensors], Evidence]:
    """Make the function that reads what the shapes say, in either kind of file."""

    def of(tensors: Tensors) -> Evidence:
        def find(canonical: str) -> KernelShape | None:
            for name in (_key(root)(canonical), legacy(canonical)):
                if name in tensors:
                    return KernelShape(name, canonical_shape(tensors[name].shape))
            return None

        return evidence_by_name(find)

    return of


def _normalise(tensors: Tensors) -> dict[str, Tensor]:
    stem = _stem(tensors)
    outer = (stem[1] or "") if stem else ""
    normal = keras_names.normalise(tensors)
    return renamed(normal, lambda name: _usual(name.removeprefix(outer)))


def _usual(name: str) -> str:
    for old, new in _OTHER_SPELLINGS:
        name = old.sub(new, name)
    return name


def _metadata(graph: Graph, container: str) -> dict[str, str]:
    """List the arrays of each outermost layer, those that train first, as legacy files do."""
    if container != LEGACY:
        return {}
    layers: dict[str, list[str]] = {}
    for weight in sorted(graph.weights, key=lambda weight: not weight.trainable):
        name = legacy(weight.name)
        layers.setdefault(name.partition("/")[0], []).append(name)
    return {"layers": json.dumps(layers)}


LAYOUT = Layout(
    name="original-keras",
    about="the Keras original of densenet169-bc",
    containers=("keras-weights", "keras-legacy"),
    keys=keys("layer_dense/"),
    axes="window_in_out",
    claims=lambda tensors, metadata: (
        claims("layer_dense/")(tensors, metadata) or claims("")(tensors, metadata)
    ),
    evidence=evidence("layer_dense/"),
    implements=original.implements("densenet169-bc-keras"),
    normalise=_normalise,
    ignored=keras_names.is_bookkeeping,
    metadata=_metadata,
)

"""Dropout that drops, scales or stands otherwise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from densespec.network import ops
from densespec_conformance.deviations.deviation import Change, Deviation, NotApplicable
from densespec_conformance.deviations.kernels import Dropout
from densespec_conformance.deviations.variant import Variant


def _dropout(**choices: Any) -> Change:
    def change(variant: Variant) -> Variant:
        kernel = variant.kernels[ops.Dropout]
        assert isinstance(kernel, Dropout)
        if not variant.graph.nodes_of(ops.Dropout):
            raise NotApplicable
        return variant.compute_by(ops.Dropout, replace(kernel, **choices))

    return change


def _without(*names: str) -> Change:
    """Leave out the dropout of nodes whose names end so."""

    def change(variant: Variant) -> Variant:
        nodes = [node.name for node in variant.graph.nodes_of(ops.Dropout)]
        ignored = tuple(name for name in nodes if name.endswith(names))
        if not ignored or len(ignored) == len(nodes):
            raise NotApplicable
        return _dropout(ignored=ignored)(variant)

    return change


def _after_inner(variant: Variant) -> Variant:
    """Leave out dropout after all but the last convolution of a layer."""
    layers: dict[str, str] = {}
    nodes = [node.name for node in variant.graph.nodes_of(ops.Dropout)]
    for name in nodes:
        if ".layer" in name:
            layers[name.rpartition(".")[0]] = name
    ignored = tuple(name for name in nodes if name not in layers.values())
    if not ignored or not layers:
        raise NotApplicable
    return _dropout(ignored=ignored)(variant)


DEVIATIONS = (
    Deviation(
        "dropout-ignored",
        "there is no dropout",
        "inference mode, a forgotten layer",
        _dropout(ignored=("",)),
    ),
    Deviation(
        "dropout-unscaled",
        "what dropout keeps is not scaled",
        "dropout as first published",
        _dropout(scale="none"),
    ),
    Deviation(
        "dropout-scales-inference",
        "dropout scales in inference",
        "dropout as first published, Caffe",
        _dropout(in_inference="kept", scale="none"),
    ),
    Deviation(
        "dropout-also-scales-inference",
        "dropout scales in inference, and in training too",
        "both conventions at once",
        _dropout(in_inference="kept"),
    ),
    Deviation(
        "dropout-rate-for-keep-rate",
        "the rate is taken for the one that is kept",
        "TensorFlow 1's keep_prob",
        _dropout(scale="dropped"),
    ),
    Deviation(
        "dropout-scales-twice",
        "what dropout keeps is scaled twice",
        "a mask that is scaled already",
        _dropout(scale="twice"),
    ),
    Deviation(
        "dropout-inverted",
        "what a mask marks is dropped, not kept",
        "masks of what to drop",
        _dropout(inverted=True),
    ),
    Deviation(
        "dropout-spatial",
        "whole feature maps are dropped",
        "nn.Dropout2d, SpatialDropout2D",
        _dropout(spatial=True),
    ),
    Deviation(
        "dropout-at-layer-ends-only",
        "dropout stands at the end of dense layers alone",
        "torchvision's drop_rate",
        _after_inner,
    ),
    Deviation(
        "dropout-not-in-stem",
        "there is no dropout after the stem's convolution",
        "the paper's Torch7 code",
        _without("stem.dropout"),
    ),
    Deviation(
        "dropout-not-in-transitions",
        "there is no dropout in transitions",
        "torchvision's drop_rate",
        lambda variant: _without(
            *(n.name for n in variant.graph.nodes if n.name.startswith("transition"))
        )(variant),
    ),
    Deviation(
        "dropout-not-inside-layers",
        "there is no dropout after the first convolution of dense layers",
        "torchvision's drop_rate",
        _without(".dropout1"),
    ),
)

"""Keras models built by densespec: any spec, so nothing of it is fixed by the layout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from densespec.errors import WeightsError
from densespec.network.spec import DenseNetSpec
from densespec.weights.evidence import common_compression
from densespec.weights.layouts import Layout, keras_names


def layer_name(node: str) -> str:
    """``block2.layer3.norm1`` is ``block2_layer3_norm1``."""
    return node.replace(".", "_")


def stated_spec(metadata: Mapping[str, str]) -> DenseNetSpec | None:
    """The spec that the model in a ``.keras`` archive was built from, read off its layers.

    Weight files alone have no model, and state nothing.
    """
    if "config" not in metadata:
        return None
    try:
        config = json.loads(metadata["config"])["config"]
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"the model in it is none of densespec's: {error!r}") from error
    return spec_of_config(config)


def spec_of_config(config: Mapping[str, Any]) -> DenseNetSpec:
    """The spec that the configuration of a functional model states.

    Raises:
        WeightsError: it is none of densespec's.
    """
    try:
        return _spec_of({entry["config"]["name"]: entry for entry in config["layers"]})
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise WeightsError(f"the model in it is none of densespec's: {error!r}") from error


def _spec_of(layers: Mapping[str, Mapping[str, Any]]) -> DenseNetSpec:
    conv = layers["stem_conv"]["config"]
    norm = layers["block1_layer1_norm1"]
    pool = layers.get("stem_pool", {}).get("config")
    blocks = _blocks(layers)
    last = "conv2" if "block1_layer1_conv2" in layers else "conv1"
    growth = layers[f"block1_layer1_{last}"]["config"]["filters"]
    width = layers["block1_layer1_conv1"]["config"]["filters"] // growth
    dropouts = {name: entry for name, entry in layers.items() if entry["class_name"] == "Dropout"}
    fields: dict[str, Any] = {
        "blocks": blocks,
        "growth_rate": growth,
        "bottleneck_width": width if last == "conv2" else None,
        "compression": _compression(layers, conv["filters"], blocks, growth),
        "in_channels": _channels(layers, conv["data_format"]),
        "spatial_dims": len(conv["kernel_size"]),
        "stem_kind": _stem_kind(layers),
        "stem_width": conv["filters"],
        "stem_kernel": conv["kernel_size"][0],
        "stem_stride": conv["strides"][0],
        "stem_pool": pool["pool_size"][0] if pool else None,
        "padding": "same" if _pads_as_same(layers, conv, pool) else "symmetric",
        "conv_bias": conv["use_bias"],
        "batch_norm_epsilon": norm["config"]["epsilon"],
        "batch_norm_momentum": round(1 - norm["config"]["momentum"], 12),
        "running_variance": "unbiased" if norm["registered_name"] else "biased",
        "transition_relu": len(blocks) == 1 or "transition1_relu" in layers,
        "final_norm": "final_norm" in layers,
        "dropout_rate": max((d["config"]["rate"] for d in dropouts.values()), default=0.0),
        "dropout_place": _dropout_place(dropouts, last),
        "head_units": _head_units(layers),
    }
    if "classifier" in layers:
        fields["classes"] = layers["classifier"]["config"]["units"]
    return DenseNetSpec(**fields)


def _pads_as_same(
    layers: Mapping[str, Mapping[str, Any]], conv: Mapping[str, Any], pool: Mapping[str, Any] | None
) -> bool:
    """Whether a layer says "same", or pads as nothing else does: unequally, or an even kernel."""
    if conv["kernel_size"][0] % 2 == 0 or (pool and pool["padding"] == "same"):
        return True
    if conv["padding"] == "same" and conv["strides"][0] > 1:
        return True
    pads = [entry["config"]["padding"] for name, entry in layers.items() if name.endswith("_pad")]
    pads += [entry["config"]["pad_width"] for entry in layers.values() if _pads_a_pool(entry)]
    sides = [side for pad in pads for side in ([pad] if isinstance(pad[0], int) else pad)]
    return any(before != after for before, after in sides)


def _pads_a_pool(entry: Mapping[str, Any]) -> bool:
    return entry["class_name"] == "Pad"


def _blocks(layers: Mapping[str, Any]) -> tuple[int, ...]:
    counts: list[int] = []
    while f"block{len(counts) + 1}_layer1_norm1" in layers:
        prefix = f"block{len(counts) + 1}_layer"
        counts.append(sum(n.startswith(prefix) and n.endswith("_norm1") for n in layers))
    return tuple(counts)


def _head_units(layers: Mapping[str, Mapping[str, Any]]) -> tuple[int, ...]:
    units: list[int] = []
    while f"head{len(units) + 1}_dense" in layers:
        units.append(layers[f"head{len(units) + 1}_dense"]["config"]["units"])
    return tuple(units)


def _compression(
    layers: Mapping[str, Any], channels: int, blocks: tuple[int, ...], growth: int
) -> float:
    transitions = []
    for index, count in enumerate(blocks[:-1], start=1):
        channels += count * growth
        kept = layers[f"transition{index}_conv"]["config"]["filters"]
        transitions.append((channels, kept))
        channels = kept
    return common_compression(transitions) if transitions else 1.0


def _channels(layers: Mapping[str, Any], inner_format: str) -> int:
    """Channels of the input, which is channels_first where the model permutes it."""
    shape = layers["input"]["config"]["batch_shape"][1:]
    channels_first = "to_channels_last" in layers or inner_format == "channels_first"
    return int(shape[0 if channels_first else -1])


def _stem_kind(layers: Mapping[str, Any]) -> str:
    names = list(layers)
    if "stem_norm" not in layers:
        return "conv"
    first = names.index("stem_norm") < names.index("stem_conv")
    return "norm-relu-conv" if first else "conv-norm-relu"


def _dropout_place(dropouts: Mapping[str, Any], last: str) -> str:
    if any(name.startswith("stem") for name in dropouts):
        return "every-conv"
    after_inner_convs = any(
        name.startswith("transition") or (last == "conv2" and name.endswith("_dropout1"))
        for name in dropouts
    )
    return "conv" if after_inner_convs or not dropouts else "layer"


LAYOUT = Layout(
    name="densespec-keras",
    about="Keras models built by densespec",
    containers=("keras-weights", "keras", "keras-legacy"),
    keys=keras_names.keys(layer_name),
    axes="window_in_out",
    claims=keras_names.claims("stem_conv"),
    evidence=keras_names.evidence(layer_name),
    normalise=keras_names.normalise,
    ignored=keras_names.is_bookkeeping,
    metadata=keras_names.metadata(layer_name),
    stated_spec=stated_spec,
)

"""Works out which network the layers of a Keras model are, whatever they are called.

The spec is worked out from the layers, and the graph of the spec is then compared with them, op by
op: either a model is what its spec says, or it is refused, and the message names the layer that
differs.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from dataclasses import fields as fields_of_op
from typing import Any

from densespec.errors import shown
from densespec.network import ops
from densespec.network.graph import CLASSIFIER, Graph, Node, in_head, lower
from densespec.weights.evidence import (
    Evidence,
    KernelShape,
    evidence_in_order,
    inferred_fields,
    spec_from,
)
from densespec.weights.stated.keras_layers import (
    UNKNOWN,
    StatedModel,
    model_of,
    models_of,
    read_config,
    understood,
)
from densespec.weights.stated.keras_ops import StatedOp, StatedOps, ops_of
from densespec.weights.stated.network import StatedNetwork, StatedOtherwise, in_inference

CONFIG_KEYS = ("config", "model_config")
"""A ``.keras`` archive and a whole-model ``.h5`` have a config under these metadata keys."""

_RESCALES = "the images are rescaled by it, which no spec can say; take it out of the model"
_JOINS = (
    "no DenseNet joins values so; where it stands behind the network, leave it out together with "
    "every linear layer (--without)"
)
_ACTIVATES = (
    "how it is set is in no weights: save the whole model (model.save('net.keras')), which says it"
)
_POOLS = "without the model's config, which says more, an average is all that is understood"
FOREIGN_GROUPS = {
    **dict.fromkeys(("add", "subtract", "multiply", "average", "maximum", "minimum"), _JOINS),
    "rescaling": _RESCALES,
    "normalization": _RESCALES,
    "lambda": _RESCALES,
    "true_divide": _RESCALES,
    "leaky_re_lu": _ACTIVATES,
    "p_re_lu": _ACTIVATES,
    "elu": _ACTIVATES,
}
"""No network of a spec has these groups of Keras 3's files, or their weights alone say too little.
The names are those of the layers' classes."""

_OWN_RELU = re.compile(r"(stem|final|block\d+_layer\d+|transition\d+)_relu[12]?")
"""Matches densespec's own layers, whose spec has to be given anyway."""

RELUS = (ops.Relu, ops.Activation, ops.PRelu)
"""These ops may stand where the paper has a ReLU."""


def stated_network(
    metadata: Mapping[str, str], without: Collection[str] = ()
) -> StatedNetwork | None:
    """Read the network that a file's metadata state; None if there is no config of a model.

    Without one, the names of the groups of a ``.weights.h5`` still tell the classes of its layers.

    Args:
        without: The names of layers that are no part of the network, nor is what reads them.

    Raises:
        WeightsError: The config can't be read, or no spec says what it states; the message names
            the layer.
    """
    for key in CONFIG_KEYS:
        if key in metadata:
            return network_of_entry(read_config(metadata[key]), without)
    _check_groups(read_config(metadata.get("layer_names", "{}")))
    return None


def _check_groups(names: Mapping[str, str]) -> None:
    kinds = {re.sub(r"_\d+$", "", path.rpartition("/")[2]): name for path, name in names.items()}
    foreign = dict(FOREIGN_GROUPS)
    if "dense" in kinds:
        foreign |= {f"global_max_pooling{dims}d": _POOLS for dims in (1, 2, 3)}
    for kind, name in kinds.items():
        own = foreign.get(kind) == _ACTIVATES and _OWN_RELU.fullmatch(str(name))
        if kind in foreign and not own:
            raise StatedOtherwise(f"it has a layer {shown(name)} ({kind}): {foreign[kind]}", name)


def network_of_entry(entry: Mapping[str, Any], without: Collection[str] = ()) -> StatedNetwork:
    """Read the network that the class name and the config of a model state.

    What acts in training alone may be other than any spec says: notes say so. Of a model with
    several outputs it is the network that gives one of them, or the one that several heads share.

    Raises:
        WeightsError: As for :func:`stated_network`.
    """
    models = models_of(entry)
    if without:
        return _network_beside(models, without)
    return _network_of(*models) if len(models) == 1 else _network_among(models)


def _network_of(model: StatedModel) -> StatedNetwork:
    stated = ops_of(model)
    with understood(UNKNOWN):
        graph = _lowered(stated)
        _check_same(stated, in_inference(graph), training=False)
        ends = _ends(stated)
        notes = (*stated.notes, *_training_notes(stated, graph), *_end_notes(ends))
    return StatedNetwork(graph.spec, ends, notes)


def _network_among(models: Sequence[StatedModel]) -> StatedNetwork:
    """Find the network of a model with several outputs. Its arrays tell whether it has a head."""
    found, problems = [], []
    for model in models:
        try:
            found.append((model, _network_of(model)))
        except StatedOtherwise as error:
            problems.append(error)
    if not found:
        raise problems[0]
    fitting = [model for model, _ in found]
    whole = [pair for pair in found if all(pair[0].names >= model.names for model in fitting)]
    shared = None if whole else _shared(fitting)
    model, network = whole[0] if shared is None else (shared, _network_of(shared))
    note = (
        f"it states a model of {len(models)} outputs: its network is the one that ends in layer "
        f"{shown(model.output)}, and what else it computes is left aside"
    )
    aside = frozenset[str]().union(*(each.names for each in models)) - model.names
    return replace(network, ends=network.other_ends, notes=(*network.notes, note), aside=aside)


def _network_beside(models: Sequence[StatedModel], without: Collection[str]) -> StatedNetwork:
    """Read the network that is left without some layers: up to its global pool if no output is.

    Raises:
        StatedOtherwise: Some of them are within it.
    """
    kept = [model for model in models if not _among(model, without)] or [_shared(models)]
    if within := _among(kept[0], without):
        raise StatedOtherwise(
            f"layer {shown(within[0])} is to be left out, but stands before the global pool"
        )
    if len(kept) > 1:
        network, own = _network_among(kept), frozenset[str]().union(*(m.names for m in kept))
    else:
        network, own = _network_of(kept[0]), kept[0].names
    others = frozenset[str]().union(*(model.names for model in models)) - own
    return replace(network, aside=network.aside | others)


def _among(model: StatedModel, names: Collection[str]) -> list[str]:
    """List the layers of a model that have some names, or are in models of these names."""
    starts = tuple(f"{name}/" for name in names)
    return sorted(name for name in model.names if name in names or name.startswith(starts))


def _shared(models: Sequence[StatedModel]) -> StatedModel:
    """Find what several models have in common, up to their global pool.

    Raises:
        StatedOtherwise: They have nothing in common.
    """
    first = models[0]
    common = first.names.intersection(*(model.names for model in models))
    layers = [layer for layer in first.layers if layer.name in common]
    pools = [n for n, layer in enumerate(layers) if layer.kind.startswith("Global")]
    if not pools:
        raise StatedOtherwise(
            f"it states a model of {len(models)} outputs, each of another network, but a spec has "
            "one"
        )
    kept = layers[: pools[-1] + 1]
    return StatedModel(tuple(kept), kept[-1].name)


@dataclass(frozen=True)
class StatedGraph:
    """Holds the graph of a model, and tells which layer is which of its nodes.

    Attributes:
        graph: The graph, lowered at the size of the model's input.
        layers: The paths of layers by the names of the nodes that they compute.
    """

    graph: Graph
    layers: Mapping[str, str]


def graph_of_entry(entry: Mapping[str, Any]) -> StatedGraph:
    """Read the network that the class name and the config of a model state, training included.

    Raises:
        WeightsError: As for :func:`stated_network`, or training does what no spec says.
    """
    stated = _ops_in_training(entry)
    with understood(UNKNOWN):
        graph = _lowered(stated)
        return StatedGraph(graph, _check_same(stated, graph, training=True))


def part_of_entry(entry: Mapping[str, Any], graph: Graph) -> StatedGraph:
    """Read the part of a network that the class name and the config of a model state.

    A part does not tell how many blocks there are, so the network has to be known.

    Args:
        graph: The network, whose last value is the model's; its numbers may have changed.

    Raises:
        WeightsError: As for :func:`graph_of_entry`.
    """
    stated = _ops_in_training(entry)
    with understood(UNKNOWN):
        rates = [drop.op.rate for drop in stated.of(ops.Dropout) if drop.op.rate]
        rate = {"dropout_rate": statistics.mode(rates or [0.0])}
        norms = stated.of(ops.BatchNorm, ops.GroupNorm)
        spec = graph.spec.replace(**(_said_by(norms) if norms else {}) | rate)
        now = lower(spec, graph.input_size, **graph.ends)
        return StatedGraph(now, _check_same(stated, now, training=True))


def _ops_in_training(entry: Mapping[str, Any]) -> StatedOps:
    stated = ops_of(model_of(entry))
    for layer in stated.left_out:
        raise StatedOtherwise(f"{layer} acts in training, where a spec has nothing", layer.name)
    return stated


def _lowered(stated: StatedOps) -> Graph:
    """Lower the spec of what is stated, at its size and with its ends."""
    spec = spec_from(_fields(stated), {})
    return lower(spec, stated.of(ops.Input)[0].shape[1:], **_ends(stated))


def _ends(stated: StatedOps) -> dict[str, Any]:
    last = stated.by_name[stated.output].op
    top = bool(stated.of(ops.Dense))
    return {
        "include_top": top,
        "pooling": last.kind if isinstance(last, ops.GlobalPool) and not top else None,
        "classifier_activation": _activation(last) if top else None,
    }


def _activation(op: ops.Op) -> str | None:
    return {ops.Softmax: "softmax", ops.Sigmoid: "sigmoid"}.get(type(op))


def _end_notes(ends: Mapping[str, Any]) -> Iterator[str]:
    if ends["pooling"]:
        yield (f"the model ends in its global pool: pooling={ends['pooling']!r} builds it so")


# The spec


def _fields(stated: StatedOps) -> dict[str, Any]:
    convs, pools = stated.of(ops.Conv), stated.of(ops.MaxPool)
    norms = [
        op for op in stated.by_name.values() if isinstance(op.op, ops.BatchNorm | ops.GroupNorm)
    ]
    if not convs:
        raise StatedOtherwise("it states a model without convolutions, which is no DenseNet")
    stem = convs[0].op
    assert isinstance(stem, ops.Conv)
    evidence = evidence_in_order(
        convs=[KernelShape(conv.name, _kernel(conv.op)) for conv in convs],
        norms=[norm.op.channels for norm in norms],
        conv_bias=stem.bias,
        dense=[KernelShape(d.name, (d.op.units, d.op.features)) for d in stated.of(ops.Dense)],
    )
    found = inferred_fields(evidence)
    convs = convs[2:] if evidence.deep else convs
    blocks, per_layer = found["blocks"], 1 if found["bottleneck_width"] is None else 2
    transitions = _transitions(blocks, per_layer)
    return found | {
        **_norm_fields(stated, norms, evidence),
        **_activation_fields(stated, convs),
        "stem_stride": stem.stride,
        **_blurs(stated, pools),
        "stem_pool": pools[0].op.window[0] if pools else None,
        "padding": "same" if any(map(_pads_as_same, (*convs, *pools))) else "symmetric",
        "transition_relu": all(
            isinstance(stated.source(convs[index]).op, RELUS) for index in transitions
        ),
        **_dropout_fields(stated, convs, transitions, per_layer),
        **_head_fields(stated),
    }


def _head_fields(stated: StatedOps) -> dict[str, Any]:
    """Return the fields of a head that shapes do not tell."""
    layers, pools = stated.of(ops.Dense), stated.of(ops.GlobalPool)
    if not layers:
        return {}
    before = stated.source(layers[-1]).op
    return {
        "classifier_bias": layers[-1].op.bias,
        "head_dropout_rate": before.rate if isinstance(before, ops.Dropout) else 0.0,
        **({"global_pool": pools[-1].op.kind} if pools else {}),
    }


def _blurs(stated: StatedOps, pools: list[StatedOp]) -> dict[str, str]:
    blurs = stated.of(ops.BlurPool)
    in_stem = [blur for blur in blurs if stated.source(blur) in pools]
    return {
        "stem_pool_kind": "max-blur" if in_stem else "max",
        "transition_pool_kind": "blur" if len(blurs) > len(in_stem) else "avg",
    }


def _norm_fields(stated: StatedOps, norms: list[StatedOp], evidence: Evidence) -> dict[str, Any]:
    deep = {"stem_kind": "deep"} if evidence.deep else {}
    if not norms:
        return {"norm": "none", **_unnormed_ends(stated), **deep}
    stem_kind = _stem_kind(stated, norms[0], evidence.stem_norm)
    return {"stem_kind": stem_kind, **deep, **_said_by(norms)}


def _said_by(norms: list[StatedOp]) -> dict[str, Any]:
    """Return what most norms say. There is at least one norm."""
    fields: dict[str, Any] = {
        "batch_norm_epsilon": statistics.mode(norm.op.epsilon for norm in norms),
        "norm_affine": statistics.mode(norm.op.affine for norm in norms),
    }
    if isinstance(norms[0].op, ops.BatchNorm):
        same = [norm for norm in norms if isinstance(norm.op, ops.BatchNorm)]
        return fields | {
            "batch_norm_momentum": statistics.mode(norm.op.momentum for norm in same),
            "running_variance": "unbiased" if _mostly_unbiased(same) else "biased",
        }
    same = [norm for norm in norms if isinstance(norm.op, ops.GroupNorm)]
    if all(norm.op.groups == norm.op.channels for norm in same):
        return fields | {"norm": "instance"}
    return fields | {"norm": "group", "norm_groups": statistics.mode(n.op.groups for n in same)}


def _unnormed_ends(stated: StatedOps) -> dict[str, Any]:
    """Find where the stem and the last block end, if no norm tells it."""
    stem, first = stated.of(ops.Conv)[:2]
    end = stated.source(first)
    for passed in (RELUS, (ops.MaxPool,), (ops.Dropout,)):
        end = stated.source(end) if isinstance(end.op, passed) else end
    kind = "conv-norm-relu" if isinstance(end.op, RELUS) else "conv"
    pools = stated.of(ops.GlobalPool)
    last = stated.source(pools[0]) if pools else stated.by_name[stated.output]
    return {
        "stem_kind": "norm-relu-conv" if isinstance(stated.source(stem).op, RELUS) else kind,
        "final_norm": isinstance(last.op, RELUS),
    }


def _activation_fields(stated: StatedOps, convs: list[StatedOp]) -> dict[str, Any]:
    """Return the activation before the first dense layer's convolution, and any slope of it."""
    op = stated.source(convs[1]).op if len(convs) > 1 else None
    match op:
        case ops.Activation("leaky-relu"):
            return {"activation": "leaky-relu", "activation_slope": op.slope}
        case ops.Activation():
            return {"activation": op.kind}
        case ops.PRelu():
            return {"activation": "prelu"}
    return {}


def _mostly_unbiased(norms: list[StatedOp]) -> bool:
    return statistics.mode(norm.op.unbiased for norm in norms)


def _kernel(op: Any) -> tuple[int, ...]:
    return (op.filters, op.in_channels, *op.window)


def _transitions(blocks: tuple[int, ...], per_layer: int) -> list[int]:
    """Find which convolutions, counted from the stem's, are the transitions'."""
    found, index = [], 1
    for layers in blocks[:-1]:
        index += layers * per_layer
        found.append(index)
        index += 1
    return found


def _stem_kind(stated: StatedOps, norm: StatedOp, channels: int | None) -> str:
    if channels is None:
        return "conv"
    first = isinstance(stated.source(norm).op, ops.Input)
    return "norm-relu-conv" if first else "conv-norm-relu"


def _pads_as_same(stated: StatedOp) -> bool:
    """Say whether a layer says "same" with an effect, or pads its sides unequally."""
    op = stated.op
    assert isinstance(op, ops.Conv | ops.MaxPool)
    if stated.says_same:
        return op.stride > 1 or op.window[0] % 2 == 0
    return op.padding != "same" and any(before != after for before, after in op.padding)


def _dropout_fields(
    stated: StatedOps, convs: list[StatedOp], transitions: list[int], per_layer: int
) -> dict[str, Any]:
    """Return the dropouts of the body; those of the head are no part of a spec."""
    after = {op.sources[0]: op.op.rate for op in stated.of(ops.Dropout) if op.op.rate}
    dropped = [index for index, conv in enumerate(convs) if conv.name in after]
    if not dropped:
        return {}
    inner = [
        index
        for index in dropped
        if index in transitions or not _is_last(index, transitions, per_layer)
    ]
    place = "every-conv" if 0 in dropped else "conv" if inner else "layer"
    rate = statistics.mode(after[convs[index].name] for index in dropped)
    return {"dropout_rate": rate, "dropout_place": place}


def _is_last(index: int, transitions: list[int], per_layer: int) -> bool:
    """Say whether a convolution is the last of its dense layer."""
    start = max((t for t in transitions if t < index), default=0)
    return (index - start) % per_layer == 0


def _training_notes(stated: StatedOps, graph: Graph) -> Iterator[str]:
    there = stated.of(ops.Dropout)
    said = sorted(node.drop_rate for node in graph.dropouts)
    if sorted(op.op.rate for op in there if op.op.rate) != said:
        last = there[-1]
        yield (
            f"dropout stands where the spec has none ({last.layer}, rate {last.op.rate}): it acts "
            "only in training, and is left out"
        )


# The comparison


def _check_same(stated: StatedOps, graph: Graph, *, training: bool) -> dict[str, str]:
    """Compare a model with the graph of its spec, from the output back.

    Args:
        training: Whether what acts in training alone is compared too.

    Returns:
        The path of the layer of each node.

    Raises:
        StatedOtherwise: They differ; the message names the first layer that does.
    """
    problems: dict[str, str] = {}
    layers: dict[str, str] = {}
    pairs, seen = [(stated.output, graph.output.name)], set()
    while pairs:
        pair = pairs.pop()
        if pair in seen:
            continue
        seen.add(pair)
        ours, node = _active(stated, pair[0], training), graph[pair[1]]
        layers[node.name] = ours.layer.name
        problem = _difference(ours, node, () if training else ("momentum", "unbiased"))
        if problem:
            problems[ours.name] = problem
        elif not isinstance(node.op, ops.Input):
            pairs += zip(ours.sources, node.inputs, strict=True)
    for name, op in stated.by_name.items():
        if name in problems:
            raise StatedOtherwise(problems[name], op.layer.name)
    return layers


def _active(stated: StatedOps, name: str, training: bool) -> StatedOp:
    """Find the op whose value it has in inference, or in training."""
    found = stated.by_name[name]
    while isinstance(found.op, ops.Dropout) and not (training and found.op.rate):
        found = stated.source(found)
    return found


def _difference(ours: StatedOp, node: Node, but: tuple[str, ...]) -> str | None:
    if isinstance(node.op, ops.Relu) and not isinstance(ours.op, ops.Relu):
        return f"{ours.layer} has no ReLU after it as its activation, as a spec has ({node.name})"
    if type(ours.op) is not type(node.op) or len(ours.sources) != len(node.inputs):
        return (
            f"{ours.layer} stands where a spec's network has {type(node.op).__name__} "
            f"({node.name}), and no spec says so"
        )
    if isinstance(node.op, ops.Input):
        return None
    hidden = in_head(node.name) and node.name != CLASSIFIER
    for part in fields_of_op(node.op):
        if part.name == "bias" and hidden:  # none is the same as one of zeros
            continue
        stated, said = getattr(ours.op, part.name), getattr(node.op, part.name)
        if stated != said and part.name not in but:
            return (
                f"{ours.layer} has {part.name} = {shown(stated)}, but {shown(said)} is what its "
                f"spec says of {node.name}, and no spec says both"
            )
    return None

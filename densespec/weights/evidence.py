"""Working out a network from the shapes of its arrays.

Shapes tell the blocks, the growth rate, the widths, the classes, which norms there are and whether
convolutions have biases. They do not tell strides, pools, padding or epsilon: those come from the
implementation that a layout belongs to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from densespec.errors import SpecError, WeightsError
from densespec.spec import DenseNetSpec

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Evidence:
    """What shapes say, canonical ones, in the order of the graph.

    Attributes:
        convs: shapes (out, in, *window) of the convolutions' kernels.
        conv_bias: whether convolutions have biases.
        stem_norm: channels of the stem's norm; None if it has none.
        final_norm: whether a norm comes after the last block.
        classifier: (classes, features); None without a classifier.
    """

    convs: tuple[Shape, ...]
    conv_bias: bool
    stem_norm: int | None
    final_norm: bool
    classifier: tuple[int, int] | None


ShapeOf = Callable[[str], Shape | None]


def evidence_by_name(shape_of: ShapeOf) -> Evidence:
    """Collect evidence where the shape of an array can be asked for by its canonical name."""
    convs, bias = [shape_of("stem.conv.kernel")], shape_of("stem.conv.bias") is not None
    block = 1
    while shape_of(f"block{block}.layer1.conv1.kernel") is not None:
        layer = 1
        while (first := shape_of(f"block{block}.layer{layer}.conv1.kernel")) is not None:
            convs += [first, shape_of(f"block{block}.layer{layer}.conv2.kernel")]
            layer += 1
        convs.append(shape_of(f"transition{block}.conv.kernel"))
        block += 1
    norm, classifier = shape_of("stem.norm.gamma"), shape_of("classifier.kernel")
    return Evidence(
        convs=tuple(shape for shape in convs if shape is not None),
        conv_bias=bias,
        stem_norm=norm[0] if norm else None,
        final_norm=shape_of("final.norm.gamma") is not None,
        classifier=(classifier[0], classifier[1]) if classifier else None,
    )


def evidence_in_order(
    convs: Sequence[Shape],
    norms: Sequence[int],
    conv_bias: bool,
    classifier: tuple[int, int] | None,
) -> Evidence:
    """Collect evidence where arrays are known by their kind and order alone.

    Args:
        norms: channels of each norm.

    Raises:
        WeightsError: the numbers of norms and convolutions belong to no DenseNet.
    """
    blocks = _blocks(convs)
    inside = blocks.norms
    extra = len(norms) - inside
    if extra not in (0, 1, 2):
        raise WeightsError(
            f"{len(norms)} norms beside {len(convs)} convolutions, but should be {inside} to "
            f"{inside + 2}"
        )
    final = extra > 0 and norms[-1] == blocks.channels
    has_stem_norm = extra - final == 1
    return Evidence(
        convs=tuple(convs),
        conv_bias=conv_bias,
        stem_norm=norms[0] if has_stem_norm else None,
        final_norm=final,
        classifier=classifier,
    )


def inferred_fields(evidence: Evidence) -> dict[str, Any]:
    """The fields of a spec that shapes determine.

    Raises:
        WeightsError: the shapes belong to no DenseNet; says at which convolution.
    """
    if not evidence.convs:
        raise WeightsError("no stem convolution")
    found = _blocks(evidence.convs)
    stem = evidence.convs[0]
    if evidence.stem_norm is None:
        stem_kind = "conv"
    else:
        stem_kind = "norm-relu-conv" if evidence.stem_norm == stem[1] else "conv-norm-relu"
    fields: dict[str, Any] = {
        "blocks": found.layers,
        "growth_rate": found.growth_rate,
        "bottleneck_width": found.bottleneck_width,
        "compression": common_compression(found.transitions),
        "in_channels": stem[1],
        "spatial_dims": len(stem) - 2,
        "stem_kind": stem_kind,
        "stem_width": stem[0],
        "stem_kernel": stem[2],
        "conv_bias": evidence.conv_bias,
        "final_norm": evidence.final_norm,
    }
    if evidence.classifier is not None:
        classes, features = evidence.classifier
        if features != found.channels:
            raise WeightsError(
                f"the classifier reads {features} features, but the last block gives "
                f"{found.channels}"
            )
        fields["classes"] = classes
    return fields


@dataclass(frozen=True)
class _Blocks:
    layers: tuple[int, ...]
    growth_rate: int
    bottleneck_width: int | None
    transitions: tuple[tuple[int, int], ...]
    channels: int

    @property
    def norms(self) -> int:
        """Norms inside blocks and transitions."""
        per_layer = 1 if self.bottleneck_width is None else 2
        return per_layer * sum(self.layers) + len(self.transitions)


def _blocks(convs: Sequence[Shape]) -> _Blocks:
    """Read dense layers and transitions off the convolutions after the stem."""
    if len(convs) < 2:
        raise WeightsError("no dense layer after the stem convolution")
    growth, first = convs[-1][0], convs[1]
    bottleneck = first[0] // growth if set(first[2:]) == {1} else None
    channels, layers, transitions = convs[0][0], [0], []
    index = 1
    while index < len(convs):
        size = _layer_at(convs, index, channels, growth, bottleneck)
        if size:
            layers[-1] += 1
            channels += growth
            index += size
            continue
        out, into, *window = convs[index]
        if into != channels or set(window) != {1}:
            raise WeightsError(
                f"convolution {index + 1} has a kernel of shape {convs[index]}, but should read "
                f"{channels} channels: as a dense layer of growth rate {growth} or a transition"
            )
        transitions.append((into, out))
        layers.append(0)
        channels = out
        index += 1
    if 0 in layers:
        raise WeightsError("a transition without dense layers before or after it")
    return _Blocks(tuple(layers), growth, bottleneck, tuple(transitions), channels)


def _layer_at(
    convs: Sequence[Shape], index: int, channels: int, growth: int, bottleneck: int | None
) -> int:
    """Convolutions of the dense layer that starts at ``index``; 0 if none does."""
    dims = len(convs[index]) - 2
    last = (3,) * dims
    if bottleneck is None:
        return int(convs[index] == (growth, channels, *last))
    width = bottleneck * growth
    pair = ((width, channels, *(1,) * dims), (growth, width, *last))
    return 2 if tuple(convs[index : index + 2]) == pair else 0


def common_compression(transitions: Sequence[tuple[int, int]]) -> float:
    """The roundest compression that every transition agrees with."""
    candidates = [1.0, 0.5] + [percent / 100 for percent in range(1, 100)]
    candidates += [kept / channels for channels, kept in transitions]
    for theta in candidates:
        if all(int(theta * channels) == kept for channels, kept in transitions):
            return theta
    raise WeightsError(f"transitions {list(transitions)} (from, to) share no compression")


def spec_from(fields: Mapping[str, Any], implemented: Mapping[str, Any]) -> DenseNetSpec:
    """The spec of inferred fields in an implementation, which decides what shapes leave open.

    Raises:
        WeightsError: they contradict each other, or make no valid spec.
    """
    for name, value in implemented.items():
        if name in fields and fields[name] != value:
            raise WeightsError(
                f"{name} is {fields[name]!r} by the arrays' shapes, but {value!r} in this layout"
            )
    try:
        return DenseNetSpec(**{**implemented, **fields})
    except SpecError as error:
        raise WeightsError(f"the arrays' shapes make no valid spec: {error}") from error

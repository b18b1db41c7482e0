"""Works out a network from the shapes of its arrays.

Shapes tell the blocks, the growth rate, the widths, the classes, which norms there are and whether
convolutions have biases. They do not tell strides, pools, padding or epsilon: those come from the
implementation that a layout belongs to.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from densespec.errors import SpecError, WeightsError, bare
from densespec.network.spec import DenseNetSpec

Shape = tuple[int, ...]


class Contradiction(WeightsError):
    """Arrays have shapes that are impossible in the implementation whose names they have."""


class NoNetwork(WeightsError):
    """Arrays have too few of a network's names to make a network."""


class KernelShape(NamedTuple):
    """Describes a kernel among the arrays: its name there, and its canonical shape."""

    key: str
    shape: Shape


@dataclass(frozen=True)
class Evidence:
    """Holds what shapes tell, in the order of the graph.

    Attributes:
        convs: The convolutions' kernels, (out, in, *window).
        conv_bias: Whether convolutions have biases.
        stem_norm: The channels of the stem's norm; None if the stem has none.
        final_norm: Whether a norm comes after the last block.
        classifier: The classifier's kernel, (classes, features); None without a classifier.
        head: The kernels of the dense layers before the classifier, (units, features).
        told: Other fields of a spec that names tell, such as ``activation`` if there is a trained
            slope.
        scaled: Whether norms have a scale and a shift.

    Raises:
        WeightsError: There is no convolution, or these are no kernels.
    """

    convs: tuple[KernelShape, ...]
    conv_bias: bool
    stem_norm: int | None
    final_norm: bool
    classifier: KernelShape | None
    head: tuple[KernelShape, ...] = ()
    told: Mapping[str, Any] = field(default_factory=dict)
    scaled: bool = True

    def __post_init__(self) -> None:
        if not self.convs:
            raise NoNetwork("no stem convolution")
        dims = len(self.convs[0].shape)
        for key, shape in self.convs:
            if not 3 <= dims <= 5 or len(shape) != dims or 0 in shape:
                raise WeightsError(
                    f"{bare(key)} has shape {shape}, but should be the kernel of a convolution in "
                    f"1 to 3 dimensions, as many as {bare(self.convs[0].key)} has"
                )
        for key, shape in self.dense:
            if len(shape) != 2 or 0 in shape:
                raise WeightsError(
                    f"{bare(key)} has shape {shape}, but should have one of units and features"
                )

    @property
    def tells_norms(self) -> bool:
        """Say whether norms have arrays, so that a network without such arrays has no norms."""
        return self.scaled or "norm" in self.told

    @property
    def deep(self) -> bool:
        """Say whether the stem has three convolutions."""
        return is_deep(self.convs)

    @property
    def body(self) -> tuple[KernelShape, ...]:
        """Return the convolutions' kernels from the stem's last one on."""
        return self.convs[2:] if self.deep else self.convs

    @property
    def dense(self) -> tuple[KernelShape, ...]:
        """Return the kernels of all dense layers; the last is the classifier's."""
        return (*self.head, self.classifier) if self.classifier else self.head


def is_deep(convs: Sequence[KernelShape]) -> bool:
    """Say whether the first three convolutions are a stem: they alone read just what the last gave.

    Dense layers without a bottleneck read what came before, too, and the two convolutions of one
    with a bottleneck have different windows.
    """
    shapes = [kernel.shape for kernel in convs[:3]]
    if len(shapes) < 3 or len({shape[2:] for shape in shapes}) > 1:
        return False
    return all(after[1] == before[0] for before, after in itertools.pairwise(shapes))


def _is_window(shape: tuple[int, ...], dims: int) -> bool:
    """Say whether a shape is a convolution kernel's."""
    return len(shape) == dims and all(shape)


Find = Callable[[str], KernelShape | None]
"""Finds the array of a canonical name; None if there is none."""


def evidence_by_name(find: Find) -> Evidence:
    """Collect evidence from arrays that can be asked for by canonical name."""
    stem, block = find("stem.conv.kernel"), 1
    convs = [find(f"stem.conv{number}.kernel") for number in (2, 3)]
    while find(f"block{block}.layer1.conv1.kernel"):
        layer = 1
        while first := find(f"block{block}.layer{layer}.conv1.kernel"):
            convs += [first, find(f"block{block}.layer{layer}.conv2.kernel")]
            layer += 1
        convs.append(find(f"transition{block}.conv.kernel"))
        block += 1
    head: list[KernelShape] = []
    while unit := find(f"head{len(head) + 1}.dense.kernel"):
        head.append(unit)
    norm, final = (_any_of(find, f"{part}.norm") for part in ("stem", "final"))
    classifier = find("classifier.kernel")
    convolves = stem and classifier and _is_window(classifier.shape, len(stem.shape))
    return Evidence(
        convs=tuple(kernel for kernel in (stem, *convs) if kernel) if stem else (),
        conv_bias=find("stem.conv.bias") is not None,
        stem_norm=math.prod(norm.shape) if norm else None,
        final_norm=final is not None,
        classifier=None if convolves else classifier,
        head=tuple(head),
        told=_told(find),
        scaled=find("block1.layer1.norm1.gamma") is not None,
    )


def _any_of(find: Find, norm: str) -> KernelShape | None:
    return find(f"{norm}.gamma") or find(f"{norm}.running_mean")


def _told(find: Find) -> dict[str, Any]:
    """Find the spec's fields that arrays' names tell: running statistics belong to a batch norm."""
    told: dict[str, Any] = {}
    if find("block1.layer1.norm1.running_mean"):
        scaled = find("block1.layer1.norm1.gamma") is not None
        told |= {"norm": "batch", "norm_affine": scaled}
    if find("block1.layer1.relu1.slope"):
        told["activation"] = "prelu"
    return told


def evidence_in_order(
    convs: Sequence[KernelShape],
    norms: Sequence[int],
    conv_bias: bool,
    dense: Sequence[KernelShape],
) -> Evidence:
    """Collect evidence from arrays that are known by their kind and order alone.

    Args:
        norms: The channels of each norm.
        dense: The kernels of dense layers; the last one is the classifier's.

    Raises:
        WeightsError: The numbers of norms and convolutions belong to no DenseNet.
    """
    classifier = dense[-1] if dense else None
    evidence = Evidence(tuple(convs), conv_bias, None, False, classifier, tuple(dense[:-1]))
    norms = norms[2:] if evidence.deep else norms
    if not norms:
        return replace(evidence, scaled=False)
    blocks = _blocks(evidence.body)
    inside = blocks.norms
    extra = len(norms) - len(inside)
    if extra not in (0, 1, 2):
        raise WeightsError(
            f"{len(norms)} norms beside {len(convs)} convolutions, but should be {len(inside)} to "
            f"{len(inside) + 2}"
        )
    final = extra == 2 or (extra == 1 and tuple(norms) == (*inside, blocks.channels))
    has_stem_norm = extra - final == 1
    return replace(evidence, stem_norm=norms[0] if has_stem_norm else None, final_norm=final)


def inferred_fields(evidence: Evidence) -> dict[str, Any]:
    """Work out the fields of a spec that shapes determine.

    Raises:
        WeightsError: The shapes belong to no DenseNet; the message says at which convolution.
    """
    return body_fields(evidence) | head_fields(evidence)


def body_fields(evidence: Evidence) -> dict[str, Any]:
    """Work out the fields of a spec that the shapes of the body determine.

    Raises:
        WeightsError: The shapes belong to no DenseNet; the message says at which convolution.
    """
    found = _blocks(evidence.body)
    stem, width = evidence.convs[0].shape, evidence.body[0].shape[0]
    fields: dict[str, Any] = {
        **evidence.told,
        "blocks": found.layers,
        "growth_rate": found.growth_rate,
        "bottleneck_width": found.bottleneck_width,
        "in_channels": stem[1],
        "spatial_dims": len(stem) - 2,
        "stem_width": width,
        "stem_kernel": stem[2],
        "conv_bias": evidence.conv_bias,
    }
    if found.transitions:
        fields["compression"] = common_compression(found.transitions)
    if evidence.tells_norms:
        fields["final_norm"] = evidence.final_norm
    if evidence.deep:
        fields["stem_kind"] = "deep"
        _check_halves(evidence)
    elif not evidence.tells_norms:
        return fields
    elif evidence.stem_norm is None:
        fields["stem_kind"] = "conv"
    elif stem[0] != stem[1]:
        first = evidence.stem_norm == stem[1]
        fields["stem_kind"] = "norm-relu-conv" if first else "conv-norm-relu"
    return fields


def _check_halves(evidence: Evidence) -> None:
    """Check that the first two convolutions of a deep stem have half as many feature maps."""
    half = evidence.body[0].shape[0] // 2
    for key, shape in evidence.convs[:2]:
        if shape[0] != half:
            raise WeightsError(
                f"{bare(key)} has shape {shape}, but should give {half} feature maps, half of what "
                "its stem of three convolutions gives"
            )


def head_fields(evidence: Evidence) -> dict[str, Any]:
    """Work out the fields of a spec that the shapes of the head determine; none without a head.

    Raises:
        WeightsError: A layer reads other features than what comes before it gives.
    """
    given = _blocks(evidence.body).channels
    doubled = bool(evidence.dense) and evidence.dense[0].shape[1] == 2 * given
    given *= 2 if doubled else 1
    for key, (units, features) in evidence.dense:
        if features != given:
            raise WeightsError(
                f"{bare(key)} reads {features} features, but what comes before it gives {given}"
            )
        given = units
    if evidence.classifier is None:
        return {}
    pool = {"global_pool": "catavgmax"} if doubled else {}
    hidden = tuple(kernel.shape[0] for kernel in evidence.head)
    return {"classes": given, "head_units": hidden, **pool}


@dataclass(frozen=True)
class _Blocks:
    stem: int
    layers: tuple[int, ...]
    growth_rate: int
    bottleneck_width: int | None
    transitions: tuple[tuple[int, int], ...]
    channels: int

    @property
    def norms(self) -> tuple[int, ...]:
        """Return the channels of the norms inside blocks and transitions, in order."""
        width = () if self.bottleneck_width is None else (self.bottleneck_width * self.growth_rate,)
        channels, found = self.stem, []
        for block, layers in enumerate(self.layers):
            for _ in range(layers):
                found += [channels, *width]
                channels += self.growth_rate
            if block < len(self.transitions):
                found.append(channels)
                channels = self.transitions[block][1]
        return tuple(found)


def _blocks(convs: Sequence[KernelShape]) -> _Blocks:
    """Read dense layers and transitions off the convolutions after the stem."""
    if len(convs) < 2:
        raise NoNetwork(f"no dense layer after the stem convolution {convs[0].key}")
    shapes = [kernel.shape for kernel in convs]
    first = shapes[1]
    has_bottleneck = set(first[2:]) == {1} and len(shapes) > 2
    growth = shapes[2][0] if has_bottleneck else first[0]
    bottleneck = first[0] // growth if has_bottleneck else None
    channels, layers, transitions = shapes[0][0], [0], []
    index = 1
    while index < len(convs):
        out, into, *window = shapes[index]
        layer = _layer(channels, growth, bottleneck, len(window))
        if tuple(shapes[index : index + len(layer)]) == layer:
            layers[-1] += 1
            channels += growth
            index += len(layer)
            continue
        if into != channels or set(window) != {1}:
            raise WeightsError(
                f"{convs[index].key} has shape {shapes[index]}, but should have {layer[0]} where a "
                f"dense layer starts, or (n, {channels}{', 1' * len(window)}) in a transition"
            )
        transitions.append((into, out))
        layers.append(0)
        channels = out
        index += 1
    if 0 in layers:
        raise WeightsError(
            f"no dense layers before or after a transition: {len(convs)} convolutions make blocks "
            f"of {', '.join(map(str, layers))} layers"
        )
    return _Blocks(shapes[0][0], tuple(layers), growth, bottleneck, tuple(transitions), channels)


def _layer(channels: int, growth: int, bottleneck: int | None, dims: int) -> tuple[Shape, ...]:
    """Return the shapes of the kernels of a dense layer that reads this many channels."""
    last = (3,) * dims
    if bottleneck is None:
        return ((growth, channels, *last),)
    width = bottleneck * growth
    return (width, channels, *(1,) * dims), (growth, width, *last)


def common_compression(transitions: Sequence[tuple[int, int]]) -> float:
    """Find the roundest compression that every transition agrees with.

    Args:
        transitions: The channels that go into each transition, and those that come out.

    Raises:
        WeightsError: There is none.
    """
    least = max(kept / channels for channels, kept in transitions)
    candidates = [n / parts for parts in (1, 2, 10, 20, 100) for n in range(1, parts + 1)]
    candidates += [least, math.nextafter(least, 1)]  # in case the division rounded down
    for theta in candidates:
        if all(int(theta * channels) == kept for channels, kept in transitions):
            return theta
    raise WeightsError(f"transitions {list(transitions)} (from, to) share no compression")


def spec_from(fields: Mapping[str, Any], implemented: Mapping[str, Any]) -> DenseNetSpec:
    """Make a spec of inferred fields, and of what an implementation decides that shapes leave open.

    Raises:
        Contradiction: The implementation decides otherwise.
        WeightsError: They make no valid spec.
    """
    check_implemented(fields, implemented)
    try:
        return DenseNetSpec(**{**implemented, **fields})
    except SpecError as error:
        raise WeightsError(f"the arrays' shapes make no valid spec: {error}") from error


def check_implemented(fields: Mapping[str, Any], implemented: Mapping[str, Any]) -> None:
    """Check that an implementation can have fields that were inferred.

    Raises:
        Contradiction: It can't; the message says in which field.
    """
    for name, value in implemented.items():
        if name in fields and fields[name] != value:
            raise Contradiction(
                f"{name} is {fields[name]!r} by the arrays' shapes, but {value!r} in this layout"
            )

"""Asks for inference in float64 equal to the reference, op by op, for every field of the spec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from densespec.backends import LAYERS, split_mode
from densespec.network.graph import lower
from densespec.network.spec import DenseNetSpec
from densespec_conformance.answering.target import Target
from densespec_conformance.asking.questions import (
    images,
    random_weights,
    with_signs,
    with_variances,
)
from densespec_conformance.asking.requests import Forward, NetworkToBuild
from densespec_conformance.case import AS_IN_FAST, Case, Tier, TierByMode
from densespec_conformance.judging.compare import assert_close, shown
from densespec_conformance.judging.expected import Expectation, Reference, given_in
from densespec_conformance.judging.outcome import Outcome

SMALL = DenseNetSpec(
    blocks=(2, 3),
    growth_rate=4,
    bottleneck_width=2,
    compression=0.5,
    classes=5,
    stem_kind="conv-norm-relu",
    stem_width="2k",
    stem_kernel=7,
    stem_stride=2,
    stem_pool=3,
)
"""Describes a small ImageNet network. Each row below changes the field that it is about."""

PREACTIVATION = {"stem_kind": "norm-relu-conv", "conv_bias": True, "final_norm": False}
PLAIN = {"bottleneck_width": None, "compression": 1.0, "stem_kind": "conv", "stem_width": 16}
UNPOOLED = {"blocks": (2,), "stem_pool": None}
"""Describes a network without 3-D pools, for which TensorFlow has no float64 kernels."""
CIFAR_STEM = {"stem_kernel": 3, "stem_stride": 1, "stem_pool": None}

DEEP = {"stem_kind": "deep", "stem_kernel": 3}
BLURS = {"stem_pool_kind": "max-blur", "transition_pool_kind": "blur"}


@dataclass(frozen=True)
class ForwardRow:
    """Describes one network, and the input size at which it is run.

    Attributes:
        variance: The factor on running variances; outputs stay of the same size.
        signs: Whether gammas have either sign, or are 0.
        tier_in_modes: The tier in modes, which need not be asked again about a number alone, nor
            about what is behind the last block.
    """

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    size: tuple[int, ...] = (32, 32)
    options: Mapping[str, Any] = field(default_factory=dict)
    any_size: bool = False
    dtype: str = "float64"
    variance: float = 1.0
    signs: bool = False
    tier_in_modes: Tier | TierByMode = field(default_factory=lambda: AS_IN_FAST)

    @property
    def spec(self) -> DenseNetSpec:
        return SMALL.replace(**self.changes)


ROWS = (
    ForwardRow("torchvision-stem"),
    ForwardRow("odd-and-rectangular", size=(37, 51)),
    ForwardRow("built-for-any-size", size=(41, 30), any_size=True),
    ForwardRow("preactivation-stem-pools-negative-numbers", PREACTIVATION),
    ForwardRow("preactivation-stem-odd-size", PREACTIVATION, size=(35, 44)),
    ForwardRow("cifar-plain", PLAIN | CIFAR_STEM, size=(16, 16)),
    ForwardRow("cifar-bc", {"stem_kind": "conv"} | CIFAR_STEM, size=(17, 12)),
    ForwardRow("same-padding-even-size", {"padding": "same"}),
    ForwardRow("same-padding-odd-size", {"padding": "same"}, size=(33, 47)),
    ForwardRow(
        "same-padding-any-size",
        {"padding": "same"},
        size=(38, 31),
        any_size=True,
        tier_in_modes="full",
    ),
    ForwardRow("same-padding-preactivation", PREACTIVATION | {"padding": "same"}),
    ForwardRow("even-kernel-and-stride-3", {"padding": "same", "stem_kernel": 6, "stem_stride": 3}),
    ForwardRow("pool-of-2", {"stem_pool": 2}, size=(31, 32), tier_in_modes="full"),
    ForwardRow("pool-of-5", {"stem_pool": 5}, size=(40, 33), tier_in_modes="full"),
    ForwardRow("keras-epsilon", {"batch_norm_epsilon": 1e-3}, tier_in_modes="full"),
    ForwardRow(
        "keras-applications-epsilon", {"batch_norm_epsilon": 1.001e-5}, tier_in_modes="full"
    ),
    ForwardRow("variances-as-small-as-epsilon", variance=1e-5),
    ForwardRow("gammas-of-either-sign-or-zero", signs=True),
    ForwardRow(
        "biased-variance-and-slow-momentum",
        {"running_variance": "biased", "batch_norm_momentum": 0.01},
        tier_in_modes="full",
    ),
    ForwardRow("convolutions-with-bias", {"conv_bias": True}),
    ForwardRow("transition-without-relu", {"transition_relu": False}),
    ForwardRow("no-final-norm", {"final_norm": False}),
    ForwardRow("theta-rounds-down", {"compression": 0.3, "growth_rate": 5}, tier_in_modes="full"),
    ForwardRow("one-block", {"blocks": (3,)}, tier_in_modes="full"),
    ForwardRow("four-blocks", {"blocks": (1, 2, 1, 1)}, size=(65, 64)),
    ForwardRow("one-channel-and-one-class", {"in_channels": 1, "classes": 1}, tier_in_modes="full"),
    ForwardRow("five-channels", {"in_channels": 5, "stem_width": 7}, tier_in_modes="full"),
    ForwardRow(
        "dropout-is-off", {"dropout_rate": 0.5, "dropout_place": "every-conv"}, tier_in_modes="full"
    ),
    ForwardRow(
        "dropout-of-layers-is-off",
        {"dropout_rate": 0.5, "dropout_place": "layer"},
        tier_in_modes="full",
    ),
    ForwardRow("one-dimension", {"spatial_dims": 1}, size=(50,)),
    ForwardRow("one-dimension-same-padding", {"spatial_dims": 1, "padding": "same"}, size=(49,)),
    ForwardRow("three-dimensions", UNPOOLED | {"spatial_dims": 3}, size=(12, 11, 10)),
    ForwardRow(
        "three-dimensions-with-pools", {"spatial_dims": 3}, size=(16, 19, 18), dtype="float32"
    ),
    ForwardRow("dense-layers-before-the-classifier", {"head_units": (6, 4)}, tier_in_modes="full"),
    ForwardRow("deep-stem", DEEP),
    ForwardRow("deep-stem-same-padding", DEEP | {"padding": "same"}, size=(33, 38)),
    ForwardRow("stem-pool-blurs", DEEP | {"stem_pool_kind": "max-blur"}, size=(37, 40)),
    ForwardRow(
        "stem-pool-blurs-any-size",
        {"stem_pool_kind": "max-blur"},
        any_size=True,
        tier_in_modes="full",
    ),
    ForwardRow("transitions-blur", {"transition_pool_kind": "blur"}, size=(40, 46)),
    ForwardRow("one-dimension-blurs", BLURS | {"spatial_dims": 1}, size=(50,)),
    ForwardRow(
        "three-dimensions-blur",
        UNPOOLED | BLURS | {"blocks": (1, 1), "spatial_dims": 3},
        size=(12, 11, 10),
    ),
    ForwardRow("classifier-without-bias", {"classifier_bias": False}, tier_in_modes="full"),
    ForwardRow(
        "dropout-before-the-classifier-is-off", {"head_dropout_rate": 0.5}, tier_in_modes="full"
    ),
    ForwardRow("maximum-before-the-classifier", {"global_pool": "max"}, tier_in_modes="full"),
    ForwardRow("mean-of-average-and-maximum", {"global_pool": "avgmax"}, tier_in_modes="full"),
    ForwardRow("averages-then-maxima", {"global_pool": "catavgmax"}, tier_in_modes="full"),
    ForwardRow("elu", {"activation": "elu"}),
    ForwardRow(
        "leaky-relu",
        {"activation": "leaky-relu", "activation_slope": 0.2, "transition_relu": False},
        tier_in_modes="full",
    ),
    *(
        ForwardRow(kind, {"activation": kind}, tier_in_modes="full")
        for kind in ("silu", "gelu", "gelu-tanh", "relu6", "prelu")
    ),
    ForwardRow("instance-norm", {"norm": "instance"}),
    ForwardRow(
        "group-norm", {"norm": "group", "norm_groups": 4, "activation": "elu"}, any_size=True
    ),
    ForwardRow(
        "group-norm-not-affine",
        {"norm": "group", "norm_groups": 2, "norm_affine": False, "spatial_dims": 1},
        size=(50,),
        tier_in_modes="full",
    ),
    ForwardRow("batch-norm-not-affine", {"norm_affine": False}, tier_in_modes="full"),
    ForwardRow("no-norm", {"norm": "none", "activation": "elu"}, tier_in_modes="full"),
    ForwardRow("softmax", options={"classifier_activation": "softmax"}),
    ForwardRow("sigmoid", options={"classifier_activation": "sigmoid"}, tier_in_modes="full"),
    ForwardRow("features", options={"include_top": False}),
    ForwardRow(
        "features-averaged", options={"include_top": False, "pooling": "avg"}, tier_in_modes="full"
    ),
    ForwardRow(
        "features-maximum", options={"include_top": False, "pooling": "max"}, tier_in_modes="full"
    ),
)


def request(row: ForwardRow, dtype: str | None = None) -> Forward:
    """Ask what a row asks: the value of every op, in its own dtype unless another is given."""
    options: dict[str, Any] = dict(row.options)
    graph = lower(row.spec, row.size, **options)
    weights = with_variances(random_weights(graph, row.name), row.variance)
    network = NetworkToBuild(
        row.spec,
        input_size=None if row.any_size else row.size,
        weights=with_signs(weights) if row.signs else weights,
        options=row.options,
    )
    taps = tuple(node.name for node in graph.nodes[1:])
    asked = Forward(network, images(row.spec, row.size, 2, row.name), taps)
    return given_in(dtype or row.dtype, asked)


def check(row: ForwardRow, dtype: str, target: Target, reference: Reference) -> Outcome:
    """Check that every op's value is within its bound."""
    asked = request(row, dtype)
    expected = reference.expect(f"forward {row.name} {dtype}", lambda: asked)
    return compare(target, asked, expected)


def compare(target: Target, asked: Forward, expected: Expectation) -> Outcome:
    """Compare the value of every op, or in a mode that fuses ops, of every one that it computes."""
    answer = target.ask(asked)
    fuses = split_mode(target.name)[1] != LAYERS
    order = shown(answer, asked.taps) if fuses else asked.taps
    return assert_close(actual=answer, expected=expected, order=order)


CASES = tuple(
    Case(
        id=f"forward/{row.name}",
        claim=f"every op of the network computes what the reference does, in {row.dtype}",
        check=partial(check, row, row.dtype),
        tier_in_modes=row.tier_in_modes,
        cost=1.5,
    )
    for row in ROWS
)

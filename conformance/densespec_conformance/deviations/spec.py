"""A field of the spec has another value than the one asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from densespec.network import ops
from densespec.network.graph import Graph, Node
from densespec_conformance.deviations.deviation import Change, Deviation, both
from densespec_conformance.deviations.rewriting import on, replace_ops, without

ANY = "*"
STEM, POOL = "stem.conv", "stem_pool"
WINDOWED = (ops.Conv, ops.MaxPool)


def _epsilon(value: float) -> Change:
    return on(ANY, ops.BatchNorm, epsilon=value)


def _padding(names: str, pads: Callable[[ops.Pads], ops.Pads]) -> Change:
    """Change what "same" would pad, which is then no longer a matter of the spec."""

    def rewrite(node: Node, graph: Graph) -> Any:
        op, sizes = node.op, graph[node.inputs[0]].shape[1:]
        assert isinstance(op, WINDOWED)
        same = ops.resolve_padding("same", sizes, op.window, op.stride)
        assert same != "same", "sizes are known"
        return replace_padding(op, pads(same))

    return replace_ops(names, WINDOWED, rewrite)


def replace_padding(op: Any, pads: ops.Pads) -> Any:
    return type(op)(**{name: getattr(op, name) for name in op.__slots__} | {"padding": pads})


def _same(pads: ops.Pads) -> ops.Pads:
    return pads


def _lower(pads: ops.Pads) -> ops.Pads:
    return tuple((after, before) for before, after in pads)


def _symmetric(names: str) -> Change:
    def rewrite(node: Node, graph: Graph) -> Any:
        assert isinstance(node.op, WINDOWED)
        return replace_padding(node.op, tuple(((n - 1) // 2,) * 2 for n in node.op.window))

    return replace_ops(names, WINDOWED, rewrite)


def _none(names: str) -> Change:
    def rewrite(node: Node, graph: Graph) -> Any:
        assert isinstance(node.op, WINDOWED)
        return replace_padding(node.op, ((0, 0),) * len(node.op.window))

    return replace_ops(names, WINDOWED, rewrite)


def _kept(rounded: Callable[[float], int]) -> Change:
    """Round otherwise how many feature maps transitions keep."""

    def rewrite(node: Node, graph: Graph) -> Any:
        op = node.op
        assert isinstance(op, ops.Conv)
        filters = rounded(graph.spec.compression * op.in_channels)
        return ops.Conv(op.in_channels, filters, op.window, op.stride, op.padding, op.bias)

    def change(variant: Any) -> Any:
        # One transition at a time: what one keeps decides how many the next one has.
        for index in range(1, len(variant.graph.spec.blocks)):
            variant = replace_ops(f"transition{index}.conv", ops.Conv, rewrite)(variant)
        return variant

    return change


EPSILONS: Mapping[str, tuple[str, str]] = {
    "1e-3": ("eps-keras", "Keras's default, TensorFlow"),
    "1.001e-5": ("eps-keras-applications", "keras.applications, keras-hub"),
    "1e-5": ("eps-torch", "PyTorch's and Flax's default"),
    "1.1e-5": ("eps-1.1e-5", "keras-contrib"),
    "1e-4": ("eps-1e-4", "a common choice"),
    "1e-6": ("eps-1e-6", "a common choice"),
    "1e-12": ("eps-1e-12", "the eps of BERT's layer norm"),
}
"""Lists the epsilons that norms are known to have, with an id and where each is found."""

DEVIATIONS = (
    *(
        Deviation(id_, f"norms use eps {epsilon}", source, _epsilon(float(epsilon)))
        for epsilon, (id_, source) in EPSILONS.items()
    ),
    Deviation(
        "same-padding",
        "the stem pads as TensorFlow's 'same'",
        "TensorFlow, keras-hub",
        _padding(f"{STEM} {POOL}", _same),
    ),
    Deviation(
        "same-padding-of-conv",
        "the stem's convolution alone pads as TensorFlow's 'same'",
        "ports that keep one of two paddings",
        _padding(STEM, _same),
    ),
    Deviation(
        "same-padding-of-pool",
        "the stem's pool alone pads as TensorFlow's 'same'",
        "ports that keep one of two paddings",
        _padding(POOL, _same),
    ),
    Deviation(
        "symmetric-padding",
        "the stem pads (n-1)/2 on both sides",
        "PyTorch",
        _symmetric(f"{STEM} {POOL}"),
    ),
    Deviation(
        "symmetric-padding-of-conv",
        "the stem's convolution alone pads (n-1)/2 on both sides",
        "ports that keep one of two paddings",
        _symmetric(STEM),
    ),
    Deviation(
        "symmetric-padding-of-pool",
        "the stem's pool alone pads (n-1)/2 on both sides",
        "ports that keep one of two paddings",
        _symmetric(POOL),
    ),
    Deviation(
        "same-lower-padding",
        "the stem pads as 'same' with the extra pixel at the start",
        "ONNX's SAME_LOWER",
        _padding(f"{STEM} {POOL}", _lower),
    ),
    Deviation("no-padding-of-conv", "the stem's convolution does not pad", "'valid'", _none(STEM)),
    Deviation("no-padding-of-pool", "the stem's pool does not pad", "'valid'", _none(POOL)),
    Deviation(
        "no-final-norm",
        "there is no norm and no ReLU before the global pool",
        "the Keras and PyTorch originals of densenet169-bc",
        both(without("final.norm", ops.BatchNorm), without("final.relu", ops.Relu)),
    ),
    Deviation(
        "no-final-relu",
        "there is no ReLU before the global pool",
        "ports of torchvision's modules, where that ReLU is a function",
        without("final.relu", ops.Relu),
    ),
    Deviation(
        "no-transition-relu",
        "transitions have no ReLU",
        "a reading of the paper's text",
        without("transition*.relu", ops.Relu),
    ),
    Deviation(
        "no-stem-norm",
        "the stem has no norm and no ReLU",
        "CIFAR networks",
        both(without("stem.norm", ops.BatchNorm), without("stem.relu", ops.Relu)),
    ),
    Deviation("no-stem-pool", "the stem has no pool", "CIFAR networks", without(POOL, ops.MaxPool)),
    Deviation(
        "no-conv-bias",
        "convolutions have no bias",
        "PyTorch and Keras ports, bias=False",
        on(ANY, ops.Conv, bias=False),
    ),
    Deviation(
        "no-stem-bias",
        "the stem has no bias",
        "tutorials whose dense layers alone leave bias at its default",
        on(STEM, ops.Conv, bias=False),
    ),
    Deviation(
        "no-transition-bias",
        "transitions have no bias",
        "tutorials whose dense layers alone leave bias at its default",
        on("transition*.conv", ops.Conv, bias=False),
    ),
    Deviation(
        "conv-bias",
        "convolutions have a bias",
        "the default of PyTorch and Keras",
        on(ANY, ops.Conv, bias=True),
    ),
    Deviation(
        "stem-bias", "the stem has a bias", "a forgotten bias=False", on(STEM, ops.Conv, bias=True)
    ),
    Deviation(
        "transition-bias",
        "transitions have a bias",
        "a forgotten bias=False",
        on("transition*.conv", ops.Conv, bias=True),
    ),
    Deviation("theta-rounds", "theta * m is rounded to the nearest", "round()", _kept(round)),
    Deviation("theta-ceils", "theta * m is rounded up", "ceil()", _kept(math.ceil)),
    Deviation(
        "statistics-counted-as-trainable",
        "running statistics are counted as trainable",
        "count_params() of all weights",
        lambda variant: replace(variant, trainable_statistics=True),
    ),
)

"""Rewriting a network for inference: the same function with less to compute.

A node of the rewritten graph computes exactly what the node of the same name did before; a node
that computes something else has a name of its own. The rules, in the order in which they are used:

1. Dropout does nothing in inference.
2. A batch norm after a convolution is another kernel and a bias of that convolution.
3. A 1x1 convolution and the average pool after it commute: pooled first, it has a quarter as many
   positions, in two dimensions.
4. A batch norm, with or without a ReLU, before a linear op that pads nothing (with average pools
   in between or not) is another kernel and a bias of that op. What is left of the ReLU is a clip:
   relu(s * x + b) = s * max(x, -b / s) + b for s > 0, and with min for s < 0.
5. Every other batch norm is a scale and a shift.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from densespec.network.arrays import Arrays
from densespec.network.graph import Graph, Node
from densespec.network.ops import (
    Affine,
    AvgPool,
    BatchNorm,
    Clip,
    Conv,
    Dense,
    Dropout,
    GlobalPool,
    Op,
    Relu,
    Shape,
)

SMALLEST_SCALE = 1e-19
"""Scales nearer to 0 are taken for this, so that bounds and kernels stay within float32's range.
It adds nothing that float32 could tell from 0."""

Rounded = Callable[[np.ndarray], np.ndarray]
"""The nearest values of some dtype, in float64."""
Fold = Callable[[Arrays, Rounded], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Prepared:
    """A network rewritten for inference.

    Attributes:
        graph: frozen throughout; its arrays are named after its own nodes.
        folds: what gives the arrays that each rewriting changed, of those before it.
    """

    graph: Graph
    folds: tuple[Fold, ...]

    def fold(self, arrays: Mapping[str, np.ndarray], rounded: Rounded = np.asarray) -> Arrays:
        """The arrays of the rewritten network, of the canonical arrays of the original one.

        They are computed in float64 and given in it, where they have changed.

        Args:
            rounded: as the network that gets them will round them. What a clip holds at its bound
                must vanish after the op behind it, so that op's bias is that of the rounded bound.
        """
        known = dict(arrays)
        for fold in self.folds:
            known.update(fold(known, rounded))
        return {weight.name: known[weight.name] for weight in self.graph.weights}


def prepare(graph: Graph, *, clip: bool = True) -> Prepared:
    """Rewrite a network for inference.

    Args:
        clip: whether a norm and a ReLU may become a clip. Its bounds need the range of float32:
            float16 is better off without.
    """
    draft = _Draft(graph)
    draft.apply(_without_dropout)
    draft.apply(_norm_into_convolution_before)
    draft.apply(_pool_before_convolution)
    draft.apply(_norm_into_linear_after, clip)
    draft.apply(_norm_as_affine)
    return Prepared(Graph(graph.spec, tuple(draft.nodes.values())), tuple(draft.folds))


@dataclass(frozen=True)
class _Change:
    """One place rewritten.

    Attributes:
        nodes: by the name of the node whose place it takes; None where there is none any more, and
            its readers read what it read.
        fold: arrays of the new nodes.
    """

    nodes: Mapping[str, Node | None]
    fold: Fold | None = None


class _Draft:
    """The nodes so far, and who reads whom."""

    def __init__(self, graph: Graph) -> None:
        self.nodes = {node.name: replace(node, frozen=True) for node in graph.nodes}
        self.output = graph.output.name
        self.folds: list[Fold] = []
        self._index()

    def _index(self) -> None:
        self._readers: dict[str, list[Node]] = {name: [] for name in self.nodes}
        for node in self.nodes.values():
            for source in node.inputs:
                self._readers[source].append(node)

    def reader(self, node: Node) -> Node | None:
        """The only reader of a node's value; None where it has others, or is the output."""
        readers = self._readers[node.name]
        return readers[0] if len(readers) == 1 and node.name != self.output else None

    def source(self, node: Node) -> Node:
        """What a node with one input reads."""
        (name,) = node.inputs
        return self.nodes[name]

    def made(self, name: str, op: Op, source: Node) -> Node:
        """A new node that reads one other."""
        output: Callable[..., Shape] = op.output
        return Node(name, op, (source.name,), output(source.shape), frozen=True)

    def apply(self, rule: Callable[..., Iterator[_Change]], *options: bool) -> None:
        """Rewrite every place that a rule finds; places do not overlap."""
        changed: dict[str, Node | None] = {}
        for change in rule(self, *options):
            changed.update(change.nodes)
            self.folds += [change.fold] if change.fold else []
        instead: dict[str, str] = {}
        nodes: dict[str, Node] = {}
        for name, old in self.nodes.items():
            node = changed.get(name, old)
            if node is None:
                instead[name] = instead.get(old.inputs[0], old.inputs[0])
                continue
            inputs = tuple(instead.get(source, source) for source in node.inputs)
            nodes[node.name] = replace(node, inputs=inputs)
        self.nodes, self.output = nodes, instead.get(self.output, self.output)
        self._index()


def _without_dropout(draft: _Draft) -> Iterator[_Change]:
    for node in draft.nodes.values():
        if isinstance(node.op, Dropout):
            yield _Change({node.name: None})


def _norm_into_convolution_before(draft: _Draft) -> Iterator[_Change]:
    for norm in draft.nodes.values():
        conv = draft.source(norm) if isinstance(norm.op, BatchNorm) else None
        if conv is None or not isinstance(conv.op, Conv) or draft.reader(conv) is not norm:
            continue
        new = draft.made(norm.name, replace(conv.op, bias=True), draft.source(conv))

        def fold(arrays: Arrays, _rounded: Rounded, conv: Node = conv, norm: Node = norm) -> Arrays:
            scale, shift = _scale_and_shift(arrays, norm)
            kernel, bias = _linear(arrays, conv)
            return {
                f"{norm.name}.kernel": _along(scale, kernel, 0) * kernel,
                f"{norm.name}.bias": scale * bias + shift,
            }

        yield _Change({conv.name: None, norm.name: new}, fold)


def _pool_before_convolution(draft: _Draft) -> Iterator[_Change]:
    for pool in draft.nodes.values():
        conv = draft.source(pool) if isinstance(pool.op, AvgPool) else None
        if conv is None or not isinstance(conv.op, Conv) or draft.reader(conv) is not pool:
            continue
        if set(conv.op.window) != {1} or conv.op.stride != 1 or not _unpadded(conv.op):
            continue
        first = draft.made(pool.name.replace("pool", "pooled"), pool.op, draft.source(conv))
        new = draft.made(pool.name, conv.op, first)

        def fold(arrays: Arrays, _rounded: Rounded, conv: Node = conv, new: Node = new) -> Arrays:
            kept = {weight.name.rpartition(".")[2] for weight in new.weights}
            return {f"{new.name}.{short}": arrays[f"{conv.name}.{short}"] for short in kept}

        yield _Change({conv.name: first, pool.name: new}, fold)


def _norm_into_linear_after(draft: _Draft, clip: bool) -> Iterator[_Change]:
    for norm in draft.nodes.values():
        if not isinstance(norm.op, BatchNorm):
            continue
        relu, between, target = _linear_chain(draft, norm)
        if target is None or (relu and not clip):
            continue
        changed: dict[str, Node | None] = {norm.name: None}
        last = draft.source(norm)
        if relu is not None:
            op = Clip(norm.op.channels)
            last = changed[relu.name] = draft.made(_named(norm.name, "clip"), op, last)
        for pool in between:
            last = changed[pool.name] = draft.made(f"{pool.name}_before_norm", pool.op, last)
        op_after = replace(target.op, bias=True) if isinstance(target.op, Conv) else target.op
        changed[target.name] = draft.made(target.name, op_after, last)
        yield _Change(changed, _fold_into(norm, relu, target))


def _linear_chain(draft: _Draft, norm: Node) -> tuple[Node | None, list[Node], Node | None]:
    """The ReLU after a norm, average pools, and the linear op after those, where that is all."""
    relu, between, node = None, [], draft.reader(norm)
    if node is not None and isinstance(node.op, Relu):
        relu, node = node, draft.reader(node)
    while node is not None and _averages(node.op):
        between.append(node)
        node = draft.reader(node)
    linear = node is not None and (
        isinstance(node.op, Dense) or (isinstance(node.op, Conv) and _unpadded(node.op))
    )
    return relu, between, node if linear else None


def _fold_into(norm: Node, relu: Node | None, target: Node) -> Fold:
    def fold(arrays: Arrays, _rounded: Rounded) -> Arrays:
        scale, shift = _scale_and_shift(arrays, norm)
        kernel, bias = _linear(arrays, target)
        return {
            f"{target.name}.kernel": _along(scale, kernel, 1) * kernel,
            f"{target.name}.bias": bias + _summed(_along(shift, kernel, 1) * kernel),
        }

    def fold_clipped(arrays: Arrays, rounded: Rounded) -> Arrays:
        scale, shift = _scale_and_shift(arrays, norm)
        near_zero = np.abs(scale) < SMALLEST_SCALE
        scale = np.where(near_zero, np.copysign(SMALLEST_SCALE, scale), scale)
        kernel, bias = _linear(arrays, target)
        kernel = rounded(_along(scale, kernel, 1) * kernel)
        bound, clip = rounded(-shift / scale), _named(norm.name, "clip")
        return {
            f"{clip}.low": np.where(scale > 0, bound, -np.inf),
            f"{clip}.high": np.where(scale > 0, np.inf, bound),
            f"{target.name}.kernel": kernel,
            f"{target.name}.bias": bias - _summed(_along(bound, kernel, 1) * kernel),
        }

    return fold if relu is None else fold_clipped


def _summed(kernel: np.ndarray) -> np.ndarray:
    """Of each output."""
    return kernel.sum(tuple(range(1, kernel.ndim)))


def _norm_as_affine(draft: _Draft) -> Iterator[_Change]:
    for norm in draft.nodes.values():
        if not isinstance(norm.op, BatchNorm):
            continue

        def fold(arrays: Arrays, _rounded: Rounded, norm: Node = norm) -> Arrays:
            scale, shift = _scale_and_shift(arrays, norm)
            return {f"{norm.name}.scale": scale, f"{norm.name}.shift": shift}

        affine = draft.made(norm.name, Affine(norm.op.channels), draft.source(norm))
        yield _Change({norm.name: affine}, fold)


def _scale_and_shift(arrays: Arrays, norm: Node) -> tuple[np.ndarray, np.ndarray]:
    """What a norm multiplies by and adds in inference, in float64."""
    assert isinstance(norm.op, BatchNorm)
    gamma, beta, mean, variance = (
        np.asarray(arrays[f"{norm.name}.{short}"], np.float64)
        for short in ("gamma", "beta", "running_mean", "running_variance")
    )
    scale = gamma / np.sqrt(variance + norm.op.epsilon)
    return scale, beta - mean * scale


def _linear(arrays: Arrays, node: Node) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias of a convolution or a dense layer, in float64; zeros for no bias."""
    kernel = np.asarray(arrays[f"{node.name}.kernel"], np.float64)
    bias = arrays.get(f"{node.name}.bias", np.zeros(len(kernel)))
    return kernel, np.asarray(bias, np.float64)


def _along(vector: np.ndarray, kernel: np.ndarray, axis: int) -> np.ndarray:
    """A vector shaped to multiply one axis of a kernel."""
    return vector.reshape([-1 if d == axis else 1 for d in range(kernel.ndim)])


def _averages(op: Op) -> bool:
    return isinstance(op, AvgPool) or (isinstance(op, GlobalPool) and op.kind == "avg")


def _unpadded(op: Conv) -> bool:
    return op.padding != "same" and not any(map(any, op.padding))


def _named(norm: str, kind: str) -> str:
    """A node's name beside a norm's: ``block1.layer1.clip1`` beside ``block1.layer1.norm1``."""
    return norm.replace("norm", kind)

"""Rewrites a network for inference: it computes the same function with less work.

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

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from densespec.network.arrays import Arrays
from densespec.network.graph import Graph, Node, without
from densespec.network.ops import Affine, BatchNorm, Clip, Conv, Dense, Dropout, Op, Shape
from densespec.network.steps import LinearBehind, conv_before, linear_behind, pool_behind

SMALLEST_SCALE = 1e-19
"""Scales nearer to 0 are taken for this, so that bounds and kernels stay within float32's range.
It adds nothing that float32 could tell from 0."""

LARGEST_SHIFT = 64.0
"""The op behind a norm takes up shifts up to this size.

Its bias takes back what a channel adds. Where two such sums cancel, float32 leaves an error of 1e-7
times the shift: 1e-5 at most.
"""

Rounded = Callable[[np.ndarray], np.ndarray]
"""Gives the nearest values of some dtype, in float64."""
Fold = Callable[[Arrays, Rounded], Mapping[str, np.ndarray]]
"""Gives the arrays that a rewriting changed, of those before it."""


@dataclass(frozen=True)
class Prepared:
    """Holds a network rewritten for inference.

    Attributes:
        graph: The rewritten network, frozen throughout; its arrays are named after its own nodes.
        folds: The functions that compute the arrays changed by each rewriting from the arrays
            before it, in order.
    """

    graph: Graph
    folds: tuple[Fold, ...]

    def fold(self, arrays: Mapping[str, np.ndarray], rounded: Rounded = np.asarray) -> Arrays:
        """Work out the arrays of the rewritten network from the canonical ones of the original.

        They are computed in float64 and given in it, where they have changed.

        Args:
            rounded: Rounds as the network that gets them will. A value that a clip holds at its
                bound must vanish after the op behind it, so that op's bias is computed from the
                rounded bound.
        """
        known = dict(arrays)
        for fold in self.folds:
            known.update(fold(known, rounded))
        return {weight.name: known[weight.name] for weight in self.graph.weights}


def prepare(
    graph: Graph, *, clip: bool = True, arrays: Mapping[str, np.ndarray] | None = None
) -> Prepared:
    """Rewrite a network for inference.

    Args:
        clip: Whether a norm and a ReLU may become a clip. Its bounds need the range of float32:
            float16 is better off without.
        arrays: The canonical arrays, where they are known: a norm whose shift is so large that the
            op behind it would lose digits stays a scale and a shift.
    """
    graph = without(graph, {node.name for node in graph.nodes_of(Dropout)})
    graph = replace(graph, nodes=tuple(replace(node, frozen=True) for node in graph.nodes))
    folds: list[Fold] = []
    for rule in (
        _norm_into_convolution_before,
        _pool_before_convolution,
        functools.partial(_norm_into_linear_behind, clip=clip, arrays=arrays),
        _norm_as_affine,
    ):
        changes = tuple(rule(graph))
        graph = _rewritten(graph, changes)
        folds += [change.fold for change in changes]
    return Prepared(graph, tuple(folds))


@dataclass(frozen=True)
class _Change:
    """Holds the rewriting of one place of a network.

    Attributes:
        nodes: The new nodes, by the name of the node whose place each takes; None if there is
            none any more, and its readers read what it read.
        fold: Gives the arrays of the new nodes.
    """

    nodes: Mapping[str, Node | None]
    fold: Fold


def _rewritten(graph: Graph, changes: Iterable[_Change]) -> Graph:
    """Rewrite a network in places that do not overlap."""
    new = {name: node for change in changes for name, node in change.nodes.items()}
    nodes = tuple(new.get(node.name) or node for node in graph.nodes)
    gone = {name for name, node in new.items() if node is None}
    return without(replace(graph, nodes=nodes), gone)


def _made(name: str, op: Op, source: Node) -> Node:
    """Make a node that reads one other."""
    output: Callable[..., Shape] = op.output
    return Node(name, op, (source.name,), output(source.shape), frozen=True)


def _norm_into_convolution_before(graph: Graph) -> Iterator[_Change]:
    for norm in graph.nodes_of(BatchNorm):
        conv = conv_before(graph, norm)
        if conv is None:
            continue
        assert isinstance(conv.op, Conv)
        new = _made(norm.name, replace(conv.op, bias=True), graph.source(conv))

        def fold(arrays: Arrays, _rounded: Rounded, conv: Node = conv, norm: Node = norm) -> Arrays:
            scale, shift = _scale_and_shift(arrays, norm)
            kernel, bias = _linear(arrays, conv)
            return {
                f"{norm.name}.kernel": _along(scale, kernel, 0) * kernel,
                f"{norm.name}.bias": scale * bias + shift,
            }

        yield _Change({conv.name: None, norm.name: new}, fold)


def _pool_before_convolution(graph: Graph) -> Iterator[_Change]:
    for conv in graph.nodes_of(Conv):
        pool = pool_behind(graph, conv)
        if pool is None:
            continue
        first = _made(pool.name.replace("pool", "pooled"), pool.op, graph.source(conv))
        new = _made(pool.name, conv.op, first)

        def fold(arrays: Arrays, _rounded: Rounded, conv: Node = conv, new: Node = new) -> Arrays:
            return {w.name: arrays[f"{conv.name}.{w.short}"] for w in new.weights}

        yield _Change({conv.name: first, pool.name: new}, fold)


def _norm_into_linear_behind(
    graph: Graph, *, clip: bool, arrays: Mapping[str, np.ndarray] | None
) -> Iterator[_Change]:
    for norm in graph.nodes_of(BatchNorm):
        behind = linear_behind(graph, norm)
        if behind is None or (behind.relu and not clip):
            continue
        if arrays is not None and _shifts_far(arrays, norm):
            continue
        changed: dict[str, Node | None] = {norm.name: None}
        last = graph.source(norm)
        if behind.relu is not None:
            op = Clip(norm.channels)
            last = changed[behind.relu.name] = _made(_named(norm.name, "clip"), op, last)
        for pool in behind.pools:
            last = changed[pool.name] = _made(f"{pool.name}_before_norm", pool.op, last)
        target = behind.node
        assert isinstance(target.op, Conv | Dense)
        biased = replace(target.op, bias=True)
        changed[target.name] = _made(target.name, biased, last)
        yield _Change(changed, _fold_into(norm, behind))


def _fold_into(norm: Node, behind: LinearBehind) -> Fold:
    target = behind.node

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

    return fold if behind.relu is None else fold_clipped


def _norm_as_affine(graph: Graph) -> Iterator[_Change]:
    for norm in graph.nodes_of(BatchNorm):

        def fold(arrays: Arrays, _rounded: Rounded, norm: Node = norm) -> Arrays:
            scale, shift = _scale_and_shift(arrays, norm)
            return {f"{norm.name}.scale": scale, f"{norm.name}.shift": shift}

        affine = _made(norm.name, Affine(norm.channels), graph.source(norm))
        yield _Change({norm.name: affine}, fold)


def _shifts_far(arrays: Mapping[str, np.ndarray], norm: Node) -> bool:
    _, shift = _scale_and_shift(arrays, norm)
    return bool(np.isfinite(shift).all() and np.abs(shift).max() > LARGEST_SHIFT)


def _summed(kernel: np.ndarray) -> np.ndarray:
    """Sum what goes into each output."""
    return kernel.sum(tuple(range(1, kernel.ndim)))


def _scale_and_shift(arrays: Mapping[str, np.ndarray], norm: Node) -> tuple[np.ndarray, np.ndarray]:
    """Return what a norm multiplies by and adds in inference, in float64."""
    assert isinstance(norm.op, BatchNorm)
    mean, variance = (_array(arrays, f"{norm.name}.running_{s}") for s in ("mean", "variance"))
    scale = 1 / np.sqrt(variance + norm.op.epsilon)
    if not norm.op.affine:
        return scale, -mean * scale
    gamma, beta = (_array(arrays, f"{norm.name}.{s}") for s in ("gamma", "beta"))
    return gamma * scale, beta - mean * gamma * scale


def _array(arrays: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    return np.asarray(arrays[name], np.float64)


def _linear(arrays: Arrays, node: Node) -> tuple[np.ndarray, np.ndarray]:
    """Return kernel and bias of a convolution or a dense layer, in float64; zeros for no bias."""
    kernel = np.asarray(arrays[f"{node.name}.kernel"], np.float64)
    bias = arrays.get(f"{node.name}.bias", np.zeros(len(kernel)))
    return kernel, np.asarray(bias, np.float64)


def _along(vector: np.ndarray, kernel: np.ndarray, axis: int) -> np.ndarray:
    """Shape a vector so that it multiplies along one axis of a kernel."""
    return vector.reshape([-1 if d == axis else 1 for d in range(kernel.ndim)])


def _named(norm: str, kind: str) -> str:
    """Name a node beside a norm: ``block1.layer1.clip1`` beside ``block1.layer1.norm1``."""
    return norm.replace("norm", kind)

"""Runs a network that was rewritten for inference, op by op with few passes over memory.

The features of a dense block are written side by side into one buffer, and each layer reads the
first of them. So nothing is concatenated. Where maps are large, the batch goes through a block a
few samples at a time, so that they stay in the processor's cache. On processors, convolutions are
oneDNN's, with kernels in its own layout and the ReLU within. On GPUs, calls are recorded.

That ReLU turns NaN into 0, while every other operation passes NaN on. It is used within dense
blocks alone, where NaN in a layer's input goes past the layer too, and with kernels without NaN.
"""

from __future__ import annotations

import functools
import itertools
import os
import platform
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from densespec.network import ops
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph, Node
from densespec.network.passes import prepare
from densespec.network.steps import Block, Convolution, Step, steps
from densespec_torch.layers import BlurPool, activation, explicitly_padded, pooled, symmetric
from densespec_torch.primitives import CONV
from densespec_torch.recordings import RecordedFunction
from densespec_torch.tensors import to_numpy
from densespec_torch.workspace import Buffer, Workspace

Values = dict[str, Tensor]
Apply = Callable[..., Tensor]

_MAX_POOL: dict[int, Any] = {
    1: functional.max_pool1d,
    2: functional.max_pool2d,
    3: functional.max_pool3d,
}
_AVG_POOL: dict[int, Any] = {
    1: functional.avg_pool1d,
    2: functional.avg_pool2d,
    3: functional.avg_pool3d,
}
_CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}

_CACHE_SHARE = 4
"""A block's features may take this part of the cache: it also holds what layers read and give."""
_CACHE_IF_UNKNOWN = 32 * 2**20

_PACKED_BYTES = 256 * 2**20
_MOST_SHAPES = 8
"""Kernels are kept in the layouts of at most this many shapes of input.

There are fewer if they take more memory, but there is at least one.
"""


@dataclass(frozen=True)
class _Instruction:
    """Computes a value of others.

    Attributes:
        name: The node whose value it is.
        op: What tells the value's shape.
        reads: The nodes whose values are read.
    """

    name: str
    op: ops.Op
    reads: tuple[str, ...]
    apply: Apply


@dataclass(frozen=True)
class _Segment:
    """Holds what a few samples go through together: a dense block and what follows it."""

    reads: str
    instructions: tuple[_Instruction, ...]

    @property
    def gives(self) -> str:
        """Return the name of the node whose value leaves the segment."""
        return self.instructions[-1].name

    @property
    def names(self) -> set[str]:
        """Return the names of the nodes whose values it computes."""
        return {instruction.name for instruction in self.instructions}

    @functools.cached_property
    def spent(self) -> tuple[tuple[str, ...], ...]:
        """Return, for each instruction, the nodes whose values no later one reads."""
        last = {name: place for place, one in enumerate(self.instructions) for name in one.reads}
        return tuple(
            tuple(name for name in dict.fromkeys(one.reads) if last[name] == place)
            for place, one in enumerate(self.instructions)
        )


class Program:
    """Holds a network rewritten for inference and its arrays, ready to run.

    Args:
        arrays: The canonical arrays of the original network.
        like: A tensor of the dtype and on the device of the model.
        traced: Whether PyTorch will trace the program. It then consists of plain operators, which
            PyTorch can rewrite.
    """

    def __init__(self, graph: Graph, arrays: Arrays, like: Tensor, *, traced: bool = False) -> None:
        if like.dtype == torch.bfloat16 and like.device.type == "cpu" and lacks_bfloat16():
            warnings.warn(
                "this processor has no bfloat16 arithmetic (AVX512_BF16 or AMX): PyTorch imitates "
                "it, which is slower than float32",
                stacklevel=4,
            )
        prepared = prepare(graph, clip=like.dtype != torch.float16, arrays=arrays)
        self._graph, self._traced, self._like = prepared.graph, traced, like
        folded = prepared.fold(arrays, lambda array: to_numpy(self._tensor(array).double()))
        self.tensors = {name: self._tensor(array) for name, array in folded.items()}
        self._dims = graph.spatial_dims
        self._packed = not traced and _packs(like, self._dims)
        held = sum(tensor.nbytes for tensor in self.tensors.values())
        self._shapes_kept = max(1, min(_MOST_SHAPES, _PACKED_BYTES // max(1, held)))
        self._format = _CHANNELS_LAST.get(self._dims, torch.contiguous_format)
        self._workspace = Workspace(self._format)
        self._segments = tuple(map(self._segment, _cut_before_blocks(self._graph)))
        self._chunks = functools.lru_cache(maxsize=8)(self._samples_at_a_time)
        records = like.device.type == "cuda" and not traced
        self.given: Apply = RecordedFunction(self._given) if records else self._given

    def _given(self, x: Tensor) -> Any:
        """Compute what the network gives: a value, or a tuple of its outputs."""
        names = [node.name for node in self._graph.given]
        values = self.run(x, names)
        return tuple(values[name] for name in names) if self._graph.outputs else values[names[0]]

    def check_type(self, x: Tensor) -> None:
        """Check that an input has the type of the network's arrays and is on their device.

        Raises:
            RuntimeError: It has another type or is elsewhere.
        """
        if x.dtype != self._like.dtype or x.device != self._like.device:
            raise RuntimeError(
                f"the input is {x.dtype} on {x.device}, but this network, which is prepared for "
                f"inference, is {self._like.dtype} on {self._like.device}: move one of them by .to"
            )

    def run(self, x: Tensor, names: Sequence[str]) -> Values:
        """Compute the values of those of the named nodes that the program computes.

        Args:
            x: (batch, channels, *spatial).
        """
        kept: Values = {}
        x = x.to(memory_format=self._format)
        together = self._traced or x.device.type != "cpu"
        self._workspace.reused = not together
        chunks = () if together else self._chunks(tuple(x.shape[2:]), x.element_size())
        for segment, size in itertools.zip_longest(self._segments, chunks):
            wanted = [segment.gives, *(name for name in names if name in segment.names)]
            if size is None or size >= len(x):
                values = self._run(segment, x, wanted)
            else:
                parts = [self._run(segment, x_, wanted) for x_ in x.chunk(-(-len(x) // size))]
                values = {name: torch.cat([part[name] for part in parts]) for name in wanted}
            x = values[segment.gives]
            kept |= {name: values[name] for name in wanted if name in names}
        return kept

    def _run(self, segment: _Segment, x: Tensor, names: Sequence[str]) -> Values:
        values = {segment.reads: x}
        for instruction, spent in zip(segment.instructions, segment.spent, strict=True):
            reads = [values[source] for source in instruction.reads]
            values[instruction.name] = instruction.apply(*reads)
            for name in spent:
                if name not in names:
                    del values[name]
        own = (lambda y: y) if self._traced else self._workspace.safe
        return {name: own(values[name]) for name in names}

    def _samples_at_a_time(self, size: tuple[int, ...], item: int) -> tuple[int, ...]:
        """Work out how many samples go through each segment together."""
        shapes: dict[str, ops.Shape] = {self._graph.input.name: (1, *size)}
        chunks = []
        for segment in self._segments:
            largest = 1
            for instruction in segment.instructions:
                read = (shapes[source] for source in instruction.reads)
                shapes[instruction.name] = shape = instruction.op.output(*read)
                largest = max(largest, functools.reduce(lambda a, b: a * (b or 1), shape, 1))
            chunks.append(max(1, _cache() // _CACHE_SHARE // (largest * item)))
        return tuple(chunks)

    def _tensor(self, array: Any) -> Tensor:
        return torch.as_tensor(array).to(device=self._like.device, dtype=self._like.dtype)

    def _segment(self, parts: Sequence[Step]) -> _Segment:
        instructions = (one for step in parts for one in self._instructions(step))
        return _Segment(parts[0].reads, tuple(instructions))

    def _instructions(self, step: Step, *, within: bool = False) -> Iterator[_Instruction]:
        """Yield what computes a step, which may be within a dense block."""
        match step:
            case Block():
                yield from self._layers(step)
            case Convolution(conv=conv, relu=Node() as relu) if within and self._is_finite(conv):
                apply = self._conv(conv, relu=True)
                yield _Instruction(relu.name, conv.op, conv.inputs, apply)
            case _:
                for node in step.nodes:
                    yield _Instruction(node.name, node.op, node.inputs, self._apply(node))

    def _layers(self, block: Block) -> Iterator[_Instruction]:
        features = None if self._traced else Buffer(block.concats, self._workspace)
        for layer in block.layers:
            for step in layer.steps:
                yield from self._instructions(step, within=True)
            node = layer.concat
            apply = features.appended(node) if features else self._apply(node)
            yield _Instruction(node.name, node.op, node.inputs, apply)

    def _apply(self, node: Node) -> Apply:
        match node.op:
            case ops.Conv():
                return self._conv(node, relu=False)
            case ops.Clip():
                return self._clip(node)
            case ops.Affine():
                scale, shift = self._per_channel(node, "scale"), self._per_channel(node, "shift")
                return lambda x: torch.addcmul(shift, x, scale)
            case ops.GroupNorm() as op:
                return self._group_norm(node, op)
            case ops.Relu():
                return functional.relu
            case ops.Activation() as op:
                return activation(op)
            case ops.PRelu():
                slope = self._weight(node, "slope")
                return lambda x: functional.prelu(x, slope)
            case ops.Concat():
                return lambda *xs: torch.cat(xs, 1)
            case ops.MaxPool() as op:
                return self._max_pool(op)
            case ops.AvgPool() as op:
                return functools.partial(
                    _AVG_POOL[self._dims], kernel_size=op.window, stride=op.stride
                )
            case ops.BlurPool() as op:
                return BlurPool(op)
            case ops.GlobalPool() as op:
                kind = op.kind
                return lambda x: pooled(x, kind, list(range(2, x.dim())))
            case ops.Dense() as op:
                kernel = self._weight(node, "kernel")
                bias = self._weight(node, "bias") if op.bias else None
                return lambda x: functional.linear(x, kernel, bias)
            case ops.Softmax():
                return lambda x: torch.softmax(x, 1)
            case ops.Sigmoid():
                return torch.sigmoid
        raise TypeError(f"no step for {node.op!r}")

    def _is_finite(self, node: Node) -> bool:
        """Say whether no array of a node has NaN or infinity."""
        return all(bool(self.tensors[w.name].isfinite().all()) for w in node.weights)

    def _weight(self, node: Node, short: str) -> Tensor:
        return self.tensors[f"{node.name}.{short}"]

    def _per_channel(self, node: Node, short: str) -> Tensor:
        return self._weight(node, short).view(-1, *[1] * self._dims)

    def _group_norm(self, node: Node, op: ops.GroupNorm) -> Apply:
        gamma, beta = (
            self._weight(node, name) if op.affine else None for name in ("gamma", "beta")
        )
        return lambda x: functional.group_norm(x, op.groups, gamma, beta, op.epsilon)

    def _clip(self, node: Node) -> Apply:
        low, high = self._per_channel(node, "low"), self._per_channel(node, "high")
        bounds = (low, None) if torch.isposinf(high).all() else (low, high)
        if self._traced:
            return lambda x: torch.clamp(x, *bounds)
        space = self._workspace
        return lambda x: torch.clamp(x, *bounds, out=space.tensor("clipped", tuple(x.shape), x))

    def _max_pool(self, op: ops.MaxPool) -> Apply:
        pool, sides = _MAX_POOL[self._dims], symmetric(op.padding)
        if sides is not None:
            return lambda x: pool(x, op.window, op.stride, sides)
        return lambda x: pool(
            explicitly_padded(x, op.padding, op.window, op.stride, -torch.inf), op.window, op.stride
        )

    def _conv(self, node: Node, *, relu: bool) -> Apply:
        op = node.op
        assert isinstance(op, ops.Conv)
        kernel = self._weight(node, "kernel").contiguous(memory_format=self._format)
        bias = self._weight(node, "bias") if op.bias else None
        sides = symmetric(op.padding)
        pads = sides or (0,) * self._dims
        if self._packed:
            run = _packed_conv(kernel, bias, op.stride, pads, relu, self._shapes_kept)
        else:
            run = _plain_conv(kernel, bias, op.stride, pads, relu)
        if sides is not None:
            return run
        return lambda x: run(explicitly_padded(x, op.padding, op.window, op.stride, 0.0))


def _plain_conv(
    kernel: Tensor, bias: Tensor | None, stride: int, pads: tuple[int, ...], relu: bool
) -> Apply:
    conv = CONV[kernel.dim() - 2]
    if relu:
        return lambda x: conv(x, kernel, bias, stride, pads).relu_()
    return lambda x: conv(x, kernel, bias, stride, pads)


def _packed_conv(
    kernel: Tensor,
    bias: Tensor | None,
    stride: int,
    pads: tuple[int, ...],
    relu: bool,
    shapes_kept: int,
) -> Apply:
    """Make a convolution by oneDNN, its kernel in the layout that its input's size asks for.

    Args:
        shapes_kept: The number of shapes for which such kernels are kept, those last asked for.
    """
    strides, ones = [stride] * len(pads), [1] * len(pads)
    conv, sides = torch.ops.mkldnn._convolution_pointwise.default, list(pads)
    reorder, after = torch.ops.mkldnn._reorder_convolution_weight, "relu" if relu else "none"

    @functools.lru_cache(maxsize=shapes_kept)
    def packed(shape: tuple[int, ...]) -> Tensor:
        return reorder(kernel, sides, strides, ones, 1, list(shape))

    def run(x: Tensor) -> Tensor:
        return conv(x, packed(tuple(x.shape)), bias, sides, strides, ones, 1, after, [], "")

    return run


def _cut_before_blocks(graph: Graph) -> list[list[Step]]:
    """Write a network as steps, in groups: each block begins one."""
    groups: list[list[Step]] = []
    for step in steps(graph, batch=lambda _norm: False):
        if not groups or isinstance(step, Block):
            groups.append([])
        groups[-1].append(step)
    return groups


_PACKED_OPS = ("_reorder_convolution_weight", "_convolution_pointwise")


def _packs(like: Tensor, dims: int) -> bool:
    """Say whether oneDNN's own convolutions are there for such tensors."""
    onednn: Any = torch.backends.mkldnn
    return bool(
        dims > 1
        and like.device.type == "cpu"
        and like.dtype in (torch.float32, torch.bfloat16)
        and onednn.is_available()
        and onednn.enabled
        and all(hasattr(torch.ops.mkldnn, name) for name in _PACKED_OPS)
    )


def lacks_bfloat16() -> bool:
    """Say whether the processor is known to lack instructions for products of bfloat16 numbers."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    checks = [getattr(torch.cpu, name, None) for name in names]
    return not any(check is None or check() for check in checks)


@functools.cache
def _cache() -> int:
    """Return the size of the processor's last cache, in bytes."""
    try:
        return os.sysconf("SC_LEVEL3_CACHE_SIZE") or _CACHE_IF_UNKNOWN
    except (ValueError, OSError, AttributeError):
        return _CACHE_IF_UNKNOWN

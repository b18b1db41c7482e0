"""Writes a graph as ONNX, node by node, and runs it by ONNX Runtime.

No framework takes part, so the file is the same byte for byte wherever the weights come from. Nodes
and the values they give have the graph's names, initializers those of its arrays.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from densespec.deploy import onnx_int8
from densespec.deploy.formats import ExportFormat, Int8Writer, Loader
from densespec.deploy.network import SIZE_NAMES, ExportedProgram, ExportOptions, optimized
from densespec.deploy.onnx_images import IMAGES, ImageNodes
from densespec.installed import is_installed
from densespec.network import ops
from densespec.network.arrays import Arrays
from densespec.network.files import to_json
from densespec.network.graph import Graph, Node
from densespec.pretrained.preprocessing import Preprocessing
from densespec.version import __version__

if TYPE_CHECKING:
    import onnx

OPSETS = (13, 25)
"""Users may choose an opset from the first to the last of these: the ops mean the same in all."""
DEFAULT_OPSET = 17
LARGEST = 2**31 - 2**20
"""A protobuf message can hold this many bytes of arrays, with room for the nodes."""

DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
}
"""Maps ONNX Runtime's names of input types to dtypes."""


def write(graph: Graph, arrays: Arrays, path: Path, options: ExportOptions) -> Loader:
    """Write a network, and check the file by ONNX's own rules.

    Raises:
        ValueError: The opset is not known, or the network is too large for one file.
    """
    import onnx

    if options.optimize:
        graph, arrays = optimized(graph, arrays, norms=options.dtype != "float16")
    model = proto(
        graph,
        arrays,
        batch=options.batch,
        opset=options.opset or DEFAULT_OPSET,
        dtype=options.dtype,
        preprocessing=options.preprocessing,
        metadata=options.metadata,
    )
    path.write_bytes(model.SerializeToString(deterministic=True))
    onnx.checker.check_model(path, full_check=True)
    return lambda: load(path).run


def load(path: Path) -> ExportedProgram:
    """Read a file of one input with ONNX Runtime; with ``onnx``, values within it can be seen."""
    session = _session(path)
    (taken,) = session.get_inputs()
    showing = functools.cache(functools.partial(_session_that_shows, path))

    def show(x: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        shown, places = showing(tuple(names))
        values = shown.run(list(places.values()), {taken.name: x})
        return dict(zip(places, values, strict=True))

    return ExportedProgram(
        run=lambda x: session.run(None, {taken.name: x}),
        dtype=DTYPES.get(taken.type, taken.type),
        shape=tuple(n if isinstance(n, int) else None for n in taken.shape),
        show=show if is_installed("onnx") else None,
    )


def _session(model: Path | bytes) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])


def _session_that_shows(path: Path, names: Sequence[str]) -> tuple[Any, dict[str, str]]:
    """Read a file again, let it give those values within it, and say by which names.

    In int8 it gives values as they are read, rounded.
    """
    import onnx

    model = onnx.load(path)
    given = {each.name for each in model.graph.output}
    computed = {name for node in model.graph.node for name in node.output}
    rounded = _rounded(model.graph)
    places = {name: rounded.get(name, name) for name in names if name in computed}
    more = sorted(set(places.values()) - given)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in more)
    return _session(model.SerializeToString()), places


def _rounded(graph: onnx.GraphProto) -> dict[str, str]:
    """Name what becomes of each value that is turned into integers and back."""
    ends = {
        kind: {node.input[0]: node.output[0] for node in graph.node if node.op_type == kind}
        for kind in ("QuantizeLinear", "DequantizeLinear")
    }
    back = ends["DequantizeLinear"]
    return {name: back[whole] for name, whole in ends["QuantizeLinear"].items() if whole in back}


FORMAT = ExportFormat(
    name="onnx",
    about="ONNX",
    suffixes=(".onnx",),
    write=write,
    packages=("onnx",),
    runtime="onnxruntime",
    extra="onnx",
    dtypes=("float32", "float16"),
    has_opsets=True,
    takes_images=True,
    load=load,
    int8=Int8Writer(onnx_int8.write, onnx_int8.wrote, "onnxruntime", "onnx"),
)


def proto(
    graph: Graph,
    arrays: Mapping[str, np.ndarray],
    *,
    batch: int | None = None,
    opset: int = DEFAULT_OPSET,
    dtype: str = "float32",
    preprocessing: Preprocessing | None = None,
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> onnx.ModelProto:
    """Turn a graph into an ONNX model, node by node.

    Args:
        arrays: The arrays, by the names of the graph's own weights.
        batch: The one batch size that it takes; None for any.
        opset: The version of ONNX's operations.
        dtype: The type of arrays, inputs and outputs.
        preprocessing: What it does to images, which are its input then.
        metadata: Texts to keep in it, by name.

    Raises:
        ValueError: The opset is not among OPSETS, or the arrays are too large for one file.
    """
    from onnx import helper

    if not OPSETS[0] <= opset <= OPSETS[1]:
        raise ValueError(f"opset = {opset}, but should be from {OPSETS[0]} to {OPSETS[1]}")
    size = sum(weight.size for weight in graph.weights) * np.dtype(dtype).itemsize
    if size > LARGEST:
        raise ValueError(
            f"the network has {size / 2**30:.1f} GiB of arrays, but an ONNX file holds 2 GiB"
        )
    imports = [helper.make_opsetid("", opset)]
    model = helper.make_model(
        _Emitter(graph, arrays, np.dtype(dtype)).graph(batch, preprocessing),
        producer_name="densespec",
        producer_version=__version__,
        opset_imports=imports,
        ir_version=helper.find_min_ir_version_for(imports),
    )
    texts = {f"densespec.{name}": text for name, text in metadata.items()}
    helper.set_model_props(model, {"densespec.spec": to_json(graph.spec)} | texts)
    return model


_NEUTRAL = {"ones": 1.0, "zeros": 0.0}
"""A norm without a scale or a shift gets these values, by the ends of their names."""


class _Emitter:
    """Collects the nodes and initializers of one graph, in order."""

    def __init__(
        self, graph: Graph, arrays: Mapping[str, np.ndarray], dtype: np.dtype[Any]
    ) -> None:
        self._graph, self._arrays, self._dtype = graph, arrays, dtype
        self._dims = graph.spatial_dims
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []

    def graph(
        self, batch: int | None, preprocessing: Preprocessing | None = None
    ) -> onnx.GraphProto:
        from onnx import helper

        first, *others = self._graph.nodes
        info = self._info(first, batch)
        if preprocessing is not None:
            info = self._prepare(preprocessing, first, batch)
        for node in others:
            self._emit(node)
        given = self._graph.given
        return helper.make_graph(
            self._nodes,
            "densenet",
            [info],
            [self._info(node, batch) for node in given],
            self._initializers,
            value_info=[self._info(node, batch) for node in others if node not in given],
        )

    def _prepare(
        self, preprocessing: Preprocessing, node: Node, batch: int | None
    ) -> onnx.ValueInfoProto:
        """Add what prepares images for a node, and describe the images."""
        from onnx import TensorProto, helper

        images = ImageNodes(preprocessing)
        images.prepared(node.name, self._dtype)
        self._nodes += images.nodes
        self._initializers += images.initializers
        shape = [batch or "batch", "height", "width", preprocessing.channels]
        return helper.make_tensor_value_info(IMAGES, TensorProto.UINT8, shape)

    def _info(self, node: Node, batch: int | None) -> onnx.ValueInfoProto:
        from onnx import helper

        sizes: list[int | str | None] = [batch or "batch", *node.shape]
        if isinstance(node.op, ops.Input):
            names = SIZE_NAMES[self._dims]
            sizes[2:] = [n or name for n, name in zip(node.shape[1:], names, strict=True)]
        return helper.make_tensor_value_info(
            node.name, helper.np_dtype_to_tensor_dtype(self._dtype), sizes
        )

    def _emit(self, node: Node) -> None:
        match node.op:
            case ops.Conv() as op:
                self._add(node, "Conv", *self._arrays_of(node), **self._window(op))
            case ops.BatchNorm() as op:
                affine = self._gamma_and_beta(node, op.channels, op.affine)
                running = (self._array(w.name) for w in node.weights[-2:])
                self._add(node, "BatchNormalization", *affine, *running, epsilon=op.epsilon)
            case ops.GroupNorm() as op if op.groups == op.channels:
                affine = self._gamma_and_beta(node, op.channels, op.affine)
                self._add(node, "InstanceNormalization", *affine, epsilon=op.epsilon)
            case ops.GroupNorm() as op:
                self._group_norm(node, op)
            case ops.Affine():
                scaled = f"{node.name}.scaled"
                self._add(node, "Mul", self._by_channel(node, "scale"), output=scaled)
                self._add(node, "Add", self._by_channel(node, "shift"), inputs=[scaled])
            case ops.Relu():
                self._add(node, "Relu")
            case ops.Activation() as op:
                self._activation(node, op)
            case ops.PRelu():
                self._add(node, "PRelu", *self._arrays_of(node))
            case ops.Dropout():
                self._add(node, "Identity")
            case ops.Concat():
                self._add(node, "Concat", axis=1)
            case ops.MaxPool() as op:
                self._add(node, "MaxPool", **self._window(op))
            case ops.AvgPool() as op:
                self._add(node, "AveragePool", kernel_shape=op.window, strides=self._strides(op))
            case ops.BlurPool() as op:
                self._blur_pool(node, op)
            case ops.GlobalPool() as op:
                self._global_pool(node, op)
            case ops.Dense():
                self._add(node, "Gemm", *self._arrays_of(node), transB=1)
            case ops.Softmax():
                self._add(node, "Softmax", axis=1)
            case ops.Sigmoid():
                self._add(node, "Sigmoid")
            case _:
                raise TypeError(f"ONNX has no node for {node.op!r}")

    def _gamma_and_beta(self, node: Node, channels: int, affine: bool) -> list[str]:
        """Make initializers of a norm's scale and shift: ones and zeros where it has none."""
        if affine:
            return [self._array(weight.name) for weight in node.weights[:2]]
        return [self._named(node, name, np.full(channels, n)) for name, n in _NEUTRAL.items()]

    def _group_norm(self, node: Node, op: ops.GroupNorm) -> None:
        """Add a norm of groups: that of instances, each group of which is one channel."""
        (x,) = node.inputs
        grouping = self._named(node, "groups", np.array([0, op.groups, -1]), np.int64)
        grouped = self._value(node, "grouped", "Reshape", x, grouping)
        neutral = self._gamma_and_beta(node, op.groups, affine=False)
        normed = f"{node.name}.normed"
        reads = [grouped, *neutral]
        self._add(node, "InstanceNormalization", inputs=reads, output=normed, epsilon=op.epsilon)
        shape = self._value(node, "shape", "Shape", x)
        if not op.affine:
            self._add(node, "Reshape", shape, inputs=[normed])
            return
        whole = self._value(node, "whole", "Reshape", normed, shape)
        scaled = self._value(node, "scaled", "Mul", whole, self._by_channel(node, "gamma"))
        self._add(node, "Add", self._by_channel(node, "beta"), inputs=[scaled])

    def _activation(self, node: Node, op: ops.Activation) -> None:
        """Add a function of each value, in operations that all opsets have."""
        (x,) = node.inputs
        match op.kind:
            case "leaky-relu":
                self._add(node, "LeakyRelu", alpha=op.slope)
            case "elu":
                self._add(node, "Elu")
            case "relu6":
                self._add(node, "Clip", *(self._number(node, str(n), n) for n in (0, 6)))
            case "silu":
                self._add(node, "Mul", self._value(node, "gate", "Sigmoid", x))
            case "gelu":
                scaled = self._value(
                    node, "scaled", "Mul", x, self._number(node, "root", 1 / math.sqrt(2))
                )
                self._gelu(node, self._value(node, "erf", "Erf", scaled))
            case "gelu-tanh":
                square = self._value(node, "square", "Mul", x, x)
                small = self._number(node, "small", 0.044715)
                share = self._value(node, "share", "Mul", square, small)
                factor = self._value(node, "factor", "Add", share, self._number(node, "unit", 1))
                bent = self._value(node, "bent", "Mul", x, factor)
                root = self._number(node, "root", math.sqrt(2 / math.pi))
                scaled = self._value(node, "scaled", "Mul", bent, root)
                self._gelu(node, self._value(node, "tanh", "Tanh", scaled))

    def _gelu(self, node: Node, bounded: str) -> None:
        """Add x * (1 + y) / 2, where y is from -1 to 1."""
        shifted = self._value(node, "shifted", "Add", bounded, self._number(node, "one", 1))
        halved = self._value(node, "halved", "Mul", shifted, self._number(node, "half", 0.5))
        self._add(node, "Mul", halved)

    def _value(self, node: Node, suffix: str, kind: str, *reads: str) -> str:
        """Add a step on the way to a node's value, and name what it gives."""
        name = f"{node.name}.{suffix}"
        self._add(node, kind, inputs=reads, output=name)
        return name

    def _number(self, node: Node, suffix: str, value: float) -> str:
        """Make an initializer of one number."""
        return self._named(node, suffix, np.array(value))

    def _named(self, node: Node, suffix: str, value: np.ndarray, dtype: Any = None) -> str:
        """Make an initializer that is no array of the network, and name it after a node."""
        name = f"{node.name}.{suffix}"
        self._constant(name, value.astype(dtype or self._dtype))
        return name

    def _blur_pool(self, node: Node, op: ops.BlurPool) -> None:
        """Add a mirroring pad, and a convolution of each channel by itself."""
        before, after = zip(*((0, 0), (0, 0), *op.pads), strict=True)
        pads, kernel = f"{node.name}.pads", f"{node.name}.factors"
        self._constant(pads, np.array([*before, *after], np.int64))
        factors = functools.reduce(np.multiply.outer, map(np.array, op.factors))
        shape = (node.channels, 1, *op.window)
        self._constant(kernel, np.broadcast_to(factors, shape).astype(self._dtype))
        mirrored = f"{node.name}.mirrored"
        self._add(node, "Pad", pads, output=mirrored, mode="reflect")
        self._add(
            node,
            "Conv",
            kernel,
            inputs=[mirrored],
            group=node.channels,
            kernel_shape=op.window,
            strides=self._strides(op),
        )

    def _global_pool(self, node: Node, op: ops.GlobalPool) -> None:
        kinds = {"avg": ["Average"], "max": ["Max"]}.get(op.kind, ["Average", "Max"])
        found = [f"{node.name}.{kind.lower()}" for kind in kinds]
        if len(found) == 1:
            found = [f"{node.name}.pooled"]
        for kind, output in zip(kinds, found, strict=True):
            self._add(node, f"Global{kind}Pool", output=output)
        if op.kind == "avgmax":
            self._add(node, "Mean", inputs=found, output=f"{node.name}.pooled")
        if op.kind == "catavgmax":
            self._add(node, "Concat", inputs=found, output=f"{node.name}.pooled", axis=1)
        self._add(node, "Flatten", inputs=[f"{node.name}.pooled"])

    def _add(
        self,
        node: Node,
        kind: str,
        *arrays: str,
        inputs: Sequence[str] | None = None,
        output: str | None = None,
        **attributes: Any,
    ) -> None:
        """Add an ONNX node for the graph's node, named after the value that it gives."""
        from onnx import helper

        reads = [*(node.inputs if inputs is None else inputs), *arrays]
        output = output or node.name
        self._nodes.append(helper.make_node(kind, reads, [output], name=output, **attributes))

    def _arrays_of(self, node: Node) -> list[str]:
        """Make initializers of a node's arrays, which stand in the order that ONNX takes."""
        return [self._array(weight.name) for weight in node.weights]

    def _by_channel(self, node: Node, short: str) -> str:
        return self._array(f"{node.name}.{short}", (-1, *[1] * self._dims))

    def _array(self, name: str, shape: tuple[int, ...] | None = None) -> str:
        array = np.asarray(self._arrays[name], self._dtype)
        self._constant(name, array if shape is None else array.reshape(shape))
        return name

    def _constant(self, name: str, array: np.ndarray) -> None:
        from onnx import numpy_helper

        self._initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))

    def _strides(self, op: ops.Conv | ops.MaxPool | ops.AvgPool | ops.BlurPool) -> tuple[int, ...]:
        return (op.stride,) * self._dims

    def _window(self, op: ops.Conv | ops.MaxPool) -> dict[str, Any]:
        """Return the attributes of a window. SAME_UPPER is the rule of "same" for any size."""
        window = {"kernel_shape": op.window, "strides": self._strides(op)}
        if op.padding == "same":
            return window | {"auto_pad": "SAME_UPPER"}
        before, after = zip(*op.padding, strict=True)
        return window | {"pads": (*before, *after)}

"""Writes preprocessing as ONNX operations: they take bytes of any size, and give a network's input.

Resizing is Pillow's, to the bit, as :mod:`densespec.deploy.resampling` has it. ONNX's own Resize
rounds otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from densespec.deploy.resampling import FILTERS, NEAREST, PRECISION, check_exportable
from densespec.pretrained.preprocessing import Preprocessing

if TYPE_CHECKING:
    import onnx

IMAGES = "images"
"""The input has this name. It takes bytes of shape (batch, height, width, channels)."""

PREFIX = "preprocessing"


class ImageNodes:
    """Collects the nodes and initializers that prepare images, in order."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def prepared(self, output: str, dtype: np.dtype[Any]) -> None:
        """Add what turns the input into the array that a network reads under a name."""
        from onnx import helper

        said = self.preprocessing
        check_exportable(said, (NEAREST, *FILTERS))
        pixels = self._("Transpose", IMAGES, perm=(0, 3, 1, 2))
        sides = [self._side(pixels, axis) for axis in (2, 3)]
        sizes = self._resized_sizes(sides)
        if said.interpolation == NEAREST:
            pixels = self._nearest(pixels, sides, sizes)
        else:
            pixels = self._resampled(pixels, sides, sizes)
        pixels = self._cropped(pixels, sizes)
        normal = self._("Div", self._cast(pixels, "float32"), np.float32(255))
        normal = self._("Sub", normal, self._by_channel(said.mean))
        normal = self._("Div", normal, self._by_channel(said.std))
        kind = helper.np_dtype_to_tensor_dtype(dtype)
        self.nodes.append(helper.make_node("Cast", [normal], [output], name=output, to=kind))

    def _resized_sizes(self, sides: Sequence[str]) -> list[str]:
        """Add the height and width before the crop; see ``Preprocessing.resized_size``."""
        target = self.preprocessing.resize_target
        if self.preprocessing.resize == "squash":
            return [self._constant(np.array([side], np.int64)) for side in target]
        if target[0] == target[1]:
            shorter = self._("Min", *sides)
            whole = (self._("Mul", side, np.array([target[0]], np.int64)) for side in sides)
            return [self._("Div", product, shorter) for product in whole]
        exact = [self._cast(side, "float64") for side in sides]
        ratios = (
            self._("Div", side, np.array([float(wanted)]))
            for side, wanted in zip(exact, target, strict=True)
        )
        ratio = self._("Min", *ratios)
        rounded = (self._("Round", self._("Div", side, ratio)) for side in exact)
        return [self._cast(side, "int64") for side in rounded]

    def _resampled(self, pixels: str, sides: Sequence[str], sizes: Sequence[str]) -> str:
        rows, columns = (self._weights(a, b) for a, b in zip(sides, sizes, strict=True))
        across = self._("Transpose", columns, perm=(1, 0))
        pixels = self._bytes(self._("MatMul", self._cast(pixels, "float64"), across))
        return self._bytes(self._("MatMul", rows, pixels))

    def _weights(self, side: str, size: str) -> str:
        """Add the weights of every pixel (of ``side``) in every new one (of ``size``)."""
        scale = self._("Div", self._cast(side, "float64"), self._cast(size, "float64"))
        wide = self._("Div", np.array([1.0]), self._("Max", scale, np.array([1.0])))
        centres = self._("Mul", self._("Add", self._range(size, (-1, 1)), np.float64(0.5)), scale)
        offsets = self._("Add", self._("Sub", self._range(side, (1, -1)), centres), np.float64(0.5))
        weights = self._filter(self._("Abs", self._("Mul", offsets, wide)))
        total = self._("ReduceSum", weights, np.array([1], np.int64), keepdims=1)
        weights = self._("Mul", weights, self._("Div", np.float64(1), total))
        weights = self._("Mul", weights, np.float64(PRECISION))
        down = self._("Ceil", self._("Sub", weights, np.float64(0.5)))
        up = self._("Floor", self._("Add", weights, np.float64(0.5)))
        return self._("Where", self._("Less", weights, np.float64(0)), down, up)

    def _filter(self, t: str) -> str:
        """Add the filter's weight at a distance."""
        weight = self._constant(np.float64(0))
        for reach, factors in reversed(FILTERS[self.preprocessing.interpolation]):
            near = self._("Less", t, np.float64(reach))
            weight = self._("Where", near, self._polynomial(t, factors), weight)
        return weight

    def _polynomial(self, t: str, factors: Sequence[float]) -> str:
        """Add a polynomial by Horner's rule, with the highest power first."""
        value = self._constant(np.float64(factors[0]))
        for factor in factors[1:]:
            value = self._("Add", self._("Mul", value, t), np.float64(factor))
        return value

    def _bytes(self, sums: str) -> str:
        """Add the sums of weighted pixels as bytes, in float64."""
        half = self._("Add", sums, np.float64(PRECISION / 2))
        whole = self._("Floor", self._("Div", half, np.float64(PRECISION)))
        return self._("Min", self._("Max", whole, np.float64(0)), np.float64(255))

    def _nearest(self, pixels: str, sides: Sequence[str], sizes: Sequence[str]) -> str:
        for axis, side, size in zip((2, 3), sides, sizes, strict=True):
            scale = self._("Div", self._cast(side, "float64"), self._cast(size, "float64"))
            first = self._("Less", self._range(size, (-1,)), np.float64(0.5))
            steps = self._("Mul", scale, self._("Where", first, np.float64(0.5), np.float64(1)))
            centres = self._("CumSum", steps, np.int64(0))  # Pillow adds up, and rounds each time
            places = self._cast(self._("Floor", centres), "int64")
            pixels = self._("Gather", pixels, places, axis=axis)
        return pixels

    def _cropped(self, pixels: str, sizes: Sequence[str]) -> str:
        for axis, size, kept in zip((2, 3), sizes, self.preprocessing.size, strict=True):
            margin = self._cast(self._("Sub", size, np.array([kept], np.int64)), "float64")
            start = self._cast(self._("Round", self._("Div", margin, np.float64(2))), "int64")
            end = self._("Add", start, np.array([kept], np.int64))
            pixels = self._("Slice", pixels, start, end, np.array([axis], np.int64))
        return pixels

    def _range(self, size: str, shape: Sequence[int]) -> str:
        """Add the numbers 0, 1, 2, ... below a size, in float64."""
        scalar = self._("Squeeze", self._cast(size, "float64"), np.array([0], np.int64))
        numbers = self._("Range", np.float64(0), scalar, np.float64(1))
        return self._("Reshape", numbers, np.array(shape, np.int64))

    def _side(self, pixels: str, axis: int) -> str:
        return self._("Gather", self._("Shape", pixels), np.array([axis], np.int64))

    def _by_channel(self, values: Sequence[float]) -> np.ndarray:
        return np.array(values, np.float32)[:, None, None]

    def _cast(self, value: str, dtype: str) -> str:
        from onnx import helper

        return self._("Cast", value, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def _constant(self, value: np.ndarray | np.generic) -> str:
        from onnx import numpy_helper

        name = f"{PREFIX}.constant{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def _(self, kind: str, *inputs: str | np.ndarray | np.generic, **attributes: Any) -> str:
        """Add a node, and give the name of what it computes."""
        from onnx import helper

        reads = [each if isinstance(each, str) else self._constant(each) for each in inputs]
        name = f"{PREFIX}.{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, reads, [name], name=name, **attributes))
        return name

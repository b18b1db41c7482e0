"""Defines the op kinds of a graph; ``densespec/reference`` documents what each computes.

An op is a value: it knows its parameters, and from the shapes of its inputs it works out the
shape of its output, its weights and its multiply-adds. It knows nothing of other ops.

Shapes leave out the batch and put channels first: ``(channels, *spatial)``. A spatial size may be
None, for "any". ``Padding`` is one ``(before, after)`` pair per spatial dimension, or ``"same"``
where it depends on a size that is not known yet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Shape = tuple[int | None, ...]
Pads = tuple[tuple[int, int], ...]
Padding = Pads | Literal["same"]

GlobalPoolKind = Literal["avg", "max", "avgmax", "catavgmax"]

Initial = Literal["zeros", "ones", "quarter", "he-normal", "uniform"]
"""Names what an array starts with; ``initial.py`` says how each is drawn."""

ActivationKind = Literal["leaky-relu", "elu", "silu", "gelu", "gelu-tanh", "relu6"]
"""Names a function of each value; the reference says what each computes."""


@dataclass(frozen=True, slots=True)
class Weight:
    """Describes one array of an op or, under its canonical name, of a node.

    Attributes:
        name: ``kernel``, ``bias``, ``gamma``, ``beta``, ``running_mean``, ``running_variance``,
            ``slope``, or in prepared networks also ``scale``, ``shift``, ``low`` and ``high``. A
            node's name and a dot come before it in the canonical name, such as
            ``stem.conv.kernel``.
        shape: Convolution kernels are (out, in, *window), the classifier's is (out, in).
        trainable: False for running statistics.
        initial: The kind of values that it starts with.
    """

    name: str
    shape: tuple[int, ...]
    trainable: bool = True
    initial: Initial = "zeros"

    @property
    def short(self) -> str:
        """Return the name without the node's: ``kernel`` for ``stem.conv.kernel``."""
        return self.name.rpartition(".")[2]

    @property
    def size(self) -> int:
        """Return the number of values."""
        return math.prod(self.shape)


class Weighted:
    """Base class of ops that have arrays."""

    __slots__ = ()

    def weights(self) -> tuple[Weight, ...]:
        """Return the arrays in a fixed order."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Input:
    shape: Shape

    def output(self) -> Shape:
        return self.shape


@dataclass(frozen=True, slots=True)
class Conv(Weighted):
    """Convolves (cross-correlates) with a kernel of shape (filters, in_channels, *window)."""

    in_channels: int
    filters: int
    window: tuple[int, ...]
    stride: int
    padding: Padding
    bias: bool

    @property
    def pads_nothing(self) -> bool:
        """Say whether every value that the convolution reads is one of its input's."""
        return self.padding != "same" and not any(map(any, self.padding))

    @property
    def is_pointwise(self) -> bool:
        """Say whether each position of the output comes from the same one of the input."""
        return set(self.window) == {1} and self.stride == 1 and self.pads_nothing

    def output(self, x: Shape) -> Shape:
        return (self.filters, *_slide(x[1:], self.window, self.stride, self.padding))

    def weights(self) -> tuple[Weight, ...]:
        shape = (self.filters, self.in_channels, *self.window)
        kernel = Weight("kernel", shape, initial="he-normal")
        return (kernel, Weight("bias", (self.filters,))) if self.bias else (kernel,)


@dataclass(frozen=True, slots=True)
class BatchNorm(Weighted):
    """Normalises each channel over the batch and all positions.

    ``momentum`` is the weight of the new value in running statistics; ``unbiased`` says whether the
    running variance averages variances over n-1 or n values; ``affine`` says whether a scale and a
    shift of each channel are trained.
    """

    channels: int
    epsilon: float
    momentum: float
    unbiased: bool
    affine: bool = True

    def output(self, x: Shape) -> Shape:
        return x

    def weights(self) -> tuple[Weight, ...]:
        shape = (self.channels,)
        return (
            *(_gamma_and_beta(shape) if self.affine else ()),
            Weight("running_mean", shape, trainable=False),
            Weight("running_variance", shape, trainable=False, initial="ones"),
        )


@dataclass(frozen=True, slots=True)
class GroupNorm(Weighted):
    """Normalises each sample over groups of channels, in training and in inference alike.

    With one channel in each group it is instance normalisation.
    """

    channels: int
    groups: int
    epsilon: float
    affine: bool

    def output(self, x: Shape) -> Shape:
        return x

    def weights(self) -> tuple[Weight, ...]:
        return _gamma_and_beta((self.channels,)) if self.affine else ()


def _gamma_and_beta(shape: tuple[int, ...]) -> tuple[Weight, ...]:
    return (Weight("gamma", shape, initial="ones"), Weight("beta", shape))


@dataclass(frozen=True, slots=True)
class Affine(Weighted):
    """Scales and shifts each channel, as batch norm does in inference."""

    channels: int

    def output(self, x: Shape) -> Shape:
        return x

    def weights(self) -> tuple[Weight, ...]:
        return tuple(Weight(name, (self.channels,), trainable=False) for name in ("scale", "shift"))


@dataclass(frozen=True, slots=True)
class Clip(Weighted):
    """Holds values between two bounds of each channel; infinite ones bound nothing.

    A batch norm and a ReLU before a linear op are this and another kernel of that op; see
    ``passes.py``.
    """

    channels: int

    def output(self, x: Shape) -> Shape:
        return x

    def weights(self) -> tuple[Weight, ...]:
        return tuple(Weight(name, (self.channels,), trainable=False) for name in ("low", "high"))


@dataclass(frozen=True, slots=True)
class Relu:
    def output(self, x: Shape) -> Shape:
        return x


@dataclass(frozen=True, slots=True)
class Activation:
    """Applies a function to each value; it has no arrays, and is no ReLU.

    ``slope`` is the slope of a leaky ReLU below zero; the other functions have none.
    """

    kind: ActivationKind
    slope: float = 0.0

    def output(self, x: Shape) -> Shape:
        return x


@dataclass(frozen=True, slots=True)
class PRelu(Weighted):
    """Applies a leaky ReLU whose slope below zero is trained: one slope for all channels."""

    def output(self, x: Shape) -> Shape:
        return x

    def weights(self) -> tuple[Weight, ...]:
        return (Weight("slope", (1,), initial="quarter"),)


@dataclass(frozen=True, slots=True)
class Dropout:
    """Sets values to zero with probability ``rate``, and divides the rest by ``1 - rate``.

    This happens only in training.
    """

    rate: float

    def output(self, x: Shape) -> Shape:
        return x


@dataclass(frozen=True, slots=True)
class Concat:
    """Concatenates its inputs on channels, in their order."""

    def output(self, *xs: Shape) -> Shape:
        return (sum(x[0] or 0 for x in xs), *xs[0][1:])


@dataclass(frozen=True, slots=True)
class MaxPool:
    """Takes the maximum over windows. Padding never wins: it is minus infinity, not zero."""

    window: tuple[int, ...]
    stride: int
    padding: Padding

    def output(self, x: Shape) -> Shape:
        return (x[0], *_slide(x[1:], self.window, self.stride, self.padding))


@dataclass(frozen=True, slots=True)
class AvgPool:
    """Takes the mean over unpadded windows, and leaves out what does not fill a window."""

    window: tuple[int, ...]
    stride: int

    def output(self, x: Shape) -> Shape:
        return (x[0], *_slide(x[1:], self.window, self.stride, ((0, 0),) * len(self.window)))


@dataclass(frozen=True, slots=True)
class BlurPool:
    """Takes binomial means over windows, such as 1/4, 1/2, 1/4 along each dimension.

    The input is first extended by (n - 1) / 2 positions at each end for a window of n, mirrored
    around its first and last positions. So each dimension has to have more positions than that.
    """

    window: tuple[int, ...]
    stride: int

    @property
    def pads(self) -> Pads:
        """Return how many positions are mirrored before and after."""
        return tuple(((width - 1) // 2, (width - 1) // 2) for width in self.window)

    @property
    def factors(self) -> tuple[tuple[float, ...], ...]:
        """Return the factors of the positions of a window along each dimension; they sum to 1."""
        return tuple(
            tuple(math.comb(width - 1, place) / 2 ** (width - 1) for place in range(width))
            for width in self.window
        )

    def output(self, x: Shape) -> Shape:
        sizes = _slide(x[1:], self.window, self.stride, self.pads)
        mirrors = zip(x[1:], self.pads, sizes, strict=True)
        return (x[0], *(0 if n is not None and n <= pad else size for n, (pad, _), size in mirrors))


@dataclass(frozen=True, slots=True)
class GlobalPool:
    """Takes the mean (``"avg"``) or maximum (``"max"``) over all spatial positions, or both.

    ``"avgmax"`` takes the mean of the two, ``"catavgmax"`` gives all means and then all maxima.
    """

    kind: GlobalPoolKind

    def output(self, x: Shape) -> Shape:
        return (2 * (x[0] or 0),) if self.kind == "catavgmax" else x[:1]


@dataclass(frozen=True, slots=True)
class Dense(Weighted):
    """Multiplies the features by a kernel of shape (units, features)."""

    features: int
    units: int
    bias: bool = True

    def output(self, x: Shape) -> Shape:
        return (self.units,)

    def weights(self) -> tuple[Weight, ...]:
        kernel = Weight("kernel", (self.units, self.features), initial="uniform")
        return (kernel, Weight("bias", (self.units,))) if self.bias else (kernel,)


@dataclass(frozen=True, slots=True)
class Softmax:
    def output(self, x: Shape) -> Shape:
        return x


@dataclass(frozen=True, slots=True)
class Sigmoid:
    def output(self, x: Shape) -> Shape:
        return x


Op = (
    Input
    | Conv
    | BatchNorm
    | GroupNorm
    | Affine
    | Clip
    | Relu
    | Activation
    | PRelu
    | Dropout
    | Concat
    | MaxPool
    | AvgPool
    | BlurPool
    | GlobalPool
    | Dense
    | Softmax
    | Sigmoid
)


def weights_of(op: Op) -> tuple[Weight, ...]:
    """Return the arrays of an op, in a fixed order."""
    return op.weights() if isinstance(op, Weighted) else ()


def multiply_adds(op: Op, output: Shape) -> int | None:
    """Count the multiply-adds of one sample; None if a spatial size is unknown.

    Convolutions and the classifier count, as in the figures torchvision publishes; biases,
    norms, activations and pools are left out. One multiply-add is two floating-point operations.
    """
    if isinstance(op, Dense):
        return op.features * op.units
    if not isinstance(op, Conv):
        return 0
    positions = _product(output[1:])
    per_position = op.filters * op.in_channels * math.prod(op.window)
    return None if positions is None else positions * per_position


def _product(sizes: Sequence[int | None]) -> int | None:
    product = 1
    for size in sizes:
        if size is None:
            return None
        product *= size
    return product


def resolve_padding(
    padding: Padding, sizes: Sequence[int | None], window: Sequence[int], stride: int
) -> Padding:
    """Make pads explicit; ``"same"`` stays as it is while a size is unknown.

    ``"same"`` is TensorFlow's rule: the output has ceil(size / stride) positions, and an odd
    number of padded positions puts the extra one at the end.
    """
    if padding != "same":
        return padding
    pads = []
    for size, width in zip(sizes, window, strict=True):
        if size is None:
            return padding
        total = max((-(-size // stride) - 1) * stride + width - size, 0)
        pads.append((total // 2, total - total // 2))
    return tuple(pads)


def _slide(
    sizes: Sequence[int | None], window: Sequence[int], stride: int, padding: Padding
) -> Shape:
    """Count the positions of a sliding window along each dimension."""
    if padding == "same":
        return tuple(None if size is None else -(-size // stride) for size in sizes)
    return tuple(
        None if size is None else (size + before + after - width) // stride + 1
        for size, width, (before, after) in zip(sizes, window, padding, strict=True)
    )

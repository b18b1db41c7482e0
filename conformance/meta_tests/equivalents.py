"""Backends that are right in another way, as data: no case may flag them.

``meta_tests.equivalents:NAME`` is the backend of one. What an implementation reorders or fuses it
still shows op by op; how it comes to an op's value is its own affair.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from densespec.network import ops
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph
from densespec.reference.backend import NumpyBackend
from densespec.reference.kernels import (
    KERNELS,
    Array,
    BatchNormKernel,
    ConcatKernel,
    Context,
    ConvKernel,
    MaxPoolKernel,
    SoftmaxKernel,
)
from densespec.reference.model import ReferenceModel
from meta_tests.mutants.torch_mutants import backend, convs, get, norms, norms_by, put

if TYPE_CHECKING:
    from torch import Tensor

FORWARD, TRAINING = "forward/", "training/"


@dataclass(frozen=True)
class Equivalent:
    """A right backend.

    Attributes:
        about: how it is different.
        groups: starts of the ids of the cases that could notice.
        backend: makes it.
        but: starts of the ids of those among them that it is not right in.
    """

    about: str
    groups: tuple[str, ...]
    backend: Callable[[], Any]
    but: tuple[str, ...] = ()


class _Einsum(ConvKernel):
    """A convolution as one sum over places of the kernel."""

    def forward(self, op: ops.Conv, ctx: Context, x: Array) -> Array:
        pads = ops.resolve_padding(op.padding, x.shape[2:], op.window, op.stride)
        padded = np.pad(x, ((0, 0), (0, 0), *pads))
        total: Any = 0.0
        for place in np.ndindex(*op.window):
            counts = [
                (n - w) // op.stride + 1 for n, w in zip(padded.shape[2:], op.window, strict=True)
            ]
            reach = tuple(
                slice(p, p + op.stride * (c - 1) + 1, op.stride)
                for p, c in zip(place, counts, strict=True)
            )
            kernel = ctx.weights["kernel"][(..., *place)]
            total = total + np.einsum("oc,nc...->no...", kernel, padded[(..., *reach)])
        bias = ctx.weights["bias"] if op.bias else np.zeros(op.filters)
        return total + bias.reshape(-1, *[1] * len(op.window))


class _HalvesOfFilters(ConvKernel):
    """Half of the filters, then the others."""

    def forward(self, op: ops.Conv, ctx: Context, x: Array) -> Array:
        parts = []
        for part in np.array_split(np.arange(op.filters), min(2, op.filters)):
            own = {name: array[part] for name, array in ctx.weights.items()}
            some = Context(ctx.node, own, ctx.training)
            parts.append(super().forward(op, some, x))
        return np.concatenate(parts, axis=1)


class _SampleBySample(ConvKernel):
    def forward(self, op: ops.Conv, ctx: Context, x: Array) -> Array:
        return np.concatenate(
            [super(_SampleBySample, self).forward(op, ctx, one[None]) for one in x]
        )


class _ChannelsLastInside(ConvKernel):
    """Keeps what it computes with channels last, and shows a view of it."""

    def forward(self, op: ops.Conv, ctx: Context, x: Array) -> Array:
        y = np.ascontiguousarray(np.moveaxis(super().forward(op, ctx, x), 1, -1))
        return np.moveaxis(y, -1, 1)


class _WelfordNorm(BatchNormKernel):
    """Mean and variance in one pass, merged sample by sample (Chan et al.)."""

    def _moments(self, ctx: Context, x: Array) -> tuple[Array, Array]:
        if not ctx.training:
            return super()._moments(ctx, x)
        axes = tuple(range(1, x.ndim - 1))
        count, mean, spread = 0, np.zeros(x.shape[1]), np.zeros(x.shape[1])
        for sample in x:
            size, own = sample[0].size, sample.mean(tuple(range(1, sample.ndim)))
            off = own - mean
            spread = spread + sample.var(axes) * size + off**2 * count * size / (count + size)
            mean = mean + off * size / (count + size)
            count += size
        return mean, spread / count


class _NormByPower(BatchNormKernel):
    """gamma * ((x - mean) * (variance + eps) ** -0.5) + beta, from the inside out."""

    def forward(self, op: ops.BatchNorm, ctx: Context, x: Array) -> Array:
        mean, variance = self._moments(ctx, x)
        if ctx.training:
            ctx.statistics = self._running(op, ctx, x, mean, variance)
        wide = (-1, *[1] * (x.ndim - 2))
        normalised = (x - mean.reshape(wide)) * ((variance + op.epsilon) ** -0.5).reshape(wide)
        if not op.affine:
            return normalised
        return ctx.weights["gamma"].reshape(wide) * normalised + ctx.weights["beta"].reshape(wide)


class _OneBuffer(ConcatKernel):
    """Feature maps are copied into one array that was made for all of them."""

    def forward(self, op: ops.Concat, ctx: Context, *xs: Array) -> Array:
        total = sum(x.shape[1] for x in xs)
        buffer, at = np.empty((xs[0].shape[0], total, *xs[0].shape[2:]), xs[0].dtype), 0
        for x in xs:
            buffer[:, at : at + x.shape[1]] = x
            at += x.shape[1]
        return buffer


class _MaximumOneByOne(MaxPoolKernel):
    """The maximum of shifted pictures."""

    def forward(self, op: ops.MaxPool, ctx: Context, x: Array) -> Array:
        pads = ops.resolve_padding(op.padding, x.shape[2:], op.window, op.stride)
        padded = np.pad(x, ((0, 0), (0, 0), *pads), constant_values=-np.inf)
        counts = [
            (n - w) // op.stride + 1 for n, w in zip(padded.shape[2:], op.window, strict=True)
        ]
        y: Any = -np.inf
        for place in np.ndindex(*op.window):
            reach = tuple(
                slice(p, p + op.stride * (c - 1) + 1, op.stride)
                for p, c in zip(place, counts, strict=True)
            )
            y = np.maximum(y, padded[(..., *reach)])
        return y


class _PlainSoftmax(SoftmaxKernel):
    def forward(self, op: ops.Softmax, ctx: Context, x: Array) -> Array:
        powers = np.exp(x)
        return powers / powers.sum(1, keepdims=True)


class _Numpy(NumpyBackend):
    """The reference with other kernels for some ops."""

    def __init__(self, **kernels: Any) -> None:
        self.kernels = KERNELS | {getattr(ops, kind): kernel for kind, kernel in kernels.items()}

    def build(self, graph: Graph, weights: Mapping[str, Array], **options: Any) -> ReferenceModel:
        dtype = options["dtype"] or "float64"
        return ReferenceModel(graph, weights, dtype=dtype, kernels=self.kernels)


class _Views(NumpyBackend):
    """Answers with views: read-only, in another memory order, in another order of names."""

    def forward(self, model: Any, graph: Graph, x: Array, taps: Sequence[str]) -> Arrays:
        values = super().forward(model, graph, x, taps)
        return {name: self._view(values[name]) for name in reversed(taps)}

    def read_weights(self, model: Any, graph: Graph) -> Arrays:
        weights = super().read_weights(model, graph)
        return {name: self._view(weights[name]) for name in reversed(weights)}

    def _view(self, array: Array) -> Array:
        turned = np.asfortranarray(array)
        turned.flags.writeable = False
        return turned


class _TellsMore(NumpyBackend):
    """Answers with the value of every op, asked for or not."""

    def forward(self, model: Any, graph: Graph, x: Array, taps: Sequence[str]) -> Arrays:
        return super().forward(model, graph, x, [node.name for node in graph.nodes])


def _channels_last(model: Any) -> None:
    import torch

    if any(weight.ndim == 4 for weight in model.parameters()):
        model.to(memory_format=torch.channels_last)


def _in_place(model: Any) -> None:
    from torch import nn

    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = True


def _scale_and_shift(norm: Any, x: Tensor) -> Tensor:
    """Inference with two numbers a channel."""
    import torch

    gamma, beta = (1.0, 0.0) if norm.weight is None else (norm.weight, norm.bias)
    scale = gamma * torch.rsqrt(norm.running_var + norm.eps)
    shift = beta - norm.running_mean * scale
    return torch.addcmul(shift[:, None, None], x, scale[:, None, None])


def _by_squares(norm: Any, x: Tensor) -> Tensor:
    """Training with the variance as the mean of squares minus the square of the mean."""
    import torch

    mean = x.mean((0, 2, 3))
    variance = (x * x).mean((0, 2, 3)) - mean * mean
    count = x.numel() / x.shape[1]
    with torch.no_grad():
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * count / (count - 1), norm.momentum)
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    return x * scale[:, None, None] + (norm.bias - mean * scale)[:, None, None]


def _folded(model: Any) -> None:
    """Inner norms are part of the convolution before them, whose own value is worked out back."""
    import torch
    from torch.nn import functional

    for node in model.densespec_graph.nodes:
        if not (node.name.endswith("norm2") and node.inputs[0].endswith("conv1")):
            continue
        conv, norm, fused = get(model, node.inputs[0]), get(model, node.name), []
        if not isinstance(node.op, ops.BatchNorm) or not node.op.affine:
            continue
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        shift = norm.bias - norm.running_mean * scale
        wide = (-1, *[1] * (conv.weight.ndim - 2))
        kernel = conv.weight * scale.reshape(-1, *[1] * (conv.weight.ndim - 1))
        bias = shift if conv.bias is None else shift + conv.bias * scale

        def run(
            x: Tensor,
            conv: Any = conv,
            kernel: Tensor = kernel,
            bias: Tensor = bias,
            scale: Tensor = scale,
            shift: Tensor = shift,
            wide: tuple[int, ...] = wide,
            fused: list[Tensor] = fused,
        ) -> Tensor:
            convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[x.ndim - 3]
            fused.append(convolve(x, kernel, bias))
            value = (fused[-1] - shift.reshape(wide)) / scale.reshape(wide)
            lost = scale.reshape(wide) == 0  # a norm that gives the same for all tells nothing
            return torch.where(lost, convolve(x, conv.weight, conv.bias), value)

        conv.forward = run
        norm.forward = lambda x, fused=fused: fused.pop()


def _pool_first(model: Any) -> None:
    """Transitions average before their 1x1 convolution; its own value is worked out beside."""
    for node in model.densespec_graph.nodes:
        dropped = f"{node.stage}.dropout" in _names(model)  # after which pooling no longer commutes
        if dropped or not (node.name.startswith("transition") and node.name.endswith(".conv")):
            continue
        conv, pool = get(model, node.name), get(model, f"{node.stage}.pool")
        original, average, pooled = conv.forward, pool.forward, []

        def run(
            x: Tensor,
            original: Any = original,
            average: Any = average,
            pooled: list[Tensor] = pooled,
        ) -> Tensor:
            pooled.append(original(average(x)))
            return original(x)

        conv.forward = run
        pool.forward = lambda x, pooled=pooled: pooled.pop()


def _by_parts(model: Any) -> None:
    """1x1 convolutions are sums of convolutions over parts of the channels."""
    import torch
    from torch.nn import functional

    for conv in convs(model):
        if conv.kernel_size == (1, 1) and conv.in_channels > 1:

            def run(x: Tensor, conv: Any = conv) -> Tensor:
                parts = [torch.tensor_split(a, 3, 1) for a in (x, conv.weight)]
                sums = [functional.conv2d(a, w) for a, w in zip(*parts, strict=True) if a.shape[1]]
                y = torch.stack(sums).sum(0)
                return y if conv.bias is None else y + conv.bias[:, None, None]

            conv.forward = run


def _unfolded(model: Any) -> None:
    """Convolutions as one product of matrices (im2col)."""
    from torch.nn import functional

    for conv in convs(model):
        if type(conv).__name__ != "Conv2d":
            continue

        def run(x: Tensor, conv: Any = conv) -> Tensor:
            columns = functional.unfold(
                x, conv.kernel_size, padding=conv.padding, stride=conv.stride
            )
            y = conv.weight.flatten(1) @ columns
            sizes = [
                (n + 2 * p - k) // s + 1
                for n, p, k, s in zip(
                    x.shape[2:], conv.padding, conv.kernel_size, conv.stride, strict=True
                )
            ]
            y = y.unflatten(2, sizes)
            return y if conv.bias is None else y + conv.bias[:, None, None]

        conv.forward = run


def _as_matrix(model: Any) -> None:
    """1x1 convolutions as linear layers over channels."""
    from torch.nn import functional

    for conv in convs(model):
        if conv.kernel_size == (1, 1):
            conv.forward = lambda x, conv=conv: functional.linear(
                x.movedim(1, -1), conv.weight[:, :, 0, 0], conv.bias
            ).movedim(-1, 1)


def _checkpointed(model: Any) -> None:
    """Convolutions are computed again in the backward pass; norms, which count, are not."""
    from torch.utils.checkpoint import checkpoint

    for conv in convs(model):
        conv.forward = functools.partial(checkpoint, conv.forward, use_reentrant=False)


def _average_of_slices(model: Any) -> None:
    from torch import nn

    for module in model.modules():
        if isinstance(module, nn.AvgPool2d):
            module.forward = lambda x: (
                sum(
                    x[:, :, i : x.shape[2] - 1 + i : 2, j : x.shape[3] - 1 + j : 2]
                    for i in (0, 1)
                    for j in (0, 1)
                )
                / 4
            )


def _sum_over_places(model: Any) -> None:
    pool = get(model, "global_pool") if "global_pool" in _names(model) else None
    if pool is not None and pool.kind == "avg":
        pool.forward = lambda x: x.flatten(2).sum(2) / x[0, 0].numel()


def _names(model: Any) -> set[str]:
    return {node.name for node in model.densespec_graph.nodes}


def _identity_modules(model: Any) -> None:
    """ReLUs behind an Identity and a Dropout of rate 0."""
    from torch import nn

    for node in model.densespec_graph.nodes:
        if isinstance(node.op, ops.Relu):
            put(model, node.name, nn.Sequential(nn.Identity(), nn.ReLU(), nn.Dropout(0.0)))


def _clamped(model: Any) -> None:
    from torch import nn

    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.forward = lambda x: x.clamp(min=0)


def _statistics_apart(model: Any) -> None:
    """Running statistics whose memory is another tensor's."""
    import torch

    for norm in norms(model):
        both = torch.stack([norm.running_mean, norm.running_var])
        norm.running_mean, norm.running_var = both[0], both[1]


def _trainer(name: str) -> Callable[[], Any]:
    return backend(trainer=name, module="equivalent_trainers")


SEVERAL = (
    *("training/learning-rate-drop", "training/preactivation-stem", "training/same-padding"),
    *("training/plain-cifar-network", "training/given-dropout-masks-after-every-conv"),
)
"""Training cases of networks that differ in their ops."""

BOTH = (FORWARD, *SEVERAL)
PAPER = (
    *("training/learning-rate", "training/strong-weight-decay", "training/weight-decay"),
    *("training/label-smoothing", "training/without-", "training/given-"),
)
"""Cases of SGD and of one label an image, without weights or clipping."""

EQUIVALENTS: Mapping[str, Equivalent] = {
    "EINSUM": Equivalent(
        "a convolution as a sum over places of its kernel", BOTH, lambda: _Numpy(Conv=_Einsum())
    ),
    "HALVES_OF_FILTERS": Equivalent(
        "half of a convolution's filters, then the others",
        BOTH,
        lambda: _Numpy(Conv=_HalvesOfFilters()),
    ),
    "SAMPLE_BY_SAMPLE": Equivalent(
        "convolutions sample by sample", BOTH, lambda: _Numpy(Conv=_SampleBySample())
    ),
    "CHANNELS_LAST_INSIDE": Equivalent(
        "values kept with channels last", BOTH, lambda: _Numpy(Conv=_ChannelsLastInside())
    ),
    "WELFORD": Equivalent(
        "batch statistics in one pass", BOTH, lambda: _Numpy(BatchNorm=_WelfordNorm())
    ),
    "NORM_BY_POWER": Equivalent(
        "a norm that normalises first and scales then",
        BOTH,
        lambda: _Numpy(BatchNorm=_NormByPower()),
    ),
    "ONE_BUFFER": Equivalent(
        "one preallocated array for a block's feature maps",
        BOTH,
        lambda: _Numpy(Concat=_OneBuffer()),
    ),
    "MAXIMUM_ONE_BY_ONE": Equivalent(
        "a max pool as the maximum of shifted pictures",
        BOTH,
        lambda: _Numpy(MaxPool=_MaximumOneByOne()),
    ),
    "PLAIN_SOFTMAX": Equivalent(
        "a softmax that subtracts no maximum", (FORWARD,), lambda: _Numpy(Softmax=_PlainSoftmax())
    ),
    "VIEWS": Equivalent(
        "read-only answers in Fortran order, names in reverse", (*BOTH, "initial/"), _Views
    ),
    "TELLS_MORE": Equivalent("the value of every op, asked for or not", (FORWARD,), _TellsMore),
    "TORCH": Equivalent("PyTorch's own modules", (*BOTH, "initial/"), backend()),
    "TORCH_CHANNELS_LAST": Equivalent("channels_last in memory", BOTH, backend(_channels_last)),
    "TORCH_IN_PLACE": Equivalent(
        "ReLU(inplace=True), where no hook looks", (TRAINING,), backend(_in_place)
    ),
    "TORCH_SCALE_AND_SHIFT": Equivalent(
        "norms folded to a scale and a shift", (FORWARD,), backend(norms_by(_scale_and_shift))
    ),
    "TORCH_FOLDED": Equivalent(
        "norms folded into the convolution before them", (FORWARD,), backend(_folded)
    ),
    "TORCH_POOL_FIRST": Equivalent(
        "transitions pool before their 1x1 convolution", BOTH, backend(_pool_first)
    ),
    "TORCH_BY_PARTS": Equivalent(
        "a convolution over concatenated maps as a sum over them", BOTH, backend(_by_parts)
    ),
    "TORCH_UNFOLDED": Equivalent("convolutions by im2col", BOTH, backend(_unfolded)),
    "TORCH_AS_MATRIX": Equivalent("1x1 convolutions as linear layers", BOTH, backend(_as_matrix)),
    "TORCH_CHECKPOINTED": Equivalent(
        "convolutions computed again in the backward pass", (TRAINING,), backend(_checkpointed)
    ),
    "TORCH_AVERAGE_OF_SLICES": Equivalent(
        "an average pool as the mean of four pictures", BOTH, backend(_average_of_slices)
    ),
    "TORCH_SUM_OVER_PLACES": Equivalent(
        "the global pool as a sum over the number of places", BOTH, backend(_sum_over_places)
    ),
    "TORCH_IDENTITIES": Equivalent(
        "Identity and Dropout(0) around ReLUs", BOTH, backend(_identity_modules)
    ),
    "TORCH_CLAMPED": Equivalent("clamp for ReLU", BOTH, backend(_clamped)),
    "TORCH_STATISTICS_TOGETHER": Equivalent(
        "running mean and variance as views of one tensor", BOTH, backend(_statistics_apart)
    ),
    "TORCH_BY_SQUARES": Equivalent(
        "the variance as the mean of squares minus the squared mean",
        ("training/learning-rate-drop", "training/strong-weight-decay"),
        backend(norms_by(_by_squares)),
    ),
    "TORCH_FOREACH": Equivalent("SGD(foreach=True)", (TRAINING,), _trainer("ForEach")),
    "TORCH_FUSED": Equivalent("SGD(fused=True)", (TRAINING,), _trainer("Fused")),
    "TORCH_ONE_BY_ONE": Equivalent("SGD(foreach=False)", (TRAINING,), _trainer("OneByOne")),
    "TORCH_DECAY_BY_HAND": Equivalent(
        "decay added to the gradients before the step", PAPER, _trainer("DecayByHand")
    ),
    "TORCH_BY_TORCH7": Equivalent(
        "the step of the paper's Torch7 code, by hand", PAPER, _trainer("ByTorch7")
    ),
    "TORCH_SCALED_LOSS": Equivalent(
        "a scaled loss and unscaled gradients", (TRAINING,), _trainer("ScaledLoss")
    ),
    "TORCH_ONE_HOT": Equivalent("a loss of one-hot labels", PAPER, _trainer("OneHotLoss")),
    "TORCH_LOG_SUM_EXP": Equivalent("a loss by logsumexp", PAPER, _trainer("LogSumExpLoss")),
    "TORCH_DIVERGENCE": Equivalent(
        "a loss by divergence and entropy", PAPER, _trainer("DivergenceLoss")
    ),
    "TORCH_SUM_OF_SAMPLES": Equivalent(
        "a loss added up sample by sample", PAPER, _trainer("SampleByDot")
    ),
    "TORCH_IN_ANOTHER_ORDER": Equivalent(
        "samples of a batch in reverse",
        (TRAINING,),
        _trainer("InAnotherOrder"),
        but=("training/accumulated",),
    ),
}


def __getattr__(name: str) -> Any:
    if name in EQUIVALENTS:
        return EQUIVALENTS[name].backend()
    raise AttributeError(name)

"""What an op may do instead in a training step, forward and backward, with where each is met."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from densespec.network import ops
from densespec.reference.kernels import Array, Context, Gradients, Kernel, offsets_of
from densespec_conformance.deviations.kernels import KERNELS, Dropout, Norm

Slopes = Callable[..., list[Array]]
"""A function of an op, its context, the gradient of its output, and its inputs that gives those of
its inputs."""


@dataclass(frozen=True)
class InTraining:
    """Something that an op may do instead in training.

    Attributes:
        does: The words for it, which follow the op's name and a colon.
        source: Where it is met.
        kernel: How the op is then computed.
    """

    does: str
    source: str
    kernel: Kernel


@dataclass(frozen=True)
class Changed:
    """An op with other fields."""

    changes: Mapping[str, Any]
    kernel: Kernel = field(default_factory=Norm)

    def forward(self, op: Any, ctx: Context, *inputs: Array) -> Array:
        return self.kernel.forward(replace(op, **self.changes), ctx, *inputs)

    def backward(self, op: Any, ctx: Context, dy: Array, *inputs: Array) -> Gradients:
        return self.kernel.backward(replace(op, **self.changes), ctx, dy, *inputs)


@dataclass(frozen=True)
class Back:
    """An op whose inputs are given other gradients; its own arrays get their own."""

    kernel: Kernel
    slopes: Slopes

    def forward(self, op: Any, ctx: Context, *inputs: Array) -> Array:
        return self.kernel.forward(op, ctx, *inputs)

    def backward(self, op: Any, ctx: Context, dy: Array, *inputs: Array) -> Gradients:
        own, gradients = self.kernel.backward(op, ctx, dy, *inputs)
        return self.slopes(own, op, ctx, dy, *inputs), gradients


def merged(known: Kernel | None, new: Kernel) -> Kernel:
    """Give an op that does both: what differs from the reference in either."""
    match known, new:
        case Back(kernel=kernel), _:
            return merged(kernel, new)
        case Changed(changes=changes, kernel=kernel), Changed():
            return Changed({**changes, **new.changes}, merged(kernel, new.kernel))
        case Changed(changes=changes, kernel=kernel), Norm():
            return Changed(changes, merged(kernel, new))
        case Norm(), Changed():
            return Changed(new.changes, merged(known, new.kernel))
        case Norm(), Norm():
            return replace(known, **_differing(new))
    return new


def _differing(norm: Norm) -> dict[str, Any]:
    own = Norm()
    found = {one.name: getattr(norm, one.name) for one in fields(norm)}
    return {name: value for name, value in found.items() if value != getattr(own, name)}


NORMS = (
    InTraining(
        "it normalises by running statistics and leaves them as they are",
        "a model left in inference mode, trainable=False",
        Norm(moments="running", updates=0),
    ),
    InTraining(
        "it updates running statistics, and normalises by them",
        "AccBatchNorm, which averages over steps in training too",
        Norm(moments="running"),
    ),
    InTraining(
        "it normalises each sample by its own statistics",
        "instance norm, vmap over samples",
        Norm(moments="sample"),
    ),
    InTraining(
        "it normalises by the variance over n - 1",
        "Darknet; tensor.var() of PyTorch in hand-written norms",
        Norm(corrected=True),
    ),
    InTraining(
        "epsilon is added to the deviation, not to the variance",
        "Darknet",
        Norm(epsilon="deviation"),
    ),
)

DROPOUTS = (
    InTraining("it drops nothing", "inference mode, a forgotten layer", Dropout(ignored=("",))),
    InTraining("what is kept is not scaled", "dropout as first published", Dropout(scale="none")),
    InTraining(
        "the rate is taken for the one that is kept",
        "TensorFlow 1's keep_prob",
        Dropout(scale="dropped"),
    ),
    InTraining(
        "what is kept is scaled twice", "a mask that is scaled already", Dropout(scale="twice")
    ),
    InTraining(
        "what a mask marks is dropped, not kept", "masks of what to drop", Dropout(inverted=True)
    ),
    InTraining(
        "whole feature maps are dropped",
        "nn.Dropout2d, SpatialDropout2D",
        Dropout(spatial=True),
    ),
)

FORWARD: Mapping[type, tuple[InTraining, ...]] = {ops.BatchNorm: NORMS, ops.Dropout: DROPOUTS}
"""What changes the output of an op in training alone."""

MOMENTUM_OF: Mapping[float, str] = {
    0.01: "Keras's default of 0.99",
    0.1: "PyTorch's default",
    0.001: "TensorFlow Slim's 0.999",
    0.0003: "TensorFlow's 0.9997",
}
"""Where a weight of the new value in running statistics is met."""

INVERTED = "Keras and PyTorch mean opposite things by momentum"

STATISTICS = (
    InTraining(
        "its running statistics are not updated",
        "update operations that nothing runs (TensorFlow 1, a lost JAX state)",
        Norm(updates=0),
    ),
    InTraining(
        "its running statistics are updated twice in a step",
        "recomputed activations (checkpointing, torchvision's memory_efficient=True), a second "
        "forward pass",
        Norm(updates=2),
    ),
    InTraining(
        "its running variance is divided by n - 1",
        "PyTorch, Torch7",
        Changed({"unbiased": True}),
    ),
    InTraining(
        "its running variance is divided by n",
        "TensorFlow, Keras, Flax",
        Changed({"unbiased": False}),
    ),
)
"""What a norm may do with its running statistics alone."""


def of_statistics(
    op: ops.BatchNorm, ctx: Context, x: Array, shown: Mapping[str, Array]
) -> Iterator[InTraining]:
    """Give what a norm may do with its running statistics alone, momentum solved from them.

    Args:
        ctx: The context before the step, with the running statistics there.
        shown: The running statistics after it, by short name.
    """
    yield from STATISTICS
    for momentum in _momenta(ctx, x, shown):
        if momentum != op.momentum:
            inverted = np.isclose(momentum, 1 - op.momentum)
            source = INVERTED if inverted else MOMENTUM_OF.get(momentum, "another default")
            figures = f"{momentum:.6g}, not {op.momentum:g}"
            does = f"the new value's weight in its running statistics is {figures}"
            yield InTraining(does, source, Changed({"momentum": momentum}))
            for one in STATISTICS[2:]:
                both = Changed({"momentum": momentum}, one.kernel)
                yield InTraining(f"{does}, and {one.does}", f"{source}; {one.source}", both)


def _momenta(ctx: Context, x: Array, shown: Mapping[str, Array]) -> Iterator[float]:
    """Solve r' = r + momentum * (mean - r), rounded and as it is."""
    before = ctx.weights["running_mean"]
    ahead = x.mean((0, *range(2, x.ndim))) - before
    across = float((ahead**2).sum())
    if across:
        exact = float((ahead * (shown["running_mean"] - before)).sum()) / across
        yield from dict.fromkeys((*(float(f"{exact:.{d}g}") for d in (1, 2, 4)), exact))


@dataclass(frozen=True)
class Backward:
    """Something that an op may do instead with the gradients of its inputs.

    Attributes:
        slopes: The function of the reference's own gradients, and of what they are computed from;
            where ``does`` has a number to solve, of that number first.
    """

    does: str
    source: str
    slopes: Slopes

    @property
    def unknown(self) -> bool:
        """Whether it has a number, on which its gradients depend linearly."""
        return "{}" in self.does


def _without_batch(own: Any, op: ops.BatchNorm, ctx: Context, dy: Array, x: Array) -> list[Array]:
    return Norm(constant=True).backward(op, ctx, dy, x)[0]


def _constant_variance(
    own: Any, op: ops.BatchNorm, ctx: Context, dy: Array, x: Array
) -> list[Array]:
    (dx,) = _without_batch(own, op, ctx, dy, x)
    return [dx - dx.mean((0, *range(2, x.ndim)), keepdims=True)]


def _constant_mean(own: Any, op: ops.BatchNorm, ctx: Context, dy: Array, x: Array) -> list[Array]:
    (dx,) = _without_batch(own, op, ctx, dy, x)
    return [own[0] + dx.mean((0, *range(2, x.ndim)), keepdims=True)]


def _leaking(slope: float, own: Any, op: Any, ctx: Context, dy: Array, x: Array) -> list[Array]:
    return [np.where(x > 0, dy, slope * dy)]


def _guided(own: Any, op: Any, ctx: Context, dy: Array, x: Array) -> list[Array]:
    return [np.maximum(own[0], 0)]


def _evenly(own: Any, op: ops.MaxPool, ctx: Context, dy: Array, x: Array) -> list[Array]:
    """Share the gradient of a window among all that is in it."""
    pads = ops.resolve_padding(op.padding, x.shape[2:], op.window, op.stride)
    dx = np.zeros_like(np.pad(x, ((0, 0), (0, 0), *pads)))
    for _, reach in offsets_of(op.window, dy.shape[2:], op.stride):
        dx[reach] += dy / np.prod(op.window)
    inner: Any = [slice(p[0], p[0] + n) for p, n in zip(pads, x.shape[2:], strict=True)]
    return [dx[(..., *inner)]]


def _flipped(own: Any, op: ops.Conv, ctx: Context, dy: Array, x: Array) -> list[Array]:
    kernel = ctx.weights["kernel"]
    turned = np.flip(kernel, tuple(range(2, kernel.ndim)))
    there = replace(ctx, weights={**ctx.weights, "kernel": turned})
    return KERNELS[ops.Conv].backward(op, there, dy, x)[0]


def _unmasked(own: Any, op: ops.Dropout, ctx: Context, dy: Array, x: Array) -> list[Array]:
    return [dy]


def _none_to(index: int) -> Slopes:
    def slopes(own: list[Array], *seen: Any) -> list[Array]:
        return [np.zeros_like(g) if i == index else g for i, g in enumerate(own)]

    return slopes


def _scaled(factor: float, own: list[Array], *seen: Any) -> list[Array]:
    return [factor * g for g in own]


def _nothing(own: list[Array], *seen: Any) -> list[Array]:
    return [np.zeros_like(g) for g in own]


DETACHED = "detach(), stop_gradient()"

ANY = (
    Backward("no gradient flows through it", DETACHED, _nothing),
    Backward("its inputs' gradient is multiplied by {}", "a hand-written backward", _scaled),
)

BACKWARD: Mapping[type, tuple[Backward, ...]] = {
    ops.BatchNorm: (
        Backward("no gradient flows through its mean and variance", DETACHED, _without_batch),
        Backward("no gradient flows through its variance", DETACHED, _constant_variance),
        Backward("no gradient flows through its mean", DETACHED, _constant_mean),
    ),
    ops.Relu: (
        Backward(
            "its gradient has a slope of {} below zero", "straight-through estimators", _leaking
        ),
        Backward("only what is positive flows back", "guided backpropagation", _guided),
    ),
    ops.MaxPool: (
        Backward("all of a window share its gradient", "the gradient of an average pool", _evenly),
    ),
    ops.Conv: (
        Backward(
            "its kernel is flipped on the way back", "convolve where correlate is meant", _flipped
        ),
    ),
    ops.Dropout: (
        Backward("its mask is forgotten on the way back", "a mask that is not kept", _unmasked),
    ),
    ops.Concat: (
        Backward("no gradient flows to what was there before", DETACHED, _none_to(0)),
        Backward("no gradient flows to what is new", DETACHED, _none_to(1)),
    ),
}
"""What an op may do with the gradients of its inputs."""


def backward_of(kind: type) -> tuple[Backward, ...]:
    """Give what an op of a kind may do with the gradients of its inputs."""
    return (*BACKWARD.get(kind, ()), *ANY)


@dataclass(frozen=True)
class OwnGradient:
    """What the gradient of a weight may be instead.

    Attributes:
        gradient: The function of the gradient, the weight, its earlier gradient and a number.
        is_decay: Whether the number is the weight decay that the gradient contains.
        scales: Whether it is a multiple, as what comes back to the op might be as well.
    """

    does: str
    source: str
    gradient: Callable[[Array, Array, Array, float], Array]
    is_decay: bool = False
    scales: bool = False

    @property
    def unknown(self) -> bool:
        """Whether it has a number, on which it depends linearly."""
        return "{}" in self.does


def _turned(g: Array, w: Array, earlier: Array, number: float) -> Array:
    return np.flip(g, tuple(range(2, g.ndim)))


CLIPPERS: Mapping[float, str] = {
    0.0: "Keras's global_clipnorm, optax.clip_by_global_norm",
    1e-6: "PyTorch's clip_grad_norm_, which divides by the norm plus 1e-6",
}
"""Where all gradients are clipped to a norm, by what is added to the norm that is divided by."""

GRADIENTS = (
    OwnGradient(
        "it is not trained",
        "affine=False, scale=False, trainable=False, a filter on names",
        lambda g, w, earlier, number: np.zeros_like(g),
        scales=True,
    ),
    OwnGradient(
        "the gradients of earlier steps are added up",
        "a forgotten optimizer.zero_grad()",
        lambda g, w, earlier, number: g + earlier,
    ),
    OwnGradient(
        "each value of its gradient is clipped to [-1, 1]",
        "clip_grad_value_, clipvalue",
        lambda g, w, earlier, number: np.clip(g, -1, 1),
    ),
    OwnGradient("its gradient is flipped", "a kernel flipped twice", _turned),
    OwnGradient(
        "its gradient, as it is shown, contains weight decay of {}",
        "decay added in place, old torch.optim",
        lambda g, w, earlier, number: g + number * w,
        is_decay=True,
    ),
    OwnGradient(
        "its gradient is multiplied by {}",
        "a hook on a gradient",
        lambda g, w, earlier, number: number * g,
        scales=True,
    ),
)
"""What the gradient of a weight may be instead, what is simplest first."""

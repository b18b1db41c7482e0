"""Lists what an op may compute instead in a training step alone, with where each is found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from densespec.network import ops
from densespec.reference.kernels import Array, Context, Gradients, Kernel
from densespec_conformance.deviations.kernels import Dropout, Norm
from densespec_conformance.explaining.local.alternatives.devices import Apart
from densespec_conformance.explaining.local.alternatives.gradients import Back


@dataclass(frozen=True)
class InTraining:
    """Describes something that an op may do instead in training.

    Attributes:
        does: The words for it, which follow the op's name and a colon.
        source: The place where it is found.
        kernel: The computation of the op in that case.
    """

    does: str
    source: str
    kernel: Kernel


@dataclass(frozen=True)
class Changed:
    """Represents an op with other fields."""

    changes: Mapping[str, Any]
    kernel: Kernel = field(default_factory=Norm)

    def forward(self, op: Any, ctx: Context, *inputs: Array) -> Array:
        return self.kernel.forward(replace(op, **self.changes), ctx, *inputs)

    def backward(self, op: Any, ctx: Context, dy: Array, *inputs: Array) -> Gradients:
        return self.kernel.backward(replace(op, **self.changes), ctx, dy, *inputs)


def merged(known: Kernel | None, new: Kernel) -> Kernel:
    """Return an op that does both: what differs from the reference in either."""
    match known, new:
        case Back(kernel=kernel), _:
            return merged(kernel, new)
        case Apart(devices=devices, kernel=kernel), Apart():
            return Apart(devices, merged(kernel, new.kernel), known.first or new.first)
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
"""Lists what changes the output of an op in training alone."""

MOMENTUM_OF: Mapping[float, str] = {
    0.01: "Keras's default of 0.99",
    0.1: "PyTorch's default",
    0.001: "TensorFlow Slim's 0.999",
    0.0003: "TensorFlow's 0.9997",
}
"""Says where each weight of the new value in running statistics is found."""

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
"""Lists what a norm may do with its running statistics alone."""


@dataclass(frozen=True)
class OnDevices:
    """Describes something that a step on several devices may do instead.

    Attributes:
        does: The words for it.
        source: Where it is met.
        asked: The scope that the recipe asks its norms to have.
        kernel: The function that returns the kernel of norms, for the number of devices.
    """

    does: str
    source: str
    asked: str
    kernel: Callable[[int], Kernel]


DEVICES = (
    OnDevices(
        "each device normalises by its own part of the batch",
        "DistributedDataParallel, MirroredStrategy without synchronized=True",
        "synchronised",
        lambda devices: Apart(devices, Norm()),
    ),
    OnDevices(
        "all devices normalise by the whole batch",
        "SyncBatchNorm, jit over a sharded batch",
        "per-replica",
        lambda devices: Norm(),
    ),
    OnDevices(
        "its running statistics are those of the first device",
        "DistributedDataParallel, which broadcasts buffers of rank 0",
        "per-replica",
        lambda devices: Apart(devices, Norm(), first=True),
    ),
)
"""Lists what norms may do instead in a step on several devices."""

SUMMED = "gradients are summed over the devices, not averaged"
SUMMED_IN = "psum for pmean, an all-reduce without its division"


def of_devices(devices: int, asked: str) -> Iterator[InTraining]:
    """Return what norms may do instead in a step on several devices; nothing for one on one."""
    for one in DEVICES if devices > 1 else ():
        if one.asked == asked:
            yield InTraining(one.does, one.source, one.kernel(devices))


def of_statistics(
    op: ops.BatchNorm, ctx: Context, x: Array, shown: Mapping[str, Array]
) -> Iterator[InTraining]:
    """Yield what a norm may do with its running statistics alone, momentum solved from them.

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

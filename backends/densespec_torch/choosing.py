"""Measures in which way each block of a network trains fastest on this machine."""

from __future__ import annotations

import contextlib
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from densespec_torch.modes import FastDenseNet, Features
from densespec_torch.tensors import unwrapped
from densespec_torch.turns import Turn

_ROUNDS = 7
"""Each way is timed so often, in turn with the others, after a round that is not timed."""

_GAIN = 0.97
"""Another way than the rule's is taken if it takes less than this share of the time."""


@dataclass(frozen=True)
class Choice:
    """Says in which way each part of a network trains, and what was measured.

    Attributes:
        ways: The way by the part's name, as ``model.features.ways`` takes it.
        seconds: The median time of a forward and backward pass, by the part's name and the way.
        where: The input, the device and the number of threads that this holds for.
    """

    ways: Mapping[str, str]
    seconds: Mapping[str, Mapping[str, float]]
    where: str

    def __str__(self) -> str:
        lines = [f"{self.where}: forward and backward"]
        for name, way in self.ways.items():
            times = (f"{other} {1e3 * t:.1f} ms" for other, t in self.seconds[name].items())
            lines.append(f"  {name}: {way} ({', '.join(times)})")
        return "\n".join(lines)


def choose_ways(model: nn.Module, images: Tensor) -> Choice:
    """Measure in which way each block trains fastest, and have it train so from now on.

    Without this, mode ``fast`` decides by shapes and types alone. What is measured depends on the
    machine, and so does which of two ways that differ in rounding is taken. To repeat a run bit by
    bit, keep ``ways`` and set ``model.features.ways`` to them. Weights, running statistics and the
    state of random numbers stay as they are. Call it under autocast if training runs under it.

    Args:
        model: A network of mode ``fast``, in training mode, on the device where it will train.
        images: A batch like those of training, (n, c, *spatial), on the same device.

    Returns:
        What was chosen, and the times; ``print`` shows them as a table.

    Raises:
        TypeError: The model is no network of mode ``fast``.
        ValueError: The model is not in training mode.
    """
    network = unwrapped(model)
    if not isinstance(network, FastDenseNet) or not network.keeps:
        raise TypeError(
            f"{type(network).__name__} has no ways to choose from: "
            "build it in mode 'fast', which is for speed"
        )
    if not network.training:
        raise ValueError("the model is in inference mode: call model.train() first")
    features: Any = network.features
    with _unchanged(network, images):
        features.ways = {}
        seconds = dict(_measured(features, images))
    features.ways = {name: _best(times) for name, times in seconds.items()}
    where = f"{tuple(images.shape)} on {images.device}, {torch.get_num_threads()} threads"
    return Choice(features.ways, seconds, where)


def _measured(features: Features, images: Tensor) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield the seconds of each way, by part; the rule's way is the first."""
    x = features.laid_out(images)
    for turn in features.turns:
        name, ways = turn.children[0], features.possible(turn, x)
        if ways:
            calls = {way: _step(features, turn, x, way) for way in ways}
            yield name, _medians(calls, torch.get_device_module(x.device).synchronize)
        features.ways = {}
        with torch.no_grad():
            x = features.trained(turn, x)


def _step(features: Features, turn: Turn, x: Tensor, way: str) -> Callable[[], object]:
    """Return the forward and backward pass of a turn, which leaves ``.grad`` alone."""
    children = (features.get_submodule(child) for child in turn.children)
    own = itertools.chain.from_iterable(child.parameters() for child in children)
    arrays = [array for array in own if array.requires_grad]

    def step() -> object:
        features.ways = {turn.children[0]: way}
        given = x.detach().requires_grad_()
        y = features.trained(turn, given)
        return torch.autograd.grad(y, [given, *arrays], torch.ones_like(y), allow_unused=True)

    return step


def _medians(
    calls: Mapping[str, Callable[[], object]], wait: Callable[[], object]
) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(1 + _ROUNDS):
        for name, call in calls.items():
            wait()
            start = time.perf_counter()
            call()
            wait()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times[1:]) for name, times in seconds.items()}


def _best(times: Mapping[str, float]) -> str:
    rule, best = next(iter(times)), min(times, key=lambda way: times[way])
    return best if times[best] < _GAIN * times[rule] else rule


@contextlib.contextmanager
def _unchanged(model: Any, images: Tensor) -> Iterator[None]:
    """Give ways, buffers and the state of random numbers back as they were."""
    ways = model.features.ways
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    devices: list[Any] = [] if images.device.type == "cpu" else [images.device]
    with torch.random.fork_rng(devices, device_type=devices[0].type if devices else "cuda"):
        try:
            yield
        finally:
            model.features.ways = ways
            with torch.no_grad():
                for buffer, old in buffers:
                    buffer.copy_(old)

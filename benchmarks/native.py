"""Figures of native PyTorch against torchvision: inference, training steps and their memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from peers import convolutions, openvino, torchvision
from timing import GIVES_BACK, Figures, in_turn, peak_megabytes, take_turns
from torch.nn import functional

import densespec

SIZE = 224
CHANNELS_LAST = torch.channels_last

MODELS: dict[str, tuple[Callable[[str], Any], bool]] = {
    "torchvision": (torchvision, False),
    "torchvision channels_last": (torchvision, True),
    "torchvision memory_efficient": (lambda v: torchvision(v, memory_efficient=True), False),
    "torchvision memory_efficient channels_last": (
        lambda v: torchvision(v, memory_efficient=True),
        True,
    ),
    "layers": (lambda v: densespec.build(v, backend="torch.nn"), False),
    "layers channels_last": (lambda v: densespec.build(v, backend="torch.nn"), True),
    "fast": (lambda v: densespec.build(v, backend="torch.nn", mode="fast"), False),
    "efficient": (lambda v: densespec.build(v, backend="torch.nn", mode="efficient"), False),
    "inference": (lambda v: densespec.build(v, backend="torch.nn", mode="inference"), False),
}
"""What makes each side's network, and whether it and its input are channels_last in memory."""


def inference(variant: str, batch: int, rounds: int) -> Figures:
    """Milliseconds of inference."""
    x = torch.randn(batch, 3, SIZE, SIZE)
    sides: dict[str, Callable[[], object]] = {}
    for name in ("torchvision", "torchvision channels_last", "layers", "inference"):
        sides[name] = _inferring(*_made(name, variant), x)
    half = densespec.build(variant, backend="torch.nn", mode="inference", dtype="bfloat16")
    sides["inference bfloat16"] = _inferring(half, False, x.bfloat16())
    sides["OpenVINO"] = openvino(torchvision(variant).eval(), x)
    for name, dtype in (("", torch.float32), (" bfloat16", torch.bfloat16)):
        sides[f"its convolutions alone{name}"] = convolutions(variant, batch, SIZE, dtype)
    with torch.inference_mode():
        return take_turns(sides, rounds)


def training(variant: str, batch: int, rounds: int, compiled: bool = False) -> Figures:
    """Milliseconds of a training step: forward, loss, backward and SGD."""
    names = ["torchvision", "torchvision channels_last", "fast"]
    if not compiled:
        names += ["layers channels_last", "efficient"]
        names += ["torchvision memory_efficient", "torchvision memory_efficient channels_last"]
    sides = {name: _stepping(*_made(name, variant), batch, SIZE, compiled) for name in names}
    return take_turns(sides, rounds, settle=1)


def training_memory(variant: str, batch: int, rounds: int) -> Figures:
    """MB that training steps need beyond the network: the peak of the process over its start."""
    thrifty = ("torchvision memory_efficient", "torchvision memory_efficient channels_last")
    names = ("torchvision channels_last", *thrifty, "layers channels_last", "fast", "efficient")
    arguments = {"variant": variant, "batch": batch}
    sides = {name: ("native:step_memory", {**arguments, "name": name}) for name in names}
    return in_turn(sides, rounds, GIVES_BACK)


def step_memory(variant: str, batch: int, name: str) -> float:
    """MB that two steps need; of a fresh process."""
    step = _stepping(*_made(name, variant), batch, SIZE)
    return peak_megabytes(lambda: [step() for _ in range(2)])


def depth_memory(layers: tuple[int, ...], batch: int, rounds: int) -> Figures:
    """MB that training steps of ``densenet-L-12`` need, by depth, on CIFAR's 32x32."""
    sides = {
        f"{mode} {depth}": (
            "native:depth_step_memory",
            {"mode": mode, "depth": depth, "batch": batch},
        )
        for mode in ("layers", "efficient")
        for depth in layers
    }
    return in_turn(sides, rounds, GIVES_BACK)


def depth_step_memory(mode: str, depth: int, batch: int) -> float:
    """MB that two steps of a network of that depth need; of a fresh process."""
    blocks = ((depth - 4) // 3,) * 3
    spec = densespec.get("densenet-40-12").replace(blocks=blocks)
    step = _stepping(densespec.build(spec, backend="torch.nn", mode=mode), False, batch, 32)
    return peak_megabytes(lambda: [step() for _ in range(2)])


def _made(name: str, variant: str) -> tuple[Any, bool]:
    make, channels_last = MODELS[name]
    model = make(variant)
    return (model.to(memory_format=CHANNELS_LAST) if channels_last else model), channels_last


def _inferring(model: Any, channels_last: bool, x: Any) -> Callable[[], object]:
    x = x.to(memory_format=CHANNELS_LAST) if channels_last else x
    model.eval()
    return lambda: model(x)


def _stepping(
    model: Any, channels_last: bool, batch: int, size: int, compiled: bool = False
) -> Callable[[], object]:
    x = torch.randn(batch, 3, size, size)
    x = x.to(memory_format=CHANNELS_LAST) if channels_last else x
    labels = torch.randint(0, 10, (batch,))
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9, nesterov=True)
    model.train()
    run = torch.compile(model) if compiled else model

    def step() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(run(x), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step

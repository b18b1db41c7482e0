"""Figures of native PyTorch against torchvision: inference, training steps and their memory."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from peers import (
    BFLOAT16,
    FLOAT32,
    convolutions,
    inferring,
    onnx_runtime,
    openvino,
    queued,
    torchvision,
)
from rows import ALL_FUSED, CONVOLUTIONS
from timing import GIVES_BACK, Figures, in_turn, peak_megabytes, take_turns
from torch.nn import functional

import densespec

SIZE = 224
STEPS = 7
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
    ALL_FUSED: (lambda v: _all_fused(v), False),
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
    theirs = torchvision(variant).eval()
    sides["OpenVINO"] = inferring(openvino(theirs, x), x)
    sides["OpenVINO bfloat16"] = inferring(openvino(theirs, x, settings=BFLOAT16), x)
    for name, dtype in (("", torch.float32), (" bfloat16", torch.bfloat16)):
        sides[f"{CONVOLUTIONS}{name}"] = convolutions(variant, batch, SIZE, dtype)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "net.onnx")
        densespec.export(variant, path, seed=0, check=False)
        sides["our ONNX in OpenVINO"] = inferring(openvino(path, x), x)
        sides["our ONNX in ONNX Runtime"] = onnx_runtime(path, x.numpy())
    with torch.inference_mode():
        return take_turns(sides, rounds)


def throughput(variant: str, images: int, rounds: int) -> Figures:
    """Milliseconds of many images one by one, each side as it answers most of them a second.

    Ours has a thread of Python for each processor, all with one model.
    """
    x, workers = torch.randn(1, 3, SIZE, SIZE), torch.get_num_threads()
    sides: dict[str, Callable[[], object]] = {}
    theirs = torchvision(variant).eval()
    torch.set_num_threads(1)
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for name, dtype, settings in (
            ("", "float32", FLOAT32),
            (" bfloat16", "bfloat16", BFLOAT16),
        ):
            model = densespec.build(variant, backend="torch.nn", mode="inference", dtype=dtype)
            given = x.to(getattr(torch, dtype))
            answer = torch.inference_mode()(_inferring(model, False, given))
            sides[f"inference{name}"] = _shared(pool, answer, images)
            sides[f"OpenVINO{name}"] = queued(
                openvino(theirs, x, "THROUGHPUT", settings), x, images
            )
        return take_turns(sides, rounds)


def _shared(pool: ThreadPoolExecutor, answer: Callable[[], object], count: int) -> Any:
    return lambda: [done.result() for done in [pool.submit(answer) for _ in range(count)]]


def sizes(variant: str, batch: int, asked: tuple[tuple[int, int], ...], rounds: int) -> Figures:
    """Milliseconds of images of other sizes than a model was first called with."""
    sides: dict[str, Callable[[], object]] = {}
    first = torch.randn(batch, 3, SIZE, SIZE)
    with torch.inference_mode():
        for size in asked:
            x = torch.randn(batch, 3, *size)
            for name, earlier in (("first called at 224", first), ("first called so", x)):
                model, _ = _made("inference", variant)
                model.eval()(earlier)
                sides[f"{name}, {size[0]}x{size[1]}"] = _inferring(model, False, x)
        return take_turns(sides, rounds)


def training(
    variant: str,
    batch: int,
    rounds: int,
    sides: tuple[str, ...],
    size: int = SIZE,
    autocast: bool = False,
    compiled: bool = False,
) -> Figures:
    """Milliseconds of a training step: forward, loss, backward and SGD.

    Each side has a process of its own: memory that one frees would serve the next.

    Args:
        sides: those that are measured, by their names in ``MODELS``, and the convolutions alone.
        autocast: whether they run under autocast to bfloat16.
        compiled: whether they are compiled by ``torch.compile``.
    """
    arguments = {
        "variant": variant,
        "batch": batch,
        "size": size,
        "autocast": autocast,
        "compiled": compiled,
    }
    return in_turn({n: ("native:step_time", {**arguments, "name": n}) for n in sides}, rounds)


def step_time(
    name: str, variant: str, batch: int, size: int, autocast: bool, compiled: bool
) -> float:
    """The median of some steps; of a fresh process."""
    if name == CONVOLUTIONS:
        dtype = torch.bfloat16 if autocast else torch.float32
        step = convolutions(variant, batch, size, dtype, both_ways=True)
    else:
        step = stepping(*_made(name, variant), batch, size, compiled, autocast)
    return statistics.median(take_turns({name: step}, STEPS, warm_up=3)[name])


def training_memory(variant: str, batch: int, rounds: int) -> Figures:
    """MB that training steps need beyond the network: the peak of the process over its start."""
    thrifty = ("torchvision memory_efficient", "torchvision memory_efficient channels_last")
    names = ("torchvision channels_last", *thrifty, "layers channels_last", "fast", "efficient")
    arguments = {"variant": variant, "batch": batch}
    sides = {name: ("native:step_memory", {**arguments, "name": name}) for name in names}
    return in_turn(sides, rounds, GIVES_BACK)


def step_memory(variant: str, batch: int, name: str) -> float:
    """MB that two steps need; of a fresh process."""
    step = stepping(*_made(name, variant), batch, SIZE)
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
    step = stepping(densespec.build(spec, backend="torch.nn", mode=mode), False, batch, 32)
    return peak_megabytes(lambda: [step() for _ in range(2)])


def _all_fused(variant: str) -> Any:
    model: Any = densespec.build(variant, backend="torch.nn", mode="fast")
    model.features.fuses_from = 0
    return model


def _made(name: str, variant: str) -> tuple[Any, bool]:
    make, channels_last = MODELS[name]
    model = make(variant)
    return (model.to(memory_format=CHANNELS_LAST) if channels_last else model), channels_last


def _inferring(model: Any, channels_last: bool, x: Any) -> Callable[[], object]:
    x = x.to(memory_format=CHANNELS_LAST) if channels_last else x
    model.eval()
    return lambda: model(x)


def stepping(
    model: Any,
    channels_last: bool,
    batch: int,
    size: int,
    compiled: bool = False,
    autocast: bool = False,
) -> Callable[[], object]:
    x = torch.randn(batch, 3, size, size)
    x = x.to(memory_format=CHANNELS_LAST) if channels_last else x
    labels = torch.randint(0, 10, (batch,))
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9, nesterov=True)
    model.train()
    run = torch.compile(model) if compiled else model

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, autocast):
            loss = functional.cross_entropy(run(x), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step

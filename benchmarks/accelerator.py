"""Figures of native PyTorch against torchvision on an accelerator, such as a GPU.

What is timed ends when the accelerator has finished: it works on after a call has returned.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from native import MODELS
from timing import Figures, take_turns
from torch.nn import functional

SIZE = 224
NARROW = " bfloat16"
"""What ends the names of sides that compute under autocast to bfloat16."""


def inference(variant: str, batch: int, rounds: int) -> Figures:
    """Milliseconds of inference."""
    names = ("torchvision", "torchvision channels_last", "layers", "inference")
    sides = {
        f"{name}{half}": _inferring(name, variant, batch, half)
        for half in ("", NARROW)
        for name in names
    }
    with torch.inference_mode():
        return take_turns(sides, rounds, warm_up=4)


def training(variant: str, batch: int, rounds: int) -> Figures:
    """Milliseconds of a training step: forward, loss, backward and SGD."""
    names = ("torchvision", "torchvision channels_last", "layers channels_last", "fast")
    sides = {
        f"{name}{half}": _stepping(name, variant, batch, half)
        for half in ("", NARROW)
        for name in (*names, "efficient", "torchvision memory_efficient channels_last")
    }
    return take_turns(sides, rounds, settle=1)


def training_memory(variant: str, batch: int, rounds: int) -> Figures:
    """MB that a training step needs beyond the network, at its peak."""
    names = ("torchvision channels_last", "torchvision memory_efficient channels_last", "fast")
    return {
        f"{name}{half}": [_step_megabytes(name, variant, batch, half) for _ in range(rounds)]
        for half in ("", NARROW)
        for name in (*names, "layers channels_last", "efficient")
    }


def _step_megabytes(name: str, variant: str, batch: int, half: str) -> float:
    step = _stepping(name, variant, batch, half)
    step()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def _made(name: str, variant: str) -> tuple[Any, Any]:
    """Make a side's network, and say how its input lies in memory."""
    make, channels_last = MODELS[name]
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return make(variant).to(device="cuda", memory_format=layout), layout


def _images(batch: int, layout: Any) -> Any:
    return torch.randn(batch, 3, SIZE, SIZE, device="cuda").to(memory_format=layout)


def _inferring(name: str, variant: str, batch: int, half: str) -> Callable[[], object]:
    model, layout = _made(name, variant)
    model.eval()
    x, kind = _images(batch, layout), torch.bfloat16 if half else torch.float32
    model, x = model.to(kind), x.to(kind)
    return _finished(lambda: model(x))


def _stepping(name: str, variant: str, batch: int, half: str) -> Callable[[], object]:
    model, layout = _made(name, variant)
    model.train()
    x, labels = _images(batch, layout), torch.randint(0, 10, (batch,), device="cuda")
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9, nesterov=True)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16) if half else contextlib.nullcontext():
            loss = functional.cross_entropy(model(x), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return _finished(step)


def _finished(call: Callable[[], object]) -> Callable[[], object]:
    def finished() -> object:
        y = call()
        torch.cuda.synchronize()
        return y

    return finished

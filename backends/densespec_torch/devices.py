"""Finds the devices of PyTorch, and the one that a model is timed on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch


def names() -> list[str]:
    """Name the devices: accelerators such as ``cuda:0 (NVIDIA H100)`` first, and the CPU."""
    if not torch.accelerator.is_available():
        return ["cpu"]
    kind = str(torch.accelerator.current_accelerator())
    count = torch.accelerator.device_count()
    return [*(f"{kind}:{index}{_model(kind, index)}" for index in range(count)), "cpu"]


def _model(kind: str, index: int) -> str:
    """Return what the maker calls a device, where PyTorch knows it."""
    find = getattr(torch.get_device_module(kind), "get_device_name", None)
    return f" ({find(index)})" if find else ""


class FirstDevice:
    """This is the first accelerator, or the CPU: a :class:`densespec.backends.ComputingDevice`."""

    @functools.cached_property
    def name(self) -> str:
        return names()[0]

    @property
    def place(self) -> str:
        """Return PyTorch's name for it."""
        return self.name.partition(" ")[0]

    @functools.cached_property
    def _module(self) -> Any:
        return torch.get_device_module(torch.device(self.place))

    def wait(self) -> None:
        """Return when it has done all that it was given."""
        self._module.synchronize()

    def peak_memory(self) -> int | None:
        peak = getattr(self._module, "max_memory_allocated", None)
        return peak() if peak else None

    def product(self, side: int) -> Callable[[], object]:
        a = torch.randn(side, side, device=self.place)

        def multiply() -> None:
            a @ a
            self.wait()

        return multiply

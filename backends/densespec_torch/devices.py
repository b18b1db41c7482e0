"""The devices that PyTorch finds."""

from __future__ import annotations

import torch


def names() -> list[str]:
    """Name the devices: accelerators such as ``cuda:0 (NVIDIA H100)`` first, and the CPU."""
    if not torch.accelerator.is_available():
        return ["cpu"]
    kind = str(torch.accelerator.current_accelerator())
    count = torch.accelerator.device_count()
    return [*(f"{kind}:{index}{_model(kind, index)}" for index in range(count)), "cpu"]


def _model(kind: str, index: int) -> str:
    """Give what the maker calls a device, where PyTorch knows it."""
    find = getattr(torch.get_device_module(kind), "get_device_name", None)
    return f" ({find(index)})" if find else ""

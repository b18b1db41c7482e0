"""Says what autocast does on a kind of device, and computes without it."""

from __future__ import annotations

import contextlib
from typing import Any

import torch


def type_of_autocast(device: str) -> torch.dtype | None:
    """Return the type in which convolutions compute now; None without autocast.

    Args:
        device: The kind of a device, such as ``"cuda"``; some kinds have no autocast.
    """
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


def without_autocast(device: str) -> contextlib.AbstractContextManager[Any]:
    """Compute in the types that operands have."""
    if type_of_autocast(device) is None:
        return contextlib.nullcontext()
    return torch.autocast(device, enabled=False)

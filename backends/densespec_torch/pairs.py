"""Computes a norm and the ReLU behind it, where nothing else reads or watches the norm's output."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from densespec.installed import is_installed
from densespec_torch.fused import average, uncompiled
from densespec_torch.primitives import Moments


def in_place(norm: Any, x: Tensor) -> Tensor:
    """Compute the norm, and the ReLU where its output is."""
    return functional.relu_(norm(x))


@uncompiled
def in_triton(norm: Any, x: Tensor) -> Tensor:
    """Compute both as one function in training mode.

    Raises:
        ValueError: Triton is not installed, or does not compute on the device.
    """
    if not triton_computes(x.device):
        raise ValueError(
            f"Triton does not compute on {x.device}: it needs a GPU and PyTorch's package for it. "
            "Set model.features.ways to {} or to other ways"
        )
    from densespec_torch.triton_norms import NormRelu

    y, *moments = NormRelu.apply(norm.eps, x, norm.weight, norm.bias)  # type: ignore[no-untyped-call]
    average([norm], Moments(*moments), x)
    return y


def triton_computes(device: torch.device) -> bool:
    """Say whether Triton is installed and computes on a device."""
    interprets = os.environ.get("TRITON_INTERPRET") == "1"
    return (interprets or device.type == "cuda") and is_installed("triton")

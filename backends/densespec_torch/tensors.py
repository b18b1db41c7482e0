"""Converts from numpy to tensors and back, and from a wrapped model to the model."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


def from_numpy(array: np.ndarray) -> Tensor:
    """Copy an array of any stored type into a tensor of the same type.

    Types that numpy itself lacks, such as bfloat16, pass as the bits that they are.
    """
    copied = np.array(array, array.dtype.newbyteorder("="), order="C")
    if copied.dtype.isbuiltin == 1:
        return torch.from_numpy(copied)
    kind = getattr(torch, copied.dtype.name)
    return torch.from_numpy(copied.view(f"u{copied.dtype.itemsize}")).view(kind)


def to_numpy(tensor: Tensor) -> np.ndarray:
    """Copy a tensor into an array; bfloat16, which numpy lacks, becomes float32."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy().copy()


def like(x: np.ndarray, model: nn.Module) -> Tensor:
    """Make a tensor of an array, in the type and on the device of a model's parameters."""
    parameter = next(model.parameters())
    contiguous = torch.as_tensor(np.ascontiguousarray(x))
    return contiguous.to(device=parameter.device, dtype=parameter.dtype)


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the module inside ``torch.compile`` and data-parallel wrappers.

    The names in it have no prefixes of the wrappers.
    """
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model
